/**
 * The engine as a volunteer uses it: units of work in, integers out. Generate units share one Decoder per model and are
 * advanced together; encoder units run between their steps. Everything is done in short bursts with a look at the outside
 * world in between, so that a socket in the same thread stays alive, cancelling works at once, and a power limit can hold.
 *
 *   const runner = new UnitRunner(backend, (digest) => openPack(source(digest)), { concurrency: 4 })
 *   await runner.load(digest)
 *   const { output } = await runner.run(assignment, { onTokens: (t) => send(t), signal })
 *
 * Units and outputs have the shape of the protocol's assignments and results; the engine does not depend on the protocol.
 */
import type { Backend } from './backends/backend.ts'
import { openCommit } from './commitment.ts'
import type { Commit } from './commitment.ts'
import { Decoder } from './decoder.ts'
import type { Sequence } from './decoder.ts'
import { classify, embed, embeddingBits, LOGIT_BITS } from './encoder.ts'
import { logprobsOf } from './logprobs.ts'
import { Model } from './model.ts'
import type { LoadProgress } from './pack/load.ts'
import type { Pack } from './pack/reader.ts'
import type { Sampling } from './sampling.ts'
import { ModelError } from './weights/errors.ts'

/** What to compute. An assignment of the protocol is one. */
export interface Unit {
  kind: 'generate' | 'embed' | 'classify'
  /** Digest of a model that was loaded. */
  model: string
  /** Token ids. `generate`: one list, the prompt and whatever was already drawn. Encoders: one list per row. */
  inputs: readonly ArrayLike<number>[]
  /** For `generate` only. */
  generate?: {
    maxTokens: number
    sampling: { temperature: number; topK: number; topP: number; seed: string; stream: number }
    logprobs?: number
    /**
     * The last `replay` ids of the input were drawn before: draw them again, one pass over all. Where all agree, go on after the
     * last; where one differs, one's own counts and goes on from there. The answer begins with the first of them.
     */
    replay?: number
  }
}

/** See logprobsOf(): values are i32[tokens][1 + top][2]. */
export interface UnitLogprobs {
  top: number
  values: Int32Array
}

/** What was computed; the protocol's Output. */
export type UnitOutput =
  | {
      kind: 'generate'
      position: number
      tokens: Uint32Array
      finish: 'stop' | 'length'
      logprobs?: UnitLogprobs
    }
  | { kind: 'embed' | 'classify'; rows: number; width: number; bits: number; values: Int32Array }

export interface UnitResult {
  output: UnitOutput
  /** SHA-256 of the output's canonical bytes, in lower-case hex. */
  digest: string
  /** Merkle root over the leaves, in lower-case hex: what the answer is committed to by (trace.ts). */
  root: string
  /** Leaves of the trace, 32 bytes each; the last is the SHA-256 of the output's canonical bytes. */
  leaves: Uint8Array
  /** Milliseconds the engine worked on it, without waiting; shared steps count by share. */
  computeMs: number
}

/** Tokens drawn since the last report. */
export interface UnitProgress {
  /** Place in the sequence of the first. */
  position: number
  tokens: Uint32Array
  logprobs?: UnitLogprobs
}

export interface RunOptions {
  /** Told of tokens while the unit runs; the last ones come with the result only. */
  onTokens?: (progress: UnitProgress) => void
  /** At least this long between two reports of one unit; default 0. */
  progressMs?: number
  /** Ends the unit between two steps; run() rejects with the signal's reason. */
  signal?: AbortSignal
}

export interface UnitRunnerOptions {
  /** Generate units computed side by side, per model; default 1. Each costs a KV cache of the whole context. */
  concurrency?: number
  /** Tokens a sequence may reach, where memory allows less than the model does. */
  contextOf?: (pack: Pack) => number
  /** How long one burst of decode steps may take; default 40 ms. */
  burstMs?: number
  /** Awaited after each burst: where a power limit rests, or a paused volunteer waits. */
  pace?: (busyMs: number) => Promise<void> | void
}

