/** The life of a job: accepted or refused at once, cut into units as they are sent, finished, failed or cancelled. */
import type { JobId, Millis } from '../../protocol/nouns.ts'
import type { JobError, JobSpec, JobSummary } from './events.ts'
import { canVerify, dropCheck } from './checks.ts'
import { lackOf } from './credit.ts'
import { Heap } from './heap.ts'
import { reserve, settleUp } from './ledger.ts'
import { cancel, release, takeReady } from './leases.ts'
import { LIMITS } from './limits.ts'
import { tokensOf, totalCost } from './planner.ts'
import { dropReading } from './texts.ts'
import { hasCapacity, roomOf } from './classes.ts'
import { added, NONE, takeOut } from './lists.ts'
import { partsOf, shapeOf } from './state.ts'
import type { Job, Lease, ModelClass, State, Unit, Volunteer } from './state.ts'

export function submit(s: State, spec: JobSpec): void {
  const error = objection(s, spec)
  if (error) {
    s.totals.jobsRefused++
    s.emit({ type: 'refuse-job', job: spec.id, error })
    return
  }
  const c = s.classes.get(spec.model)!
  const deadlineMs = Math.min(spec.deadlineMs ?? LIMITS.deadlineMs, LIMITS.deadlineMsMax)
  const cost = totalCost(spec)
  const job: Job = {
    spec,
    class: c,
    submittedAt: s.now,
    deadlineAt: s.now + deadlineMs,
    firstSentAt: undefined,
    next: 0,
    restCost: cost,
    open: NONE,
    units: 0,
    redispatched: 0,
    hedged: 0,
    work: NONE,
    need: needOf(spec, c.model.context),
    isOver: false,
    isParked: false,
    reserved: 0,
    unpaid: NONE,
    verification: undefined,
  }
  s.emit({ type: 'accept-job', job: spec.id, expectedWaitMs: Math.round(expectedWaitMs(c)) })
  reserve(s, job)
  s.jobs.set(spec.id, job)
  s.jobsOf.set(spec.requester, (s.jobsOf.get(spec.requester) ?? 0) + 1)
  s.tokensQueued += tokensOf(spec)
  s.totals.jobsAccepted++
  c.openJobs++
  c.queuedCost += cost
  c.queuedParts += partsOf(spec)
  c.queue.push(job, spec.priority, spec.requester, spec.weight)
  if (s.deadlines.size > 1000 + 2 * s.jobs.size) {
    s.deadlines = new Heap()
    for (const { spec, deadlineAt } of s.jobs.values()) s.deadlines.push(deadlineAt, spec.id)
  } else s.deadlines.push(job.deadlineAt, spec.id)
  s.touch(c)
}

/** Tokens the longest sequence of a job may reach. */
function needOf(spec: JobSpec, context: number): number {
  let most = 0
  if (spec.kind === 'generate')
    for (const { prompt, options } of spec.choices) most = Math.max(most, prompt.length + options.maxTokens)
  else for (const row of spec.rows) most = Math.max(most, row.length)
  return Math.min(most, context)
}

/** Asks a sample: somebody nearly always has the model's whole context. */
function hasRoom(c: ModelClass, need: number): boolean {
  for (const pool of [c.houses, c.capable])
    for (let i = 0; i < Math.min(pool.size, 2 * LIMITS.sample); i++)
      if (roomOf(pool.at(i), c) >= need) return true
  return false
}

