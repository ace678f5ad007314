/**
 * `npm run bench -- network`: what a network of tabs makes of its engines. Rows per second of an embeddings job (a) with two
 * tabs against one, and (b) through the coordinator and one tab against the bare engine in that very tab; interleaved, with
 * trust `fast`, and `checked` as it is for a key of 1,000 results.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import path from 'node:path'
import { build } from 'vite'
import clientConfig from '../vite.client.config.ts'
import { startCoordinator } from '../coordinator/main.ts'
import type { RunningCoordinator } from '../coordinator/main.ts'
import { packedFolder } from '../tools/models.ts'
import { openVolunteerTab } from '../tools/tab.ts'
import type { VolunteerTab } from '../tools/tab.ts'
import { bundle } from './bundle.ts'
import { quantile } from './page/timing.ts'
import type { BareTask } from './page/bare.ts'
import { commit, HEADING, line, machine } from './report.ts'
import type { Report, Row } from './report.ts'

const MODEL = 'intents-3m'
const TOKENS = 32
/** Rows of one request, and of one call of the bare engine. */
const [REQUEST, BATCH] = [1024, 64]
/** How long one measurement should take: what is left over at its end is then little. */
const ROUND_MS = 8_000
const THREADS = 1

export interface NetworkOptions {
  json?: string
  only: string
  rounds: number
}

type Trust = 'fast' | 'checked'
const say = (text: string): void => void process.stderr.write(`${text}\n`)
const rowsOf = (count: number): number[][] =>
  Array.from({ length: count }, (_, r) =>
    Array.from({ length: TOKENS }, (__, i) => 5 + ((31 * i + 7 * r) % 900)),
  )

export async function runNetwork(options: NetworkOptions): Promise<void> {
  const folder = mkdtempSync(path.join(tmpdir(), 'chorale-network-'))
  const cores = availableParallelism()
  const report: Report = {
    suite: 'network',
    date: new Date().toISOString(),
    versions: { ours: commit(path.join(import.meta.dirname, '..')), browser: '', node: process.version, peers: {} },
    adapter: null,
    machine: machine(),
    threads: THREADS,
    rows: [],
  } // prettier-ignore
  say(`${report.machine.cpu}, ${cores} cores: ${Math.max(0, cores - 2 * THREADS)} free beside two tabs of ${THREADS} thread`)
  if (report.machine.load > 0.5) say(`the machine is busy (load ${report.machine.load}): trust these figures little`)
  process.stdout.write(`${HEADING}\n`)
  const done = (row: Row): void => {
    report.rows.push(row)
    if (options.json) {
      mkdirSync(path.dirname(path.resolve(options.json)), { recursive: true })
      writeFileSync(options.json, `${JSON.stringify(report, null, 2)}\n`)
    }
    process.stdout.write(`${line(row)}\n`)
    if (row.ratio === null || row.ratio < row.gate) process.exitCode = 1
  }
  try {
    const pages = await publish(path.join(folder, 'pages'))
    for (const trust of ['fast', 'checked'] as const)
      await network(trust, pages, path.join(folder, trust), options, done)
    if (report.rows.length === 0) throw new Error(`no row of "network" contains "${options.only}"`)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
} // prettier-ignore

/** The pages as they are served, and the bare engine beside them. */
async function publish(folder: string): Promise<string> {
  await build({ ...clientConfig, configFile: false, logLevel: 'error', build: { ...clientConfig.build, outDir: folder } })
  mkdirSync(path.join(folder, 'bench/assets'), { recursive: true })
  for (const { file, bytes } of await bundle({ bare: 'bench/page/bare.ts' }, '/bench/'))
    writeFileSync(path.join(folder, 'bench', file), bytes)
  return folder
} // prettier-ignore

async function network(
  trust: Trust,
  pages: string,
  dataFolder: string,
  { only, rounds }: NetworkOptions,
  done: (row: Row) => void,
): Promise<void> {
  const scaling = `two tabs : one, ${trust}`
  const overhead = `network : engine, ${trust}`
  const wanted = [scaling, overhead].filter((name) => name.includes(only))
  if (wanted.length === 0) return
  const models = [await packedFolder(MODEL)]
  const coordinator = await startCoordinator({
    models,
    port: 0,
    dataFolder,
    pages: { folder: pages },
    logLevel: 'silent',
    operator: 'the benchmark',
    // Somebody must check; the share of a key of 1,000 results is 4 %, which such a beta gives at once.
    house: trust === 'checked',
    policy: { beta: 0.8 },
  })
  const tabs: VolunteerTab[] = []
  try {
    for (let i = 0; i < (wanted.includes(scaling) ? 2 : 1); i++)
      tabs.push(await openVolunteerTab(coordinator.url, { webgpu: false, engine: 'wasm' }))
    await helping(coordinator, tabs.length)
    // Probation is over, speeds are known, and how much takes how long.
    const { rate } = await job(coordinator, trust, 40 * BATCH)
    const count = Math.ceil((rate / tabs.length) * (ROUND_MS / 1000))
    const [first, second] = tabs as [VolunteerTab, VolunteerTab | undefined]
    if (second) {
      const figures: Record<'one' | 'two', number[]> = { one: [], two: [] }
      for (let round = 0; round < rounds; round++)
        for (const who of round % 2 ? (['two', 'one'] as const) : (['one', 'two'] as const)) {
          await (who === 'one' ? pause(second) : resume(second))
          figures[who].push((await job(coordinator, trust, who === 'one' ? count : 2 * count)).rate)
        }
      done(rowOf(scaling, figures.two, figures.one, 1.8))
      await pause(second)
    }
    if (wanted.includes(overhead)) {
      const figures: Record<'network' | 'bare', number[]> = { network: [], bare: [] }
      const { digest } = modelOf(coordinator)
      const task = { digest, path: `/models/${digest}`, threads: THREADS, batch: BATCH }
      await bare(first, { ...task, rows: rowsOf(BATCH) })
      for (let round = 0; round < rounds; round++)
        for (const who of round % 2 ? (['network', 'bare'] as const) : (['bare', 'network'] as const)) {
          await (who === 'bare' ? pause(first) : resume(first))
          const { rate } = who === 'bare' ? await bare(first, { ...task, rows: rowsOf(count) }) : await job(coordinator, trust, count) // prettier-ignore
          figures[who].push(rate)
        }
      done(rowOf(overhead, figures.network, figures.bare, 0.9))
    }
  } finally {
    await Promise.all(tabs.map((tab) => tab.close().catch(() => undefined)))
    await coordinator.close(0)
  }
}

/** Rows per second that tabs computed of an embeddings job; what the house had to help with is left out. */
async function job({ url }: RunningCoordinator, trust: Trust, count: number): Promise<{ rate: number }> {
  const rows = rowsOf(count)
  const requests = Array.from({ length: Math.ceil(count / REQUEST) }, (_, i) => rows.slice(i * REQUEST, (i + 1) * REQUEST))
  const start = performance.now()
  const shares = await Promise.all(
    requests.map(async (input) => {
      const answer = await fetch(`${url}/v1/embeddings`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ model: MODEL, input, encoding_format: 'base64', volunteer: { trust } }),
      })
      const body = (await answer.json()) as Answer
      if (!answer.ok) throw new Error(`the coordinator answers ${answer.status}: ${body.error?.message}`)
      const units = (all: Answer['volunteer']['computed_by']): number => all.reduce((n, one) => n + one.units, 0)
      const all = body.volunteer.computed_by
      return (input.length * units(all.filter((one) => one.class !== 'house'))) / Math.max(1, units(all))
    }),
  )
  return { rate: shares.reduce((a, b) => a + b, 0) / ((performance.now() - start) / 1000) }
} // prettier-ignore

