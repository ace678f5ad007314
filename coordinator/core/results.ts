/** What volunteers answer: tokens as they are drawn, results, failures. Nothing here trusts more than a shape. */
import { sliceLogprobs } from '../../protocol/logprobs.ts'
import type { Logprobs, Output, Progress, Result } from '../../protocol/nouns.ts'
import type { FromVolunteer } from '../../protocol/messages.ts'
import { askKnown } from './canaries.ts'
import { abandonCheck, firstDifference, isSameToken, onCheckResult } from './checks.ts'
import type { Answer } from './checks.ts'
import { inputDigest, newClaim } from './claims.ts'
import type { Claim } from './claims.ts'
import { judgeClaim } from './decide.ts'
import { accuse, accuseWriters, correctText, objectorOf } from './disputes.ts'
import { failJob } from './jobs.ts'
import { cancel, drop, progressed, rest, takeBack } from './leases.ts'
import { LIMITS } from './limits.ts'
import { isTakeable } from './scheduler.ts'
import { place, sortModels, speedOf } from './classes.ts'
import { shapeOf } from './state.ts'
import type { Lease, Objection, State, Unit, Volunteer } from './state.ts'
import { areTokens, deliver, restTokens, spanAt } from './streams.ts'
import { checkChunk, dropReading } from './texts.ts'
import { strike } from './volunteers.ts'

/** The lease an answer is about, or null: late, or none of this volunteer's business. */
function leaseOf(s: State, v: Volunteer, id: Lease['id']): Lease | null {
  const lease = s.leases.get(id)
  if (lease?.identity === v.identity) return lease
  const [, number, epoch] = /^a(\d+)-(.*)$/.exec(id) ?? []
  // Ids of an earlier life of the coordinator, and of units answered meanwhile, are honest.
  if (lease || !number || (epoch === s.epoch && Number(number) >= s.counter))
    strike(s, v, 'unknown_assignment', `${id} was never assigned to you.`)
  return null
}

export function onTokens(s: State, v: Volunteer, message: Progress): void {
  const lease = leaseOf(s, v, message.assignment)
  if (!lease) return
  const { unit } = lease
  const { spec } = unit.job
  if (spec.kind !== 'generate') return strike(s, v, 'not_a_stream', `${lease.id} is no generate unit.`)
  const { position, from = position } = message
  const end = position + message.tokens.length
  const most = lease.base + restTokens(unit)
  if (!hasLogprobs(unit, message)) return refuse(s, v, lease, 'not the log-probabilities that were asked for')
  // After a broken connection a stream is sent again from where its sender is sure; it may repeat, not skip.
  const isDue = from >= lease.base && from <= position && position <= lease.nextPosition
  if (!isDue || end > most || !areTokens(unit.job, message.tokens))
    return refuse(s, v, lease, `tokens ${position} to ${end} where ${lease.nextPosition} to ${most} were due`)
  // What it signed first it stands by to the end.
  const begun = unit.spans.find(({ assignment }) => assignment === lease.id)?.signed
  if (begun && begun.from !== from - lease.base)
    return refuse(
      s,
      v,
      lease,
      `tokens signed from ${from} on, before they were from ${lease.base + begun.from} on`,
    )
  // Who says the same again and again gets nowhere.
  if (lease.state === 'live' && end > lease.nextPosition) progressed(s, lease)
  lease.nextPosition = Math.max(lease.nextPosition, end)
  // A check is judged as a whole; while two contradict each other, only the trusted engine's whole answer counts.
  if (unit.check || unit.isDisputed) return
  const known = deliver(s, lease, message)
  if (known === null) return checkChunk(s, unit)
  // What a trusted engine says otherwise is settled by its whole answer, which is on its way.
  if (v.reputation.isTrusted) dispute(s, unit, lease)
  else contradict(s, v, lease, known, message)
}

export function onResult(s: State, v: Volunteer, message: Result): void {
  const lease = leaseOf(s, v, message.assignment)
  if (!lease) {
    s.totals.lateResults++
    return
  }
  const { unit } = lease
  const { output } = message
  const flaw = flawOf(unit, lease, output)
  if (flaw) return refuse(s, v, lease, flaw)
  const { check } = unit
  if (message.input !== undefined) {
    const due = inputDigest(s, unit)
    if (due !== null && message.input !== due)
      return refuse(s, v, lease, 'the answer to another question: its input digest is not that of the unit')
  }
  if (unit.isDisputed && !v.reputation.isTrusted) {
    s.totals.lateResults++
    return drop(s, lease)
  }
  if (output.kind === 'generate' && !check) {
    const at = deliver(s, lease, output)
    if (at !== null && !v.reputation.isTrusted) return contradict(s, v, lease, at, output, message)
  }
  learn(s, v, lease, output)
  v.units++
  v.computeMs += message.computeMs
  if (check) return onCheckResult(s, v, check, message, lease)
  answered(s, v, unit, lease, message)
  askKnown(s, unit.job.class, v)
}

