/**
 * npm run bench -- kernels|model [--json FILE] [--only TEXT] [--rounds N] [--threads N] [--all]
 *
 * Correctness first, then interleaved timing of our engine and its peers in one page of one headless browser.
 */

import { mkdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { launchBrowser } from '../tools/browser.ts'
import type { ColdResult } from './page/cold.ts'
import type { BenchPage } from './page/page.ts'
import { EFFORT } from './page/timing.ts'
import { ensurePeers } from './peers.ts'
import { HEADING, commit, line, machine } from './report.ts'
import type { Report, Row } from './report.ts'
import { serve } from './server.ts'
import { runKernels } from './suites/run-kernels.ts'
import { runModels } from './suites/run-models.ts'

const USAGE = `usage: npm run bench -- <kernels|model> [options]
  --json FILE    write the results to FILE
  --only TEXT    only rows whose backend, name or shape contain TEXT
  --rounds N     interleaved rounds per row (default ${EFFORT.rounds})
  --threads N    WASM threads of everybody (default 1)
  --all          also list every peer of a row, not only the best`

const say = (text: string): void => void process.stderr.write(`${text}\n`)

export interface Options {
  only: string
  rounds: number
  threads: number
  all: boolean
}

export interface Context {
  options: Options
  /** Calls a method of the page's `bench`. */
  call<K extends keyof BenchPage>(
    method: K,
    ...args: Parameters<BenchPage[K]>
  ): Promise<Awaited<ReturnType<BenchPage[K]>>>
  /** Shows `bytes` to the page at `/made/<name>`. */
  make(name: string, bytes: Uint8Array): void
  /** Opens an address of this run's server in a fresh page and waits for its `cold` result. */
  visit(address: string): Promise<ColdResult>
  /** The element a page needs before it imports peers. */
  importMap: string
  /** Folder of the installed peers. */
  peers: string
  /** Whether the page has a WebGPU adapter. */
  adapter: boolean
  /** Prints a finished row. */
  done(row: Row): void
  say(text: string): void
}

const SUITES: Record<string, (context: Context) => Promise<Row[]>> = { kernels: runKernels, model: runModels }

const IMPORT_MAP = `<script type="importmap">{ "imports": {
  "onnxruntime-web/webgpu": "/peers/@huggingface/transformers/node_modules/onnxruntime-web/dist/ort.webgpu.bundle.min.mjs",
  "@litertjs/wasm-utils": "/peers/@litertjs/wasm-utils/dist/bundle.js",
  "onnxruntime-common": "/peers/onnxruntime-common/dist/esm/index.js"
} }</script>`

const PAGE = `<!doctype html><meta charset="utf-8"><title>Chorale bench</title><link rel="icon" href="data:,">
${IMPORT_MAP}
<script type="module" src="/bench/page/page.ts"></script>`

function count(text: string | undefined, name: string, otherwise: number): number {
  if (text === undefined) return otherwise
  const value = Number(text)
  if (!Number.isInteger(value) || value < 1)
    throw new Error(`--${name} must be a whole number above 0, not "${text}"`)
  return value
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      json: { type: 'string' },
      only: { type: 'string', default: '' },
      rounds: { type: 'string' },
      threads: { type: 'string' },
      all: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h', default: false },
    },
  })
  const suite = positionals[0] ?? ''
  const run = SUITES[suite]
  if (values.help) return void process.stdout.write(`${USAGE}\n`)
  if (run === undefined || positionals.length !== 1) {
    throw new Error(
      `${suite === '' ? 'which benchmark?' : `there is no benchmark "${positionals.join(' ')}"`}\n${USAGE}`,
    )
  }
  const options: Options = {
    only: values.only,
    rounds: count(values.rounds, 'rounds', EFFORT.rounds),
    threads: count(values.threads, 'threads', 1),
    all: values.all,
  }
  const root = path.join(import.meta.dirname, '..')
  const peers = ensurePeers(say)
  const server = await serve(peers.folder, PAGE)
  const browser = await launchBrowser({ webgpu: true })
  try {
    const page = await browser.newPage()
    const troubles: string[] = []
    page.on('pageerror', (error) => troubles.push(String(error)))
    page.on('console', (message) => {
      if (process.env['BENCH_CONSOLE']) say(`  page: ${message.text()}`)
    })
    await page.goto(`${server.origin}/?threads=${options.threads}`)
    await page.waitForFunction('globalThis.bench !== undefined', { timeout: 20_000 }).catch(() => {
      throw new Error(`the benchmark page did not start: ${troubles.join('; ') || 'no error was reported'}`)
    })
    const call: Context['call'] = async (method, ...args) =>
      (await page.evaluate(
        (name, list) =>
          (globalThis as unknown as { bench: Record<string, (...a: unknown[]) => unknown> }).bench[name]!(
            ...list,
          ),
        method,
        args as unknown[],
      )) as never
    const adapter = await call('adapter')
    const report: Report = {
      suite,
      date: new Date().toISOString(),
      versions: {
        ours: commit(root),
        browser: await browser.version(),
        node: process.version,
        peers: peers.versions,
      },
      adapter: adapter === null ? null : { ...adapter },
      machine: machine(),
      threads: options.threads,
      rows: [],
    }
    const gpu =
      adapter === null
        ? 'no WebGPU adapter'
        : [adapter.vendor, adapter.architecture, adapter.description].join(' ')
    say(
      `${report.versions.browser} · ${gpu} · ${report.machine.cpu}, ${report.machine.cores} cores · ours ${report.versions.ours}`,
    )
    process.stdout.write(`${HEADING}\n`)
    report.rows = await run({
      options,
      call,
      say,
      make: (name, bytes) => server.make(name, bytes),
      importMap: IMPORT_MAP,
      adapter: adapter !== null,
      peers: peers.folder,
      async visit(address) {
        const fresh = await browser.newPage()
        try {
          await fresh.goto(server.origin + address)
          await fresh.waitForFunction('globalThis.cold !== undefined', { timeout: 60_000 })
          return (await fresh.evaluate('globalThis.cold')) as ColdResult
        } catch (error) {
          return { error: error instanceof Error ? error.message : String(error) }
        } finally {
          await fresh.close()
        }
      },
      done(row) {
        process.stdout.write(`${line(row)}\n`)
        if (options.all)
          for (const one of row.all)
            process.stdout.write(
              `    ${one.name}: ${one.value.toPrecision(4)} ${row.unit}  ${one.note ?? ''}\n`,
            )
        for (const [who, why] of Object.entries(row.absent)) say(`    without ${who}: ${why}`)
      },
    })
    if (values.json !== undefined) {
      mkdirSync(path.dirname(path.resolve(values.json)), { recursive: true })
      writeFileSync(values.json, `${JSON.stringify(report, null, 2)}\n`)
      say(`written to ${values.json}`)
    }
  } finally {
    await browser.close()
    await server.close()
  }
}

main().catch((error: unknown) => {
  say(error instanceof Error ? error.message : String(error))
  if (process.env['BENCH_CONSOLE'] && error instanceof Error) say(error.stack ?? '')
  process.exitCode = 1
})
