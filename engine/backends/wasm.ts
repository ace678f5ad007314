/**
 * The WASM backend: the kernels of wasm/assembly over one linear memory per Program, SIMD128, on one thread or several.
 * A Recording's steps are written into that memory as words at load(), so a section is one call and nothing is allocated.
 */
import type { Counts, Recording } from '../recording.ts'
import type { Backend, BackendInfo, Program } from './backend.ts'
import type { Layout, Place } from './wasm/layout.ts'
import { headBytes, layOut, packRows } from './wasm/layout.ts'
import type { Threads } from './wasm/threads.ts'
import { canShare, openThreads, ThreadFailed } from './wasm/threads.ts'
import type { Packing, Variant } from './wasm/variant.ts'
import { chooseVariant } from './wasm/variant.ts'
import type { Kernels } from './wasm/worker.ts'
import { BROKEN, DONE } from './wasm/words.ts'

const pageBytes = 65536
/** Memories of at least this many pages are taken, so that small Programs can share one after another. */
const pagesMin = 64
/** A given-back memory up to this size is kept for the next Program. */
const keptBytesMax = 256 * 2 ** 20
const threadsMax = 16
/**
 * Least work, in about multiply-adds, for which threads are woken at all (a section: 200 µs of one core, against a wake-up of
 * up to 20), and handed a part once awake (a step: 4 µs). A token of a small model stays with the caller.
 */
const shareDefault = { section: 16e6, step: 3e5 }

export interface WasmOptions {
  /**
   * How many threads play, the caller's own included. Default: one per core. More than one needs shared memory and a caller
   * that may block: Node, or a worker of a cross-origin isolated page; elsewhere it is one, whatever is asked.
   */
  threads?: number
  /** `dot_i16x8` keeps to plain SIMD128, exact everywhere; default: the fastest that proves exact on this engine. */
  products?: 'best' | 'dot_i16x8'
  /** Least work, in about multiply-adds, that threads share, in place of what pays: 0 shares everything. For tests. */
  shareFrom?: number
}

/**
 * @throws RangeError when `threads` is no whole number from 1 to 16
 * @throws Error when the kernels were not built, or the engine has no WASM SIMD
 */
export async function openWasm(options: WasmOptions = {}): Promise<Backend> {
  const wanted = options.threads ?? Math.min(threadsMax, globalThis.navigator?.hardwareConcurrency ?? 1)
  if (!Number.isInteger(wanted) || wanted < 1 || wanted > threadsMax)
    throw new RangeError(`threads is ${wanted}; it must be a whole number from 1 to ${threadsMax}`)
  const count = canShare() ? wanted : 1
  const variant = await chooseVariant(count > 1, options.products ?? 'best')
  const threads = count > 1 ? await openThreads(count, variant.module) : undefined
  const { shareFrom } = options
  const share = shareFrom === undefined ? shareDefault : { section: shareFrom, step: shareFrom }
  return new WasmBackend(variant, threads, share)
}

type Share = typeof shareDefault

/** A memory and the kernels over it; `id` is what threads know it by. */
interface Room {
  id: number
  memory: WebAssembly.Memory
  kernels: Kernels
  /** A thread broke in here: what others of them still do in it is not known. */
  broken: boolean
}

class WasmBackend implements Backend {
  readonly info: BackendInfo
  /** A thread that breaks takes its Program with it, not the backend. */
  readonly lost = new Promise<never>(() => {})
  readonly bindingBytesMax = 2 ** 31
  readonly #variant: Variant
  readonly #share: Share
  readonly #threads: Threads | undefined
  #rooms = 0
  /** A room given back, kept for the next Program it is large enough for. */
  #kept: Room | undefined

  constructor(variant: Variant, threads: Threads | undefined, share: Share) {
    this.#variant = variant
    this.#share = share
    this.#threads = threads
    const count = threads?.count ?? 1
    const description = `WebAssembly SIMD128, ${count} ${count === 1 ? 'thread' : 'threads'}`
    const variants = { linear: variant.products }
    this.info = { name: 'wasm', description, software: false, threads: count, variants }
  }

