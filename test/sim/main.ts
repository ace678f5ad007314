/**
 * npm run sim -- [--seed N] [--volunteers V] [--units U] [--load L] [--generate G] [--json]
 * npm run sim -- --scenario trust         every strategy of liars against the policy: see trust.ts
 * npm run sim -- --small --seed N         one small world with every fault, as in the tests
 * npm run sim -- --seeds FROM:COUNT       so many of them, one after the other; exits 1 when any fails
 *
 * A network of V volunteers (10 % slow, 5 % vanish, half of those silently) computes U units. `--load 0.5` offers half of what
 * they could do, for latencies; `--load 0` offers everything at once, for how busy they are kept.
 */
import { parseArgs } from 'node:util'
import { Random } from '../harness/random.ts'
import { CALM, draw } from './options.ts'
import { runSmall } from './small.ts'
import { trustScenario } from './trust.ts'
import { World } from './world.ts'

const { values: args } = parseArgs({
  options: {
    seed: { type: 'string', default: '1' },
    volunteers: { type: 'string', default: '2000' },
    units: { type: 'string' },
    load: { type: 'string', default: '0.5' },
    generate: { type: 'string', default: '0' },
    'unit-ms': { type: 'string', default: '400' },
    rtt: { type: 'string', default: '60' },
    slow: { type: 'string', default: '0.1' },
    vanish: { type: 'string', default: '0.05' },
    stall: { type: 'string', default: '0' },
    small: { type: 'boolean', default: false },
    seeds: { type: 'string' },
    scenario: { type: 'string' },
    strategy: { type: 'string' },
    json: { type: 'boolean', default: false },
  },
})

if (args.scenario !== undefined) {
  if (args.scenario !== 'trust') throw new Error(`--scenario ${args.scenario}: there is one, trust`)
  trustScenario({
    seed: Number(args.seed),
    seeds: Number(args.seeds ?? 3),
    units: Number(args.units ?? 30_000),
    only: args.strategy,
    isJson: args.json,
  })
  process.exit()
}
if (args.seeds !== undefined) {
  explore(args.seeds)
  process.exit()
}

const seed = Number(args.seed)
const volunteers = Number(args.volunteers)
const units = Number(args.units ?? 50_000)
const load = Number(args.load)
const unitMs = Number(args['unit-ms'])
const options = args.small
  ? draw(new Random(seed, 'options'), seed)
  : {
      ...CALM,
      seed,
      volunteers,
      units,
      load,
      unitMs,
      generate: Number(args.generate),
      rttMs: Number(args.rtt),
      sigma: 0.3,
      requesters: 20,
      slow: Number(args.slow),
      slowFactor: 4,
      vanish: Number(args.vanish),
      silent: 0.5,
      stall: Number(args.stall),
      // Vanishing is spread over the time the work should take.
      faultMs: 2_000 + (units * unitMs) / (volunteers * (load || 1)),
    }
if (args.small) console.log(JSON.stringify(options))

const started = performance.now()
const cpu = process.cpuUsage()
const world = new World(options)
/** Engine time up to the last moment at which work was waiting. */
const queued = { engineMs: 0, at: 0 }
const look = (): void => {
  const isQueued = [...world.coordinator.state.classes.values()].some((c) => c.queuedParts > 0)
  if (isQueued) Object.assign(queued, { engineMs: world.engineMs, at: world.now })
  if (!world.requesters.isDone) world.after(200, look)
}
if (options.load === 0) world.at(2_000, look)
world.run(options.faultMs + 24 * 3_600_000)
const { user, system } = process.cpuUsage(cpu)
const wallMs = performance.now() - started

const { requesters, auditor, coordinator } = world
const latencies = Float64Array.from(requesters.latencies).sort()
const at = (share: number): number =>
  Math.round(latencies[Math.min(latencies.length - 1, Math.floor(share * latencies.length))] ?? 0)
const { totals } = coordinator.state
const alive = world.devices.filter((d) => !d.isDead).length
const report = {
  seed,
  volunteers: options.volunteers,
  units: options.units,
  load: options.load,
  isDone: requesters.isDone,
  latencyMs: { p50: at(0.5), p95: at(0.95), p99: at(0.99), p999: at(0.999), max: at(1) },
  p999OverP50: Number((at(0.999) / at(0.5)).toFixed(2)),
  /** Work started a second time ÷ units: what hedging costs at most. */
  duplicateShare: Number((totals.hedged / Math.max(1, totals.unitsDone)).toFixed(4)),
  /** While work waits: engine time ÷ (volunteers that stayed × time). What is in hand at the end is not counted. */
  busyShare:
    options.load === 0
      ? Number((queued.engineMs / (alive * (queued.at - requesters.firstAt))).toFixed(4))
      : null,
  redispatched: totals.redispatched,
  leasesLost: totals.leasesLost,
  refused: requesters.refused,
  assigned: auditor.counts.assigned,
  virtualSeconds: Math.round(world.now / 1000),
  events: world.events,
  wallSeconds: Number((wallMs / 1000).toFixed(2)),
  cpuSeconds: Number(((user + system) / 1e6).toFixed(2)),
  unitsPerSecond: Math.round(totals.unitsDone / (wallMs / 1000)),
  memoryMb: Math.round(process.memoryUsage().rss / 1e6),
}
if (args.json) console.log(JSON.stringify(report))
else
  for (const [name, value] of Object.entries(report))
    console.log(`${name.padEnd(16)} ${typeof value === 'object' ? JSON.stringify(value) : value}`)
process.exitCode = requesters.isDone ? 0 : 1

/** Small worlds of many seeds; what fails is printed as it is found. */
function explore(range: string): void {
  const [from, count] = range.split(':').map(Number)
  if (!Number.isInteger(from) || !Number.isInteger(count))
    throw new Error(`--seeds ${range}: give it as FROM:COUNT, as in 1:20000`)
  let failed = 0
  for (let seed = from!; seed < from! + count!; seed++) {
    try {
      runSmall(seed)
    } catch (error) {
      failed++
      console.log(`${seed} ${(error as Error).message}`)
    }
  }
  console.log(`${count} seeds from ${from}: ${failed} failed`)
  process.exitCode = failed ? 1 : 0
}
