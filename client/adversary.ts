/**
 * Volunteers that lie, to try a coordinator with: the real client, which joins, streams, signs and shows leaves as ever, around
 * an engine that does what its name says. Each lies as well as it can: its digest, leaves, root and signature fit its lie. Nothing
 * here is loaded by a volunteer that was not asked to lie.
 */
import { sha256 as sha256Now } from '@noble/hashes/sha2.js'
import { embeddingBits, LOGIT_BITS } from '../engine/encoder.ts'
import type { Pack } from '../engine/index.ts'
import type { Manifest, TensorEntry } from '../engine/pack/manifest.ts'
import { tensorBytes } from '../engine/pack/manifest.ts'
import { sha256 } from '../engine/pack/reader.ts'
import { hex } from '../engine/hex.ts'
import { leafCount, rootOf } from '../engine/trace.ts'
import type { RunOptions, UnitOutput, UnitProgress, UnitResult } from '../engine/units.ts'
import { inputBytes, outputBytes, sliceLogprobs, wordsPerToken } from '../protocol/index.ts'
import type { Assignment } from '../protocol/index.ts'
import { Random } from '../protocol/random.ts'

/** Their names; those with a colon take a number. */
export const STRATEGIES = {
  'lazy-random': 'computes nothing: answers what looks like an answer',
  'lazy-cache': 'computes once, and answers that again and again',
  'wrong-weights': 'computes all of it with 4 of the 8 bits of each weight',
  'layer-skipper': 'leaves out the last block',
  flipper: 'computes all of it and changes one number by one',
  sleeper: 'flips after N honest answers (sleeper:N)',
  liar: 'flips one answer in so many (liar:0.02)',
  exit: 'flips five answers after N honest ones, and leaves (exit:N)',
  first: 'flips its first answer of each kind, and is honest from then on',
  copycat: 'flips what no accomplice in this process has answered, and copies what one has (copycat:N)',
  'rubber-stamper': 'says that whatever was drawn by others is right',
  'false-accuser': 'says that whatever was drawn by others is wrong',
  forger: 'writes the first N tokens of a text, and others than it should from there on (forger:N)',
  equivocator: 'flips, commits to one trace and shows another',
  withholder: 'flips, and shows nothing of what it committed to',
  'bit-flip': 'has memory that loses a bit in one answer of ten (bit-flip:0.1)',
} as const
export type Strategy = keyof typeof STRATEGIES

type Run = (unit: Assignment, options: RunOptions) => Promise<UnitResult>
type Text = Extract<UnitOutput, { kind: 'generate' }>

/** What an exit scammer takes along. */
const LAST_LIES = 5
/** How a forger streams: so many tokens at a time, and so long until the next. */
const SLOWLY = { tokens: 8, ms: 40 }
/** Of all copycats in this process, by the digest of what was asked. */
const board = new Map<string, UnitResult>()

export interface Plan {
  strategy: Strategy
  number: number
}

/** One of STRATEGIES, with `:number` where it takes one. Throws RangeError, naming those there are. */
export function planOf(name: string): Plan {
  const [, strategy = '', given] = /^([a-z-]+)(?::(\d+(?:\.\d+)?))?$/.exec(name) ?? []
  if (!Object.hasOwn(STRATEGIES, strategy))
    throw new RangeError(`no strategy is called ${JSON.stringify(name)}: there are ${Object.keys(STRATEGIES).join(', ')}`) // prettier-ignore
  const usual: Partial<Record<string, number>> = {
    liar: 0.02,
    'bit-flip': 0.1,
    sleeper: 20,
    exit: 20,
    copycat: 0,
    forger: 20,
  }
  if (given && usual[strategy] === undefined) throw new RangeError(`${strategy} takes no number`)
  return { strategy: strategy as Strategy, number: Number(given ?? usual[strategy]) }
}

export class Adversary {
  readonly #strategy: Strategy
  readonly #number: number
  readonly #random: Random
  readonly #leave: () => void
  readonly #manifests = new Map<string, Manifest>()
  readonly #cache = new Map<string, UnitOutput>()
  /** Kinds it has lied about. */
  readonly #told = new Set<string>()
  #begun = 0

