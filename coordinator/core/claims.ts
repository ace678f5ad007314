/**
 * A claim is an answer somebody stands for: what was asked, what it said, and how far that is known to be right. It is delivered
 * at once or after its check, is paid, and can be found wrong until it is final.
 */
import { inputBytes } from '../../protocol/statements.ts'
import type {
  AssignmentId,
  Digest,
  GenerateOptions,
  JobId,
  Millis,
  Output,
  RequesterId,
  Result,
  Signature,
  UnitId,
} from '../../protocol/nouns.ts'
import { remember } from './canaries.ts'
import type { Check } from './checks.ts'
import type { Effect, SignedEnd, UnitCheck } from './events.ts'
import { credit, finishUnit } from './jobs.ts'
import { macsOfRows, macsOfText, vest } from './ledger.ts'
import { partsOfUnit } from './planner.ts'
import { added, NONE } from './lists.ts'
import type { Lease, ModelClass, Span, State, Unit, Volunteer } from './state.ts'
import { recordOf } from './trust.ts'
import type { Reputation } from './trust.ts'
import { verificationOf, weaker } from './verification.ts'

export interface Claim {
  readonly job: JobId
  readonly requester: RequesterId
  readonly unit: UnitId
  readonly class: ModelClass
  readonly kind: Output['kind']
  readonly first: number
  readonly count: number
  /** A prompt, or rows. */
  readonly inputs: readonly Uint32Array[]
  readonly options: GenerateOptions | undefined
  /** Of a text; the log-probabilities only where no digest holds them. */
  readonly tokens: ArrayLike<number>
  readonly logprobs?: ArrayLike<number>
  /** Of a text nobody signed the whole of: who streamed it, when asked for what. `options` ask for as much of it as there is. */
  readonly streamed?: { spans: readonly Span[]; options: GenerateOptions }
  readonly by: Reputation
  readonly assignment: AssignmentId
  /** Null, with the digest of the output, where a text ended before anybody signed it. */
  readonly input: Digest | null
  readonly output: Digest | null
  readonly root: Digest | null
  readonly signature: Signature | null
  /** Standard units. */
  readonly macs: number
  rate: number
  /** Of the lottery, when it came. */
  readonly period: number
  checked: UnitCheck['kind']
  vouchers: readonly { by: Reputation; paid: number }[]
  /** Of it in the escrow of whose it is. */
  paid: number
  /** It counts among its key's accepted results. */
  isAccepted: boolean
  isFinal: boolean
  /** A trusted engine says otherwise. */
  isWrong: boolean
  /** One did so in an earlier life, which ended before its author was convicted. */
  isCorrected?: boolean
  check: Check | undefined
  /** Who was asked for it as a canary. */
  asked?: Set<Reputation>
  /** The answer, while it is not delivered. */
  waiting: Waiting | undefined
  /** Of an earlier life: what it was asked and said is in the store (recall.ts). */
  isBare?: boolean
  /** Token ids it keeps in memory. */
  readonly size: number
  /** Which of its key's results it is, counted when it was accepted. */
  index: number
  at: Millis
}

export interface Waiting {
  unit: Unit
  output: Output | null
  /** Of a text. */
  finish: 'stop' | 'length'
  volunteer: Volunteer | undefined
  computeMs: number
  isExact: boolean
}

/** SHA-256 of what a unit asks, or null without a hash. */
export function inputDigest(s: State, unit: Unit): Digest | null {
  if (!s.hash) return null
  return (unit.input ??= digestOf(s, inputBytes(partsOfUnit(unit)))!)
}

/** SHA-256, or null without a hash. */
export const digestOf = (s: State, bytes: Uint8Array): Digest | null => (s.hash ? hex(s.hash(bytes)) : null)

export const hex = (bytes: Uint8Array): string => {
  let text = ''
  for (let i = 0; i < bytes.length; i++) text += (bytes[i]! < 16 ? '0' : '') + bytes[i]!.toString(16)
  return text
}

/** @param result null where nothing is signed yet of a text: then it is asked for as far as it went */
export function newClaim(
  s: State,
  unit: Unit,
  by: Reputation,
  assignment: AssignmentId,
  result: Result | null,
): Claim {
  const { job } = unit
  const { model } = job.class
  const { kind, inputs, generate } = partsOfUnit(unit)
  const said = result?.output
  const tokens = said?.kind === 'generate' ? said.tokens : generate ? unit.tokens.slice() : NONE
  const macs =
    kind === 'generate' ? macsOfText(model, inputs[0]!.length, tokens.length) : macsOfRows(model, inputs)
  return {
    job: job.spec.id,
    requester: job.spec.requester,
    unit: unit.id,
    class: job.class,
    kind,
    first: unit.first,
    count: unit.count,
    inputs,
    options: result ? generate : generate && { ...generate, maxTokens: tokens.length },
    tokens,
    logprobs: result ? undefined : unit.logprobs?.slice(),
    streamed: result || !generate ? undefined : { spans: unit.spans, options: generate },
    by,
    assignment,
    input: result && (result.input ?? inputDigest(s, unit)),
    output: result?.digest ?? null,
    root: result?.root ?? null,
    signature: result?.signature ?? null,
    macs,
    rate: 0,
    period: s.period,
    checked: 'none',
    vouchers: NONE,
    paid: 0,
    isAccepted: false,
    isFinal: false,
    isWrong: false,
    check: undefined,
    waiting: undefined,
    size: tokens.length + inputs.reduce((n, row) => n + row.length, 0),
    index: 0,
    at: s.now,
  }
}

