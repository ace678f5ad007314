/** One run: a coordinator in its own process, damaged frames and requests, its memory and its log watched. */
import { fork } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseFrames, sendFrame } from './frames.ts'
import type { Finding } from './frames.ts'
import { corpusOf, Requests } from './requests.ts'

export interface FuzzOptions {
  seed: number
  /** Given to the parser; of these, one in `socketShare` also goes over a socket. */
  frames: number
  socketShare: number
  requests: number
  onProgress?: (line: string) => void
}

export interface FuzzReport {
  seed: number
  frames: { parsed: number; refused: number; sent: number; perS: number }
  requests: { sent: number; perS: number }
  memory: { heapBefore: number; heapAfter: number; rssMax: number }
  /** The first of them. */
  findings: Finding[]
  ok: boolean
}

const AT_ONCE = 64
const FINDINGS_MAX = 20
/** Heap that may stay after everything is collected: buffers of the allocator, receipts, batches that were created. */
export const GROWTH_BYTES_MAX = 96 * 1024 * 1024

export async function fuzz({
  seed,
  frames,
  socketShare,
  requests,
  onProgress,
}: FuzzOptions): Promise<FuzzReport> {
  const folder = mkdtempSync(join(tmpdir(), 'chorale-fuzz-'))
  const findings: Finding[] = []
  const note = (finding: Finding | null): void => {
    if (finding && findings.length < FINDINGS_MAX) findings.push(finding)
  }
  const target = await open(folder, (what) => note({ what, seed, index: -1, input: '' }))
  const { url } = target
  try {
    const corpus = corpusOf(await prepare(url))
    const http = new Requests(url, corpus, seed)
    // What is allocated once, for ever, is allocated before it is measured.
    await atOnce(200, (i) => sendFrame(url, seed, 10_000_000 + i), note)
    await atOnce(1_000, (i) => http.send(10_000_000 + i), note)
    const before = await target.memory()
    let rssMax = before.rss

    let begun = performance.now()
    let refused = 0
    for (let from = 0; from < frames; from += 10_000) {
      const { refused: no, findings: found } = parseFrames(seed, from, Math.min(10_000, frames - from))
      refused += no
      found.forEach(note)
      if (from % 100_000 === 0) onProgress?.(`parsed ${from} of ${frames} frames`)
    }
    const parsedS = (performance.now() - begun) / 1000
    const sent = Math.floor(frames / socketShare)
    for (let from = 0; from < sent; from += 5_000) {
      await atOnce(Math.min(5_000, sent - from), (i) => sendFrame(url, seed, (from + i) * socketShare), note)
      rssMax = Math.max(rssMax, (await target.memory()).rss)
      onProgress?.(`sent ${from} of ${sent} frames`)
      note(await alive(url, seed))
    }
    begun = performance.now()
    for (let from = 0; from < requests; from += 5_000) {
      await atOnce(Math.min(5_000, requests - from), (i) => http.send(from + i), note)
      rssMax = Math.max(rssMax, (await target.memory()).rss)
      onProgress?.(`sent ${from} of ${requests} requests`)
      note(await alive(url, seed))
    }
    const requestsS = (performance.now() - begun) / 1000
    http.close()
    const after = await target.memory()
    if (after.heap - before.heap > GROWTH_BYTES_MAX)
      note({ what: `the heap grew from ${before.heap} to ${after.heap} bytes`, seed, index: -1, input: '' })
    return {
      seed,
      frames: { parsed: frames, refused, sent, perS: Math.round(frames / parsedS) },
      requests: { sent: requests, perS: Math.round(requests / requestsS) },
      memory: { heapBefore: before.heap, heapAfter: after.heap, rssMax },
      findings,
      ok: findings.length === 0,
    }
  } finally {
    await target.stop()
    rmSync(folder, { recursive: true, force: true, maxRetries: 3 })
  }
}

/** At most AT_ONCE of them at a time. */
async function atOnce(
  count: number,
  work: (i: number) => Promise<Finding | null>,
  note: (finding: Finding | null) => void,
): Promise<void> {
  let next = 0
  const worker = async (): Promise<void> => {
    while (next < count) note(await work(next++))
  }
  await Promise.all(Array.from({ length: Math.min(AT_ONCE, count) }, worker))
}

/** A file and a batch that exist. */
async function prepare(url: string): Promise<{ file: string; batch: string }> {
  const form = new FormData()
  form.append('purpose', 'batch')
  form.append('file', new Blob([JSON.stringify({ custom_id: 'a', method: 'POST', url: '/v1/embeddings', body: { model: 'intents-3m', input: 'x' } })]), 'a')
  const { id: file } = (await (await fetch(`${url}/v1/files`, { method: 'POST', body: form })).json()) as { id: string }
  const body = JSON.stringify({ input_file_id: file, endpoint: '/v1/embeddings', completion_window: '1h' })
  const { id: batch } = (await (await fetch(`${url}/v1/batches`, { method: 'POST', body, headers: { 'content-type': 'application/json' } })).json()) as { id: string }
  return { file, batch }
} // prettier-ignore

/** It still answers. */
async function alive(url: string, seed: number): Promise<Finding | null> {
  const answer = await fetch(`${url}/v1/models`).catch((error: Error) => error)
  if (answer instanceof Response && answer.status === 200) return null
  return { what: `it no longer answers: ${answer instanceof Error ? answer.message : answer.status}`, seed, index: -1, input: '' }
} // prettier-ignore

interface Target {
  url: string
  memory: () => Promise<{ heap: number; rss: number }>
  stop: () => Promise<void>
}

async function open(folder: string, onFault: (what: string) => void): Promise<Target> {
  const child: ChildProcess = fork(join(import.meta.dirname, 'target.ts'), [folder], {
    execArgv: ['--expose-gc'],
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
  })
  let isStopping = false
  let rest = ''
  child.stderr!.on('data', (piece) => {
    const lines = (rest + String(piece)).split('\n')
    rest = lines.pop()!
    // Level 50 is error: a fault of the coordinator, a request that failed. Anything that is no log line is an escape.
    for (const line of lines)
      if (!line.startsWith('{"level":') || /^\{"level":[56]0/.test(line))
        onFault(`it logged: ${line.slice(0, 1_000)}`)
  })
  const next = <T>(): Promise<T> =>
    new Promise((resolve, reject) => {
      child.once('message', (message) => resolve(message as T))
      child.once('exit', (code) => {
        if (!isStopping) reject(new Error(`the coordinator ended with ${code}: ${rest}`))
      })
    })
  const { url } = await next<{ url: string }>()
  child.setMaxListeners(0)
  return {
    url,
    memory: () => {
      const answer = next<{ heap: number; rss: number }>()
      child.send('memory')
      return answer
    },
    stop: async () => {
      isStopping = true
      if (child.exitCode !== null) return
      const ended = new Promise((resolve) => child.once('exit', resolve))
      child.send('stop')
      const timer = setTimeout(() => child.kill('SIGKILL'), 10_000)
      await ended
      clearTimeout(timer)
    },
  }
}
