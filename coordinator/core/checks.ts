/**
 * Checks: the same question to somebody else, who can't tell it from work; comparing is comparing digests. Whether one is made is
 * drawn after the answer came. Only a trusted engine's recomputation says that somebody was wrong, never a vote.
 */
import { wordsPerToken } from '../../protocol/logprobs.ts'
import type { JobId, Logprobs, Result, UnitId } from '../../protocol/nouns.ts'
import { onCanary, remember } from './canaries.ts'
import { checkOf, finalize, settle } from './claims.ts'
import type { Claim } from './claims.ts'
import { accuse, answerOf, condemn } from './disputes.ts'
import { closeUnit, failJob } from './jobs.ts'
import { assign, takeReady } from './leases.ts'
import { macsOfCheck, payCheck } from './ledger.ts'
import { LIMITS } from './limits.ts'
import { isWilling, roomOf } from './classes.ts'
import { NONE } from './lists.ts'
import type { Job, Lease, ModelClass, State, Unit, Volunteer } from './state.ts'
import { abandonChunk, effortOf, isFastEnough, onChunk } from './texts.ts'
import { accept, isOnProbation, isVeteran, raisePending, recordOf } from './trust.ts'
import type { Reputation } from './trust.ts'

/** Who may make a check: `established` are trusted engines too; `other` is anybody of another network. */
export type Who = 'trusted' | 'established' | 'other'

export interface Check {
  readonly claim: Claim
  who: Who
  /** What is given to the auditor. */
  readonly unit: Unit
  /** Auditors that contradict the claim: one of them is wrong. */
  objections: readonly Answer[]
  /** The answer is certain: it is the one who is asked that is checked. */
  isCanary?: boolean
  /** The text that is still being written, of a check of its beginning. */
  text?: Unit
  /** Only for those who read so many tokens, at least, in the time of drawing one. */
  pace?: number
}

/** Somebody's whole answer. */
export interface Answer {
  readonly by: Reputation
  readonly result: Result
}

// ── The lottery ──

/** What decides, in words that anybody can hash once the secret is published. */
export const lotteryStatement = (secret: string, assignment: string, root: string): string =>
  `chorale lottery 1\nsecret ${secret}\nassignment ${assignment}\nroot ${root}\n`

/** Uniform in [0, 1): the first 32 bits of the statement's SHA-256 ÷ 2³². A check is made where it is below the rate. */
export const lotteryDraw = (digest: Uint8Array): number =>
  ((digest[0]! << 24) | (digest[1]! << 16) | (digest[2]! << 8) | digest[3]!) / 2 ** 32 +
  (digest[0]! < 128 ? 0 : 1)

export function isDrawn(s: State, { assignment, root }: Claim, rate: number): boolean {
  if (rate <= 0) return false
  if (rate >= 1) return true
  if (!s.hash) return s.random.u32() / 2 ** 32 < rate
  const statement = new TextEncoder().encode(lotteryStatement(s.secret, assignment, root ?? ''))
  return lotteryDraw(s.hash(statement)) < rate
}

// ── Who can ──

/** Whether somebody connected could check this volunteer's answers now. */
export function isCheckable(s: State, c: ModelClass, v: Volunteer): boolean {
  if (c.referees.size > 0 || v.reputation.isTrusted) return true
  return !isOnProbation(s, v.reputation) && hasVeteran(c, v.reputation)
}

/** Whether anybody of another network is known long enough to check this one. */
export function hasVeteran(c: ModelClass, than: Reputation): boolean {
  for (let i = 0; i < Math.min(c.veterans.size, 8); i++)
    if (c.veterans.at(i).reputation.network !== than.network) return true
  return false
}

/** Whether answers can be known to be right before they are delivered. */
export function canVerify(c: ModelClass, isExact: boolean): boolean {
  if (c.referees.size > 0) return true
  const pool = isExact ? c.capable : c.veterans
  for (let i = 1; i < Math.min(pool.size, 32); i++)
    if (pool.at(i).reputation.network !== pool.at(0).reputation.network) return true
  return false
}