/** Why a job can't be taken; found before anything is spent on it. */
function objection(s: State, spec: JobSpec): JobError | null {
  if (s.drain) {
    return { code: 'draining', message: 'This coordinator is shutting down.', retryMs: s.drain.retryMs }
  }
  const c = s.classes.get(spec.model)
  if (!c) return { code: 'model_not_found', message: `No model here has the digest ${spec.model}.` }
  const { model } = c
  if (!shapeOf(model, spec.kind))
    return { code: 'invalid_request', message: `${model.name} can ${model.task}, not ${spec.kind}.` }
  const parts = partsOf(spec)
  const most = spec.kind === 'generate' ? LIMITS.choices : LIMITS.rows
  if (parts < 1 || parts > most)
    return { code: 'invalid_request', message: `${parts} inputs, 1 to ${most} are possible.` }
  const wrong =
    spec.kind === 'generate' ? wrongChoice(spec, model.context) : wrongRow(spec.rows, model.context)
  if (wrong) return wrong
  if (s.jobs.has(spec.id)) return { code: 'invalid_request', message: `There is a job ${spec.id} already.` }
  if (s.jobs.size >= LIMITS.jobs || s.tokensQueued + tokensOf(spec) > LIMITS.tokensQueued)
    return { code: 'overloaded', message: 'Too much is waiting here already.', retryMs: retryMs(c) }
  if ((s.jobsOf.get(spec.requester) ?? 0) >= LIMITS.jobsPerRequester)
    return {
      code: 'rate_limited',
      message: `${LIMITS.jobsPerRequester} of your requests are waiting already.`,
      retryMs: retryMs(c),
    }
  const lack = lackOf(s, model, spec)
  if (lack || spec.mayWait) return lack
  if (!hasCapacity(c)) return noCapacity(c)
  const need = needOf(spec, model.context)
  if (!hasRoom(c, need)) {
    const message = `No volunteer that is here now has room for ${need} tokens of ${model.name}.`
    return { code: 'no_capacity', message }
  }
  if (spec.trust !== 'fast' && !canVerify(c, spec.trust === 'exact')) return cannotVerify(c, spec.trust)
  const wait = expectedWaitMs(c)
  const deadline = spec.deadlineMs ?? LIMITS.deadlineMs
  if (wait > deadline) {
    return {
      code: 'overloaded',
      message: `${model.name} has about ${seconds(wait)} of work waiting, longer than the deadline of ${seconds(deadline)}.`,
      retryMs: Math.round(wait - deadline),
    }
  }
  return null
}

const wrongChoice = (spec: Extract<JobSpec, { kind: 'generate' }>, context: number): JobError | null => {
  for (const { prompt, options } of spec.choices) {
    if (prompt.length < 1) return { code: 'invalid_request', message: 'A prompt has no tokens.' }
    if (!(options.maxTokens >= 1))
      return { code: 'invalid_request', message: 'maxTokens must be at least 1.' }
    if (prompt.length >= context) return tooLong(prompt.length, context - 1)
  }
  return null
}

function wrongRow(rows: readonly Uint32Array[], context: number): JobError | null {
  for (const row of rows) {
    if (row.length < 1) return { code: 'invalid_request', message: 'An input has no tokens.' }
    if (row.length > context) return tooLong(row.length, context)
  }
  return null
}

const tooLong = (length: number, room: number): JobError => ({
  code: 'context_length_exceeded',
  message: `An input has ${length} tokens; this model takes ${room}.`,
})

function noCapacity(c: ModelClass): JobError {
  const loading = c.loading.size
  let etaMs = Infinity
  for (let i = 0; i < Math.min(loading, LIMITS.sample); i++)
    etaMs = Math.min(etaMs, c.loading.at(i).models.get(c.model.digest)?.etaMs ?? Infinity)
  const who = `No volunteer can run ${c.model.name} right now.`
  if (!loading) return { code: 'no_capacity', message: `${who} Nobody is loading it.` }
  if (etaMs === Infinity)
    return { code: 'no_capacity', message: `${who} ${loading} ${are(loading)} loading it.` }
  return {
    code: 'no_capacity',
    message: `${who} ${loading} ${are(loading)} loading it; about ${seconds(etaMs)}.`,
    etaMs,
  }
}

function cannotVerify({ model, loading }: ModelClass, trust: JobSpec['trust'] = 'checked'): JobError {
  let message = `Nobody here can check an answer of ${model.name} before it is delivered, as "${trust}" asks.`
  for (let i = 0; i < Math.min(loading.size, LIMITS.sample); i++)
    if (loading.at(i).reputation.isTrusted) message += ' A trusted engine is loading it.'
  return { code: 'no_capacity', field: 'trust', message: `${message} Answers can be had with trust "fast".` }
}

const are = (n: number): string => (n === 1 ? 'is' : 'are')
const seconds = (ms: Millis): string => `${Math.ceil(ms / 1000)} s`
const retryMs = (c: ModelClass): Millis =>
  Math.round(Math.min(60_000, Math.max(1_000, expectedWaitMs(c) / 2)))

