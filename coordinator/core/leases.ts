/** The life of an assignment: sent, started, watched, and answered, given back, or lost. */
import type { AssignmentId, Millis } from '../../protocol/nouns.ts'
import { queueCheck } from './checks.ts'
import { closeUnit } from './jobs.ts'
import { LIMITS } from './limits.ts'
import { assignmentOf, inputLength, restOf } from './planner.ts'
import { choose } from './scheduler.ts'
import { place, speedOf } from './classes.ts'
import { added, takeOut } from './lists.ts'
import type { Lease, State, Unit, Volunteer } from './state.ts'
import { leaseMs, redAt, tardy, yellowAt } from './straggler.ts'
import type { Watch } from './straggler.ts'

/** Tokens after which the first progress is due, at the latest: a volunteer reads back a few at a time. */
const FIRST_TOKENS = 8

export function assign(s: State, unit: Unit, v: Volunteer, isHedge: boolean): void {
  const { job } = unit
  const c = job.class
  const { mean, deviation } = speedOf(v, c).service
  const cost = restOf(unit)
  const from = inputLength(unit)
  const lease: Lease = {
    id: s.id('a') as AssignmentId,
    unit,
    identity: v.identity,
    volunteer: v,
    state: 'live',
    isHedge,
    cost,
    expectedMs: cost * mean,
    base: job.spec.kind === 'generate' ? from - unit.tokens.length : 0,
    from,
    nextPosition: from,
    sentAt: s.now,
    startedAt: undefined,
    watch: undefined,
    isStreaming: false,
    isYellow: false,
    reminder: undefined,
  }
  unit.state = 'leased'
  unit.copies = added(unit.copies, lease)
  unit.leases = added(unit.leases, lease.id)
  s.leases.set(lease.id, lease)
  job.firstSentAt ??= s.now
  v.reputation.hasWorked = true
  s.totals.dispatched++
  const burst = Math.max(LIMITS.hedgeBurst, LIMITS.hedgeBurstShare * s.volunteers.size)
  s.hedgeBudget = Math.min(burst, s.hedgeBudget + LIMITS.hedgeShare)

  hold(s, lease)
  const waitMs = v.busyUntil - s.now - lease.expectedMs
  const first = firstCost(lease)
  const ms = Math.round(waitMs + leaseMs(first * mean, first * deviation, v.rttMs.mean))
  const assignment = assignmentOf(unit, lease, Math.max(ms, 0))
  s.emit({ type: 'send', volunteer: v.id, message: { type: 'assign', assignments: [assignment] } })
}

/** Gives a lease its place in its volunteer's hands. */
export function hold(s: State, lease: Lease): void {
  const v = lease.volunteer
  if (v.held.length === 0) v.busySince = s.now
  v.held.push(lease)
  v.busyUntil = Math.max(v.busyUntil, s.now + v.rttMs.mean) + lease.expectedMs / v.concurrency
  startNext(s, v)
  place(s, v)
}

/** Takes a lease out of its volunteer's hands: answered, given back or lost. */
export function release(s: State, lease: Lease): void {
  const v = lease.volunteer
  if (!takeOut(v.held, lease)) return
  const rest = v.busyUntil - lease.expectedMs / v.concurrency
  v.busyUntil = v.held.length ? Math.max(s.now, rest) : s.now
  if (v.held.length === 0) v.busyMs += s.now - v.busySince
  letGo(lease)
  v.isSuspect = v.held.some((l) => l.isYellow)
  startNext(s, v)
  place(s, v)
}

/** The first `concurrency` leases in hand are being computed: their clocks run. */
export function startNext(s: State, v: Volunteer): void {
  for (let i = Math.min(v.concurrency, v.held.length) - 1; i >= 0; i--) {
    const lease = v.held[i]!
    if (lease.startedAt !== undefined) continue
    lease.startedAt = s.now
    lease.watch = begun(s, lease)
    watch(s, lease, yellowAt(lease.watch))
  }
}

/** What is expected of a lease that begins now, up to its answer, or for streams to the first tokens; and of all of it. */
function begun(s: State, lease: Lease): Watch {
  const { cost, volunteer: v, unit } = lease
  const { spec, class: c } = unit.job
  const { mean, deviation } = speedOf(v, c).service
  const rttMs = v.rttMs.mean
  const first = firstCost(lease)
  return {
    since: s.now,
    expectedMs: first * mean,
    deviationMs: first * deviation,
    rttMs,
    graceMs: spec.kind === 'generate' ? LIMITS.gapMsMin : LIMITS.hedgeMsMin,
    // By its volunteer's own record of whole units.
    overdueAt: s.now + leaseMs(cost * mean, cost * deviation, rttMs),
  }
}

/** Cost up to the first sign of life that is due. */
const firstCost = (lease: Lease): number =>
  lease.unit.job.spec.kind === 'generate'
    ? Math.min(lease.cost, lease.from + LIMITS.drawCost * FIRST_TOKENS)
    : lease.cost

function watch(s: State, lease: Lease, at: Millis): void {
  letGo(lease)
  lease.reminder = { lease }
  s.watches.push(at, lease.reminder)
}

function letGo(lease: Lease): void {
  if (lease.reminder) lease.reminder.lease = undefined
  lease.reminder = undefined
}

