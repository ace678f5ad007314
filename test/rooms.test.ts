/** Who may import whom, what the pure rooms may not touch, and what no file may name. */
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'
import { expect, test } from 'vitest'

const root = join(import.meta.dirname, '..')

/**
 * Each room (a folder, the longest that fits counts) and the rooms it may import from besides itself.
 * A room that is not listed here fails the test: add it with its rule. `''` is the root's own files; `..` is what may
 * lie beside a checkout, an extra for tests and benches only.
 */
const mayImport: Record<string, string[]> = {
  protocol: [],
  shaders: [],
  engine: ['shaders'],
  client: ['protocol', 'engine'],
  'coordinator/core': ['protocol'],
  coordinator: ['coordinator/core', 'protocol', 'engine', ''],
  // Beside the checkout's packages lies its compiled code.
  bin: ['cli', '', 'node_modules'],
  cli: ['protocol', 'engine', 'client', 'coordinator', 'tools', ''],
  tools: ['shaders', 'engine', ''],
  scripts: ['shaders', 'engine', 'tools'],
  bench: ['shaders', 'engine', 'client', 'coordinator', 'protocol', 'tools', 'scripts', '', '..'],
  test: [
    'shaders',
    'engine',
    'client',
    'coordinator',
    'coordinator/core',
    'protocol',
    'tools',
    'scripts',
    'bin',
    'cli',
    'bench',
    '',
    '..',
  ],
  // The root's own files: configuration.
  '': [],
}

/** Rooms whose results must depend on their inputs alone. */
const pure = ['protocol', 'shaders', 'coordinator/core']
const impure =
  /\bDate\b|\bMath\.random\b|\bperformance\.now\b|\bset(Timeout|Interval|Immediate)\b|\bcrypto\.(getRandomValues|randomUUID)\b/
/** Math functions that engines may round differently: no result may rest on them. */
const inexact =
  /\bMath\.(a?(cos|sin|tan)h?|atan2|cbrt|exp|expm1|hypot|log|log10|log1p|log2|pow)\b|[^*/]\*\*[^*/]/

// Tracked, and new but not ignored: a rule should bite before the commit. Deleted files are still listed.
const files = execFileSync(
  'git',
  ['-c', 'safe.directory=*', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'],
  {
    cwd: root,
    encoding: 'utf8',
  },
)
  .split('\0')
  .filter(Boolean)
const text = new Map<string, string>()
for (const file of files) {
  try {
    const bytes = readFileSync(join(root, file))
    if (!bytes.subarray(0, 8000).includes(0)) text.set(file, bytes.toString('utf8'))
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
  }
}
const sources = [...text].filter(([file]) => /\.(ts|js|mjs)$/.test(file) && !/(^|\/)assembly\//.test(file))

test('rooms import only the rooms they may', () => {
  const wrong: string[] = []
  for (const [file, code] of sources) {
    const from = roomOf(file)
    for (const target of imports(code)) {
      if (!target.startsWith('.')) {
        if (from === 'coordinator/core' && target.startsWith('node:')) wrong.push(`${file} imports ${target}`)
        continue
      }
      const to = roomOf(normalize(join(dirname(file), target)).replaceAll('\\', '/'))
      if (to !== from && !mayImport[from]?.includes(to))
        wrong.push(`${file} (${from}) imports ${target} (${to})`)
    }
  }
  expect(wrong).toEqual([])
})

test('pure rooms use no clock, no chance and no timer', () => {
  expect(offences(pure, impure)).toEqual([])
})

test('kernel twins use no function that may round differently elsewhere', () => {
  expect(offences(['shaders'], inexact)).toEqual([])
})

test('no file names a path of the machine it was written on', () => {
  const machine = /(?<![\w.~-])\/(work|root|tmp|home\/\w+|Users\/\w+)\/\w|\b[A-Z]:\\+Users\\/
  const wrong = [...text].flatMap(([file, content]) =>
    content.split('\n').flatMap((line, i) => (machine.test(line) ? [`${file}:${i + 1} ${line.trim()}`] : [])),
  )
  expect(wrong).toEqual([])
})

test('the lock file names no registry', () => {
  expect(text.get('package-lock.json')).not.toContain('"resolved": "http')
})

function roomOf(file: string): string {
  const folders = dirname(file) === '.' ? [] : dirname(file).split('/')
  for (let n = folders.length; n > 0; n--) {
    const at = folders.slice(0, n).join('/')
    if (at in mayImport) return at
  }
  return folders[0] ?? ''
}

function imports(code: string): string[] {
  const found = withoutComments(code).matchAll(
    /(?:\bfrom\s*|\bimport\s*\(\s*|\bimport\s+|\bnew URL\(\s*)['"]([^'"\n]+)['"]/g,
  )
  return [...found].map(([, target]) => target!)
}

function offences(rooms: string[], pattern: RegExp): string[] {
  return sources
    .filter(([file]) => rooms.includes(roomOf(file)))
    .flatMap(([file, code]) =>
      withoutComments(code)
        .split('\n')
        .flatMap((line, i) => (pattern.test(line) ? [`${file}:${i + 1} ${line.trim()}`] : [])),
    )
}

/** Blanks comments, keeping line numbers; good enough for code that a formatter has been over. */
function withoutComments(code: string): string {
  return code
    .replace(/\/\*[\s\S]*?\*\//g, (comment) => comment.replace(/[^\n]/g, ' '))
    .replace(/(^|[\s;,{}()[\]])\/\/.*$/gm, '$1')
}
