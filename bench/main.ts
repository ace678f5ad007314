/**
 * npm run bench -- kernels|model|coordination|network [--json FILE] [--only TEXT] [--rounds N] [--threads N] [--all]
 *
 * Correctness first, then interleaved timing of our engine and its peers in one page of one headless browser.
 */

import { mkdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { parseArgs } from 'node:util'
import { EFFORT } from './page/timing.ts'
import { ensurePeers } from './peers.ts'
import { HEADING, commit, line, machine } from './report.ts'
import type { Report, Row } from './report.ts'
import { openSession } from './session.ts'
import type { Session } from './session.ts'
import { staleKernels } from './stale.ts'
import { runKernels } from './suites/run-kernels.ts'
import { runModels } from './suites/run-models.ts'

const USAGE = `usage: npm run bench -- <kernels|model|coordination|network> [options]
  --json FILE    write the results to FILE, after every row
  --only TEXT    only rows whose backend, name or shape contain TEXT
  --rounds N     interleaved rounds per row (default ${EFFORT.rounds}; whole models 9)
  --threads N    WASM threads of everybody (default 1)
  --all          also list everybody of a row, not only the best
Exit status 1 when our engine gave a wrong answer.`

const say = (text: string): void => void process.stderr.write(`${text}\n`)

export interface Options {
  only: string
  /** As asked for; each suite has its own default. */
  rounds: number | null
  threads: number
}

export interface Context {
  options: Options
  session: Session
  /** Folder of the installed peers. */
  peers: string
  /** Takes a finished row. */
  done(row: Row): void
}

const SUITES: Record<string, (context: Context) => Promise<void>> = { kernels: runKernels, model: runModels }

function count(text: string, name: string): number {
  const value = Number(text)
  if (!Number.isInteger(value) || value < 1) {
    throw new Error(`--${name} must be a whole number above 0, not "${text}"`)
  }
  return value
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      json: { type: 'string' },
      only: { type: 'string', default: '' },
      rounds: { type: 'string' },
      threads: { type: 'string', default: '1' },
      all: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h', default: false },
    },
  })
  if (values.help) return void process.stdout.write(`${USAGE}\n`)
  const suite = positionals.join(' ')
  if (suite === 'coordination') {
    const { runCoordination } = await import('./coordination.ts')
    const rounds = values.rounds === undefined ? 3 : count(values.rounds, 'rounds')
    return runCoordination({ json: values.json, only: values.only, rounds })
  }
  if (suite === 'network') {
    const { runNetwork } = await import('./network.ts')
    const rounds = values.rounds === undefined ? 5 : count(values.rounds, 'rounds')
    return runNetwork({ json: values.json, only: values.only, rounds })
  }
  const run = SUITES[suite]
  if (run === undefined) {
    throw new Error(`${suite === '' ? 'which benchmark?' : `there is no benchmark "${suite}"`}\n${USAGE}`)
  }
  const options: Options = {
    only: values.only,
    rounds: values.rounds === undefined ? null : count(values.rounds, 'rounds'),
    threads: count(values.threads, 'threads'),
  }
  const root = path.join(import.meta.dirname, '..')
  const stale = staleKernels(root)
  if (stale !== null) throw new Error(stale)
  const peers = ensurePeers(say)
  const onConsole = process.env['BENCH_CONSOLE'] ? (text: string) => say(`  page: ${text}`) : undefined
  const session = await openSession({ peers: peers.folder, threads: options.threads, onConsole })
  try {
    const report: Report = {
      suite,
      date: new Date().toISOString(),
      versions: {
        ours: commit(root),
        browser: session.browser,
        node: process.version,
        peers: peers.versions,
      },
      adapter: session.adapter === null ? null : { ...session.adapter },
      machine: machine(),
      threads: options.threads,
      rows: [],
    }
    say(titleOf(report))
    const { load, cores } = report.machine
    if (load > cores / 2)
      say(`the machine is busy (load ${load} on ${cores} cores): trust ratios little, times not at all`)
    process.stdout.write(`${HEADING}\n`)
    const done = (row: Row): void => {
      report.rows.push(row)
      if (values.json !== undefined) save(values.json, report)
      process.stdout.write(`${line(row)}\n`)
      for (const { name, value, note } of values.all ? row.all : []) {
        process.stdout.write(
          `    ${name}: ${value.toPrecision(4)} ${row.unit} ${note ?? ''}`.trimEnd() + '\n',
        )
      }
      for (const [who, why] of Object.entries(row.absent)) say(`    without ${who}: ${why}`)
      for (const [who, why] of Object.entries(row.wrong)) {
        say(`    WRONG: ${who}: ${why}`)
        process.exitCode = 1
      }
    }
    await run({ options, session, peers: peers.folder, done })
    if (report.rows.length === 0) throw new Error(`no row of "${suite}" contains "${options.only}"`)
    if (values.json !== undefined) say(`written to ${values.json}`)
  } finally {
    await session.close()
  }
}

function titleOf({ versions, adapter, machine }: Report): string {
  const gpu = adapter === null ? 'no WebGPU adapter' : Object.values(adapter).filter(Boolean).join(' ')
  return `${versions.browser} · ${gpu} · ${machine.cpu}, ${machine.cores} cores · ours ${versions.ours}`
}

function save(file: string, report: Report): void {
  mkdirSync(path.dirname(path.resolve(file)), { recursive: true })
  writeFileSync(file, `${JSON.stringify(report, null, 2)}\n`)
}

main().catch((error: unknown) => {
  say(error instanceof Error ? error.message : String(error))
  if (process.env['BENCH_CONSOLE'] && error instanceof Error) say(error.stack ?? '')
  process.exitCode = 1
})
