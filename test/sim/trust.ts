/**
 * npm run sim -- --scenario trust [--json] [--seed N] [--seeds K] [--units U] [--strategy NAME]
 *
 * Each strategy against the real policy, in a network of its own: known and new honest volunteers, a house, requesters that ask for
 * `checked` answers. Afterwards liars leave, and all that is not final becomes so. A bound that is broken exits 1.
 */
import { POLICY } from '../../coordinator/core/policy.ts'
import { CALM } from './options.ts'
import { STRATEGIES } from './strategies.ts'
import type { Strategy } from './strategies.ts'
import { keyOf } from './volunteer.ts'
import { World } from './world.ts'

const KNOWN = 16
const NEW = 4
/** Results of a key that is known when the world begins: what world.ts restores. */
const BEFORE = 2_000

export interface Life {
  /** Delivered, of everybody; computed by liars; of those, wrong. */
  units: number
  ofLiars: number
  corrupted: number
  /** Delivered wrong: at first, and for good. */
  provisional: number
  final: number
  corrected: number
  /** Of each text that was put right before its caller was told of its end: its wrong tokens that were delivered. */
  withdrawn: readonly number[]
  /** Results of a liar from its first lie to its conviction. */
  caughtAfter: number[]
  liars: number
  convicted: number
  honestConvicted: number
  /** Checks' share of the work that was paid for. */
  extra: number
  netCredit: number
  /** Of what liars did in all their lives, the share that is wrong for good. */
  lifeShare: number
  seconds: number
}

/** One history. Throws what the auditor finds: an honest volunteer convicted, a ledger that does not add up. */
export function live(strategy: Strategy | null, seed: number, units: number): Life {
  const started = performance.now()
  const count = strategy ? (strategy.count ?? 2) : 0
  // A third of all where 30 % conspire.
  const known = count > 4 ? 2 * count : KNOWN
  // One more who is honest, so that the books are kept even where nobody lies.
  const cast = strategy ? Array.from({ length: count }, () => ({ strategy })) : [{}]
  const world = new World({
    ...CALM,
    seed,
    volunteers: known + NEW,
    units,
    generate: 0.3,
    requesters: 5,
    load: 0.5,
    slots: 4,
    house: true,
    cast,
    known: [
      ...Array.from({ length: known }, (_, i) => keyOf(`p${i}`)),
      ...(strategy?.isKnown ? cast.map((_, i) => keyOf(`c${i}`)) : []),
    ],
    trust: ['checked'],
    policy: { windowMs: 3_600_000, awayMs: 60_000 },
    ...strategy?.world,
  })
  world.run(24 * 3_600_000)
  // Whoever lies in earnest is not saved by the world's end: to lie a few times and leave is another strategy.
  for (let more = 0; more < 10 && isAnyAtLarge(world); more++) {
    world.requesters.goOn(units / 2)
    world.run(24 * 3_600_000)
  }
  // Those who come back for ever stop; what is left is judged, and becomes final.
  const { extra } = shareOf(world)
  for (const device of world.devices) if (device.strategy) device.hangUp(1001)
  for (const device of world.devices) if (device.strategy) device.isDead = true
  world.run(world.now + 2 * 3_600_000, Infinity, true)

  const { judge } = world.auditor
  const life: Life = {
    units: judge.counts.settled, ofLiars: 0, corrupted: 0, provisional: judge.counts.wrong, final: judge.counts.wrongFinal,
    corrected: judge.counts.corrected, withdrawn: world.auditor.withdrawn, caughtAfter: [], liars: 0, convicted: 0,
    honestConvicted: judge.counts.honestConvicted, extra, netCredit: judge.netCredit(), lifeShare: 0, seconds: 0,
  } // prettier-ignore
  for (const book of judge.keys.values()) {
    if (!book.device.strategy || book.results === 0) continue
    life.ofLiars += book.results
    life.corrupted += book.lies
    if (!book.hasLied) continue
    life.liars++
    if (book.convictedAt === undefined) continue
    life.convicted++
    life.caughtAfter.push(book.convictedAt - book.firstLieAt! + 1)
  }
  const lives = life.ofLiars + (strategy?.isKnown ? count * BEFORE : 0)
  life.lifeShare = lives ? life.final / lives : 0
  life.seconds = (performance.now() - started) / 1000
  return life
}

/** One that lies in earnest, has done so, and was not found yet. */
function isAnyAtLarge(world: World): boolean {
  for (const { device, hasLied, convictedAt } of world.auditor.judge.keys.values())
    if (device.strategy && !device.strategy.isRare && !device.isDead && hasLied && convictedAt === undefined)
      return true
  return false
}

function shareOf(world: World): { extra: number } {
  const { checkMacs, macs } = world.coordinator.state.totals
  return { extra: checkMacs / Math.max(1, macs) }
}

export interface Row {
  strategy: string
  units: number
  ofLiars: number
  corrupted: number
  deliveredWrong: { provisional: number; final: number }
  /** Wrong tokens of a text that was put right while it was being written; and of how many texts. */
  withdrawn: Interval & { texts: number }
  /** Of what was corrupted, what is wrong for good: mean over the seeds, with its 95 % interval. */
  finalShare: Interval
  caughtAfter: Interval
  liars: number
  convicted: number
  honestConvicted: number
  extraCompute: Interval
  netCredit: number
  bound: string
  broken: string[]
}
interface Interval {
  mean: number
  plusMinus: number
}

