/**
 * Text generation on a loaded model: sequences join, are advanced together a few tokens at a time without the host in
 * between, and leave. Nothing about a sequence depends on who else is there, how its prompt was cut into chunks, or on
 * which device its earlier tokens were drawn.
 */
import { RECORD } from '../shaders/sample.ts'
import type { Model, Row } from './model.ts'
import { samplingRecord } from './sampling.ts'
import type { Sampling } from './sampling.ts'
import { ModelError } from './weights/errors.ts'

export interface Sequence {
  /** Prompt and drawn tokens. */
  readonly ids: number[]
  readonly promptLength: number
  /** Of the tokens that were to be replayed, how many came out the same. */
  readonly agreed: number
  readonly sampling: Sampling
  /** Its place in the KV cache. */
  readonly slot: number
}

export interface ReadOptions {
  /** So many of the prompt's last tokens were drawn before: draw them again. */
  replay?: number
  /** Awaited between two chunks of a long prompt; meanwhile others may advance(). If it throws, so does add(). */
  pause?: () => Promise<void>
  /** Told of every token drawn while reading, with the logits it was drawn from. */
  onLogits?: (logits: Int32Array, id: number) => void
}

export class Decoder {
  readonly model: Model
  readonly #active: Sequence[] = []
  /** Slots of prompts that are being read. */
  readonly #reading = new Set<number>()

  constructor(model: Model) {
    this.model = model
  }

  get active(): readonly Sequence[] {
    return this.#active
  }

  /**
   * Reads a prompt and draws its next token; or, with `replay`, draws the prompt's last tokens again in that one pass, as if they
   * had not been there. The first that comes out different takes the other's place and ends the sequence for now. Afterwards
   * advance() goes on as if every token had been drawn here.
   */
  async add(
    prompt: ArrayLike<number>,
    sampling: Sampling = {},
    options: ReadOptions = {},
  ): Promise<Sequence> {
    const { replay = 0 } = options
    const slot = this.#freeSlot()
    // A replayed sequence may fill the context: its last token is not read.
    this.model.checkIds(prompt, this.model.context - (replay > 0 ? 0 : 1))
    if (!(Number.isInteger(replay) && replay >= 0 && replay < prompt.length))
      throw new ModelError('input-invalid', {
        what: `${replay} tokens to replay of ${prompt.length}`, todo: 'Leave at least one token as the prompt',
      }) // prettier-ignore
    this.#reading.add(slot)
    try {
      return await this.#read(prompt, sampling, slot, replay, options)
    } finally {
      this.#reading.delete(slot)
    }
  }

  async #read(
    prompt: ArrayLike<number>,
    sampling: Sampling,
    slot: number,
    replay: number,
    { pause, onLogits }: ReadOptions,
  ): Promise<Sequence> {
    const { model } = this
    const base = slot * model.context
    const promptLength = prompt.length - replay
    const ids = Array.from(prompt).slice(0, promptLength)
    // Each token is drawn from the row before it, so the last replayed one is not read.
    const end = Math.max(promptLength, prompt.length - 1)
    const chunk = model.recording.max.rows
    let isSame = true
    for (let at = 0; at < end && isSame; at += chunk) {
      if (at > 0) await pause?.()
      const rows = rowsOf(prompt, at, Math.min(end, at + chunk), base)
      model.writeRows(rows, { rows: rows.length, picks: 0, segments: 0 })
      const silent = Math.min(rows.length, Math.max(0, promptLength - 1 - at))
      if (silent === rows.length) {
        model.program.run(['body'], { rows: rows.length, picks: 0, segments: 0 })
        continue
      }
      for await (const id of this.#drawEach(rows, silent, sampling, onLogits)) {
        isSame = ids.length >= prompt.length || prompt[ids.length] === id
        ids.push(id)
        if (!isSame) break
      }
    }
    const agreed = Math.min(replay, ids.length - promptLength) - (isSame ? 0 : 1)
    const sequence: Sequence = { ids, promptLength, agreed, sampling, slot }
    this.#active.push(sequence)
    return sequence
  }

  /** Runs rows and draws the token after each from `first` on, as many rows' logits at a time as there is room for. */
  async *#drawEach(
    rows: readonly Row[],
    first: number,
    sampling: Sampling,
    onLogits: ReadOptions['onLogits'],
  ): AsyncGenerator<number, void, void> {
    const { model } = this
    const { vocab } = model.spec
    const { capacity } = model
    const most = model.recording.max.picks
    for (let from = first; from < rows.length;) {
      // A group's ids lie side by side, groups one behind the other; logits are overwritten by the next group.
      const begin = from
      for (let group = 0; group < (onLogits ? 1 : capacity) && from < rows.length; group++) {
        const count = Math.min(most, rows.length - from)
        const records = new Uint32Array(count * RECORD.words)
        for (let i = 0; i < count; i++) {
          const { base, length } = rows[from + i]!
          records.set(samplingRecord(sampling, length, base), i * RECORD.words)
          records[i * RECORD.words + RECORD.drawn] = group
        }
        const counts = { rows: rows.length, picks: count, segments: 0 }
        const picks = Uint32Array.from({ length: count }, (_, i) => from + i)
        model.writeWords('picks', picks)
        model.writeWords('records', records)
        model.program.run(from === first ? ['body', 'logits', 'sample'] : ['logits', 'sample'], counts)
        from += count
      }
      const width = Math.min(most, from - begin)
      const ids = await model.readInts('ids', (width - 1) * capacity + Math.ceil((from - begin) / most))
      const logits = onLogits && (await model.readInts('logits', width * vocab))
      for (let i = 0; i < from - begin; i++) {
        const id = ids[(i % most) * capacity + Math.floor(i / most)]!
        if (logits) onLogits(logits.subarray(i * vocab, (i + 1) * vocab), id)
        yield id
      }
    }
  }

  /** Draws `steps` more tokens for every active sequence (fewer where a context ends); returns how many. */
  async advance(steps: number): Promise<number> {
    const { model } = this
    const active = this.#active
    const room = Math.min(...active.map((s) => model.context - s.ids.length))
    const count = Math.min(steps, room, model.capacity)
    if (active.length === 0 || count <= 0) return 0
    const records = new Uint32Array(active.length * RECORD.words)
    const rows = active.map((s, i) => {
      const base = s.slot * model.context
      records.set(samplingRecord(s.sampling, s.ids.length, base), i * RECORD.words)
      return { id: s.ids.at(-1)!, position: s.ids.length - 1, base, length: s.ids.length }
    })
    const counts = { rows: active.length, picks: active.length, segments: 0 }
    model.writeRows(rows, counts)
    model.writeWords(
      'picks',
      Uint32Array.from(active, (_, i) => i),
    )
    model.writeWords('records', records)
    for (let i = 0; i < count; i++) model.program.run(['body', 'logits', 'sample'], counts)
    const ids = await model.readInts('ids', active.length * model.capacity)
    active.forEach((s, i) => s.ids.push(...ids.subarray(i * model.capacity, i * model.capacity + count)))
    return count
  }

  remove(sequence: Sequence): void {
    const at = this.#active.indexOf(sequence)
    if (at >= 0) this.#active.splice(at, 1)
  }

  #freeSlot(): number {
    const taken = new Set([...this.#active.map((s) => s.slot), ...this.#reading])
    for (let slot = 0; slot < this.model.sequences; slot++) if (!taken.has(slot)) return slot
    throw new ModelError('input-invalid', {
      what: `all ${this.model.sequences} sequences of this model are in use`, todo: 'Remove one first, or open the model with more',
    }) // prettier-ignore
  }
}

