/** One small world drawn from a seed, run to its end: what the tests and `--small` do. */
import { Random } from '../harness/random.ts'
import { draw } from './options.ts'
import type { Options } from './options.ts'
import { World } from './world.ts'
import type { Make } from './world.ts'

/** Virtual time in which everything must be done after the faults stop: less than two deadlines, so hardly ever by one. */
const CALM_MS = 100 * 60_000
/** Far beyond what any of these worlds needs: a history that gets nowhere ends here. */
const EVENTS_MAX = 300_000

/** Throws what the auditor finds, or that the world did not come to its end. */
export function runSmall(seed: number, make?: Make, change: Partial<Options> = {}): World {
  const world = new World({ ...draw(new Random(seed, 'options'), seed), ...change }, make)
  world.run(world.options.faultMs + CALM_MS, EVENTS_MAX)
  world.auditor.judge.end()
  if (!world.requesters.isDone) {
    const open = world.requesters.open.map((w) => `${w.spec.kind} x${w.parts} ${w.state}`)
    world.auditor.fail(
      `${open.length} jobs never ended after ${world.events} events: ${open.slice(0, 5).join(', ')}`,
    )
  }
  return world
}