export function mayCheck(s: State, v: Volunteer, check: Check): boolean {
  const { claim, who, objections } = check
  const { reputation: r } = v
  if (!isFastEnough(v, check)) return false
  // The operator's own engines may be anywhere, and may say twice what is right; others collude more easily where they are neighbours.
  if (!r.isTrusted) {
    if (r === claim.by) return false
    if (who === 'trusted' || r.network === claim.by.network || r.isAccused) return false
    if (who === 'established' && !isVeteran(s, r)) return false
    for (const voucher of claim.vouchers) if (voucher.by === r) return false
  }
  for (const objection of objections) if (objection.by === r) return false
  return true
}

/** Who may check a claim of this key, or null when nobody here could. */
export function auditorsFor(s: State, c: ModelClass, by: Reputation): Who | null {
  if (isOnProbation(s, by)) return c.referees.size ? 'trusted' : null
  return c.referees.size || hasVeteran(c, by) ? 'established' : null
}

/** Whether anybody connected could make a check. */
export const isPossible = (c: ModelClass, { who, claim }: Check): boolean =>
  c.referees.size > 0 || (who === 'established' && hasVeteran(c, claim.by)) || who === 'other'

// ── A check's life ──

/** @param isUrgent a requester waits for it */
export function startCheck(s: State, claim: Claim, who: Who, isUrgent: boolean): void {
  const unit = checkUnit(s, claim, isUrgent)
  const check: Check = { claim, who, unit, objections: claim.check?.objections ?? NONE }
  unit.check = check
  claim.check = check
  raisePending(s, claim.by, 1)
  s.totals.checks++
  queueCheck(s, unit, isUrgent)
}

export function queueCheck(s: State, unit: Unit, isUrgent: boolean): void {
  const c = unit.job.class
  const { check } = unit
  // Whoever gives a check back may want it not to be made.
  if (check && unit.leases.length >= LIMITS.checkers && c.referees.size > 0) check.who = 'trusted'
  unit.state = 'ready'
  const queue = unit.check?.pace !== undefined ? c.readings : isUrgent ? c.checks : c.laterChecks
  queue.push(unit)
  s.touch(c)
}

/** A job of the coordinator's own, which counts against nobody: the claim's question once more. */
export function checkUnit(s: State, claim: Claim, isUrgent: boolean): Unit {
  const { class: c, kind, inputs, options, tokens } = claim
  const common = {
    id: claim.job as JobId,
    requester: claim.requester,
    model: c.model.digest,
    priority: isUrgent ? ('interactive' as const) : ('batch' as const),
  }
  const spec =
    kind === 'generate'
      ? { ...common, kind, choices: [{ prompt: inputs[0]!, options: options! }] }
      : { ...common, kind, rows: inputs }
  let need = tokens.length
  for (const row of inputs) need = Math.max(need, row.length + tokens.length)
  const job: Job = {
    spec, class: c, submittedAt: s.now, deadlineAt: Infinity, firstSentAt: undefined, next: 0, restCost: 0, open: NONE,
    units: 0, redispatched: 0, hedged: 0, work: NONE, need: Math.min(need, c.model.context), isOver: false, isParked: false, reserved: 0,
    unpaid: NONE, verification: undefined,
  } // prettier-ignore
  const cost = inputs.reduce((n, row) => n + row.length, 0) + tokens.length
  return {
    id: s.id('u') as UnitId, job, state: 'ready', first: 0, count: kind === 'generate' ? 1 : inputs.length, cost,
    inputs: undefined, input: undefined, tokens: Array.from(tokens), logprobs: undefined, spans: NONE, copies: NONE, leases: NONE, excluded: NONE,
    failedBy: NONE, attempts: 0, check: undefined, claim: undefined, isDisputed: false, objections: NONE, reading: undefined,
  } // prettier-ignore
}

