/**
 * Ways to lie. A strategy sees what an engine sees and says what it sends instead of what was computed. None knows the coordinator's
 * secrets; colluders know each other's lies, which are the same for the same question.
 */
import type { Assignment, Output } from '../../protocol/nouns.ts'
import type { Random } from '../harness/random.ts'
import type { Options } from './options.ts'
import { read } from './truth.ts'

export interface Moment {
  assignment: Assignment
  /** The right answer, and what shows that it was computed. */
  output: Output
  trace: number
  random: Random
  /** Answers it gave before this one, in all its lives. */
  given: number
  /** Its own last answer, and anybody's. */
  own: Output | undefined
  anybodys: Output | undefined
  /** No more of this identity. */
  leave(): void
}

export interface Strategy {
  readonly name: string
  /** Undefined: the truth. */
  answer(moment: Moment): { output: Output; trace: number } | undefined
  /** False: says nothing of a text before its end. */
  readonly streams?: boolean
  /** Of a text it draws, the place from which on it is another: streamed so, and answered so. */
  readonly forgesAt?: number
  /** Comes back under another key when its own is closed. */
  readonly returns?: boolean
  /** Starts as one that is known for long. */
  readonly isKnown?: boolean
  /** How many conspire. */
  readonly count?: number
  /** Its key sees few convictions by design: its bound is numerics §7.1's. */
  readonly isRare?: boolean
  /** The world it is tried in. */
  readonly world?: Partial<Options>
  /** What is wrong is wrong by accident. */
  readonly isBroken?: boolean
}

const clone = (output: Output): Output =>
  output.kind === 'generate'
    ? { ...output, tokens: output.tokens.slice() }
    : { ...output, values: output.values.slice() }

/** One value or token made another, still of a shape that passes. */
function bent(output: Output, by: number, at = 0): Output {
  const wrong = clone(output)
  if (wrong.kind === 'generate') {
    // Never an end token, and never another length.
    const i =
      wrong.finish === 'stop' && wrong.tokens.length > 1
        ? at % (wrong.tokens.length - 1)
        : at % wrong.tokens.length
    if (wrong.finish === 'stop' && wrong.tokens.length === 1) return { ...wrong, logprobs: undefined }
    wrong.tokens[i] = 10 + ((wrong.tokens[i]! - 10 + (by % 900) + 900) % 900)
  } else {
    const i = at % wrong.values.length
    wrong.values[i] = wrong.values[i]! + by
  }
  return wrong
}

const isSame = (a: Output, b: Output): boolean =>
  a.kind === 'generate'
    ? b.kind === 'generate' && a.tokens.join() === b.tokens.join()
    : b.kind !== 'generate' && a.values.join() === b.values.join()

function made(output: Output, random: Random): Output {
  const wrong = clone(output)
  if (wrong.kind === 'generate') return bent(wrong, random.int(1, 800), random.int(0, 1000))
  for (let i = 0; i < wrong.values.length; i++) wrong.values[i] = random.u32() | 0
  return wrong
}

/** An old answer passed off as this one, where it fits. */
const reused = (old: Output | undefined, output: Output, random: Random): Output => {
  if (!old || old.kind !== output.kind || old.kind === 'generate' || output.kind === 'generate')
    return made(output, random)
  if (old.values.length !== output.values.length || isSame(old, output)) return made(output, random)
  return { ...output, values: old.values.slice() }
}

/** Everything it is asked about was drawn already: surely a check. */
const isCheck = ({ generate }: Assignment): boolean =>
  generate?.replay !== undefined && generate.replay === generate.maxTokens

const always = (name: string, lie: (m: Moment) => { output: Output; trace: number }, more: Partial<Strategy> = {}): Strategy => ({
  name,
  streams: false,
  answer: lie,
  ...more,
}) // prettier-ignore

