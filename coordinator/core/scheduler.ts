/** Which free slot a ready unit goes to: the least expected end among a few sampled volunteers. */
import { isCheckable } from './checks.ts'
import { LIMITS } from './limits.ts'
import { readyUnits } from './planner.ts'
import type { Pool } from './pool.ts'
import { depthOf, roomOf } from './classes.ts'
import type { Job, ModelClass, State, Unit, Volunteer } from './state.ts'
import { isOnProbation } from './trust.ts'

/** What a unit forbids: those who failed it, and those who hold it. */
export function mayTake(unit: Unit | undefined, v: Volunteer): boolean {
  if (!unit) return true
  for (const copy of unit.copies) if (copy.identity === v.identity) return false
  return !unit.excluded.includes(v.identity)
}

/**
 * @param unit undefined for one that is yet to be cut  @param cost of it, or of a usual one
 * Returns null when the work should wait: for whom, houseTurn() says.
 */
export function choose(
  s: State,
  c: ModelClass,
  cost: number,
  job: Job,
  unit?: Unit,
  onlyIdle = false,
): Volunteer | null {
  const { need } = job
  const isAny = isAnybodys(c, job)
  if (unit && unit.leases.length >= LIMITS.givenBack) return chooseProven(s, c, need, isAny, unit, onlyIdle)
  const idle = best(s, c, c.idle, cost, need, isAny, unit, 0)
  if (idle) return idle
  if (!onlyIdle && c.spare.size) {
    // Near the end of a queue a unit bound to a busy volunteer would wait longer than for the next who is free.
    const isDeep = readyUnits(c) >= c.capable.size
    const spare = best(s, c, c.spare, cost, need, isAny, unit, s.now, !isDeep)
    if (spare) return spare
  }
  if (!c.freeHouses.size || !isHouseTurn(s, c, need, unit)) return null
  return best(s, c, c.freeHouses, cost, need, true, unit, 0)
}

/**
 * What came back again and again goes to the house, or to whoever answered most: coming with a new key, taking work and leaving
 * costs a stranger nothing, and by speed alone it would be chosen each time.
 */
function chooseProven(
  s: State,
  c: ModelClass,
  need: number,
  isAny: boolean,
  unit: Unit,
  onlyIdle: boolean,
): Volunteer | null {
  for (const pool of onlyIdle ? [c.freeHouses, c.idle] : [c.freeHouses, c.idle, c.spare]) {
    const isAll = pool.size <= LIMITS.sample
    let found: Volunteer | null = null
    for (let i = 0; i < Math.min(pool.size, LIMITS.sample); i++) {
      const v = pool.at(isAll ? i : s.random.below(pool.size))
      if (found && v.reputation.accepted <= found.reputation.accepted) continue
      if (mayTake(unit, v) && roomOf(v, c) >= need && (isAny || isCheckable(s, c, v))) found = v
    }
    if (found) return found
  }
  return null
}

/** Whether anybody may compute it: what is to be checked first needs a volunteer whose answers can be checked. */
const isAnybodys = (c: ModelClass, { spec: { trust } }: Job): boolean =>
  trust === 'fast' || trust === 'exact' || c.referees.size > 0

/** Whether a volunteer that is free may be given something of a job. */
export const mayServe = (s: State, c: ModelClass, v: Volunteer, job: Job): boolean =>
  (isAnybodys(c, job) || isCheckable(s, c, v)) && !(isBehind(c) && isOnProbation(s, v.reputation))

/** The least E = delay + cost · S among a sample, of those who may take it. @param from what the pool's delays count from */
function best(
  s: State,
  c: ModelClass,
  pool: Pool<Volunteer>,
  cost: number,
  need: number,
  isAny: boolean,
  unit: Unit | undefined,
  from: number,
  isHalved = false,
): Volunteer | null {
  const { size, numbers } = pool
  const all = size <= LIMITS.sample
  const tries = all ? size : LIMITS.sample
  const isFull = isBehind(c)
  let least = 0
  for (let i = 0; i < tries; i++) {
    const at = all ? i : s.random.below(size)
    PLACES[i] = at
    ENDS[i] = Math.max(0, numbers[2 * at]! - from) + cost * numbers[2 * at + 1]!
    if (ENDS[i]! < ENDS[least]!) least = i
  }
  // The first end first: mostly its volunteer may take it, and no other is looked at.
  for (let left = tries; left > 0; left--) {
    if (left < tries) for (let i = (least = 0); i < tries; i++) if (ENDS[i]! < ENDS[least]!) least = i
    const v = pool.at(PLACES[least]!)
    ENDS[least] = Infinity
    if (!mayTake(unit, v) || roomOf(v, c) < need || (!isAny && !isCheckable(s, c, v))) continue
    if (isHalved && v.held.length >= depthOf(v) >> 1) continue
    if (isFull && isOnProbation(s, v.reputation)) continue
    return v
  }
  return null
}

/** A sample's places in its pool, and their ends; of no meaning between calls. */
const PLACES = new Uint32Array(LIMITS.sample)
const ENDS = new Float64Array(LIMITS.sample)

/**
 * Trusted engines are behind with their checks: as many newcomers as they can follow have work already, and what more of them
 * answered would only wait.
 */
const isBehind = (c: ModelClass): boolean =>
  c.referees.size > 0 && c.checks.length + c.laterChecks.length >= LIMITS.unchecked * c.referees.size

/** The house computes when nobody else can, or is expected to be free soon. */
function isHouseTurn(s: State, c: ModelClass, need: number, unit: Unit | undefined): boolean {
  const tries = Math.min(LIMITS.sample, c.capable.size)
  for (let i = 0; i < tries; i++) {
    const v = c.capable.at(c.capable.size <= LIMITS.sample ? i : s.random.below(c.capable.size))
    if (!v.isSuspect && v.busyUntil - s.now <= LIMITS.houseMs && v.restUntil <= s.now && mayTake(unit, v))
      return false
  }
  return true
}

/** Whether anybody connected could ever take this unit. */
export function isTakeable(c: ModelClass, unit: Unit): boolean {
  // A unit bars a handful at most, so among more volunteers than that there is one.
  if (c.capable.size > unit.excluded.length) return true
  const bars = (v: Volunteer): boolean => unit.excluded.includes(v.identity)
  return [...c.capable, ...c.houses].some((v) => !bars(v))
}
