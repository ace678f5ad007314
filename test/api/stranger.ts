/**
 * A volunteer written from docs/protocol.md alone: its own frames, nothing of protocol/ or client/. The engine is ours, since
 * what to compute is another page. Runs in a process of its own, so that it can be killed: `node stranger.ts URL [options]`.
 */
import { createHash } from 'node:crypto'
import { WebSocket } from 'ws'
import { openBackend, openPack } from '../../engine/index.ts'
import type { PackSource } from '../../engine/index.ts'
import { UnitRunner } from '../../engine/units.ts'
import type { Unit, UnitOutput } from '../../engine/units.ts'

export interface StrangerOptions {
  /** Rests this long after every step of the engine, one token a step: slow enough to be caught in the middle. */
  restMs?: number
  concurrency?: number
  client?: string
}

export interface Meta {
  [key: string]: unknown
}

/** One binary frame; see docs/protocol.md §Frames. */
export function frame(
  type: number,
  sequence: number,
  meta: Meta,
  payload: Uint8Array = new Uint8Array(),
): Buffer {
  const json = Buffer.from(JSON.stringify(meta))
  const start = Math.ceil((16 + json.length) / 8) * 8
  const bytes = Buffer.alloc(start + payload.length)
  bytes.writeUInt16LE(0x4843, 0)
  bytes.writeUInt8(1, 2)
  bytes.writeUInt8(type, 3)
  bytes.writeUInt32LE(json.length, 4)
  bytes.writeUInt32LE(payload.length, 8)
  bytes.writeUInt32LE(sequence, 12)
  json.copy(bytes, 16)
  bytes.set(payload, start)
  return bytes
}

export function unframe(bytes: Buffer): { type: number; meta: Meta; payload: Buffer } {
  const metaBytes = bytes.readUInt32LE(4)
  const meta = JSON.parse(bytes.toString('utf8', 16, 16 + metaBytes)) as Meta
  return { type: bytes.readUInt8(3), meta, payload: bytes.subarray(Math.ceil((16 + metaBytes) / 8) * 8) }
}

export const helloMeta = (extra: Meta = {}): Meta => ({
  version: 1,
  client: 'stranger',
  capability: { backend: 'js', adapter: 'a process', numerics: 'xn1', memoryBytes: 1e9, models: [] },
  slots: 2,
  concurrency: 1,
  isHidden: false,
  held: [],
  ...extra,
})

interface Offer {
  digest: string
  path: string
  bytes: number
  demand: number
}
type Assigned = Unit & { id: string; lengths: number[] }

export class Stranger {
  readonly #url: string
  readonly #socket: WebSocket
  readonly #running = new Map<string, AbortController>()
  readonly #wants = new Map<string, Offer>()
  #sequence = 0
  #runner: UnitRunner | undefined
  #progressMs = 0
  /** How the connection ended. */
  readonly closed: Promise<{ code: number; reason: string }>
  /** Resolves when every model of the welcome is ready. */
  readonly ready: Promise<void>
  units = 0

