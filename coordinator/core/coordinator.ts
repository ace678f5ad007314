/**
 * The coordinator as one deterministic machine: handle(event, now) → effects. The single writer of State.
 *
 * It knows no sockets, clock, chance or files: time comes with each event, randomness from a seed. The same events give the
 * same effects, in production, after a restart and in the simulator.
 */
import type { Hash } from '../../protocol/merkle.ts'
import type { JobId } from '../../protocol/nouns.ts'
import { abandonCheck, fillChecks, isPossible } from './checks.ts'
import { finalize, finalizeOld } from './claims.ts'
import { grant } from './credit.ts'
import { convict, onLeaves, placeNetwork } from './disputes.ts'
import type { Effect, Event, ServedModel } from './events.ts'
import { cancelJob, failJob, strand, submit } from './jobs.ts'
import { assign, startNext, takeReady, watchLeases } from './leases.ts'
import { LIMITS } from './limits.ts'
import { vestRestored } from './ledger.ts'
import { cut, restOf } from './planner.ts'
import { onFail, onResult, onTokens } from './results.ts'
import { onRecalled, restoreClaims } from './recall.ts'
import { POLICY } from './policy.ts'
import type { Policy, Restore } from './policy.ts'
import { choose, isTakeable } from './scheduler.ts'
import { hasCapacity, newClass, place, sortModels } from './classes.ts'
import { takeOut } from './lists.ts'
import { State } from './state.ts'
import type { Job, ModelClass, Unit, Volunteer } from './state.ts'
import { finishComplete, isComplete, stopChoice } from './streams.ts'
import { checkTail } from './tail.ts'
import { restoreRecords } from './trust.ts'
import { checkVolunteer, forgive, heard, join, leave, offers, onPong, setModels } from './volunteers.ts'

export interface CoordinatorOptions {
  /** Any 32 bits; the shell draws them. */
  seed: number
  /** Different in every life of the coordinator: ids of an earlier one mean nothing now. Letters and digits. */
  epoch: string
  /** For people: whose network this is. */
  operator: string
  models?: readonly ServedModel[]
  /** SHA-256. Without it inputs are not compared, and the lottery is drawn by chance. */
  hash?: Hash
  /** The lottery's first: 32 random bytes in hex, and their number. */
  secret?: string
  period?: number
  policy?: Partial<Policy>
  /** What an earlier life knew. */
  restore?: Restore
}

export class Coordinator {
  readonly state: State

  constructor(options: CoordinatorOptions) {
    const { seed, epoch, operator, models = [], hash, secret, period, policy, restore } = options
    this.state = new State(seed, epoch, operator, { ...POLICY, ...policy }, hash, secret, period)
    if (restore) restoreRecords(this.state, restore)
    for (const [requester, left] of restore?.credit ?? []) this.state.credit.set(requester, left)
    changeModels(this.state, models)
    this.state.effects = []
  }

  /** Effects are to be performed in their order. Time never goes back: an earlier `now` counts as the latest known. */
  handle(event: Event, now: number): Effect[] {
    const s = this.state
    const gap = now - s.now
    s.now = Math.max(s.now, now)
    if (gap > LIMITS.sleptMs) forgive(s, gap)
    expire(s)
    apply(s, event)
    for (let c = s.nextDirty(); c; c = s.nextDirty()) {
      fill(s, c)
      // What fill() itself did needs no second look: it ends only when nothing more can be given.
      c.isDirty = false
      watchCapacity(s, c)
      watchReferees(s, c)
    }
    endDrain(s)
    const { effects } = s
    s.effects = []
    return effects
  }

  /** When to send `time-passed`, at the latest; Infinity when nothing is due. */
  wakeAt(): number {
    const { timers, watches, deadlines } = this.state
    return Math.min(timers.key, watches.key, deadlines.key)
  }
}

