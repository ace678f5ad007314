/**
 * A volunteer written from docs/protocol.md alone: its own frames, nothing of protocol/ or client/. The engine is ours, since
 * what to compute is another page. Runs in a process of its own, so that it can be killed: `node stranger.ts URL [options]`.
 */
import { createHash, generateKeyPairSync, sign } from 'node:crypto'
import type { KeyObject } from 'node:crypto'
import { WebSocket } from 'ws'
import { openBackend, openPack } from '../../engine/index.ts'
import type { PackSource } from '../../engine/index.ts'
import { UnitRunner } from '../../engine/units.ts'
import type { Unit, UnitOutput, UnitProgress } from '../../engine/units.ts'

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

/** A key of its own: docs/protocol.md §Keys. */
export class Key {
  readonly publicKey: string
  readonly #private: KeyObject

  constructor() {
    const { publicKey, privateKey } = generateKeyPairSync('ed25519')
    this.publicKey = publicKey.export({ format: 'jwk' }).x!
    this.#private = privateKey
  }

  sign(name: string, lines: Record<string, unknown>): string {
    const text = [name, ...Object.entries(lines).map(([what, value]) => `${what} ${value}`)]
    return sign(null, Buffer.from(`${text.join('\n')}\n`), this.#private).toString('base64url')
  }

  /** What a hello needs besides, to answer this challenge. */
  hello({ coordinator, nonce }: Meta): Meta {
    return { publicKey: this.publicKey, signature: this.sign('chorale hello 1', { coordinator, nonce }) }
  }
}

/** SHA-256 of what was asked: docs/protocol.md §Commitments. */
export function inputOf({ kind, inputs, generate }: Unit): string {
  const { maxTokens = 0, sampling, logprobs = 0xffffffff, replay = 0 } = generate ?? {}
  const rows = inputs.map((row) => Array.from(row).slice(0, row.length - replay))
  const u32 = (...values: number[]): Uint8Array => new Uint8Array(Uint32Array.from(values).buffer)
  const hash = createHash('sha256').update('chorale.input.1\0')
  hash.update(u32({ generate: 1, embed: 2, classify: 3 }[kind]))
  if (sampling) {
    const { topK, stream, temperature, topP, seed } = sampling
    hash.update(u32(maxTokens, topK, stream, logprobs))
    hash.update(new Uint8Array(Float64Array.of(temperature, topP).buffer))
    hash.update(new Uint8Array(BigUint64Array.of(BigInt(seed)).buffer))
  }
  hash.update(u32(rows.length, ...rows.map((row) => row.length), ...rows.flat()))
  return hash.digest('hex')
}

/** What is signed of tokens on the way: docs/protocol.md §Results. */
function progressOf(tokens: Uint32Array, logprobs: UnitProgress['logprobs']): Uint8Array {
  const each = logprobs ? logprobs.values.length / tokens.length : 0
  const words = Array.from(tokens).flatMap((id, i) => [id, ...(logprobs?.values.slice(i * each, (i + 1) * each) ?? [])]) // prettier-ignore
  return new Uint8Array(Int32Array.from(words).buffer)
}

/** The Merkle tree hash of leaves of 32 bytes, in hex: docs/protocol.md §Commitments. */
export function rootOf(leaves: Uint8Array): string {
  const sha256 = (...parts: Uint8Array[]): Buffer =>
    createHash('sha256').update(Buffer.concat(parts)).digest()
  const tree = (from: number, to: number): Buffer => {
    if (to - from === 1) return sha256(Buffer.of(0), leaves.subarray(32 * from, 32 * to))
    let left = 1
    while (2 * left < to - from) left *= 2
    return sha256(Buffer.of(1), tree(from, from + left), tree(from + left, to))
  }
  return tree(0, leaves.length / 32).toString('hex')
}

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
  readonly #leaves = new Map<string, Uint8Array>()
  readonly #key = new Key()
  #coordinator = ''
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
    this.#socket.on('message', (data: Buffer) => {
      const { type, meta, payload } = unframe(data)
      if (type === 71) {
        const { concurrency = 2, client = 'stranger' } = options
        this.#coordinator = meta.coordinator as string
        this.#send(1, helloMeta({ client, slots: concurrency + 1, concurrency, ...this.#key.hello(meta) }))
      } else if (type === 64) {
        this.#progressMs = (meta.settings as { progressMs: number }).progressMs
        this.#load(meta.models as Offer[], options).then(resolve, reject)
      } else if (type === 65) this.#assigned(meta.assignments as Assigned[], payload)
      else if (type === 66) for (const id of meta.assignments as string[]) this.#running.get(id)?.abort()
      else if (type === 68) this.#send(8, { nonce: meta.nonce })
      else if (type === 72) this.#disclose(meta.assignment as string)
      else if (type === 69) this.#send(6, { state: 'draining', isHidden: false })
    })
  }

  close(): void {
    this.#socket.close(1000)
  }

  #disclose(assignment: string): void {
    const leaves = this.#leaves.get(assignment) ?? new Uint8Array()
    this.#send(9, { assignment, count: leaves.length / 32 }, leaves)
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
    const input = inputOf(unit)
    const streamed = createHash('sha256')
    let from: number | undefined
    try {
      const { output, computeMs, leaves } = await this.#runner!.run(unit, {
        signal: abort.signal,
        progressMs: this.#progressMs,
        onTokens: ({ position, tokens, logprobs }) => {
          from ??= position
          streamed.update(progressOf(tokens, logprobs))
          const signature = this.#key.sign('chorale progress 1', {
            coordinator: this.#coordinator, assignment: id, numerics: 'xn1', model: unit.model, input, from,
            output: streamed.copy().digest('hex'),
          }) // prettier-ignore
          const meta = {
            assignment: id,
            position,
            count: tokens.length,
            logprobs: logprobs && { top: logprobs.top },
            from,
            signature,
          }
          this.#send(3, meta, bytesOf(tokens, logprobs?.values))
          // Blocks on purpose: a slow machine is slow all over.
          if (this.#rest) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, this.#rest)
        },
      })
      this.units++
      const { shape, payload } = describe(output)
      const digest = createHash('sha256').update(payload).digest('hex')
      leaves.set(createHash('sha256').update(payload).digest(), leaves.length - 32)
      const root = rootOf(leaves)
      const signature = this.#key.sign('chorale result 1', {
        coordinator: this.#coordinator, assignment: id, numerics: 'xn1', model: unit.model, input, output: digest, root,
      }) // prettier-ignore
      this.#leaves.set(id, leaves)
      this.#send(2, { assignment: id, output: shape, digest, computeMs, input, root, signature }, payload)
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