/** A whole answer to a requester's unit, as far as shapes can tell. */
function answered(s: State, v: Volunteer, unit: Unit, lease: Lease, result: Result): void {
  const { output } = result
  const claim = newClaim(s, unit, v.reputation, lease.id, result)
  claim.waiting = {
    unit,
    output,
    finish: output.kind === 'generate' ? output.finish : 'stop',
    volunteer: v,
    computeMs: result.computeMs,
    isExact: unit.job.spec.trust === 'exact',
  }
  if (v.reputation.isTrusted) {
    const truth = { by: v.reputation, result }
    if (output.kind === 'generate') settleStream(s, unit, claim, truth)
    for (const objection of unit.objections)
      if (isWrongObjection(objection, result)) accuse(s, objection.accused, truth)
  }
  judgeClaim(s, unit, claim, lease)
}

/** A trusted engine's text: whoever drew something else first was wrong, and what was delivered is replaced. */
function settleStream(s: State, unit: Unit, claim: Claim, truth: Answer): void {
  const { output } = truth.result
  if (output.kind !== 'generate') return
  if (firstDifference(unit, truth.result) === null) return
  const streamed = newClaim(s, unit, claim.by, claim.assignment, null)
  unit.tokens = Array.from(output.tokens)
  unit.logprobs = output.logprobs && Array.from(output.logprobs.values)
  correctText(s, unit.id, claim, truth)
  s.totals.wrong++
  accuseWriters(s, streamed, truth)
}

function isWrongObjection(
  { accused: { output, root }, at, id, logprobs }: Objection,
  { output: truth, digest, root: due }: Result,
): boolean {
  if (output !== null) return output !== digest || (root !== null && due !== undefined && root !== due)
  if (truth.kind !== 'generate') return false
  return truth.tokens[at] !== id || !isSameToken(logprobs, 0, truth.logprobs, at)
}

/** Two volunteers drew different tokens. Who was wrong, a trusted engine says; without one, others go on, and nobody is accused. */
function contradict(
  s: State,
  v: Volunteer,
  lease: Lease,
  at: number,
  said: Omit<Progress, 'assignment'>,
  result?: Result,
): void {
  const { unit } = lease
  s.totals.disagreements++
  if (unit.job.class.referees.size === 0) {
    const isItsOwn = spanAt(unit, at)?.by === v.reputation
    return isItsOwn ? refuse(s, v, lease, 'other tokens than it sent before') : setAside(s, v, lease)
  }
  const i = at - (said.position - lease.base)
  const id = said.tokens[i]!
  const logprobs = said.logprobs && sliceLogprobs(said.logprobs, i, i + 1).values.slice()
  const claim = newClaim(s, unit, v.reputation, lease.id, result ?? null)
  const accused = result ? claim : objectorOf(s, claim, said)
  unit.objections = [...unit.objections, { accused, at, id, logprobs }]
  if (result) drop(s, lease)
  dispute(s, unit)
}

/** From now on only a trusted engine may compute it. @param its the lease of the one that does */
function dispute(s: State, unit: Unit, its?: Lease): void {
  if (unit.isDisputed) return
  unit.isDisputed = true
  s.totals.disputes++
  dropReading(s, unit)
  for (const copy of unit.copies.slice()) if (copy !== its) takeBack(s, copy)
  if (unit.state !== 'ready') return
  // It became ready before it was disputed, or as its last copy was dropped: either way only the trusted look at it now.
  const c = unit.job.class
  if (!c.checks.includes(unit)) c.checks.push(unit)
  s.touch(c)
}

/** Whether there are log-probabilities of as many tokens as were asked for, or none where none were. */
const hasLogprobs = ({ job: { spec }, first }: Unit, { logprobs }: { logprobs?: Logprobs }): boolean =>
  spec.kind === 'generate' && logprobs?.top === spec.choices[first]!.options.logprobs