/** Speeds of a loaded model here, measured. */
export interface Measured {
  /** Milliseconds per prompt (or encoder) token. */
  readMs: number
  /** Milliseconds per drawn token; absent for encoders. */
  drawMs?: number
}

/** Why a unit has no answer, in the protocol's words. */
export type UnitFailure = 'model-missing' | 'input-invalid' | 'out-of-memory' | 'device-lost' | 'engine-error'

/** The reason to send for what run() or load() threw, and whether another try on this machine may do better. */
export function failureOf(error: unknown): { reason: UnitFailure; retryable: boolean; detail: string } {
  const detail = (error instanceof Error ? error.message : String(error)).slice(0, 500)
  const name = error instanceof Error ? error.name : ''
  const code = error instanceof ModelError ? error.code : ''
  if (error instanceof UnitError)
    return { reason: error.reason, retryable: error.reason === 'model-missing', detail }
  if (/^(input-invalid|context-exceeded|token-invalid)$/.test(code))
    return { reason: 'input-invalid', retryable: false, detail }
  if (name === 'OutOfDeviceMemory' || code === 'memory-exceeded' || error instanceof RangeError)
    return { reason: 'out-of-memory', retryable: false, detail }
  if (name === 'DeviceLost') return { reason: 'device-lost', retryable: true, detail }
  return { reason: 'engine-error', retryable: true, detail }
}

export class UnitError extends Error {
  override name = 'UnitError'
  readonly reason: UnitFailure
  constructor(reason: UnitFailure, message: string) {
    super(message)
    this.reason = reason
  }
}

export class UnitRunner {
  readonly #backend: Backend
  readonly #getPack: (digest: string) => Promise<Pack>
  readonly #options: UnitRunnerOptions
  readonly #lanes = new Map<string, Lane>()
  readonly #opening = new Map<string, Promise<Model>>()
  #looping: Promise<void> | undefined
  #isClosed = false

  /** The runner uses the backend, and close() leaves it open. */
  constructor(backend: Backend, getPack: (digest: string) => Promise<Pack>, options: UnitRunnerOptions = {}) {
    this.#backend = backend
    this.#getPack = getPack
    this.#options = options
  }

