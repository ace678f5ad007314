/** `npm run dev`: the network of `npm start`, reloading. In a copy of the sources, for they are edited. */
import { spawn } from 'node:child_process'
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { launchBrowser } from '../../tools/browser.ts'
import { until } from './world.ts'

/** Nothing here says how fast anything is. */
const PATIENCE_MS = 120_000
const root = join(import.meta.dirname, '../..')
const ROOMS = ['bin', 'cli', 'client', 'coordinator', 'engine', 'models', 'protocol', 'scripts', 'shaders', 'tools'] // prettier-ignore
const FILES = ['package.json', 'tsconfig.json', 'vite.config.ts', 'vite.client.config.ts']

test('an edited page shows at once, an edited coordinator starts again', async () => {
  const copy = mkdtempSync(join(tmpdir(), 'chorale-dev-'))
  for (const name of [...ROOMS, ...FILES]) cpSync(join(root, name), join(copy, name), { recursive: true })
  symlinkSync(join(root, 'node_modules'), join(copy, 'node_modules'), 'dir')
  const edit = (file: string, from: string, to: string): void => {
    const path = join(copy, file)
    const text = readFileSync(path, 'utf8')
    expect(text).toContain(from)
    writeFileSync(path, text.replace(from, to))
  }
  const env = { ...process.env, CHORALE_PORT: '0', CHORALE_CACHE: join(copy, 'cache'), CHORALE_DATA: join(copy, 'data'), CHORALE_BROWSER: join(copy, 'no-browser') } // prettier-ignore
  // A group of processes: npm, a shell, the watcher, the coordinator.
  const dev = spawn('npm', ['run', 'dev'], { cwd: copy, env, stdio: ['ignore', 'pipe', 'pipe'], detached: true }) // prettier-ignore
  const browser = await launchBrowser({ webgpu: false, say: () => {} })
  try {
    let [said, errors] = ['', '']
    dev.stdout.setEncoding('utf8').on('data', (text: string) => (said += text))
    dev.stderr.setEncoding('utf8').on('data', (text: string) => (errors += text))
    const urls = (): string[] => [...said.matchAll(/API +(http\S+)\/v1/g)].map((found) => found[1]!)
    const starts = async (times: number): Promise<string> => {
      await until(() => urls().length === times, `it serves, for the ${times}. time`, PATIENCE_MS).catch(
        (error: Error) => {
          throw new Error(`${error.message}\n${errors}`)
        },
      )
      return urls().at(-1)!
    }

    const url = await starts(1)
    const page = await browser.newPage()
    let isListening = false
    page.on('console', (message) => (isListening ||= message.text().includes('[vite] connected')))
    await page.goto(url)
    const title = (): Promise<string> => page.$eval('h1', (h1) => h1.textContent ?? '').catch(() => '')
    await until(
      async () => isListening && (await title()).startsWith('Lend this device'),
      'the page is there',
      PATIENCE_MS,
    )
    edit('client/en.json', 'Lend this device to open AI research.', 'Edited.')
    await until(
      async () => (await title()) === 'Edited.',
      'the page shows the edited text, unasked',
      PATIENCE_MS,
    )

    edit('coordinator/api/info.ts', `name: 'chorale'`, `name: 'edited'`)
    const again = await starts(2)
    expect(await (await fetch(`${again}/version`)).json()).toMatchObject({ name: 'edited' })
  } finally {
    await browser.close()
    process.kill(-dev.pid!, 'SIGKILL')
    rmSync(copy, { recursive: true, force: true, maxRetries: 3 })
  }
})