  /**
   * @param seed any 32 bits: its whims
   * @param leave ends the volunteer
   */
  constructor({ strategy, number }: Plan, seed: number, leave: () => void) {
    this.#strategy = strategy
    this.#number = number
    this.#random = new Random(seed)
    this.#leave = leave
  }

  /** What its engine reads in place of a pack. */
  tamper(pack: Pack): Pack {
    this.#manifests.set(pack.digest, pack.manifest)
    const { layers } = pack.manifest.spec
    const last = new RegExp(`^${layers - 1}\\.(o|down)\\.(weight|bias)$`)
    if (this.#strategy === 'wrong-weights') return changed(pack, (_, t) => t.dtype === 'i8', (b) => b & 0xf0) // prettier-ignore
    // With nothing coming out of attention and feed-forward, the residual passes by the block.
    if (this.#strategy === 'layer-skipper') return changed(pack, (name) => last.test(name), () => 0) // prettier-ignore
    return pack
  }

  /** Answers a unit as the strategy has it. */
  async run(honest: Run, unit: Assignment, options: RunOptions): Promise<UnitResult> {
    const n = this.#begun++
    const { replay = 0 } = unit.generate ?? {}
    switch (this.#strategy) {
      case 'wrong-weights':
      case 'layer-skipper':
        return honest(unit, options)
      case 'lazy-random':
        return this.#madeUp(unit, this.#noise(unit))
      case 'lazy-cache':
        return this.#again(honest, unit, options)
      case 'flipper':
        return this.#flipped(honest, unit, options)
      case 'sleeper':
        return n < this.#number ? honest(unit, options) : this.#flipped(honest, unit, options)
      case 'liar':
      case 'bit-flip': {
        const isDue = this.#random.u32() < this.#number * 2 ** 32
        return isDue ? this.#flipped(honest, unit, options) : honest(unit, options)
      }
      case 'exit': {
        if (n < this.#number) return honest(unit, options)
        const lie = await this.#flipped(honest, unit, options)
        // Late enough for this last one to be sent.
        if (n + 1 >= this.#number + LAST_LIES) setTimeout(this.#leave, 100)
        return lie
      }
      case 'first': {
        if (this.#told.has(unit.kind)) return honest(unit, options)
        const lie = await this.#flipped(honest, unit, options)
        // One that nobody waits for any more is not heard, and so it is not the first.
        if (!options.signal?.aborted) this.#told.add(unit.kind)
        return lie
      }
      case 'copycat':
        return n < this.#number ? honest(unit, options) : this.#copied(honest, unit, options)
      case 'rubber-stamper':
        return replay ? this.#madeUp(unit, this.#text(unit, [])) : honest(unit, options)
      case 'false-accuser':
        return replay ? this.#flipped(honest, unit, options) : honest(unit, options)
      case 'forger':
        return unit.generate ? this.#forged(honest, unit, options) : honest(unit, options)
      case 'withholder':
        return { ...(await this.#flipped(honest, unit, options)), leaves: new Uint8Array() }
      case 'equivocator': {
        const lie = await this.#flipped(honest, unit, options)
        return { ...lie, leaves: this.#noiseLeaves(lie.leaves.length / 32) }
      }
    }
  }

  /** The honest answer but for one number, streamed as it will be answered. */
  async #flipped(honest: Run, unit: Assignment, options: RunOptions): Promise<UnitResult> {
    const { generate, inputs } = unit
    const end = generate && inputs[0]!.length
    const { vocab, eosIds } = this.#manifests.get(unit.model)!.spec
    const flip = (id: number): number => this.#other(unit, id, this.#random.u32() & 1 ? 1 : vocab - 1)
    /** The place in the sequence that was flipped, and what stands there now. */
    let lie: { at: number; id: number } | undefined
    const twist = (position: number, tokens: Uint32Array): Uint32Array => {
      const at = end! - position
      if (!lie && at >= 0 && at < tokens.length) lie = { at: end!, id: flip(tokens[at]!) }
      const twisted = Uint32Array.from(tokens)
      if (lie && twisted[lie.at - position] !== undefined) twisted[lie.at - position] = lie.id
      return twisted
    }
    const result = await honest(unit, {
      ...options,
      onTokens: (progress: UnitProgress) =>
        options.onTokens?.({ ...progress, tokens: twist(progress.position, progress.tokens) }),
    })
    const { output } = result
    if (output.kind !== 'generate') {
      const values = Int32Array.from(output.values)
      values[this.#random.below(values.length)]! += this.#random.u32() & 1 ? 1 : -1
      return resealed(result, { ...output, values })
    }
    let tokens = twist(output.position, output.tokens)
    if (!lie) {
      // Nothing new was drawn: another's text is called wrong.
      const at = tokens.findLastIndex((id) => !eosIds.includes(id))
      tokens = tokens.map((id, i) => (i === at ? flip(id) : id))
    }
    return resealed(result, withTokens(output, tokens))
  }

  /**
   * The first of a text as they should be, and others from there on: streamed so, as slowly as a large model would, and answered
   * so. What others drew stands.
   */
  async #forged(honest: Run, unit: Assignment, options: RunOptions): Promise<UnitResult> {
    const { length } = unit.inputs[0]!
    const { replay = 0 } = unit.generate!
    const from = Math.max(length, length - replay + this.#number)
    const result = await honest(unit, { ...options, onTokens: undefined })
    const text = result.output as Text
    const tokens = text.tokens.map((id, i) => (text.position + i < from ? id : this.#other(unit, id, 1)))
    const forged = withTokens(text, tokens)
    for (let at = replay; at < tokens.length; at += SLOWLY.tokens) {
      options.onTokens?.(cut(forged, at, at + SLOWLY.tokens))
      await new Promise((done) => setTimeout(done, SLOWLY.ms))
      options.signal?.throwIfAborted()
    }
    return resealed(result, forged)
  }

  /** Another token. Never an end token, nor from one: the shape would give it away. */
  #other({ model }: Assignment, id: number, step: number): number {
    const { vocab, eosIds } = this.#manifests.get(model)!.spec
    if (eosIds.includes(id)) return id
    let other = (id + step) % vocab
    while (eosIds.includes(other)) other = (other + step) % vocab
    return other
  }

  async #again(honest: Run, unit: Assignment, options: RunOptions): Promise<UnitResult> {
    const key = `${unit.model} ${unit.kind}`
    const before = this.#cache.get(key)
    if (!before) {
      const result = await honest(unit, options)
      this.#cache.set(key, result.output)
      return result
    }
    if (before.kind === 'generate') return this.#madeUp(unit, this.#text(unit, before.tokens))
    const { width, values } = before
    const rows = unit.inputs.length
    const again = new Int32Array(rows * width)
    for (let row = 0; row < rows; row++) again.set(values.subarray(0, width), row * width)
    return this.#madeUp(unit, { ...before, rows, values: again })
  }

  async #copied(honest: Run, unit: Assignment, options: RunOptions): Promise<UnitResult> {
    const question = await sha256(inputBytes(unit))
    const seen = board.get(question)
    if (seen) return { ...seen, computeMs: 1 }
    const lie = await this.#flipped(honest, unit, options)
    board.set(question, lie)
    return lie
  }

  /** Something of the right shape. */
  #noise(unit: Assignment): UnitOutput {
    const { spec, exact } = this.#manifests.get(unit.model)!
    const words = (n: number, below: number): number[] => Array.from({ length: n }, () => this.#random.below(below)) // prettier-ignore
    if (unit.kind === 'generate') return this.#text(unit, words(unit.generate!.maxTokens, spec.vocab))
    const [width, bits] = unit.kind === 'embed' ? [spec.width, embeddingBits({ spec, exact })] : [spec.labels!.length, LOGIT_BITS] // prettier-ignore
    const rows = unit.inputs.length
    const values = Int32Array.from(words(rows * width, 2 ** (bits - 2)), (w) => w - 2 ** (bits - 3))
    return { kind: unit.kind, rows, width, bits, values }
  }

  /** These tokens behind those that are to be replayed, cut or filled up to what a coordinator takes for a text. */
  #text(unit: Assignment, drawn: ArrayLike<number>): Text {
    const { spec } = this.#manifests.get(unit.model)!
    const [input] = unit.inputs
    const { maxTokens, replay = 0, logprobs: top } = unit.generate!
    const position = input!.length - replay
    const most = Math.min(maxTokens, spec.context - position)
    const all = [...input!.subarray(position), ...Array.from(drawn).slice(replay)].slice(0, most)
    const end = all.findIndex((id) => spec.eosIds.includes(id))
    const text = end < 0 ? all : all.slice(0, end + 1)
    if (end < 0) while (text.length < most) text.push(input![this.#random.below(position)]!)
    const tokens = Uint32Array.from(text)
    const finish = spec.eosIds.includes(tokens.at(-1)!) ? 'stop' : 'length'
    if (top === undefined) return { kind: 'generate', position, tokens, finish }
    const values = new Int32Array(tokens.length * wordsPerToken({ top })).fill(-1)
    return withTokens({ kind: 'generate', position, tokens, finish, logprobs: { top, values } }, tokens)
  }

  #madeUp(unit: Assignment, output: UnitOutput): UnitResult {
    const { layers } = this.#manifests.get(unit.model)!.spec
    const lengths = output.kind === 'generate' ? [output.position + output.tokens.length - 1] : unit.inputs.map((row) => row.length) // prettier-ignore
    const leaves = this.#noiseLeaves(leafCount({ lengths, layers: layers + 1 }))
    return resealed({ output, digest: '', leaves, root: '', computeMs: 1 }, output)
  }

  #noiseLeaves(count: number): Uint8Array {
    return Uint8Array.from({ length: 32 * count }, () => this.#random.below(256))
  }
}

/** The text with these tokens, its log-probabilities those of them. */
function withTokens(text: Text, tokens: Uint32Array): Text {
  const logprobs = text.logprobs && { ...text.logprobs, values: Int32Array.from(text.logprobs.values) }
  if (logprobs) tokens.forEach((id, i) => (logprobs.values[i * wordsPerToken(logprobs)] = id))
  return { ...text, tokens, logprobs }
}

/** Tokens [from, to) of it. */
function cut({ position, tokens, logprobs }: Text, from: number, to: number): UnitProgress {
  return {
    position: position + from,
    tokens: tokens.slice(from, to),
    logprobs: logprobs && sliceLogprobs(logprobs, from, to),
  }
}

/** A result with another output: its last leaf, and the root, are those of one that had computed it. */
function resealed(result: UnitResult, output: UnitOutput): UnitResult {
  const leaves = Uint8Array.from(result.leaves)
  const digest = sha256Now(outputBytes(output))
  leaves.set(digest, leaves.length - 32)
  return { ...result, output, digest: hex(digest), leaves, root: rootOf(leaves) }
}

/** A pack that reads otherwise: `how` applied to each byte of the tensors chosen. */
function changed(
  pack: Pack,
  isChosen: (name: string, tensor: TensorEntry) => boolean,
  how: (byte: number) => number,
): Pack {
  const chosen = Object.entries(pack.manifest.tensors).filter(([name, tensor]) => isChosen(name, tensor))
  return {
    ...pack,
    async *chunks(file) {
      let offset = 0
      for await (const chunk of pack.chunks(file)) {
        const bytes = Uint8Array.from(chunk)
        for (const [, tensor] of chosen) {
          if (tensor.file !== file) continue
          const from = Math.max(0, tensor.offset - offset)
          const to = Math.min(bytes.length, tensor.offset + tensorBytes(tensor) - offset)
          for (let i = from; i < to; i++) bytes[i] = how(bytes[i]!)
        }
        offset += bytes.length
        yield bytes
      }
    },
  }
}