/** Nobody needs this check any more. */
export function dropCheck(s: State, check: Check): void {
  check.claim.check = undefined
  closeUnit(s, check.unit)
  raisePending(s, check.claim.by, -1)
}

/** An auditor's answer. */
export function onCheckResult(s: State, v: Volunteer, check: Check, result: Result, lease: Lease): void {
  if (check.isCanary) return onCanary(s, v, check, result, lease)
  if (check.text) return onChunk(s, v, check, result, lease)
  const { claim, unit } = check
  const r = v.reputation
  closeUnit(s, unit, lease)
  raisePending(s, claim.by, -1)
  claim.check = undefined
  s.totals.checkMacs += effortOf(claim, v)
  if (agrees(claim, result)) {
    if (!v.isHouse) payCheck(s, claim, r, macsOfCheck(claim))
    else claim.vouchers = [...claim.vouchers, { by: r, paid: 0 }]
    if (!r.isTrusted && !r.isConvicted) {
      accept(s, r, true)
      r.vouched.push(claim)
      if (r.vouched.length > 64) r.vouched = r.vouched.filter((c) => !c.isFinal)
    }
    passed(s, claim, r)
  } else if (r.isTrusted) {
    claim.vouchers = [...claim.vouchers, { by: r, paid: 0 }]
    condemn(s, claim, { by: r, result }, v)
  } else {
    // One of the two is wrong. Which, a trusted engine says.
    s.totals.disputes++
    escalate(s, claim, [...check.objections, { by: r, result }])
    return
  }
  if (r.isTrusted)
    for (const { by, result: other } of check.objections)
      if (!isSame(other, result)) accuse(s, answerOf(claim, by, other), { by: r, result })
}

export function escalate(s: State, claim: Claim, objections: readonly Answer[]): void {
  startCheck(s, claim, 'trusted', claim.waiting !== undefined)
  claim.check!.objections = objections
}

function passed(s: State, claim: Claim, auditor: Reputation): void {
  const { by } = claim
  claim.checked = auditor.isTrusted ? 'trusted' : claim.waiting?.isExact ? 'replicated' : 'audited'
  if (claim.isAccepted) by.checked++
  else accept(s, by, true)
  claim.isAccepted = true
  if (claim.waiting) return settle(s, claim)
  if (auditor.isTrusted) remember(s, claim)
  s.emit({
    type: 'check-unit',
    job: claim.job,
    unit: claim.unit,
    identity: by.identity,
    verdict: 'right',
    check: checkOf(claim),
    macs: macsOfCheck(claim),
    record: recordOf(by),
  })
  if (auditor.isTrusted || by.isConvicted) finalize(s, claim)
}

/** The auditors could not compute it. */
export function abandonCheck(s: State, check: Check): void {
  if (check.text) return abandonChunk(s, check)
  const { claim } = check
  dropCheck(s, check)
  const job = claim.waiting?.unit.job
  if (job) {
    const message = 'A part of this request could not be checked: several engines failed it.'
    return failJob(s, job, { code: 'internal', message })
  }
  giveUp(s, claim)
}

/** A check that was due is not made, and the receipt says so. */
export function giveUp(s: State, claim: Claim): void {
  claim.checked = 'abandoned'
  if (claim.isWrong || claim.isCorrected) return
  s.emit({
    type: 'check-unit',
    job: claim.job,
    unit: claim.unit,
    identity: claim.by.identity,
    verdict: 'inconclusive',
    check: checkOf(claim),
    macs: 0,
    record: recordOf(claim.by),
  })
}

/** Whether an answer is the claim's: of a signed one digest and root, of an unsigned text its tokens and their log-probabilities. */
export function agrees(claim: Claim, result: Result): boolean {
  const { output } = result
  if (claim.output === null)
    return (
      output.kind === 'generate' &&
      output.tokens.length === claim.tokens.length &&
      firstDifference(claim, result) === null
    )
  return claim.output === result.digest && isSameRoot(claim.root, result.root)
}

export const isSame = (a: Result, b: Result): boolean => a.digest === b.digest && isSameRoot(a.root, b.root)

