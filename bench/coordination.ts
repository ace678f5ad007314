/**
 * npm run bench -- coordination [--json FILE] [--rounds N] [--only TEXT]
 *
 * What coordinating costs: a coordinator as it is served, on the disk it is given, 64 volunteers on real sockets that answer at once,
 * and rows of batches as durable tasks: accepted, computed, signed, credited, stored with synchronous=FULL. Beside it, in the same
 * run, what bare sockets, requests and syncs cost on this machine.
 */
import { fork } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { openServed } from '../coordinator/models.ts'
import { packedFolder } from '../tools/models.ts'
import { echoes, openLoop, syncs, verifyUs } from './coordination/raw.ts'
import type { Latencies } from './coordination/raw.ts'
import type { CpuReading, ServerOptions } from './coordination/server.ts'
import { InstantVolunteer } from './coordination/volunteers.ts'
import { commit, machine } from './report.ts'

export interface CoordinationOptions {
  json?: string
  rounds: number
  only: string
}

interface Figure {
  name: string
  value: number
  unit: string
  /** In `npm run bench`'s sense: must hold, and what we are here for. */
  gate?: number
  aim?: number
  note?: string
}

const VOLUNTEERS = 64
const SINGLE_ROWS = 20_000
const GROUPED_ROWS = 50_000
const OPEN_LOOP_MS = 10_000

const median = (all: number[]): number => all.toSorted((a, b) => a - b)[all.length >> 1]!

class Server {
  readonly #child: ChildProcess
  readonly url: string

  private constructor(child: ChildProcess, url: string) {
    this.#child = child
    this.url = url
  }

  static async open(options: ServerOptions): Promise<Server> {
    // BENCH_PROFILE=folder: where the coordinator's time goes, for Chrome's developer tools.
    const { BENCH_PROFILE: profile } = process.env
    const execArgv =
      profile && options.kind === 'coordinator' ? ['--cpu-prof', `--cpu-prof-dir=${profile}`] : []
    const child = fork(path.join(import.meta.dirname, 'coordination/server.ts'), { execArgv })
    child.send(options)
    const { url } = await once<{ url: string }>(child)
    return new Server(child, url)
  }

