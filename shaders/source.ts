/**
 * A kernel's WGSL text by name, the same in plain Node (read from the file beside this one) and under Vite (bundled).
 *
 * A line `#import name` is replaced by `shared/name.wgsl`, once per kernel however often it is named. Nothing more:
 * tile sizes and variants are WGSL `override` constants, not text.
 */

type Read = (file: string) => string | undefined

const inNode = typeof process !== 'undefined' && Boolean(process.versions?.node)
const read: Read = inNode ? readFile() : readBundle()

/**
 * @param name file name without `.wgsl`, e.g. `linear`
 * @throws Error when the kernel or one of its imports does not exist
 */
export function shaderSource(name: string): string {
  return expand(name, read)
}

/** `shaderSource` over any reader: a file name below this folder → its text, or undefined. */
export function expand(name: string, from: Read): string {
  const seen = new Set<string>()
  const load = (file: string, wanted: string): string => {
    const text = from(file)
    if (text === undefined) throw new Error(`no kernel file shaders/${file} (${wanted})`)
    return text.replace(/^[ \t]*#import[ \t]+([\w-]+)[ \t]*$/gm, (_line, shared: string) => {
      if (seen.has(shared)) return ''
      seen.add(shared)
      return load(`shared/${shared}.wgsl`, `imported by shaders/${file}`)
    })
  }
  return load(`${name}.wgsl`, 'asked for by name')
}

function readFile(): Read {
  // getBuiltinModule: synchronous, and a bundler for the browser sees no `node:` import.
  const { readFileSync } = process.getBuiltinModule('node:fs')
  return (file) => {
    try {
      return readFileSync(new URL(file, import.meta.url), 'utf8')
    } catch {
      return undefined
    }
  }
}

function readBundle(): Read {
  const files = import.meta.glob<string>('./**/*.wgsl', { query: '?raw', import: 'default', eager: true })
  return (file) => files[`./${file}`]
}
