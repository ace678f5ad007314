/** What a world is like; every field is a fault or a size, and all of them are drawn from the seed for small worlds. */
import type { Policy } from '../../coordinator/core/policy.ts'
import type { Trust } from '../../protocol/nouns.ts'
import type { Random } from '../harness/random.ts'
import type { Flags } from './volunteer.ts'

export interface Options {
  seed: number
  volunteers: number
  /** Units of work, in jobs of one or several. */
  units: number
  /** Share of units that generate text; the others are encoder rows. */
  generate: number
  /** Most tokens of an ordinary text, and how many an engine reads in the time of drawing one. */
  tokensMax: number
  readsPerDraw: number
  /** Rows or choices of a job: 1 … this. */
  partsMax: number
  requesters: number
  /** Milliseconds a unit takes an ordinary volunteer, and the spread of volunteers' speeds (log-normal sigma). */
  unitMs: number
  sigma: number
  rttMs: number
  /** Offered work ÷ what the volunteers could do; 0: everything at once. */
  load: number
  concurrency: number
  slots: number
  house: boolean
  /** Through the real codec, frame by frame. */
  wire: boolean
  /** Looks at the whole state after every event; for small worlds. */
  audit: boolean
  /** Share of volunteers several times slower, and how much. */
  slow: number
  slowFactor: number
  /** Share of volunteers that vanish for good during the run; of those, how many without a close. */
  vanish: number
  silent: number
  /** Share of units that stall, and for how long. */
  stall: number
  stallMs: number
  /** Faults that come again and again, per volunteer and virtual minute. */
  cutsPerMinute: number
  freezesPerMinute: number
  pausesPerMinute: number
  deviceLossesPerMinute: number
  reloadsPerMinute: number
  /** Of the coordinator, per minute. */
  crashesPerMinute: number
  clockJumpsPerMinute: number
  /** Requesters who hang up, per job. */
  hangUp: number
  /** Jobs whose every computation fails. */
  poison: number
  /** Share of volunteers that answer nonsense: wrong shapes, others' assignments, repeated tokens. */
  hostile: number
  /** Share of volunteers that lie in some way, and of those the operator trusts. */
  liars: number
  trusted: number
  /** Networks the volunteers come from; 0: each from its own. */
  networks: number
  /** Devices besides the ordinary ones. */
  cast: readonly Flags[]
  /** Keys that are known for long when the world begins. */
  known: readonly string[]
  /** What requesters ask for. */
  trust: readonly Trust[]
  policy: Partial<Policy>
  /** Faults stop after this; 0: they never start. */
  faultMs: number
}

export const CALM: Options = {
  seed: 1,
  volunteers: 10,
  units: 100,
  generate: 0.3,
  tokensMax: 20,
  readsPerDraw: 8,
  partsMax: 1,
  requesters: 3,
  unitMs: 400,
  sigma: 0.3,
  rttMs: 60,
  load: 0.5,
  concurrency: 1,
  slots: 4,
  house: false,
  wire: false,
  audit: false,
  slow: 0,
  slowFactor: 4,
  vanish: 0,
  silent: 0.5,
  stall: 0,
  stallMs: 20_000,
  cutsPerMinute: 0,
  freezesPerMinute: 0,
  pausesPerMinute: 0,
  deviceLossesPerMinute: 0,
  reloadsPerMinute: 0,
  crashesPerMinute: 0,
  clockJumpsPerMinute: 0,
  hangUp: 0,
  poison: 0,
  hostile: 0,
  liars: 0,
  trusted: 0,
  networks: 0,
  cast: [],
  known: [],
  trust: ['fast'],
  policy: {},
  faultMs: 0,
}

/** A small world with some of every fault. */
export function draw(random: Random, seed: number): Options {
  const sometimes = (p: number, rate: number): number => (random.float() < p ? rate * random.float() : 0)
  const house = random.float() < 0.4
  return {
    ...CALM,
    seed,
    volunteers: random.int(1, 14),
    units: random.int(5, 80),
    generate: random.float(),
    partsMax: random.pick([1, 4, 40]),
    requesters: random.int(1, 4),
    unitMs: random.pick([20, 100, 400, 1500]),
    sigma: random.float(),
    rttMs: random.pick([2, 60, 300]),
    load: random.pick([0, 0.5, 1, 2]),
    concurrency: random.int(1, 3),
    slots: random.int(1, 8),
    house,
    wire: random.float() < 0.5,
    audit: true,
    slow: random.float() < 0.5 ? 0.3 : 0,
    slowFactor: random.pick([4, 20]),
    vanish: sometimes(0.5, 0.7),
    silent: random.float(),
    stall: sometimes(0.3, 0.1),
    stallMs: random.int(1000, 40_000),
    cutsPerMinute: sometimes(0.5, 6),
    freezesPerMinute: sometimes(0.4, 4),
    pausesPerMinute: sometimes(0.4, 6),
    deviceLossesPerMinute: sometimes(0.3, 2),
    reloadsPerMinute: sometimes(0.4, 4),
    crashesPerMinute: sometimes(0.25, 2),
    clockJumpsPerMinute: sometimes(0.3, 2),
    hangUp: sometimes(0.4, 0.2),
    poison: sometimes(0.2, 0.1),
    hostile: sometimes(0.3, 0.5),
    faultMs: random.int(5_000, 60_000),
    ...trust(random, house),
  }
}

/** Small worlds are too short for the real policy: this one trusts and doubts as fast as they pass. */
function trust(random: Random, house: boolean): Partial<Options> {
  const isJudged = house || random.float() < 0.6
  return {
    liars: random.float() < 0.5 ? 0.4 * random.float() : 0,
    trusted: isJudged ? 0.2 : 0,
    networks: random.pick([0, 2, 5]),
    // Without anybody trusted there is nobody to check newcomers.
    trust: isJudged
      ? random.pick<readonly Trust[]>([['fast'], ['checked'], ['fast', 'checked', 'exact']])
      : ['fast'],
    policy: {
      probation: random.int(1, 4),
      beta: random.pick([1, 3]),
      floor: 0.3,
      windowResults: random.int(3, 20),
      windowMs: random.int(10_000, 600_000),
      awayMs: random.int(1_000, 60_000),
      tail: 0.3,
      textShare: random.pick([0.01, 0.4, 8]),
      chunk: random.pick([3, 16, 64]),
      alarmMs: 30_000,
      claims: random.pick([5, 1000]),
      records: random.pick([2, 1000]),
    },
  }
}
