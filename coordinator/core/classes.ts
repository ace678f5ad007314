/** Models and who can run them: the pools a volunteer is in, how fast it is, and how much it may hold. */
import { Estimate } from './estimate.ts'
import type { ServedModel } from './events.ts'
import { FairQueue } from './fair.ts'
import { LIMITS, SETTINGS } from './limits.ts'
import { Pool } from './pool.ts'
import { partsOf } from './state.ts'
import type { Job, ModelClass, Speed, Standing, State, Volunteer } from './state.ts'
import { isVeteran, isWithinPending } from './trust.ts'

export function newClass(model: ServedModel, index: number): ModelClass {
  return {
    model,
    index,
    openJobs: 0,
    queue: new FairQueue<Job>((job) => job.isOver || job.isParked || job.next >= partsOf(job.spec)),
    parked: new Set(),
    returned: [],
    returnedHead: 0,
    queuedCost: 0,
    queuedParts: 0,
    capable: new Pool(9 * index + 0),
    loading: new Pool(9 * index + 1),
    idle: new Pool(9 * index + 2),
    spare: new Pool(9 * index + 3),
    houses: new Pool(9 * index + 4),
    freeHouses: new Pool(9 * index + 5),
    referees: new Pool(9 * index + 6),
    freeReferees: new Pool(9 * index + 7),
    veterans: new Pool(9 * index + 8),
    checks: [],
    laterChecks: [],
    readings: [],
    known: [],
    // Until somebody measured anything: 1 ms per token read, 8 per token drawn.
    service: new Estimate(1),
    gap: new Estimate(2 * SETTINGS.progressMs),
    strandedSince: undefined,
    unjudgedSince: undefined,
    timerAt: Infinity,
    isDirty: false,
  }
}

export const hasCapacity = (c: ModelClass): boolean => c.capable.size + c.houses.size > 0

export const roomOf = (v: Volunteer, c: ModelClass): number => v.standings[c.index]?.room ?? 0

export function speedOf(v: Volunteer, c: ModelClass): Speed {
  return (v.standings[c.index] ??= newStanding(v, c, 0))
}

/** What a volunteer takes for a model until it was seen: what it claims, within reason, else what others take. */
function newStanding(v: Volunteer, c: ModelClass, room: number): Standing {
  const { readMs, drawMs } = v.models.get(c.model.digest) ?? {}
  const claims = [readMs, drawMs === undefined ? undefined : drawMs / LIMITS.drawCost].filter(
    (x) => x !== undefined,
  )
  let claimed = claims.length ? claims.reduce((a, b) => a + b, 0) / claims.length : c.service.mean
  // A claim orders the first unit only; one far from everybody's experience is cut to where it does no harm.
  if (c.service.samples >= 8) claimed = Math.min(Math.max(claimed, c.service.mean / 16), c.service.mean * 64)
  return { service: new Estimate(Math.max(claimed, 1e-6)), gap: new Estimate(c.gap.mean), room }
}

/** After a status of its changed: a new claim counts until there is a measurement. */
function stand(v: Volunteer, c: ModelClass, context: number | undefined): void {
  const room = Math.min(context ?? c.model.context, c.model.context)
  const known = v.standings[c.index]
  if (known?.service.samples) known.room = room
  else v.standings[c.index] = newStanding(v, c, room)
}

/** Assignments a volunteer may hold now: what it computes side by side, times the prefetch that hides the network. */
export function depthOf(v: Volunteer): number {
  const rtt = v.rttMs.mean
  const service = v.serviceMs
  const prefetch =
    service.samples === 0 || service.mean >= LIMITS.roundTripsHidden * rtt
      ? 1
      : Math.ceil(1 + rtt / service.mean)
  return Math.min(v.slots, v.concurrency * prefetch)
}

export const isWilling = (s: State, v: Volunteer): boolean =>
  v.state === 'open' &&
  !v.isGone &&
  !v.isSuspect &&
  !v.isCongested &&
  s.now >= v.restUntil &&
  isWithinPending(s, v)

/** Puts a volunteer into the pools it belongs in, after anything about it changed. */
export function place(s: State, v: Volunteer): void {
  const isOpen = v.state === 'open' && !v.isGone
  const isWillingNow = isWilling(s, v)
  const isIdle = isWillingNow && v.held.length < Math.min(v.concurrency, v.slots)
  const isSpare = isWillingNow && !isIdle && v.held.length < depthOf(v)
  for (const c of v.ready) {
    put(v.isHouse ? c.houses : c.capable, v, isOpen)
    const idle = v.isHouse ? c.freeHouses : c.idle
    if (isIdle) idle.add(v, v.rttMs.mean, rateOf(v, c))
    else idle.remove(v)
    if (isSpare && !v.isHouse) c.spare.add(v, v.busyUntil + v.rttMs.mean, rateOf(v, c))
    else c.spare.remove(v)
    if (v.reputation.isTrusted) {
      put(c.referees, v, isOpen)
      put(c.freeReferees, v, isIdle || isSpare)
    } else put(c.veterans, v, isOpen && isVeteran(s, v.reputation))
    if (isIdle || isSpare) s.touch(c)
  }
}

/** Milliseconds per cost. Browsers slow hidden tabs and may freeze them, so they are counted slower than they were measured. */
const rateOf = (v: Volunteer, c: ModelClass): number => speedOf(v, c).service.mean * (v.isHidden ? 2 : 1)

function put(pool: Pool<Volunteer>, v: Volunteer, isIn: boolean): void {
  if (isIn) pool.add(v)
  else pool.remove(v)
}

const poolsOf = (c: ModelClass): Pool<Volunteer>[] => [
  c.houses, c.capable, c.freeHouses, c.idle, c.spare, c.referees, c.freeReferees, c.veterans,
] // prettier-ignore

/** Reads `models` again: which classes it is ready for, which it is loading. */
export function sortModels(s: State, v: Volunteer): void {
  for (const c of v.ready) for (const pool of poolsOf(c)) pool.remove(v)
  v.ready = []
  for (const c of s.classes.values()) {
    const status = v.models.get(c.model.digest)
    const state = status?.state
    if (state === 'ready' && !v.isGone) {
      v.ready.push(c)
      stand(v, c, status?.context)
    }
    put(
      c.loading,
      v,
      !v.isGone && v.state !== 'draining' && (state === 'downloading' || state === 'compiling'),
    )
    s.touch(c)
  }
  place(s, v)
}