  constructor(url: string, options: StrangerOptions = {}) {
    this.#url = url
    this.#socket = new WebSocket(`${url.replace(/^http/, 'ws')}/v1/volunteer`, 'chorale.v1', {
      perMessageDeflate: false,
    })
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    this.ready = promise
    this.closed = new Promise((done) =>
      this.#socket.on('close', (code, reason) => done({ code, reason: reason.toString() })),
    )
    this.#socket.on('error', reject)
    this.#socket.on('open', () => {
      const { concurrency = 2 } = options
      this.#send(1, helloMeta({ client: options.client ?? 'stranger', slots: concurrency + 1, concurrency }))
    })
    this.#socket.on('message', (data: Buffer) => {
      const { type, meta, payload } = unframe(data)
      if (type === 64) {
        this.#progressMs = (meta.settings as { progressMs: number }).progressMs
        this.#load(meta.models as Offer[], options).then(resolve, reject)
      } else if (type === 65) this.#assigned(meta.assignments as Assigned[], payload)
      else if (type === 66) for (const id of meta.assignments as string[]) this.#running.get(id)?.abort()
      else if (type === 68) this.#send(8, { nonce: meta.nonce })
      else if (type === 69) this.#send(6, { state: 'draining', isHidden: false })
    })
  }

  close(): void {
    this.#socket.close(1000)
  }

  #send(type: number, meta: Meta, payload?: Uint8Array): void {
    if (this.#socket.readyState === WebSocket.OPEN)
      this.#socket.send(frame(type, this.#sequence++, meta, payload))
  }

  async #load(offers: Offer[], { restMs = 0, concurrency = 2 }: StrangerOptions): Promise<void> {
    const backend = await openBackend('wasm', { threads: 1 })
    this.#runner = new UnitRunner(
      backend,
      (digest) => openPack(this.#source(this.#wants.get(digest)!), digest),
      {
        concurrency,
        burstMs: restMs ? 0 : 40,
      },
    )
    for (const offer of offers) {
      this.#wants.set(offer.digest, offer)
      await this.#runner.load(offer.digest)
      const { readMs, drawMs } = await this.#runner.measure(offer.digest)
      this.#send(7, {
        models: [{ digest: offer.digest, state: 'ready', readMs, drawMs: drawMs && drawMs + restMs }],
      })
    }
    this.#rest = restMs
  }
  #rest = 0

  #source({ path }: Offer): PackSource {
    const get = async (file: string, range?: string): Promise<Uint8Array> => {
      const answer = await fetch(`${this.#url}${path}/${file}`, { headers: range ? { range } : {} })
      if (!answer.ok) throw new Error(`${path}/${file}: ${answer.status}`)
      return new Uint8Array(await answer.arrayBuffer())
    }
    return {
      name: path,
      manifest: () => get('manifest.json'),
      read: (file, offset, length) => get(file, `bytes=${offset}-${offset + length - 1}`),
    }
  }

  #assigned(assignments: Assigned[], payload: Buffer): void {
    const words = new Uint32Array(new Uint8Array(payload).buffer)
    let at = 0
    for (const assignment of assignments) {
      const inputs = assignment.lengths.map((n) => words.subarray(at, (at += n)))
      void this.#run({ ...assignment, inputs })
    }
  }

  async #run(unit: Assigned): Promise<void> {
    const { id } = unit
    if (this.#running.has(id)) return
    const abort = new AbortController()
    this.#running.set(id, abort)
    try {
      const { output, computeMs } = await this.#runner!.run(unit, {
        signal: abort.signal,
        progressMs: this.#progressMs,
        onTokens: ({ position, tokens, logprobs }) => {
          const meta = {
            assignment: id,
            position,
            count: tokens.length,
            logprobs: logprobs && { top: logprobs.top },
          }
          this.#send(3, meta, bytesOf(tokens, logprobs?.values))
          // Blocks on purpose: a slow machine is slow all over.
          if (this.#rest) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, this.#rest)
        },
      })
      this.units++
      const { shape, payload } = describe(output)
      const digest = createHash('sha256').update(payload).digest('hex')
      this.#send(2, { assignment: id, output: shape, digest, computeMs }, payload)
    } catch (error) {
      if (abort.signal.aborted) return
      this.#send(4, {
        assignment: id,
        reason: 'engine-error',
        retryable: false,
        detail: String(error).slice(0, 400),
      })
    } finally {
      this.#running.delete(id)
    }
  }
}

function describe(output: UnitOutput): { shape: Meta; payload: Uint8Array } {
  if (output.kind !== 'generate') {
    const { values, ...shape } = output
    return { shape, payload: bytesOf(values) }
  }
  const { tokens, logprobs, ...shape } = output
  const meta = { ...shape, count: tokens.length, logprobs: logprobs && { top: logprobs.top } }
  return { shape: meta, payload: bytesOf(tokens, logprobs?.values) }
}

function bytesOf(...arrays: (Uint32Array | Int32Array | undefined)[]): Uint8Array {
  return Buffer.concat(
    arrays.filter((a) => a !== undefined).map((a) => new Uint8Array(a.buffer, a.byteOffset, a.byteLength)),
  )
}

if (process.argv[1] === import.meta.filename) {
  const [url, options] = process.argv.slice(2)
  const stranger = new Stranger(url!, JSON.parse(options ?? '{}') as StrangerOptions)
  await stranger.ready
  process.stdout.write('ready\n')
  await stranger.closed
  process.exit(0)
}