/** Leases whose time has come; those answered meanwhile wake nobody. */
export function watchLeases(s: State): void {
  for (let next = s.watches.top; next; next = s.watches.top) {
    if (next.lease && s.watches.key > s.now) return
    s.watches.pop()
    if (next.lease) checkLease(s, next.lease)
  }
}

/** A stream moved: its light is green again, and is judged by the gaps between progress from here on. */
export function progressed(s: State, lease: Lease): void {
  const v = lease.volunteer
  const { gap } = speedOf(v, lease.unit.job.class)
  if (lease.watch && lease.isStreaming && lease.startedAt !== undefined)
    gap.observe(s.now - lease.watch.since)
  lease.isStreaming = true
  const { overdueAt = Infinity } = lease.watch ?? {}
  lease.watch = {
    since: s.now,
    expectedMs: gap.mean,
    deviationMs: gap.deviation,
    rttMs: 0,
    graceMs: LIMITS.gapMsMin,
    overdueAt,
  }
  if (!lease.isYellow || s.now >= overdueAt) return
  lease.isYellow = false
  watch(s, lease, yellowAt(lease.watch))
  v.isSuspect = v.held.some((l) => l.isYellow)
  place(s, v)
}

/** The lease's timer came: look at the light again. */
export function checkLease(s: State, lease: Lease): void {
  const { unit, volunteer: v } = lease
  if (lease.state !== 'live' || !lease.watch) return
  const light = tardy(lease.watch, s.now)
  if (light === 'green') return watch(s, lease, yellowAt(lease.watch))
  if (light === 'red') return loseLease(s, lease)

  if (!lease.isYellow) {
    lease.isYellow = true
    v.isSuspect = true
    place(s, v)
    // What waits behind it was not begun: it costs nothing to give it to others.
    for (const waiting of v.held.filter((l) => l.startedAt === undefined)) takeBack(s, waiting)
  }
  const again = s.now + Math.max(2 * LIMITS.hedgeMsMin, lease.watch.expectedMs / 4)
  watch(s, lease, hedge(s, unit) ? redAt(lease.watch) : Math.min(redAt(lease.watch), again))
}

/** Starts a second copy, if the budget and the volunteers allow. True when there is nothing more to hedge. */
function hedge(s: State, unit: Unit): boolean {
  // Nobody waits for a check for so long that it should cost another.
  if (unit.copies.length >= LIMITS.copies || unit.check || unit.isDisputed) return true
  if (s.hedgeBudget < 1) return false
  const { job } = unit
  const v = choose(s, job.class, restOf(unit), job, unit, true)
  if (!v) return false
  s.hedgeBudget--
  s.totals.hedged++
  job.hedged++
  assign(s, unit, v, true)
  return true
}

/** The lease ran out. The unit goes elsewhere; a late answer is welcome while it is open. */
function loseLease(s: State, lease: Lease): void {
  const v = lease.volunteer
  s.totals.leasesLost++
  const { service, gap } = speedOf(v, lease.unit.job.class)
  const waitedMs = s.now - (lease.watch?.since ?? s.now)
  if (lease.isStreaming) gap.doubt(waitedMs)
  else service.doubt(waitedMs / firstCost(lease))
  lease.unit.attempts++
  drop(s, lease)
  rest(s, v, LIMITS.restMs, LIMITS.restMsMax)
  cancel(s, lease)
}

/** No new work for a while, twice as long each time, until it answers something. */
export function rest(s: State, v: Volunteer, ms: Millis, most: Millis): void {
  v.restUntil = s.now + Math.min(most, ms << Math.min(v.rests++, 10))
  s.timers.push(v.restUntil, { kind: 'rest', volunteer: v })
  place(s, v)
}

/** Its volunteer is told to stop, and the unit goes to others. */
export function takeBack(s: State, lease: Lease): void {
  drop(s, lease)
  cancel(s, lease)
}

/** Its volunteer is told to stop. */
export function cancel(s: State, { id, volunteer }: Lease): void {
  s.emit({ type: 'send', volunteer: volunteer.id, message: { type: 'cancel', assignments: [id] } })
}

/** The lease is over without an answer; its unit is ready again unless another copy lives. */
export function drop(s: State, lease: Lease): void {
  const { unit } = lease
  lease.state = 'lost'
  release(s, lease)
  takeOut(unit.copies, lease)
  if (unit.state === 'leased' && unit.copies.length === 0) makeReady(s, unit)
}

/** Somebody is to take it. */
export function makeReady(s: State, unit: Unit): void {
  const c = unit.job.class
  // Nobody else was meant.
  if (unit.check?.isCanary) return closeUnit(s, unit)
  if (unit.check)
    return queueCheck(s, unit, unit.check.claim.waiting !== undefined || unit.check.text !== undefined)
  unit.state = 'ready'
  if (unit.isDisputed) c.checks.push(unit)
  else c.returned.push(unit)
  c.queuedCost += unit.cost
  c.queuedParts += unit.count
  s.touch(c)
}

/** A unit leaves `returned`, or the checks; the list itself is swept when it is read. */
export function takeReady(unit: Unit): void {
  const c = unit.job.class
  unit.state = 'leased'
  if (unit.check) return
  c.queuedCost -= unit.cost
  c.queuedParts -= unit.count
}