/** An engine of before roots has none. */
const isSameRoot = (a: string | null | undefined, b: string | null | undefined): boolean =>
  a === b || a === null || a === undefined || b === null || b === undefined

/** First place in [from, to) where a text, or what was said of its probabilities, is not what it should be; null when there is none. */
export function firstDifference(
  text: Pick<Claim, 'tokens' | 'logprobs'>,
  { output }: Result,
  from = 0,
  to = text.tokens.length,
): number | null {
  if (output.kind !== 'generate') return null
  const { tokens, logprobs } = text
  for (let i = from; i < to; i++)
    if (tokens[i] !== output.tokens[i] || !isSameToken(logprobs, i, output.logprobs, i)) return i
  return null
}

/** Whether the log-probabilities at a place in what is told already are those at a place in these. */
export function isSameToken(
  told: ArrayLike<number> | undefined,
  at: number,
  logprobs: Logprobs | undefined,
  i: number,
): boolean {
  if (!told || !logprobs) return true
  const words = wordsPerToken(logprobs)
  for (let k = 0; k < words; k++) if (told[at * words + k] !== logprobs.values[i * words + k]) return false
  return true
}

// ── Giving them out ──

/** One check to somebody who may make it and is free. */
export function fillChecks(s: State, c: ModelClass): boolean {
  return fillFrom(s, c, c.checks) || fillFrom(s, c, c.readings) || fillFrom(s, c, c.laterChecks)
}

/** Checks looked at in one go: with nobody free for the first few, later ones seldom fare better. */
const SCAN = 4
const SAMPLE = 16

function fillFrom(s: State, c: ModelClass, queue: Unit[]): boolean {
  let at = 0
  for (let looked = 0; looked < SCAN && at < queue.length;) {
    const unit = queue[at]!
    if (unit.state !== 'ready') {
      queue.splice(at, 1)
      continue
    }
    looked++
    const v = freeAuditor(s, c, unit)
    if (!v) {
      at++
      continue
    }
    queue.splice(at, 1)
    takeReady(unit)
    assign(s, unit, v, false)
    return true
  }
  return false
}

/**
 * Anybody who may and has a slot, with equal chances, busy or not: were the idle preferred, accomplices who keep themselves free
 * would be asked most of the time. Where a requester waits, only those who are free soon.
 */
function drawAuditor(
  s: State,
  c: ModelClass,
  { who, claim }: Check,
  may: (v: Volunteer) => boolean,
): Volunteer | null {
  const others = who === 'other' ? c.capable : c.veterans
  const size = others.size + c.referees.size
  const start = s.random.below(Math.max(1, size))
  for (let i = 0; i < Math.min(size, SAMPLE); i++) {
    const at = size <= SAMPLE ? (start + i) % size : s.random.below(size)
    const v = at < others.size ? others.at(at) : c.referees.at(at - others.size)
    if (!isWilling(s, v) || v.held.length >= v.slots || !may(v)) continue
    if (!claim.waiting || v.busyUntil - s.now <= LIMITS.houseMs) return v
  }
  return null
}

function freeAuditor(s: State, c: ModelClass, unit: Unit): Volunteer | null {
  const { check } = unit
  const may = (v: Volunteer): boolean =>
    !unit.excluded.includes(v.identity) &&
    roomOf(v, c) >= unit.job.need &&
    (check ? mayCheck(s, v, check) : v.reputation.isTrusted)
  const isTrustedOnly = !check || check.who === 'trusted'
  const drawn = isTrustedOnly ? null : drawAuditor(s, c, check, may)
  if (drawn) return drawn
  for (const pool of isTrustedOnly ? [c.freeReferees] : [c.freeReferees, c.idle, c.spare]) {
    const { size } = pool
    const isAll = size <= SAMPLE
    for (let i = 0; i < (isAll ? size : SAMPLE); i++) {
      const v = pool.at(isAll ? i : s.random.below(size))
      if (may(v)) return v
    }
  }
  return null
}