/** Delivers what waits, settles it, and ends its unit; it is paid with its job. @param answered the lease that needs no cancel */
export function settle(s: State, claim: Claim, answered?: Lease): void {
  const { unit, output, finish, volunteer, computeMs } = claim.waiting!
  const { job } = unit
  claim.waiting = undefined
  claim.isFinal = claim.by.isTrusted || claim.checked === 'trusted'
  if (volunteer) credit(job, volunteer, 1, output && output.kind !== 'generate' ? output.rows : 0, computeMs)
  deliver(s, claim, output, finish)
  job.unpaid = added(job.unpaid, claim)
  const verification = verificationOf(claim.checked, claim.rate)
  job.verification = weaker(job.verification ?? verification, verification)
  claim.index = ++claim.by.results
  s.emit(settlement(claim))
  if (claim.isFinal) remember(s, claim)
  keep(s, claim)
  finishUnit(s, unit, answered)
}

function deliver(s: State, claim: Claim, output: Output | null, finish: 'stop' | 'length'): void {
  const { job, first } = claim
  if (claim.kind === 'generate') {
    s.emit({ type: 'finish-choice', job, choice: first, finish, tokens: claim.tokens.length })
  } else if (output && output.kind !== 'generate') {
    const { rows, width, bits, values } = output
    s.totals.rowsDone += rows
    s.emit({ type: 'deliver-rows', job, first, rows, width, bits, values })
  }
}

export const checkOf = ({ checked, rate, period, vouchers, by }: Claim): UnitCheck => ({
  kind: checked,
  rate,
  period,
  // Its own canaries are paid with a claim, but vouch for nothing.
  by: vouchers.length ? vouchers.filter((v) => v.by !== by).map((v) => v.by.identity) : NONE,
})

function signedEnd({ streamed, inputs, tokens }: Claim): SignedEnd | undefined {
  const signed = streamed?.spans.at(-1)?.signed
  if (signed?.to !== tokens.length || streamed?.options.logprobs !== undefined) return undefined
  return { from: inputs[0]!.length + signed.from, signature: signed.signature }
}

function settlement(claim: Claim): Effect {
  const { job, requester, unit, kind, first, count, by, assignment, input, output, root, signature, macs, index } = claim // prettier-ignore
  return {
    type: 'settle-unit', job, requester, unit, kind, model: claim.class.model.digest, first, count,
    choice: kind === 'generate' ? first : null, identity: by.identity, assignment, input, output, root, signature, streamed: signedEnd(claim), macs,
    check: checkOf(claim), status: claim.isFinal ? 'final' : 'provisional', index, record: recordOf(by),
  } // prettier-ignore
}

/** What is not final is kept, so that it can be computed again: of each key its last `windowResults`, of everybody `claims`. */
function keep(s: State, claim: Claim): void {
  const { by } = claim
  claim.at = s.now
  if (!claim.isFinal) open(s, claim)
  trim(s, by)
  const { claims, claimTokens } = s.policy
  for (let i = 0; i < 16 && (s.openClaims > claims || s.openTokens > claimTokens); i++) finalizeOldest(s)
}

/** It can be found wrong from now on. */
export function open(s: State, claim: Claim): void {
  if (s.claims.length === s.claimsHead) s.timers.push(claim.at + s.policy.windowMs, { kind: 'claims' })
  claim.by.claims.push(claim)
  s.claims.push(claim)
  s.openClaims++
  s.openTokens += claim.size
}

const isUnderCheck = (s: State, { check, unit }: Claim): boolean =>
  check !== undefined || (s.recalls.size > 0 && s.recalls.has(unit))

/** Of one key, what is older than its window. */
function trim(s: State, by: Reputation): void {
  const newest = by.results - s.policy.windowResults
  if (newest <= 0) return
  for (let oldest = by.claims[0]; oldest; oldest = by.claims[0]) {
    if (isUnderCheck(s, oldest) || oldest.index > newest) return
    finalize(s, oldest)
  }
}

/** One whose check is under way goes to the back instead: its verdict will end it. */
function finalizeOldest(s: State): void {
  while (s.claims[s.claimsHead]?.isFinal) s.claimsHead++
  const oldest = s.claims[s.claimsHead]
  if (oldest) {
    s.claimsHead++
    if (isUnderCheck(s, oldest)) s.claims.push(oldest)
    else finalize(s, oldest)
  }
  if (s.claimsHead > 1024 && 2 * s.claimsHead > s.claims.length) {
    s.claims = s.claims.slice(s.claimsHead)
    s.claimsHead = 0
  }
}

/** The window is over for those of this age. */
export function finalizeOld(s: State): void {
  for (;;) {
    const oldest = s.claims[s.claimsHead]
    if (!oldest) return
    const until = oldest.at + s.policy.windowMs
    if (!oldest.isFinal && until > s.now) {
      s.timers.push(until, { kind: 'claims' })
      return
    }
    if (isUnderCheck(s, oldest)) oldest.at = s.now
    finalizeOldest(s)
  }
}

/** Nothing can change it any more. */
export function finalize(s: State, claim: Claim): void {
  if (claim.isFinal) return
  claim.isFinal = true
  s.openClaims--
  s.openTokens -= claim.size
  const { claims } = claim.by
  while (claims[0]?.isFinal) claims.shift()
  if (!claim.isWrong) vest(s, claim)
  s.emit({ type: 'finalize-unit', job: claim.job, unit: claim.unit })
}

/** What of a key can still be found wrong. */
export const openClaims = (r: Reputation): Claim[] => r.claims.filter((c) => !c.isFinal)