function apply(s: State, event: Event): void {
  switch (event.type) {
    case 'volunteer-joined':
      return join(s, event)
    case 'job-submitted':
      return submit(s, event.job)
    case 'job-cancelled':
      return cancelJob(s, event.job, event.reason)
    case 'choice-stopped': {
      const job = s.jobs.get(event.job)
      return job && stopChoice(s, job, event.choice)
    }
    case 'models-changed':
      return changeModels(s, event.models)
    case 'drain-started':
      s.drain ??= { until: s.now + event.graceMs, retryMs: event.retryMs, isOver: false }
      s.timers.push(s.drain.until, { kind: 'drain' })
      return
    case 'credit-granted':
      return grant(s, event.requester, event.amount)
    case 'secret-drawn':
      s.secret = event.secret
      s.period = event.period
      return
    case 'unit-recalled':
      return onRecalled(s, event.unit, event.recalled)
    case 'time-passed':
      return
    case 'volunteer-left':
    case 'volunteer-congested':
    case 'message-received': {
      // The core may have let it go while the event was on its way.
      const v = s.volunteers.get(event.volunteer)
      if (!v) return
      if (event.type === 'volunteer-left') return leave(s, v)
      if (event.type === 'message-received') return receive(s, v, event.message)
      v.isCongested = event.isCongested
      return place(s, v)
    }
  }
}

function receive(
  s: State,
  v: Volunteer,
  message: Extract<Event, { type: 'message-received' }>['message'],
): void {
  heard(s, v)
  switch (message.type) {
    case 'result':
      return onResult(s, v, message)
    case 'tokens':
      return onTokens(s, v, message)
    case 'fail':
      return onFail(s, v, message)
    case 'slots':
      v.slots = message.slots
      v.concurrency = message.concurrency
      startNext(s, v)
      return place(s, v)
    case 'state':
      v.state = message.state
      v.reason = message.reason
      v.isHidden = message.isHidden
      return sortModels(s, v)
    case 'models':
      setModels(v, message.models)
      return sortModels(s, v)
    case 'pong':
      return onPong(s, v, message.nonce)
    case 'leaves':
      return onLeaves(s, v, message.assignment, message.leaves)
  }
}

/** Whatever was due up to now. */
function expire(s: State): void {
  while (s.deadlines.key <= s.now) expireJob(s, s.deadlines.pop()!)
  watchLeases(s)
  while (s.timers.key <= s.now) {
    const at = s.timers.key
    const timer = s.timers.pop()!
    switch (timer.kind) {
      case 'volunteer':
        checkVolunteer(s, timer.volunteer)
        break
      case 'rest':
        if (!timer.volunteer.isGone) place(s, timer.volunteer)
        break
      case 'class':
        if (timer.class.timerAt === at) {
          timer.class.timerAt = Infinity
          s.touch(timer.class)
        }
        break
      case 'tail':
        checkTail(s, timer.record)
        break
      case 'claims':
        finalizeOld(s)
        break
      case 'trial':
        convict(s, timer.trial)
        break
      case 'alarm':
        placeNetwork(s, timer.network)
        break
      case 'restored':
        if (timer.claims) {
          restoreClaims(s, timer.claims)
          s.timers.push(s.now + s.policy.windowMs, { kind: 'restored', claims: undefined })
        } else for (const record of s.records.values()) if (record.restored) vestRestored(s, record)
        break
      case 'drain':
        for (const job of s.jobs.values())
          failJob(s, job, {
            code: 'draining',
            message: 'The coordinator shut down before this was done.',
            retryMs: s.drain?.retryMs,
          })
    }
  }
}

function expireJob(s: State, id: JobId): void {
  const job = s.jobs.get(id)
  if (!job) return
  const seconds = (job.deadlineAt - job.submittedAt) / 1000
  failJob(s, job, { code: 'deadline_exceeded', message: `Not done within ${seconds} s.` })
}

/** Gives ready units to free slots until either runs out: first what came back, then by fair share. */
function fill(s: State, c: ModelClass): void {
  while (fillChecks(s, c));
  while (fillReturned(s, c));
  if (c.parked.size > 0 && canCheckAny(c)) unpark(c)
  for (;;) {
    if (!c.idle.size && !c.spare.size && !c.freeHouses.size) return
    const job = c.queue.peek()
    if (!job) return
    const v = choose(s, c, Math.min(job.restCost, LIMITS.unitMsMin / c.service.mean), job)
    if (!v) {
      if (mayBeUnchecked(job) || canCheckAny(c)) return
      job.isParked = true
      c.parked.add(job)
      continue
    }
    const unit = cut(s, job, v)
    c.queue.charge(unit.cost)
    assign(s, unit, v, false)
  }
}

/** Whether anybody is here who checks others. */
const canCheckAny = (c: ModelClass): boolean => c.referees.size > 0 || c.veterans.size > 0

const mayBeUnchecked = ({ spec: { trust } }: Job): boolean => trust === 'fast' || trust === 'exact'

function unpark(c: ModelClass): void {
  for (const job of c.parked) {
    const { spec } = job
    job.isParked = false
    c.queue.push(job, spec.priority, spec.requester, spec.weight)
  }
  c.parked.clear()
}