const wrongly = (m: Moment): { output: Output; trace: number } => ({
  output: bent(m.output, 1, m.random.int(0, 1000)),
  trace: m.random.u32(),
})

const sometimes = (name: string, share: number): Strategy => ({
  name,
  streams: false,
  isKnown: true,
  isRare: true,
  answer: (m) => (m.random.float() < share ? wrongly(m) : undefined),
})

/** The same lie for the same question, whoever of them is asked: one audits the other and agrees. */
const shared = (m: Moment, share: number): { output: Output; trace: number } | undefined => {
  const { inputs, generate } = m.assignment
  const row = inputs[0]!.subarray(0, inputs[0]!.length - (generate?.replay ?? 0))
  const h = read(row, generate?.sampling.seed ?? '0', 77) >>> 0
  if (h % 1000 >= 1000 * share) return undefined
  return { output: bent(m.output, 1 + (h % 97), h >>> 8), trace: h ^ 0x5eed }
}

export const STRATEGIES: readonly Strategy[] = [
  always('lazy-random', (m) => ({ output: made(m.output, m.random), trace: m.random.u32() })),
  always('lazy-cache', (m) => ({ output: reused(m.own, m.output, m.random), trace: m.random.u32() })),
  always('copycat', (m) => ({ output: reused(m.anybodys, m.output, m.random), trace: m.random.u32() })),
  always('wrong-weights', wrongly),
  always('layer-skipper', (m) => ({ output: bent(m.output, 3, 1), trace: m.trace ^ 0x1a7e })),
  always('flipper', (m) => ({ output: bent(m.output, m.random.float() < 0.5 ? 1 : -1), trace: m.trace })),
  always('sleeper', (m) => (m.given < 50 ? { output: m.output, trace: m.trace } : wrongly(m)), {
    isKnown: true,
  }),
  sometimes('liar-0.5%', 0.005),
  sometimes('liar-2%', 0.02),
  sometimes('liar-10%', 0.1),
  {
    name: 'exit-scammer',
    streams: false,
    isKnown: true,
    isRare: true,
    answer: (m) => {
      if (m.given < 40) return undefined
      if (m.given >= 65) m.leave()
      return wrongly(m)
    },
  },
  { name: 'first-result', streams: false, returns: true, answer: (m) => (m.given === 0 ? wrongly(m) : undefined) },
  { name: 'colluding-pair', streams: false, isKnown: true, count: 2, answer: (m) => shared(m, 0.2) },
  { name: 'colluding-30%', streams: false, isKnown: true, count: 15, answer: (m) => shared(m, 0.2) },
  {
    // It lies only as an auditor does that can't compute: it says what it was shown.
    name: 'rubber-stamper',
    isKnown: true,
    answer: (m) => (isCheck(m.assignment) ? { output: m.output, trace: m.random.u32() } : undefined),
  },
  {
    name: 'false-accuser',
    isKnown: true,
    answer: (m) => (isCheck(m.assignment) || m.random.float() < 0.02 ? wrongly(m) : undefined),
  },
  {
    // Begins as it should, and goes on as it likes. Where engines read as fast as GPUs do, that is found while it is being written.
    name: 'forger',
    isKnown: true,
    forgesAt: 20,
    answer: () => undefined,
    world: { generate: 0.6, tokensMax: 120, readsPerDraw: 400 },
  },
  {
    // One answer as it streams, another as it signs.
    name: 'equivocator',
    answer: (m) => (m.output.kind === 'generate' ? wrongly(m) : undefined),
  },
  { name: 'sybil-flood', streams: false, returns: true, count: 4, answer: wrongly },
  {
    name: 'broken-hardware',
    isKnown: true,
    isRare: true,
    isBroken: true,
    streams: false,
    answer: (m) =>
      m.random.float() < 0.01
        ? { output: bent(m.output, 1 << m.random.int(0, 20), m.random.int(0, 1000)), trace: m.random.u32() }
        : undefined,
  },
] // prettier-ignore