  async load(recording: Recording): Promise<Program> {
    const layout = layOut(recording, this.info.threads, this.#variant.packing)
    const room = await this.#room(layout.bytes)
    layout.writeSteps(room.memory.buffer)
    return new WasmProgram(recording, layout, this.#variant.packing, room, this.#share, this.#threads, () =>
      this.#giveBack(room),
    )
  }

  async close(): Promise<void> {
    this.#kept = undefined
    await this.#threads?.close()
  }

  async #room(bytes: number): Promise<Room> {
    const kept = this.#kept
    if (kept && kept.memory.buffer.byteLength >= bytes) {
      this.#kept = undefined
      // Not the shared words in front: a thread may still be on its way out of the last play.
      new Uint8Array(kept.memory.buffer, headBytes, bytes - headBytes).fill(0)
      return kept
    }
    const pages = Math.max(pagesMin, Math.ceil(bytes / pageBytes))
    const shared = this.#threads !== undefined
    let memory: WebAssembly.Memory
    try {
      memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared })
    } catch (cause) {
      const size = `${((pages * pageBytes) / 2 ** 20).toFixed(0)} MiB`
      throw new Error(`no memory for the model: this engine would not give WebAssembly ${size}`, { cause })
    }
    const { exports } = await WebAssembly.instantiate(this.#variant.module, { env: { memory } })
    const room = { id: ++this.#rooms, memory, kernels: exports as unknown as Kernels, broken: false }
    await this.#threads?.attach(room.id, memory)
    return room
  }

  #giveBack(room: Room): void {
    const { byteLength } = room.memory.buffer
    const smaller = this.#kept && this.#kept.memory.buffer.byteLength < byteLength
    if (room.broken || byteLength > keptBytesMax || (this.#kept && !smaller)) {
      this.#threads?.detach(room.id)
      return
    }
    if (this.#kept) this.#threads?.detach(this.#kept.id)
    this.#kept = room
  }
}

class WasmProgram implements Program {
  readonly #max: Counts
  readonly #layout: Layout
  readonly #packing: Packing
  readonly #share: Share
  readonly #threads: Threads | undefined
  readonly #giveBack: () => void
  #room: Room | undefined
  #bytes: Uint8Array

  constructor(
    recording: Recording,
    layout: Layout,
    packing: Packing,
    room: Room,
    share: Share,
    threads: Threads | undefined,
    giveBack: () => void,
  ) {
    this.#max = recording.max
    this.#layout = layout
    this.#packing = packing
    this.#room = room
    this.#share = share
    this.#threads = threads
    this.#giveBack = giveBack
    this.#bytes = new Uint8Array(room.memory.buffer)
  }

  write(buffer: string, byteOffset: number, bytes: Uint8Array): void {
    const { at, spec } = this.#place(buffer, byteOffset, bytes.byteLength)
    if (spec.kind === 'matrix') throw new TypeError(`${buffer} is a matrix: fill it with writeMatrix`)
    this.#bytes.set(bytes, at + byteOffset)
  }

  writeMatrix(buffer: string, row: number, bytes: Uint8Array): void {
    const { at, spec, bytes: size } = this.#place(buffer, 0, 0)
    if (!spec.matrix) throw new TypeError(`${buffer} is no matrix: fill it with write`)
    const { rows, k } = spec.matrix
    const count = bytes.byteLength / k
    if (!Number.isInteger(count) || row % 16 !== 0 || row + count > rows) {
      throw new RangeError(
        `${buffer} has ${rows} rows of ${k}; ${bytes.byteLength} bytes do not fit as whole rows from row ${row} on (a multiple of 16)`,
      )
    }
    packRows(this.#bytes.subarray(at, at + size), row, k, bytes, this.#packing)
  }

  run(sections: readonly string[], counts: Counts): void {
    const room = this.#playing()
    const { rows, picks, segments } = counts
    if (rows > this.#max.rows || picks > this.#max.picks || segments > this.#max.segments) {
      throw new RangeError(
        `${rows} rows, ${picks} picks, ${segments} segments are more than the recording's ${this.#max.rows}, ${this.#max.picks}, ${this.#max.segments}`,
      )
    }
    const { at: scratch, perThread } = this.#layout.scratch
    const threads = this.#threads?.count ?? 1
    for (const name of sections) {
      const section = this.#layout.sections.get(name)
      if (!section) throw new TypeError(`the recording has no section ${name}`)
      const { at, steps } = section
      const together = section.work(counts) < this.#share.section ? 1 : threads
      if (together > 1) this.#threads!.wake(room.id)
      let failed: number
      try {
        failed = room.kernels.play(
          at,
          steps,
          rows,
          picks,
          segments,
          together,
          scratch,
          perThread,
          this.#share.step,
        )
      } catch (cause) {
        this.#break(room)
        throw new ThreadFailed(`section ${name} broke: ${String(cause)}`, { cause })
      }
      if (failed) {
        this.#break(room)
        const how = failed === 1 ? 'broke' : 'took part of the work and did not come back within a minute'
        throw new ThreadFailed(`in section ${name} a WASM thread ${how}`)
      }
    }
  }

  /** Sends the threads out of this memory for good. */
  #break(room: Room): void {
    room.broken = true
    if (!this.#threads) return
    const head = new Int32Array(room.memory.buffer, 0, headBytes / 4)
    Atomics.store(head, BROKEN, 1)
    Atomics.notify(head, DONE)
  }

  async read(buffer: string, byteOffset: number, byteLength: number): Promise<Uint8Array> {
    const { at, spec } = this.#place(buffer, byteOffset, byteLength)
    if (spec.kind === 'matrix')
      throw new TypeError(`${buffer} is a matrix: its storage order is the backend's own`)
    return this.#bytes.slice(at + byteOffset, at + byteOffset + byteLength)
  }

  async done(): Promise<void> {}

  free(): void {
    if (!this.#room) return
    this.#room = undefined
    this.#bytes = new Uint8Array(0)
    this.#giveBack()
  }

  #playing(): Room {
    if (!this.#room) throw new Error('this Program was freed')
    if (this.#room.broken)
      throw new ThreadFailed('a WASM thread broke in this Program: load the recording again')
    return this.#room
  }

  #place(buffer: string, byteOffset: number, byteLength: number): Place {
    this.#playing()
    const place = this.#layout.buffers.get(buffer)
    if (!place) throw new TypeError(`the recording has no buffer ${buffer}`)
    if (byteOffset < 0 || byteOffset + byteLength > place.bytes) {
      throw new RangeError(
        `${buffer} has ${place.bytes} bytes; [${byteOffset}, ${byteOffset + byteLength}) is outside`,
      )
    }
    return place
  }
}