  /** Milliseconds so far, all threads. */
  async cpu(): Promise<number> {
    const answer = once<CpuReading>(this.#child)
    this.#child.send('cpu')
    return (await answer).cpu
  }

  /** It ends by itself when nobody is left to tell. */
  close(): void {
    this.#child.disconnect()
  }
}

const once = <T>(child: ChildProcess): Promise<T> =>
  new Promise((resolve, reject) => {
    const onExit = (code: number | null): void => reject(new Error(`the server ended with ${code}`))
    child.once('exit', onExit)
    child.once('message', (message) => {
      child.off('exit', onExit)
      resolve(message as T)
    })
  })

export async function runCoordination({ json, rounds, only }: CoordinationOptions): Promise<void> {
  const folder = mkdtempSync(path.join(tmpdir(), 'chorale-bench-'))
  const figures: Figure[] = []
  const done = (figure: Figure): void => {
    figures.push(figure)
    const { name, value, unit, gate, aim, note } = figure
    const bounds = gate === undefined ? '' : `gate ${gate}, aim ${aim}`
    process.stdout.write(
      `${name.padEnd(58)} ${value.toPrecision(4).padStart(10)} ${unit.padEnd(10)} ${bounds} ${note ?? ''}\n`,
    )
    if (json === undefined) return
    mkdirSync(path.dirname(path.resolve(json)), { recursive: true })
    const root = path.join(import.meta.dirname, '..')
    const versions = { ours: commit(root), node: process.version }
    const report = {
      suite: 'coordination',
      date: new Date().toISOString(),
      versions,
      machine: machine(),
      figures,
    }
    writeFileSync(json, `${JSON.stringify(report, null, 2)}\n`)
  }
  const wants = (name: string): boolean => name.includes(only)
  try {
    const raw = await baselines(folder, done)
    const models = [await packedFolder('tales-3m'), await packedFolder('intents-3m')]
    const served = await Promise.all(models.map((model) => openServed(model)))
    const shapes = new Map(
      served.map(({ digest, core: { width, bits } }) => [digest, { width, bits }] as const),
    )
    const volunteers = Array.from({ length: VOLUNTEERS }, () => new InstantVolunteer(shapes))
    const trustedKeys = volunteers.map(({ publicKey }) => publicKey)
    const server = await Server.open({
      kind: 'coordinator',
      models,
      dataFolder: path.join(folder, 'data'),
      trustedKeys,
    })
    try {
      await Promise.all(volunteers.map((one) => one.join(server.url)))
      const rows = {
        alone: await rowsOf(aloneRow, SINGLE_ROWS),
        grouped: await rowsOf(groupedRow, GROUPED_ROWS),
      }
      if (wants('alone'))
        await throughput(
          server,
          volunteers,
          'alone: each task a job, a frame, a signature',
          '/v1/completions',
          rows.alone,
          rounds,
          raw,
          done,
        )
      if (wants('grouped'))
        await throughput(
          server,
          volunteers,
          'grouped: tasks share jobs',
          '/v1/classify',
          rows.grouped,
          rounds,
          raw,
          done,
        )
      if (wants('latency')) await latencies(server, raw, done)
    } finally {
      for (const one of volunteers) one.leave()
      server.close()
    }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

interface Raw {
  wsUs: number
  httpUs: number
  http: Latencies
  sync: Latencies
  verifyUs: number
}

async function baselines(folder: string, done: (figure: Figure) => void): Promise<Raw> {
  const ws = await Server.open({ kind: 'ws' })
  const before = await ws.cpu()
  const n = await echoes(ws.url, VOLUNTEERS, 400, 3_000)
  const wsUs = ((await ws.cpu()) - before) * 1000 / n // prettier-ignore
  ws.close()
  done({
    name: 'bare ws echo, 400 bytes, 64 connections: CPU',
    value: wsUs,
    unit: 'us/message',
    note: `${Math.round(n / 3)}/s`,
  })
  const server = await Server.open({ kind: 'http' })
  const cpu = await server.cpu()
  const http = await openLoop({ url: server.url, path: '/', perSecond: 1_000, ms: 5_000, body: aloneBody })
  const httpUs = ((await server.cpu()) - cpu) * 1000 / http.n // prettier-ignore
  server.close()
  done({ name: 'bare http, 1,000 requests/s: CPU', value: httpUs, unit: 'us/request' })
  done({
    name: 'bare http, 1,000 requests/s: p99',
    value: http.p99,
    unit: 'ms',
    note: `p50 ${http.p50.toFixed(2)}`,
  })
  const sync = syncs(folder, 400)
  done({
    name: 'bare write + fdatasync of 8 KiB: p50',
    value: sync.p50,
    unit: 'ms',
    note: `p99 ${sync.p99.toFixed(2)}`,
  })
  const us = verifyUs(2_000)
  done({ name: 'bare Ed25519 check', value: us, unit: 'us' })
  return { wsUs, httpUs, http, sync, verifyUs: us }
}

/** A job of its own: one token of a prompt given in tokens. */
const aloneBody = (i: number): string =>
  JSON.stringify({ model: 'tales-3m', prompt: [11, 12, 13, 14 + (i % 100)], max_tokens: 1, temperature: 0 })
const aloneRow = (i: number): string =>
  `{"custom_id":"r${i}","method":"POST","url":"/v1/completions","body":${aloneBody(i)}}`
const groupedRow = (i: number): string =>
  `{"custom_id":"r${i}","method":"POST","url":"/v1/classify","body":{"model":"intents-3m","input":[5,6,7,${8 + (i % 100)}]}}`

const rowsOf = async (row: (i: number) => string, n: number): Promise<Blob> =>
  new Blob([Array.from({ length: n }, (_, i) => row(i)).join('\n')])

async function post<T>(url: string, body: BodyInit, headers?: Record<string, string>): Promise<T> {
  const response = await fetch(url, { method: 'POST', body, headers })
  if (!response.ok) throw new Error(`${url}: ${response.status} ${await response.text()}`)
  return (await response.json()) as T
}

interface Batch {
  status: string
  request_counts: { total: number; completed: number; failed: number }
}

/** From the request that creates the batch to the moment it is read to be completed. */
async function throughput(
  server: Server,
  volunteers: readonly InstantVolunteer[],
  name: string,
  endpoint: string,
  rows: Blob,
  rounds: number,
  raw: Raw,
  done: (figure: Figure) => void,
): Promise<void> {
  const rates: number[] = []
  const cpus: number[] = []
  const checks: number[] = []
  for (let round = 0; round < rounds; round++) {
    const form = new FormData()
    form.append('purpose', 'batch')
    form.append('file', rows, 'rows.jsonl')
    const file = await post<{ id: string }>(`${server.url}/v1/files`, form)
    const cpu = await server.cpu()
    const units = volunteers.reduce((sum, one) => sum + one.units, 0)
    const began = performance.now()
    const body = JSON.stringify({ input_file_id: file.id, endpoint, completion_window: '24h' })
    const { id } = await post<{ id: string }>(`${server.url}/v1/batches`, body, {
      'content-type': 'application/json',
    })
    let batch: Batch
    do {
      await sleep(50)
      batch = (await (await fetch(`${server.url}/v1/batches/${id}`)).json()) as Batch
    } while (!['completed', 'failed', 'expired', 'cancelled'].includes(batch.status))
    const ms = performance.now() - began
    const { total, completed } = batch.request_counts
    if (batch.status !== 'completed' || completed !== total || total === 0)
      throw new Error(`${name}: ${JSON.stringify(batch)}`)
    rates.push((total / ms) * 1000)
    cpus.push((((await server.cpu()) - cpu) * 1000) / total)
    checks.push(((volunteers.reduce((sum, one) => sum + one.units, 0) - units) * raw.verifyUs) / total)
  }
  const cpu = median(cpus)
  done({ name: `${name}: durable tasks`, value: median(rates), unit: '1/s', gate: 5_000, aim: 12_000 })
  done({ name: `${name}: coordinator CPU per task`, value: cpu, unit: 'us', gate: 100, aim: 50 })
  done({
    name: `${name}: the same without checks of signatures`,
    value: cpu - median(checks),
    unit: 'us',
    note: 'computed: less the bare checks of its results',
  })
  done({ name: `${name}: CPU against a bare ws echo`, value: cpu / raw.wsUs, unit: 'x' })
}

/** Requests one by one at 1,000/s through the API: what waiting for the coordinator adds, since volunteers answer at once. */
async function latencies(server: Server, raw: Raw, done: (figure: Figure) => void): Promise<void> {
  const common = {
    url: server.url,
    path: '/v1/completions',
    perSecond: 1_000,
    ms: OPEN_LOOP_MS,
    body: aloneBody,
  }
  await openLoop({ ...common, ms: 2_000 })
  const before = await server.cpu()
  const plain = await openLoop(common)
  const us = (((await server.cpu()) - before) * 1000) / plain.n
  const tag = String(Date.now())
  const durable = await openLoop({ ...common, headers: (i) => ({ 'idempotency-key': `${tag}-${i}` }) })
  for (const [name, { p50, p99, p999, failed, n }] of [
    ['latency at 1,000 tasks/s', plain],
    ['latency at 1,000 durable tasks/s (Idempotency-Key)', durable],
  ] as const)
    // prettier-ignore
    done({ name: `${name}: p99`, value: p99, unit: 'ms', gate: 75, aim: 25, note: `p50 ${p50.toFixed(2)}, p99.9 ${p999.toFixed(1)}, ${n} answered, ${failed} failed` })
  done({
    name: 'latency at 1,000 tasks/s: p99 against bare http',
    value: plain.p99 / raw.http.p99,
    unit: 'x',
  })
  done({
    name: 'latency at 1,000 tasks/s: coordinator CPU per task',
    value: us,
    unit: 'us',
    note: `bare http ${raw.httpUs.toFixed(0)}`,
  })
}
