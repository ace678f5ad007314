/** What volunteers answer: tokens as they are drawn, results, failures. Nothing here trusts more than a shape. */
import type { Logprobs, Output, Progress, Result } from '../../protocol/nouns.ts'
import type { FromVolunteer } from '../../protocol/messages.ts'
import { credit, failJob, finishUnit } from './jobs.ts'
import { drop, progressed, rest } from './leases.ts'
import { LIMITS } from './limits.ts'
import { isTakeable } from './scheduler.ts'
import { place, shapeOf, sortModels, speedOf } from './state.ts'
import type { Job, Lease, State, Unit, Volunteer } from './state.ts'
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
  const end = message.position + message.tokens.length
  const most = lease.base + restTokens(unit, lease)
  // After a broken connection a stream is sent again from where its sender is sure; it may repeat, not skip.
  const isDue = message.position >= lease.base && message.position <= lease.nextPosition
  if (!isDue || end > most || !areTokens(unit.job, message.tokens))
    return refuse(
      s,
      v,
      lease,
      `tokens ${message.position} to ${end} where ${lease.nextPosition} to ${most} were due`,
    )
  if (lease.state === 'live') progressed(s, lease)
  lease.nextPosition = Math.max(lease.nextPosition, end)
  if (!deliver(s, v, unit, message.position, message.tokens, message.logprobs))
    refuse(s, v, lease, 'other tokens than were delivered before')
}

export function onResult(s: State, v: Volunteer, message: Result): void {
  const lease = leaseOf(s, v, message.assignment)
  if (!lease) {
    s.totals.lateResults++
    return
  }
  const { unit } = lease
  const { job } = unit
  const { output } = message
  const flaw = flawOf(unit, lease, output)
  if (flaw) return refuse(s, v, lease, flaw)
  if (output.kind === 'generate' && !deliver(s, v, unit, output.position, output.tokens, output.logprobs))
    return refuse(s, v, lease, 'another answer than was delivered before')

  learn(s, v, lease, output)
  credit(job, v, 1, output.kind === 'generate' ? 0 : output.rows, message.computeMs)
  v.units++
  v.computeMs += message.computeMs
  if (output.kind === 'generate') {
    const { finish } = output
    s.emit({
      type: 'finish-choice',
      job: job.spec.id,
      choice: unit.first,
      finish,
      tokens: unit.tokens.length,
    })
  } else {
    const { rows, width, bits, values } = output
    s.totals.rowsDone += rows
    s.emit({ type: 'deliver-rows', job: job.spec.id, first: unit.first, rows, width, bits, values })
  }
  finishUnit(s, unit, lease)
}

/** Hands on what is new of a stream. False when it contradicts what was handed on before. */
function deliver(
  s: State,
  v: Volunteer,
  unit: Unit,
  position: number,
  tokens: Uint32Array,
  logprobs?: Logprobs,
): boolean {
  const { job, tokens: drawn } = unit
  if (job.spec.kind !== 'generate') return false
  const at = position - job.spec.choices[unit.first]!.prompt.length
  const known = Math.min(drawn.length - at, tokens.length)
  for (let i = 0; i < known; i++) {
    if (drawn[at + i] === tokens[i]) continue
    s.totals.disagreements++
    return false
  }
  if (known === tokens.length) return true
  const index = drawn.length
  const fresh = Array.from(tokens.subarray(known))
  for (const id of fresh) drawn.push(id)
  s.totals.tokensDrawn += fresh.length
  credit(job, v, 0, fresh.length, 0)
  const words = logprobs && 2 * (1 + logprobs.top)
  s.emit({
    type: 'deliver-tokens',
    job: job.spec.id,
    choice: unit.first,
    index,
    tokens: fresh,
    logprobs: words ? { top: logprobs.top, values: logprobs.values.subarray(known * words) } : undefined,
  })
  return true
}

/** Most tokens this lease may draw. */
function restTokens(unit: Unit, lease: Lease): number {
  const { spec, class: c } = unit.job
  if (spec.kind !== 'generate') return 0
  const { prompt, options } = spec.choices[unit.first]!
  return Math.min(options.maxTokens - (lease.base - prompt.length), c.model.context - lease.base)
}

function areTokens({ class: { model } }: Job, tokens: Uint32Array): boolean {
  for (let i = 0; i < tokens.length; i++) {
    if (tokens[i]! >= model.vocab) return false
    // Nothing is drawn after an end token.
    if (i < tokens.length - 1 && model.endIds.includes(tokens[i]!)) return false
  }
  return true
}

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
  const most = restTokens(unit, lease)
  if (position !== lease.base || tokens.length < 1 || tokens.length > most || !areTokens(unit.job, tokens))
    return `${tokens.length} tokens from ${position} where up to ${most} from ${lease.base} were due`
  const hasEnded = model.endIds.includes(tokens.at(-1)!)
  if ((finish === 'stop') !== hasEnded || (finish === 'length' && tokens.length < most))
    return `an early end (${finish})`
  return null
}

/** An answer nobody can use: the unit goes to others, and this volunteer has one life less. */
function refuse(s: State, v: Volunteer, lease: Lease, what: string): void {
  const { unit } = lease
  if (lease.state === 'live')
    s.emit({
      type: 'send',
      volunteer: lease.volunteer.id,
      message: { type: 'cancel', assignments: [lease.id] },
    })
  unit.attempts++
  blame(unit, v)
  drop(s, lease)
  s.leases.delete(lease.id)
  judge(s, unit)
  strike(s, v, 'invalid_result', `${lease.id}: ${what}.`)
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
  const ms = Math.max(elapsed - rtt, elapsed / 10)
  const cost = output.kind === 'generate' ? lease.base + LIMITS.drawCost * output.tokens.length : lease.cost
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

/** A stream that had all its tokens when its volunteer left needs nobody else. */
export function isComplete(unit: Unit): boolean {
  return unit.tokens.length > 0 && finishOf(unit) !== null
}

function finishOf({ job: { spec, class: c }, first, tokens }: Unit): 'stop' | 'length' | null {
  if (spec.kind !== 'generate') return null
  const { prompt, options } = spec.choices[first]!
  if (c.model.endIds.includes(tokens.at(-1)!)) return 'stop'
  return tokens.length >= options.maxTokens || prompt.length + tokens.length >= c.model.context
    ? 'length'
    : null
}

export function finishComplete(s: State, unit: Unit): void {
  const finish = finishOf(unit)!
  s.emit({
    type: 'finish-choice',
    job: unit.job.spec.id,
    choice: unit.first,
    finish,
    tokens: unit.tokens.length,
  })
  finishUnit(s, unit)
}

/** The requester wants no more of a choice. */
export function stopChoice(s: State, job: Job, choice: number): void {
  for (const unit of job.open) {
    if (unit.first !== choice || job.spec.kind !== 'generate') continue
    s.emit({ type: 'finish-choice', job: job.spec.id, choice, finish: 'stop', tokens: unit.tokens.length })
    return finishUnit(s, unit)
  }
}