function rowsOf(ids: ArrayLike<number>, from: number, to: number, base: number): Row[] {
  return Array.from({ length: to - from }, (_, i) => ({
    id: ids[from + i]!, position: from + i, base, length: from + i + 1,
  })) // prettier-ignore
}

export interface Generation {
  prompt: ArrayLike<number>
  maxTokens: number
  sampling?: Sampling
}
export interface Drawn {
  /** Which of the requests. */
  index: number
  id: number
  /** `stop` with an end id (which is reported), `length` with the last token allowed; null while it goes on. */
  finish: 'stop' | 'length' | null
}

/** Generates for any number of requests, as many at a time as the model has sequences, yielding tokens as they come. */
export async function* generate(
  model: Model,
  requests: readonly Generation[],
  options: { stepsPerRead?: number; signal?: AbortSignal } = {},
): AsyncGenerator<Drawn, void, void> {
  // prettier-ignore
  const ends = new Set(model.spec.eosIds)
  const decoder = new Decoder(model)
  const running = new Map<Sequence, { index: number; seen: number; maxTokens: number }>()
  let next = 0
  const report = function* (): Generator<Drawn, void, void> {
    for (const [sequence, state] of running) {
      const last = Math.min(sequence.promptLength + state.maxTokens, model.context)
      let finish: Drawn['finish'] = null
      while (!finish && state.seen < sequence.ids.length) {
        const id = sequence.ids[state.seen++]!
        finish = ends.has(id) ? 'stop' : state.seen >= last ? 'length' : null
        yield { index: state.index, id, finish }
      }
      if (finish) {
        decoder.remove(sequence)
        running.delete(sequence)
      }
    }
  }
  while (next < requests.length || running.size) {
    options.signal?.throwIfAborted()
    while (next < requests.length && running.size < model.sequences) {
      const { prompt, sampling, maxTokens } = requests[next]!
      if (!(maxTokens >= 1))
        throw new ModelError('input-invalid', {
          what: `maxTokens is ${maxTokens}`,
          todo: 'Ask for at least 1',
        })
      running.set(await decoder.add(prompt, sampling), { index: next++, seen: prompt.length, maxTokens })
      yield* report()
    }
    if (running.size) {
      const wanted = Math.max(
        ...Array.from(running, ([{ promptLength }, s]) => promptLength + s.maxTokens - s.seen),
      )
      await decoder.advance(Math.min(options.stepsPerRead ?? 4, wanted))
      yield* report()
    }
  }
}

/**
 * The logits after every token of `ids`, i32 Q16 [ids.length, vocab]: how a text is scored, and how a generated answer is
 * audited in one pass. The model must have been opened with `scoring`.
 */
export async function score(model: Model, ids: ArrayLike<number>): Promise<Int32Array> {
  model.checkIds(ids, model.context)
  const chunk = Math.min(model.recording.max.rows, model.recording.max.picks)
  const logits = new Int32Array(ids.length * model.spec.vocab)
  for (let at = 0; at < ids.length; at += chunk) {
    const rows = rowsOf(ids, at, Math.min(ids.length, at + chunk), 0)
    const counts = { rows: rows.length, picks: rows.length, segments: 0 }
    model.writeRows(rows, counts)
    model.writeWords(
      'picks',
      Uint32Array.from(rows, (_, i) => i),
    )
    model.program.run(['body', 'logits'], counts)
    logits.set(await model.readInts('logits', rows.length * model.spec.vocab), at * model.spec.vocab)
  }
  return logits
}
