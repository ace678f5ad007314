/** What the machine can do at all: sockets, requests and syncs without a coordinator, in the same run. */
import { closeSync, fdatasyncSync, openSync, rmSync, writeSync } from 'node:fs'
import { generateKeyPairSync, sign, verify } from 'node:crypto'
import { Agent, request } from 'node:http'
import { join } from 'node:path'
import { performance } from 'node:perf_hooks'
import { WebSocket } from 'ws'

export interface Latencies {
  p50: number
  p99: number
  p999: number
  n: number
  failed: number
}

/** Milliseconds. */
export function summary(all: number[], failed = 0): Latencies {
  const sorted = Float64Array.from(all).sort()
  const at = (share: number): number =>
    sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? NaN
  return { p50: at(0.5), p99: at(0.99), p999: at(0.999), n: all.length, failed }
}

/** Echoes of `bytes`, one in flight per connection. Returns echoes. */
export async function echoes(url: string, connections: number, bytes: number, ms: number): Promise<number> {
  let count = 0
  const until = performance.now() + ms
  await Promise.all(
    Array.from({ length: connections }, () => {
      const socket = new WebSocket(url.replace(/^http/, 'ws'), { perMessageDeflate: false })
      const message = Buffer.alloc(bytes, 1)
      return new Promise<void>((resolve, reject) => {
        socket.on('error', reject)
        socket.on('open', () => socket.send(message))
        socket.on('message', () => {
          count++
          if (performance.now() < until) return socket.send(message)
          socket.terminate()
          resolve()
        })
      })
    }),
  )
  return count
}

export interface OpenLoop {
  url: string
  path: string
  perSecond: number
  ms: number
  body: (i: number) => string
  headers?: (i: number) => Record<string, string>
}

/** Requests at random moments whatever becomes of those before; latencies count from the moment a request was due. */
export async function openLoop({ url, path, perSecond, ms, body, headers }: OpenLoop): Promise<Latencies> {
  const agent = new Agent({ keepAlive: true, maxSockets: 256 })
  const latencies: number[] = []
  let failed = 0
  const { hostname, port } = new URL(url)
  const one = (i: number, due: number): Promise<void> =>
    new Promise((resolve) => {
      const text = body(i)
      const sent = request(
        {
          hostname, port, path, agent, method: 'POST',
          headers: { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text), ...headers?.(i) },
        }, // prettier-ignore
        (response) => {
          response.resume()
          response.on('end', () => {
            if (response.statusCode === 200) latencies.push(performance.now() - due)
            else failed++
            resolve()
          })
        },
      )
      sent.on('error', () => {
        failed++
        resolve()
      })
      sent.end(text)
    })
  const pending: Promise<void>[] = []
  const began = performance.now()
  let due = began
  for (let i = 0; due < began + ms; i++) {
    due += (-Math.log(1 - Math.random()) * 1000) / perSecond
    // A timer counts whole milliseconds; what is due within one goes together.
    const wait = due - performance.now()
    if (wait > 0.5) await new Promise((resolve) => setTimeout(resolve, Math.max(1, wait)))
    pending.push(one(i, due))
  }
  await Promise.all(pending)
  agent.destroy()
  return summary(latencies, failed)
}

/** 8 KiB appended and synced, over and over, where the data lies. */
export function syncs(folder: string, n: number): Latencies {
  const file = join(folder, 'syncs')
  const handle = openSync(file, 'w')
  const page = Buffer.alloc(8192, 7)
  const all: number[] = []
  for (let i = 0; i < n; i++) {
    const began = performance.now()
    writeSync(handle, page)
    fdatasyncSync(handle)
    all.push(performance.now() - began)
  }
  closeSync(handle)
  rmSync(file)
  return summary(all)
}

/** Microseconds per check of an Ed25519 signature over a result's statement (some 400 bytes). */
export function verifyUs(n: number): number {
  const { publicKey, privateKey } = generateKeyPairSync('ed25519')
  const bytes = Buffer.alloc(400, 3)
  const signature = sign(null, bytes, privateKey)
  const began = process.cpuUsage()
  for (let i = 0; i < n; i++) verify(null, bytes, publicKey, signature)
  const { user, system } = process.cpuUsage(began)
  return (user + system) / n
}