interface Answer {
  volunteer: { computed_by: { class: string; units: number }[] }
  error?: { message: string }
}

/** Rows per second of the engine alone in the tab, which is paused meanwhile. */
async function bare(tab: VolunteerTab, task: BareTask): Promise<{ rate: number }> {
  const found = await tab.page.evaluate(async (given: BareTask) => {
    const here = globalThis as { bare?: Worker }
    const worker = (here.bare ??= new Worker('/bench/bare.js', { type: 'module' }))
    return new Promise<{ ms: number } | { error: string }>((resolve) => {
      worker.onmessage = ({ data }: MessageEvent<{ ms: number } | { error: string }>) => resolve(data)
      worker.onerror = (event) => resolve({ error: event.message || 'the worker did not load' })
      worker.postMessage(given)
    })
  }, task)
  if ('error' in found) throw new Error(`the bare engine: ${found.error}`)
  return { rate: task.rows.length / (found.ms / 1000) }
}

const modelOf = (
  coordinator: RunningCoordinator,
): ReturnType<RunningCoordinator['status']>['models'][number] =>
  coordinator.status().models.find(({ name }) => name === MODEL)!

const click = (tab: VolunteerTab, action: string): Promise<void> =>
  tab.page.$eval(`button[data-action=${action}]`, (button) => (button as HTMLButtonElement).click())

async function pause(tab: VolunteerTab): Promise<void> {
  if ((await tab.state()).startsWith('paused')) return
  await click(tab, 'pause')
  await tab.until(['paused:user'])
}

async function resume(tab: VolunteerTab): Promise<void> {
  if (!(await tab.state()).startsWith('paused')) return
  await click(tab, 'resume')
  await tab.until(['standby', 'working'])
}

async function helping(coordinator: RunningCoordinator, count: number): Promise<void> {
  const ready = (): number => modelOf(coordinator).volunteers
  for (let i = 0; ready() < count; i++) {
    if (i > 1200) throw new Error(`${ready()} of ${count} tabs were ready after a minute`)
    await new Promise((wait) => setTimeout(wait, 50))
  }
}

function rowOf(name: string, ours: number[], peer: number[], gate: number): Row {
  const figures = [['network', ours], [gate > 1 ? 'one tab' : 'the engine alone', peer]] as const
  const all = figures.map(([who, values]) => {
    const sorted = values.toSorted((a, b) => a - b)
    return { name: who, value: quantile(sorted, 0.5), p5: quantile(sorted, 0.05), p95: quantile(sorted, 0.95), rounds: sorted.length }
  })
  const [mine, theirs] = all as [(typeof all)[0], (typeof all)[0]]
  return {
    name,
    shape: `${TOKENS} tokens a row`,
    backend: 'wasm',
    unit: 'texts/s',
    ours: mine.value,
    peer: theirs.value,
    peerName: theirs.name,
    // Of the rounds one by one: each pair met the same machine.
    ratio: quantile(ours.map((value, i) => value / peer[i]!).toSorted((a, b) => a - b), 0.5),
    gate,
    aim: gate > 1 ? 2 : 1,
    all,
    absent: {},
    wrong: {},
  }
} // prettier-ignore
