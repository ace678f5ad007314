/** The network's laws, over histories drawn from seeds. A failing seed is repeated with `npm run sim -- --small --seed N`. */
import { describe, expect, inject, test } from 'vitest'
import { Coordinator } from '../../coordinator/core/coordinator.ts'
import { CALM } from './options.ts'
import { MUTATIONS, mutate } from './mutants.ts'
import { runSmall } from './small.ts'
import { STRATEGIES } from './strategies.ts'
import { judgeStrategy, live } from './trust.ts'
import { World } from './world.ts'

const SEEDS = 200
/** The same histories in each run, unless a seed is asked for; `npm run sim -- --seeds FROM:COUNT` explores others. */
const first = process.env.SEED ? inject('seed') % 1_000_000 : 1

test(`${SEEDS} small worlds are safe, and come to their end`, () => {
  const seen = {
    done: 0,
    hedged: 0,
    redispatched: 0,
    lost: 0,
    adopted: 0,
    late: 0,
    disagreed: 0,
    crashes: 0,
    failed: 0,
    checks: 0,
    chunks: 0,
    withdrawn: 0,
    disputes: 0,
    wrong: 0,
    corrected: 0,
    convicted: 0,
  }
  for (let seed = first; seed < first + SEEDS; seed++) {
    const world = runSmall(seed)
    const { totals } = world.coordinator.state
    seen.done += totals.unitsDone
    seen.hedged += totals.hedged
    seen.redispatched += totals.redispatched
    seen.lost += totals.leasesLost
    seen.adopted += world.auditor.counts.adopted
    seen.late += totals.lateResults
    seen.disagreed += totals.disagreements
    seen.crashes += world.lives - 1
    seen.failed += world.requesters.failed
    seen.checks += totals.checks
    seen.chunks += totals.chunks
    seen.withdrawn += world.auditor.withdrawn.length
    seen.disputes += totals.disputes
    const { wrong, corrected, convicted } = world.auditor.judge.counts
    seen.wrong += wrong
    seen.corrected += corrected
    seen.convicted += convicted
  }
  // A simulation in which nothing goes wrong has tested nothing.
  for (const [what, count] of Object.entries(seen))
    expect(count, `${what} from seed ${first}`).toBeGreaterThan(0)
})

test('the same seed gives the same history', () => {
  const history = (seed: number): string => {
    const lines: string[] = []
    runSmall(seed, (options) => {
      const core = new Coordinator(options)
      const handle = core.handle.bind(core)
      core.handle = (event, now) => {
        const effects = handle(event, now)
        lines.push(JSON.stringify([now, event.type, effects]))
        return effects
      }
      return core
    })
    return lines.join('\n')
  }
  for (let seed = first; seed < first + 5; seed++) expect(history(seed)).toBe(history(seed))
})

describe('a guard removed on purpose makes a seed fail:', () => {
  MUTATIONS.forEach((mutation, i) => {
    test(mutation.what, async () => {
      const make = await mutate(mutation, `m${i}`)
      let caught: string | null = null
      for (let seed = first; seed < first + SEEDS && caught === null; seed++) {
        try {
          runSmall(seed, make, mutation.change)
        } catch (error) {
          caught = (error as Error).message
        }
      }
      expect(caught).not.toBeNull()
    })
  })
})

test('with slow and vanishing volunteers the slowest thousandth waits at most 12 medians, for at most 5 % more work', () => {
  const world = new World({
    ...CALM,
    seed: first,
    volunteers: 400,
    units: 8_000,
    generate: 0,
    requesters: 10,
    slow: 0.1,
    vanish: 0.05,
    silent: 0.5,
    faultMs: 18_000,
  })
  world.run(3_600_000)
  expect(world.requesters.isDone).toBe(true)
  const latencies = world.requesters.latencies.sort((a, b) => a - b)
  const at = (share: number): number => latencies[Math.floor(share * latencies.length)]!
  expect(at(0.999) / at(0.5), `seed ${first}`).toBeLessThanOrEqual(12)
  const { totals } = world.coordinator.state
  expect(totals.hedged / totals.unitsDone).toBeLessThanOrEqual(0.05)
})

test('volunteers are kept busy while work is queued: 90 % at a round trip of 60 ms and units of 400 ms', () => {
  const world = new World({
    ...CALM,
    seed: first,
    volunteers: 50,
    units: 10_000,
    generate: 0,
    load: 0,
    slots: 8,
  })
  // While work is queued: the tail, when the last units run, is another matter.
  let engineMs = 0
  let until = 0
  world.at(3_000, () => (engineMs = -world.engineMs))
  const look = (): void => {
    if (
      (world.coordinator.state.classes.values().next().value?.queuedParts ?? 0) < 0 ||
      world.requesters.done > 9_000
    )
      return
    until = world.now
    world.after(500, look)
  }
  world.at(3_000, look)
  let atUntil = 0
  const sample = (): void => {
    if (world.now <= until + 500) atUntil = world.engineMs
    if (!world.requesters.isDone) world.after(500, sample)
  }
  world.at(3_000, sample)
  world.run(3_600_000)
  engineMs += atUntil
  expect(engineMs / (50 * (until - 3_000)), `seed ${first}`).toBeGreaterThanOrEqual(0.9)
})

describe('liars of every kind, against the real policy:', () => {
  const zoo = [null, ...STRATEGIES]
  test.each(zoo.map((strategy) => [strategy?.name ?? 'nobody lies', strategy] as const))(
    '%s',
    (_, strategy) => {
      // Too short for those who lie seldom: of them only that nobody honest is harmed and nothing is gained in the end.
      // A crowd is caught one by one, each by its own lies.
      const units = (strategy?.count ?? 2) > 4 ? 16_000 : 4_000
      const lives = [first, first + 1].map((seed) => live(strategy, seed, units))
      const row = judgeStrategy(strategy, lives)
      if (strategy) expect(row.broken).toEqual([])
      expect(row.honestConvicted).toBe(0)
      if (!strategy) return expect(row.deliveredWrong).toEqual({ provisional: 0, final: 0 })
      expect(row.corrupted).toBeGreaterThan(0)
      if (!strategy.isRare) expect(row.convicted).toBeGreaterThan(0)
    },
  )
})
