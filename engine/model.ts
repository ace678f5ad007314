/** A pack loaded onto a backend: whole, or a range of its blocks. */
import { DIGEST_WORDS } from '../shaders/digest.ts'
import type { Backend, Program } from './backends/backend.ts'
import { record } from './models/record.ts'
import type { Exact, ModelSpec } from './models/spec.ts'
import { loadWeights } from './pack/load.ts'
import type { LoadProgress } from './pack/load.ts'
import type { Pack } from './pack/reader.ts'
import type { Counts, Recording } from './recording.ts'
import { ModelError } from './weights/errors.ts'

export interface ModelOptions {
  /** Blocks [start, end); default all. */
  blocks?: readonly [number, number]
  /** Tokens a sequence may reach; default the model's own context. Decides the size of the KV cache. */
  context?: number
  /** Sequences decoded side by side; default 1. */
  sequences?: number
  /** Most token rows per run; longer prompts go in chunks of this. Default 128, encoders 256. */
  rows?: number
  /** Room for the logits of every row of a run, for score(). */
  scoring?: boolean
  /** Keep the trace of what is computed, for readTrace(). */
  commit?: boolean
  onProgress?: (progress: LoadProgress) => void
}

/** One token of a run: its id (0 where activations come in), its place in its sequence, and the sequence's KV rows. */
export interface Row {
  id: number
  position: number
  /** First KV row of the sequence. */
  base: number
  /** KV rows attended to: position + 1 for a decoder, the whole sequence for an encoder. */
  length: number
}

/** Ids kept on the device between two reads. */
const CAPACITY = 64

export class Model {
  readonly spec: ModelSpec
  readonly exact: Exact
  readonly digest: string
  readonly backend: Backend
  readonly program: Program
  readonly recording: Recording
  readonly blocks: readonly [number, number]
  readonly context: number
  readonly sequences: number
  readonly capacity = CAPACITY

  private constructor(
    pack: Pack,
    backend: Backend,
    program: Program,
    recording: Recording,
    shape: { blocks: readonly [number, number]; context: number; sequences: number },
  ) {
    // prettier-ignore
    this.spec = pack.manifest.spec
    this.exact = pack.manifest.exact
    this.digest = pack.digest
    this.backend = backend
    this.program = program
    this.recording = recording
    this.blocks = shape.blocks
    this.context = shape.context
    this.sequences = shape.sequences
  }

  /** Allocates, prepares kernels and streams the weights in. Throws ModelError for bad options or a bad pack. */
  static async open(pack: Pack, backend: Backend, options: ModelOptions = {}): Promise<Model> {
    const { spec, exact } = pack.manifest
    const encoder = spec.task !== 'generate'
    const blocks = options.blocks ?? [0, spec.layers]
    if (!(0 <= blocks[0] && blocks[0] < blocks[1] && blocks[1] <= spec.layers))
      bad(`blocks [${blocks}) of a model with ${spec.layers}`, 'Ask for a range inside it')
    const context = options.context ?? spec.context
    if (!(context >= 1 && context <= spec.context))
      bad(`a context of ${context} tokens`, `This model was made for up to ${spec.context}`)
    const sequences = options.sequences ?? 1
    const rows = options.rows ?? (encoder ? Math.max(256, context) : 128)
    const max = {
      rows: Math.max(rows, sequences),
      picks: Math.max(sequences, options.scoring ? rows : encoder ? 1 : picksOf(rows, spec.vocab)),
      segments: encoder ? Math.max(rows, 1) : 1,
    }
    const recording = record(spec, exact, new Map(Object.entries(pack.manifest.tensors)), {
      blocks,
      max,
      kvRows: encoder ? max.rows : sequences * context,
      capacity: CAPACITY,
      bindingBytesMax: backend.bindingBytesMax,
      commit: options.commit ?? false,
    })
    const program = await backend.load(recording)
    try {
      await loadWeights(pack, recording, program, options.onProgress)
    } catch (error) {
      program.free()
      throw error
    }
    return new Model(pack, backend, program, recording, { blocks, context, sequences })
  }

  /** Sets the rows of the next run; their header tells the kernels how many there are. */
  writeRows(rows: readonly Row[], counts: Counts): void {
    const words = new Uint32Array(4 * (1 + rows.length))
    words.set([counts.rows, counts.picks, counts.segments, 0])
    rows.forEach((r, i) => words.set([r.id, r.position, r.base, r.length], 4 * (i + 1)))
    this.writeWords('rows', words)
  }

  writeWords(buffer: string, words: Uint32Array | Int32Array): void {
    this.program.write(buffer, 0, new Uint8Array(words.buffer, words.byteOffset, words.byteLength))
  }

  async readInts(buffer: string, count: number): Promise<Int32Array> {
    return new Int32Array((await this.program.read(buffer, 0, 4 * count)).buffer)
  }

  /** Layers of the trace per position: blocks + 1 of a whole model; 0 of one opened without `commit`. */
  get traceLayers(): number {
    const { trace } = this.recording.buffers
    if (!trace) return 0
    return this.blocks[1] + 1 - (this.blocks[0] === 0 ? 0 : this.blocks[0] + 1)
  }

  /** Digests u32[count][layers][4] of the positions last computed in KV rows [first, first + count). */
  async readTrace(first: number, count: number): Promise<Uint32Array> {
    const layers = this.traceLayers
    if (layers === 0) bad('a model opened without `commit`', 'Open it with that option to have its trace')
    const bytes = 4 * DIGEST_WORDS * layers
    return new Uint32Array((await this.program.read('trace', first * bytes, count * bytes)).buffer)
  }

  /** Throws ModelError `input-invalid` for ids outside the vocabulary, `context-exceeded` for too many of them. */
  checkIds(ids: ArrayLike<number>, room: number): void {
    if (ids.length === 0) bad('an empty list of token ids', 'Give at least one')
    if (ids.length > room) {
      throw new ModelError('context-exceeded', {
        what: `${ids.length} tokens where ${room} fit`, todo: 'Shorten the text, or ask for fewer new tokens',
      }) // prettier-ignore
    }
    for (let i = 0; i < ids.length; i++) {
      const id = ids[i]!
      if (!(Number.isInteger(id) && id >= 0 && id < this.spec.vocab))
        bad(`token id ${id} at ${i}`, `Ids of this model are 0 to ${this.spec.vocab - 1}`)
    }
  }

  free(): void {
    this.program.free()
  }
}

/** Rows whose logits are had at once when tokens are replayed: as many as take 16 MiB, at least 4. */
const picksOf = (rows: number, vocab: number): number =>
  Math.min(rows, Math.max(4, Math.floor((16 * 2 ** 20) / (4 * vocab))))

function bad(what: string, todo: string): never {
  throw new ModelError('input-invalid', { what, todo })
}