  get loaded(): readonly string[] {
    return [...this.#lanes.keys()]
  }

  /** Units accepted and not yet answered. */
  get running(): number {
    let n = 0
    for (const lane of this.#lanes.values()) n += lane.size
    return n
  }

  /** Opens a model once; later calls give the same. Throws what getPack and Model.open throw. */
  load(digest: string, options: { onProgress?: (progress: LoadProgress) => void } = {}): Promise<Model> {
    const lane = this.#lanes.get(digest)
    if (lane) return Promise.resolve(lane.model)
    let opening = this.#opening.get(digest)
    if (!opening) {
      opening = this.#open(digest, options.onProgress).finally(() => this.#opening.delete(digest))
      this.#opening.set(digest, opening)
    }
    return opening
  }

  async #open(digest: string, onProgress?: (progress: LoadProgress) => void): Promise<Model> {
    const pack = await this.#getPack(digest)
    if (pack.digest !== digest)
      throw new UnitError('model-missing', `asked for model ${digest}, got ${pack.digest}`)
    const isDecoder = pack.manifest.spec.task === 'generate'
    const commit = await openCommit()
    const model = await Model.open(pack, this.#backend, {
      context: this.#options.contextOf?.(pack),
      sequences: isDecoder ? (this.#options.concurrency ?? 1) : 1,
      commit: true,
      onProgress,
    })
    if (this.#isClosed) {
      model.free()
      throw new UnitError('model-missing', 'the engine was closed')
    }
    this.#lanes.set(
      digest,
      isDecoder
        ? new GenerateLane(model, commit, this.#options.burstMs ?? 40)
        : new EncodeLane(model, commit),
    )
    return model
  }

  /** Gives a model's memory back; its units reject. */
  unload(digest: string): void {
    const lane = this.#lanes.get(digest)
    this.#lanes.delete(digest)
    lane?.fail(new UnitError('model-missing', 'the model was unloaded'))
    lane?.model.free()
  }

  /** Unloads everything; nothing can be run afterwards. */
  async close(): Promise<void> {
    this.#isClosed = true
    for (const lane of this.#lanes.values())
      lane.fail(new UnitError('model-missing', 'the engine was closed'))
    await this.#looping
    for (const digest of this.#lanes.keys()) this.unload(digest)
  }

  /** Rejects with UnitError, ModelError, a backend's error (see failureOf), or the signal's reason. */
  run(unit: Unit, options: RunOptions = {}): Promise<UnitResult> {
    const lane = this.#lanes.get(unit.model)
    if (!lane) return Promise.reject(new UnitError('model-missing', `model ${unit.model} is not loaded`))
    // A classifier has an embedding as well.
    const { task } = lane.model.spec
    if (unit.kind !== task && !(unit.kind === 'embed' && task === 'classify')) {
      const what = `a unit of kind ${unit.kind} for a model that can ${lane.model.spec.task}`
      return Promise.reject(new UnitError('input-invalid', what))
    }
    if (options.signal?.aborted) return Promise.reject(options.signal.reason as Error)
    return new Promise((resolve, reject) => {
      lane.push(new Job(unit, options, resolve, reject))
      this.#looping ??= this.#loop()
    })
  }

  /**
   * A short timed run of a loaded model, after one to warm up. Meant for when nothing else runs.
   * @param tokens of the prompt, cut to the context
   */
  async measure(digest: string, tokens = 64): Promise<Measured> {
    const model = await this.load(digest)
    const kind = model.spec.task
    const ids = Array.from(
      { length: Math.max(1, Math.min(tokens, model.context - 10)) },
      (_, i) => i % model.spec.vocab,
    )
    const greedy = { temperature: 0, topK: 0, topP: 1, seed: '0', stream: 0 }
    const timed = async (maxTokens: number): Promise<number> => {
      const generate = kind === 'generate' ? { maxTokens, sampling: greedy } : undefined
      return (await this.run({ kind, model: digest, inputs: [ids], generate })).computeMs
    }
    await timed(1)
    const read = await timed(1)
    if (kind !== 'generate') return { readMs: read / ids.length }
    const more = Math.min(8, model.context - ids.length)
    const lane = this.#lanes.get(digest) as GenerateLane
    await timed(more)
    return { readMs: read / ids.length, drawMs: lane.stepMs ?? read / ids.length }
  }

  async #loop(): Promise<void> {
    await Promise.resolve()
    for (let isBusy = true; isBusy;) {
      isBusy = false
      for (const [digest, lane] of this.#lanes) {
        if (!lane.size) continue
        isBusy = true
        try {
          await lane.turn((busyMs) => this.#breathe(busyMs))
        } catch (error) {
          // The device or the program is gone, or the engine has a fault: nothing in this lane can be trusted to go on.
          lane.fail(error)
          if (this.#lanes.get(digest) === lane) this.unload(digest)
        }
      }
    }
    // Here, not in a finally(): a unit that comes in the microtasks between would wait for ever.
    this.#looping = undefined
  }

  async #breathe(busyMs: number): Promise<void> {
    await this.#options.pace?.(busyMs)
    await nextTask()
  }
}

type Breathe = (busyMs: number) => Promise<void>

class Job {
  readonly unit: Unit
  readonly options: RunOptions
  readonly resolve: (result: UnitResult) => void
  readonly reject: (error: unknown) => void
  computeMs = 0
  isOver = false

  constructor(unit: Unit, options: RunOptions, resolve: Job['resolve'], reject: Job['reject']) {
    this.unit = unit
    this.options = options
    this.resolve = resolve
    this.reject = reject
  }

  /** @param trace of each of its sequences, as Model.readTrace() gives it */
  finish(output: UnitOutput, trace: readonly Uint32Array[], layers: number, commit: Commit): void {
    const start = performance.now()
    const commitment = commit(trace, layers, outputBytes(output))
    this.computeMs += performance.now() - start
    this.isOver = true
    this.resolve({ output, ...commitment, computeMs: this.computeMs })
  }

  fail(error: unknown): void {
    this.isOver = true
    this.reject(error)
  }

  /** True once it needs no more work. */
  checkSignal(): boolean {
    const { signal } = this.options
    if (!this.isOver && signal?.aborted) this.fail(signal.reason)
    return this.isOver
  }
}

interface Lane {
  readonly model: Model
  readonly size: number
  push(job: Job): void
  /** One burst of work, and a breath after it. Rejects only when the model can't go on. */
  turn(breathe: Breathe): Promise<void>
  /** Rejects everything it holds. */
  fail(error: unknown): void
}

/** Whether an error is about the one unit, so that others may go on. */
const isUnitsOwn = (error: unknown): boolean => failureOf(error).reason === 'input-invalid'

class EncodeLane implements Lane {
  readonly model: Model
  readonly #commit: Commit
  #queue: Job[] = []

  constructor(model: Model, commit: Commit) {
    this.model = model
    this.#commit = commit
  }

  get size(): number {
    return this.#queue.length
  }

  push(job: Job): void {
    this.#queue.push(job)
  }

  fail(error: unknown): void {
    for (const job of this.#queue.splice(0)) job.fail(error)
  }

  async turn(breathe: Breathe): Promise<void> {
    const { model } = this
    const job = this.#queue[0]!
    const { kind, inputs } = job.unit
    const width = kind === 'embed' ? model.spec.width : model.spec.labels!.length
    const bits = kind === 'embed' ? embeddingBits(model) : LOGIT_BITS
    const values = new Int32Array(inputs.length * width)
    const trace: Uint32Array[] = []
    try {
      if (inputs.length === 0) throw new UnitError('input-invalid', 'a unit without inputs')
      for (let row = 0; row < inputs.length && !job.checkSignal();) {
        const from = row
        for (let tokens = 0; row < inputs.length; row++) {
          tokens += inputs[row]!.length
          if (row > from && tokens > model.recording.max.rows) break
        }
        const start = performance.now()
        const rows = await (kind === 'embed' ? embed : classify)(model, inputs.slice(from, row), trace)
        const busyMs = performance.now() - start
        job.computeMs += busyMs
        rows.forEach((one, i) => values.set(one, (from + i) * width))
        await breathe(busyMs)
      }
      const output = { kind: kind as 'embed', rows: inputs.length, width, bits, values }
      if (!job.isOver) job.finish(output, trace, model.traceLayers, this.#commit)
    } catch (error) {
      if (!isUnitsOwn(error)) throw error
      job.fail(error)
    } finally {
      this.#queue = this.#queue.filter((j) => j !== job)
    }
  }
}

/** A generate unit that is being computed. */
interface Run {
  job: Job
  sequence: Sequence
  /** End of what was looked at, in sequence.ids. */
  seen: number
  /** End of what was reported. */
  reported: number
  reportedAt: number
  /** i32[1 + top][2] per token. */
  logprobs: Int32Array[]
}

class GenerateLane implements Lane {
  readonly model: Model
  /** Milliseconds of one decode step, as last seen. */
  stepMs: number | undefined
  readonly #commit: Commit
  readonly #decoder: Decoder
  readonly #ends: Set<number>
  readonly #burstMs: number
  #waiting: Job[] = []
  #reading: Job | undefined
  #runs: Run[] = []

  constructor(model: Model, commit: Commit, burstMs: number) {
    this.model = model
    this.#commit = commit
    this.#decoder = new Decoder(model)
    this.#ends = new Set(model.spec.eosIds)
    this.#burstMs = burstMs
  }

  get size(): number {
    return this.#waiting.length + this.#runs.length + (this.#reading ? 1 : 0)
  }

  push(job: Job): void {
    this.#waiting.push(job)
  }

  fail(error: unknown): void {
    for (const job of this.#waiting.splice(0)) job.fail(error)
    for (const run of this.#runs) {
      run.job.fail(error)
      this.#leave(run)
    }
    this.#reading?.fail(error)
  }

  async turn(breathe: Breathe): Promise<void> {
    const isFull = this.#runs.length >= this.model.sequences
    const next = isFull ? undefined : this.#waiting.shift()
    if (next) await this.#begin(next, breathe)
    else await this.#advance(breathe)
  }

  /** Reads a prompt, others drawing on between its chunks. */
  async #begin(job: Job, breathe: Breathe): Promise<void> {
    if (job.checkSignal()) return
    this.#reading = job
    try {
      const { inputs, generate } = job.unit
      if (inputs.length !== 1 || !generate)
        throw new UnitError('input-invalid', 'a generate unit needs one input and options')
      const { maxTokens, replay = 0, logprobs: top } = generate
      if (!(Number.isInteger(maxTokens) && maxTokens >= 1))
        throw new UnitError('input-invalid', `maxTokens is ${maxTokens}`)
      if (replay > maxTokens)
        throw new UnitError('input-invalid', `${replay} tokens to replay where ${maxTokens} may be drawn`)
      let start = performance.now()
      const pause = async (): Promise<void> => {
        const busyMs = performance.now() - start
        job.computeMs += busyMs
        await breathe(busyMs)
        if (this.#runs.length) await this.#advance(breathe)
        if (job.checkSignal()) throw new Abandoned()
        start = performance.now()
      }
      const logprobs: Int32Array[] = []
      const sequence = await this.#decoder.add(inputs[0]!, samplingOf(generate.sampling), {
        replay,
        pause,
        onLogits:
          top === undefined ? undefined : (logits, id) => void logprobs.push(logprobsOf(logits, id, top)),
      })
      const run: Run = {
        job,
        sequence,
        seen: sequence.promptLength,
        reported: sequence.promptLength + sequence.agreed,
        reportedAt: -Infinity,
        logprobs,
      }
      const busyMs = performance.now() - start
      job.computeMs += busyMs
      this.#runs.push(run)
      await this.#look(run)
      await breathe(busyMs)
    } catch (error) {
      if (error instanceof Abandoned) return
      job.fail(error)
      if (!isUnitsOwn(error)) throw error
    } finally {
      this.#reading = undefined
    }
  }

  async #advance(breathe: Breathe): Promise<void> {
    for (const run of this.#runs) if (run.job.checkSignal()) this.#leave(run)
    const runs = [...this.#runs]
    if (runs.length === 0) return
    const wanted = Math.max(
      ...runs.map((r) => maxTokensOf(r) - (r.sequence.ids.length - r.sequence.promptLength)),
    )
    const needsLogits = runs.some((r) => topOf(r) !== undefined)
    // The first burst is one step: it says how many fit into the next.
    const steps = needsLogits || this.stepMs === undefined ? 1 : Math.floor(this.#burstMs / this.stepMs)
    const start = performance.now()
    const count = await this.#decoder.advance(Math.max(1, Math.min(steps, wanted, 32)))
    if (needsLogits) {
      const { vocab } = this.model.spec
      const logits = await this.model.readInts('logits', this.#decoder.active.length * vocab)
      for (const run of runs) {
        const top = topOf(run)
        const at = this.#decoder.active.indexOf(run.sequence) * vocab
        if (top !== undefined)
          run.logprobs.push(logprobsOf(logits.subarray(at, at + vocab), run.sequence.ids.at(-1)!, top))
      }
    }
    const busyMs = performance.now() - start
    if (count > 0) this.stepMs = busyMs / count
    for (const run of runs) {
      run.job.computeMs += busyMs / runs.length
      await this.#look(run)
    }
    await breathe(busyMs)
  }

  /** Goes through the tokens drawn since the last look: reports them, or ends the unit. */
  async #look(run: Run): Promise<void> {
    const { job, sequence } = run
    if (job.isOver) return this.#leave(run)
    const last = sequence.promptLength + maxTokensOf(run)
    let finish: 'stop' | 'length' | undefined
    while (!finish && run.seen < sequence.ids.length) {
      const id = sequence.ids[run.seen++]!
      if (this.#ends.has(id)) finish = 'stop'
      else if (run.seen >= Math.min(last, this.model.context)) finish = 'length'
    }
    if (finish) {
      const { tokens, logprobs } = this.#cut(run, sequence.promptLength, run.seen)
      const { model } = this
      // The last token was drawn, not read.
      const trace = await model.readTrace(sequence.slot * model.context, run.seen - 1)
      const position = sequence.promptLength
      const output: UnitOutput = { kind: 'generate', position, tokens, finish, logprobs }
      job.finish(output, [trace], model.traceLayers, this.#commit)
      return this.#leave(run)
    }
    const { onTokens, progressMs = 0 } = job.options
    const now = performance.now()
    if (!onTokens || now - run.reportedAt < progressMs || run.seen <= run.reported) return
    onTokens({ position: run.reported, ...this.#cut(run, run.reported, run.seen) })
    run.reported = run.seen
    run.reportedAt = now
  }

  #cut(run: Run, from: number, to: number): { tokens: Uint32Array; logprobs?: UnitLogprobs } {
    const tokens = Uint32Array.from(run.sequence.ids.slice(from, to))
    const top = topOf(run)
    if (top === undefined) return { tokens }
    const size = 2 * (1 + top)
    const values = new Int32Array(tokens.length * size)
    const first = from - run.sequence.promptLength
    for (let i = 0; i < tokens.length; i++) values.set(run.logprobs[first + i]!, i * size)
    return { tokens, logprobs: { top, values } }
  }

  #leave(run: Run): void {
    this.#decoder.remove(run.sequence)
    this.#runs = this.#runs.filter((r) => r !== run)
  }
}

/** Thrown out of a prompt's reading when nobody wants it any more. */
class Abandoned extends Error {}

const maxTokensOf = (run: Run): number => run.job.unit.generate!.maxTokens
const topOf = (run: Run): number | undefined => run.job.unit.generate!.logprobs

const samplingOf = (s: NonNullable<Unit['generate']>['sampling']): Sampling => ({
  ...s,
  seed: BigInt(s.seed),
})

/** The output's canonical bytes, as the protocol defines them: ids or values, then log-probabilities, little-endian. */
export function outputBytes(output: UnitOutput): Uint8Array {
  const parts = output.kind !== 'generate' ? [output.values] : [output.tokens, ...(output.logprobs ? [output.logprobs.values] : [])] // prettier-ignore
  return wordBytes(parts)
}

/** Lists of 32-bit words one after another, as bytes. */
export function wordBytes(parts: readonly ArrayLike<number>[]): Uint8Array {
  const words = new Uint32Array(parts.reduce((n, part) => n + part.length, 0))
  let at = 0
  for (const part of parts) {
    words.set(part, at)
    at += part.length
  }
  return new Uint8Array(words.buffer)
}

/** A turn of the event loop: sockets are read, timers fire. Promises alone would starve them. */
function nextTask(): Promise<void> {
  if (typeof setImmediate === 'function') return new Promise((resolve) => setImmediate(resolve))
  // Timers are clamped to 4 ms in browsers, messages are not.
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel()
    port1.addEventListener('message', () => {
      port1.close()
      resolve()
    })
    port1.start()
    port2.postMessage(null)
  })
}