/** Until something submitted now would begin: queued cost over the speed of everybody who can run it. */
export function expectedWaitMs(c: ModelClass): Millis {
  return (c.queuedCost * c.service.mean) / Math.max(1, c.capable.size + c.houses.size)
}

/** The coordinator's own reasons to give up what it had accepted. */
const OURS: readonly JobError['code'][] = ['draining', 'internal', 'no_capacity', 'model_not_found']

/** What is left of a job's work belongs to nobody now. */
function endJob(s: State, job: Job, error?: JobError): void {
  job.isOver = true
  const c = job.class
  c.queuedCost -= job.restCost
  c.queuedParts -= partsOf(job.spec) - job.next
  const { open } = job
  job.open = NONE
  for (const unit of open) {
    if (unit.claim?.check) dropCheck(s, unit.claim.check)
    closeUnit(s, unit)
  }
  settleUp(s, job, error !== undefined && OURS.includes(error.code))
  c.openJobs--
  c.parked.delete(job)
  s.jobs.delete(job.spec.id)
  const left = (s.jobsOf.get(job.spec.requester) ?? 1) - 1
  if (left) s.jobsOf.set(job.spec.requester, left)
  else s.jobsOf.delete(job.spec.requester)
  s.tokensQueued -= tokensOf(job.spec)
}

/** Ends a unit, answered or not: whoever else works on it is told to stop. @param answered the lease that needs no cancel */
export function closeUnit(s: State, unit: Unit, answered?: Lease): void {
  endLeases(s, unit, answered)
  unit.state = 'done'
  takeOut(unit.job.open, unit)
}

/** Nobody is to work on a unit any more, or to read what was written of it. */
export function endLeases(s: State, unit: Unit, answered?: Lease): void {
  dropReading(s, unit)
  if (unit.state === 'ready') takeReady(unit)
  const { copies } = unit
  unit.copies = NONE
  for (const lease of copies) {
    lease.state = 'lost'
    release(s, lease)
    if (lease !== answered && !lease.volunteer.isGone) cancel(s, lease)
  }
  for (const id of unit.leases) s.leases.delete(id)
}

/** A unit's answer is complete and delivered. */
export function finishUnit(s: State, unit: Unit, answered?: Lease): void {
  const { job } = unit
  closeUnit(s, unit, answered)
  s.totals.unitsDone++
  if (job.open.length || job.next < partsOf(job.spec)) return
  endJob(s, job)
  s.totals.jobsDone++
  s.emit({ type: 'finish-job', job: job.spec.id, summary: summaryOf(s, job) })
}

export function failJob(s: State, job: Job, error: JobError): void {
  if (job.isOver) return
  endJob(s, job, error)
  // It may have stood before others.
  s.touch(job.class)
  if (error.code === 'cancelled') s.totals.jobsCancelled++
  else s.totals.jobsFailed++
  s.emit({ type: 'fail-job', job: job.spec.id, error, summary: summaryOf(s, job) })
}

export function cancelJob(s: State, id: JobId, reason: string): void {
  const job = s.jobs.get(id)
  if (job) failJob(s, job, { code: 'cancelled', message: reason })
}

/** Somebody contributed to a job: units finished, tokens or rows delivered. */
export function credit(job: Job, v: Volunteer, units: number, items: number, computeMs: number): void {
  for (const work of job.work) {
    if (work.volunteer !== v.id) continue
    work.units += units
    work.items += items
    work.computeMs += computeMs
    return
  }
  job.work = added(job.work, { volunteer: v.id, isHouse: v.isHouse, units, items, computeMs })
}

function summaryOf(s: State, job: Job): JobSummary {
  return {
    units: job.units,
    redispatched: job.redispatched,
    hedged: job.hedged,
    queuedMs: (job.firstSentAt ?? s.now) - job.submittedAt,
    totalMs: s.now - job.submittedAt,
    volunteers: job.work,
    verification: job.verification ?? 'unverified',
  }
}

/** The class's accepted jobs when nobody who could run them came back in time. */
export function strand(s: State, c: ModelClass): void {
  for (const job of s.jobsIn(c)) if (!job.spec.mayWait) failJob(s, job, noCapacity(c))
}