const round = (x: number): number => Number(x.toPrecision(4))

function interval(values: readonly number[]): Interval {
  if (values.length === 0) return { mean: 0, plusMinus: 0 }
  const mean = values.reduce((a, b) => a + b, 0) / values.length
  const variance = values.reduce((a, b) => a + (b - mean) ** 2, 0) / Math.max(1, values.length - 1)
  return { mean: round(mean), plusMinus: round(1.96 * Math.sqrt(variance / values.length)) }
}

const sum = (lives: readonly Life[], of: (life: Life) => number): number =>
  lives.reduce((n, life) => n + of(life), 0)

/** What numerics §7.1 allows whoever lies seldom, or leaves after lying: 1 / (e·W·q∞) of a key's results, at most. */
const RARE = 1 / (Math.E * POLICY.windowResults * POLICY.floor)
const NAMED = 0.001
const EXTRA = 0.1
/** A chunk, and what is drawn until it was read, and read once more where two contradict each other. */
const WITHDRAWN = 2 * POLICY.chunk

export function judgeStrategy(strategy: Strategy | null, lives: readonly Life[]): Row {
  const corrupted = sum(lives, (l) => l.corrupted)
  const final = sum(lives, (l) => l.final)
  const broken: string[] = []
  const honestConvicted = sum(lives, (l) => l.honestConvicted)
  const netCredit = sum(lives, (l) => l.netCredit)
  const gain = interval(lives.map((l) => l.netCredit))
  const extraCompute = interval(lives.map((l) => l.extra))
  const share = interval(lives.map((l) => l.lifeShare))
  const withdrawn = lives.flatMap((l) => l.withdrawn)
  const bound = !strategy
    ? `extra compute at most ${EXTRA}, nobody convicted`
    : strategy.isRare
      ? `final wrong at most ${round(RARE)} of a key's results (1/(e·W·q)), less its interval`
      : `final wrong at most ${NAMED} of what was corrupted, of a text that is being written ${WITHDRAWN} tokens on the average`
  if (honestConvicted > 0) broken.push(`${honestConvicted} honest volunteers convicted`)
  // One lie in two hundred is found only now and then, and costs a thousand results when it is: on the whole, not each time.
  if (strategy?.isRare ? gain.mean - gain.plusMinus > 0 && lives.length > 2 : netCredit > 0)
    broken.push(`liars gained ${netCredit}`)
  if (!strategy && extraCompute.mean > EXTRA) broken.push(`extra compute ${extraCompute.mean}`)
  if (strategy?.isRare && share.mean - share.plusMinus > RARE)
    broken.push(`${share.mean} of its results are wrong for good`)
  if (strategy && !strategy.isRare && final > NAMED * corrupted)
    broken.push(`${final} of ${corrupted} are wrong for good`)
  const taken = interval(withdrawn)
  if (taken.mean > WITHDRAWN) broken.push(`${taken.mean} wrong tokens of a text before it was put right`)
  return {
    strategy: strategy?.name ?? 'honest',
    units: sum(lives, (l) => l.units),
    ofLiars: sum(lives, (l) => l.ofLiars),
    corrupted,
    deliveredWrong: { provisional: sum(lives, (l) => l.provisional), final },
    withdrawn: { ...taken, texts: withdrawn.length },
    finalShare: interval(lives.map((l) => (l.corrupted ? l.final / l.corrupted : 0))),
    caughtAfter: interval(lives.flatMap((l) => l.caughtAfter)),
    liars: sum(lives, (l) => l.liars),
    convicted: sum(lives, (l) => l.convicted),
    honestConvicted,
    extraCompute,
    netCredit,
    bound,
    broken,
  } // prettier-ignore
}

export function trustScenario(options: {
  seed: number
  seeds: number
  units: number
  only?: string
  isJson: boolean
}): void {
  const rows: Row[] = []
  const zoo = [null, ...STRATEGIES].filter((s) => !options.only || (s?.name ?? 'honest') === options.only)
  for (const strategy of zoo) {
    const lives = Array.from({ length: options.seeds }, (_, i) =>
      live(strategy, options.seed + i, options.units),
    )
    const row = judgeStrategy(strategy, lives)
    rows.push(row)
    if (!options.isJson)
      print(
        row,
        sum(lives, (l) => l.seconds),
      )
  }
  if (options.isJson) console.log(JSON.stringify({ policy: POLICY, ...options, rows }, null, 1))
  process.exitCode = rows.some((row) => row.broken.length) ? 1 : 0
}

function print(row: Row, seconds: number): void {
  const { deliveredWrong: wrong, withdrawn, caughtAfter: caught, extraCompute: extra } = row
  console.log(
    `${row.strategy.padEnd(16)} ${row.units} units, ${row.ofLiars} of liars, ${row.corrupted} corrupted: delivered wrong ${wrong.provisional}, ` +
      `for good ${wrong.final}; ${row.convicted} of ${row.liars} convicted after ${caught.mean} ± ${caught.plusMinus}; ` +
      `honest convicted ${row.honestConvicted}; extra ${(100 * extra.mean).toFixed(1)} %; net credit ${row.netCredit}; ${seconds.toFixed(1)} s` +
      (withdrawn.texts
        ? `; ${withdrawn.mean} wrong tokens in each of ${withdrawn.texts} texts put right before their end`
        : '') +
      (row.broken.length ? `\n  BROKEN: ${row.broken.join('; ')} (${row.bound})` : ''),
  )
}