/** Disputed units wait among the checks. */
const isWaiting = (unit: Unit): boolean => unit.state === 'ready' && !unit.isDisputed

/** One unit that came back, to somebody who may take it. */
function fillReturned(s: State, c: ModelClass): boolean {
  const { returned } = c
  while (c.returnedHead < returned.length && !isWaiting(returned[c.returnedHead]!)) c.returnedHead++
  if (c.returnedHead === returned.length) {
    returned.length = 0
    c.returnedHead = 0
    return false
  }
  const end = Math.min(returned.length, c.returnedHead + LIMITS.scan)
  for (let i = c.returnedHead; i < end; i++) {
    const unit = returned[i]!
    if (!isWaiting(unit)) continue
    if (isComplete(unit)) {
      finishComplete(s, unit)
      return true
    }
    if (!isTakeable(c, unit)) unit.excluded = []
    const v = choose(s, c, restOf(unit), unit.job, unit)
    if (!v) continue
    takeReady(unit)
    assign(s, unit, v, false)
    // The first place takes this one's neighbours along, so that the list only ever shrinks at its head.
    returned.copyWithin(c.returnedHead + 1, c.returnedHead, i)
    c.returnedHead++
    return true
  }
  return false
}

/** Work without anybody who could do it, or only a house that is not to be asked yet, is looked at again in time. */
function watchCapacity(s: State, c: ModelClass): void {
  if (c.openJobs === 0 || hasCapacity(c)) {
    c.strandedSince = undefined
    if (c.queuedParts > 0 && c.freeHouses.size) wakeClass(s, c, s.now + LIMITS.houseMs)
    return
  }
  c.strandedSince ??= s.now
  const until = c.strandedSince + LIMITS.strandedMs
  if (s.now < until) return wakeClass(s, c, until)
  if (c.loading.size) return wakeClass(s, c, s.now + LIMITS.strandedMs)
  strand(s, c)
}

/** Checks nobody waits for, and nobody is here to make: given up in time, so that their authors may go on. */
function watchReferees(s: State, c: ModelClass): void {
  if (c.referees.size > 0 || c.laterChecks.length === 0) {
    c.unjudgedSince = undefined
    return
  }
  c.unjudgedSince ??= s.now
  const until = c.unjudgedSince + LIMITS.strandedMs
  if (s.now < until) return wakeClass(s, c, until)
  for (const unit of c.laterChecks.splice(0)) {
    if (unit.state !== 'ready') continue
    if (unit.check && !isPossible(c, unit.check)) abandonCheck(s, unit.check)
    else c.laterChecks.push(unit)
  }
  c.unjudgedSince = undefined
}

function wakeClass(s: State, c: ModelClass, at: number): void {
  if (c.timerAt <= at) return
  c.timerAt = at
  s.timers.push(at, { kind: 'class', class: c })
}

/** Nobody computes this model any more: what was said of it stays as it is. */
function finalizeClass(s: State, c: ModelClass): void {
  for (const claim of s.claims.slice(s.claimsHead)) {
    if (claim.class !== c) continue
    if (claim.check) abandonCheck(s, claim.check)
    finalize(s, claim)
  }
}

function changeModels(s: State, models: readonly ServedModel[]): void {
  const wanted = new Map(models.map((m) => [m.digest, m]))
  for (const c of s.classes.values()) {
    if (wanted.has(c.model.digest)) continue
    for (const job of s.jobsIn(c))
      failJob(s, job, { code: 'model_not_found', message: `${c.model.name} is no longer served.` })
    finalizeClass(s, c)
    s.classes.delete(c.model.digest)
    takeOut(s.dirty, c)
  }
  for (const model of models)
    if (!s.classes.has(model.digest)) s.classes.set(model.digest, newClass(model, s.classCounter++))
  for (const v of s.volunteers.values()) {
    sortModels(s, v)
    s.emit({ type: 'send', volunteer: v.id, message: { type: 'models', models: offers(s) } })
  }
}

/** Once nothing is left to do, volunteers are sent away and the shell may stop. */
function endDrain(s: State): void {
  if (!s.drain || s.drain.isOver || s.jobs.size) return
  s.drain.isOver = true
  for (const v of s.volunteers.values())
    s.emit({ type: 'send', volunteer: v.id, message: { type: 'drain', retryMs: s.drain.retryMs } })
  s.emit({ type: 'finish-drain' })
}