/** What is wrong with the shape of an answer, if anything. */
function flawOf(unit: Unit, lease: Lease, output: Output): string | null {
  const { spec, class: c } = unit.job
  const { model } = c
  if (output.kind !== spec.kind) return `an answer to ${output.kind}`
  if (output.kind !== 'generate') {
    const { width, bits } = shapeOf(model, spec.kind)!
    if (output.rows === unit.count && output.width === width && output.bits === bits) return null
    return `${output.rows}x${output.width} Q${output.bits} where ${unit.count}x${width} Q${bits} was due`
  }
  const { position, tokens, finish } = output
  const most = restTokens(unit)
  if (!hasLogprobs(unit, output)) return 'not the log-probabilities that were asked for'
  if (position !== lease.base || tokens.length < 1 || tokens.length > most || !areTokens(unit.job, tokens))
    return `${tokens.length} tokens from ${position} where up to ${most} from ${lease.base} were due`
  const hasEnded = model.endIds.includes(tokens.at(-1)!)
  if ((finish === 'stop') !== hasEnded || (finish === 'length' && tokens.length < most))
    return `an early end (${finish})`
  return null
}

/** An answer nobody can use: the unit goes to others, and this volunteer has one life less. */
function refuse(s: State, v: Volunteer, lease: Lease, what: string): void {
  setAside(s, v, lease)
  strike(s, v, 'invalid_result', `${lease.id}: ${what}.`)
}

/** The unit goes to others. */
function setAside(s: State, v: Volunteer, lease: Lease): void {
  const { unit } = lease
  if (lease.state === 'live') cancel(s, lease)
  unit.attempts++
  blame(unit, v)
  drop(s, lease)
  s.leases.delete(lease.id)
  judge(s, unit)
}

/** What an answer says about its volunteer's speed. */
function learn(s: State, v: Volunteer, lease: Lease, output: Output): void {
  v.rests = 0
  if (v.restUntil > s.now) {
    v.restUntil = 0
    place(s, v)
  }
  if (lease.startedAt === undefined) return
  // A unit that waited at the volunteer began when the one before it arrived here, so its time holds no round trip.
  const rtt = lease.startedAt === lease.sentAt ? v.rttMs.mean : 0
  const elapsed = s.now - lease.startedAt
  // A clock that stood still measures nothing.
  const ms = Math.max(elapsed - rtt, elapsed / 10, LIMITS.measuredMsMin)
  const drawn = output.kind === 'generate' ? Math.max(0, lease.base + output.tokens.length - lease.from) : 0
  const cost = output.kind === 'generate' ? lease.from + LIMITS.drawCost * drawn : lease.cost
  const c = lease.unit.job.class
  speedOf(v, c).service.observe(ms / cost)
  c.service.observe(ms / cost)
  v.serviceMs.observe(ms)
}

export function onFail(s: State, v: Volunteer, message: Extract<FromVolunteer, { type: 'fail' }>): void {
  const lease = leaseOf(s, v, message.assignment)
  if (!lease || lease.state !== 'live') return
  const { unit } = lease
  const { reason } = message
  s.leases.delete(lease.id)
  if (reason === 'returned') {
    drop(s, lease)
    // Somebody who keeps taking work and giving it back would be given the same for ever.
    if (v.state === 'open') rest(s, v, LIMITS.restMs, LIMITS.restMsMax)
    return
  }
  unit.attempts++
  blame(unit, v)
  drop(s, lease)
  if (reason === 'model-missing') {
    v.models.set(unit.job.spec.model, { digest: unit.job.spec.model, state: 'absent' })
    sortModels(s, v)
  } else rest(s, v, LIMITS.failRestMs, LIMITS.failRestMsMax)
  s.emit({
    type: 'note',
    level: 'warn',
    volunteer: v.id,
    job: unit.job.spec.id,
    text: `unit failed: ${reason} ${message.detail ?? ''}`,
  })
  judge(s, unit)
}

function blame(unit: Unit, v: Volunteer): void {
  unit.excluded = [...unit.excluded, v.identity]
  if (!unit.failedBy.some((f) => f.identity === v.identity)) unit.failedBy = [...unit.failedBy, v]
}

/** After a failure: a unit that several volunteers failed is wrong itself; one that nobody may take any more may be tried again. */
export function judge(s: State, unit: Unit): void {
  if (unit.state === 'done') return
  if (unit.check) {
    // Those who may check are few: they may try again, until it is clear that nobody can.
    if (unit.attempts >= LIMITS.attempts) abandonCheck(s, unit.check)
    else unit.excluded = []
    return
  }
  if (unit.isDisputed) unit.excluded = []
  if (unit.failedBy.length >= LIMITS.failures || unit.attempts >= LIMITS.attempts) {
    // The unit was to blame, so nobody has to rest for it: or one bad request could put a network to sleep.
    for (const v of unit.failedBy) {
      v.rests = 0
      v.restUntil = Math.min(v.restUntil, s.now)
      place(s, v)
    }
    const message = `${unit.failedBy.length} volunteers failed a part of this request, in ${unit.attempts} tries.`
    failJob(s, unit.job, { code: 'internal', message })
  } else if (!isTakeable(unit.job.class, unit)) unit.excluded = []
}
