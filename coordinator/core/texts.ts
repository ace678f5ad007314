/**
 * Texts. To check one is to read it, which costs a fast engine little: where it costs at most `textShare` of the writing, every
 * text is checked, and while it is being written already, chunk by chunk, so that what a liar says is found a chunk or two later.
 *
 * Reading m tokens takes an engine that reads ρ in the time of drawing one as long as m / ρ draws. A text of n tokens after a prompt
 * of p is cheap to check where (p + n) / ρ ≤ textShare · n. A chunk is checked only while what was spent on the text so far, the
 * chunk, and a check of the whole text were it to end here are together within that share: no text costs more, however it ends.
 */
import { agrees, auditorsFor, checkUnit, firstDifference, isSame, queueCheck } from './checks.ts'
import type { Check } from './checks.ts'
import { newClaim } from './claims.ts'
import type { Claim } from './claims.ts'
import { accuse, accuseWriters, answerOf, correctText } from './disputes.ts'
import { closeUnit, endLeases } from './jobs.ts'
import { macsOfCheck, payAside } from './ledger.ts'
import { makeReady } from './leases.ts'
import { inputLength } from './planner.ts'
import type { Result } from '../../protocol/nouns.ts'
import type { Lease, ModelClass, State, Unit, Volunteer } from './state.ts'
import { endText, finishOf } from './streams.ts'
import { isOnProbation } from './trust.ts'
import type { Reputation } from './trust.ts'

/** How far a text was checked while it was being written. */
export interface Reading {
  /** So many of its tokens came out the same when somebody else drew them again. */
  checked: number
  /** The next check is due when so many were drawn. */
  next: number
  /** What checking it has cost, in draws. */
  cost: number
  /** The check under way. */
  check: Check | undefined
}

/** Tokens this volunteer reads in the time of drawing one, as it measured; 1 where it said nothing. */
function readsPerDraw(v: Volunteer, c: ModelClass): number {
  const { readMs, drawMs } = v.models.get(c.model.digest) ?? {}
  return readMs && drawMs ? Math.max(1, drawMs / readMs) : 1
}

/** What a check cost by whom made it, in standard units: of a text, the part of its writing that reading it takes. */
export function effortOf(claim: Claim, v: Volunteer): number {
  const macs = macsOfCheck(claim)
  if (claim.kind !== 'generate') return macs
  const drawn = claim.tokens.length
  const read = claim.inputs[0]!.length + drawn
  return Math.min(macs, Math.ceil((macs * read) / (drawn * readsPerDraw(v, claim.class))))
}

/** What an engine must read per draw so that reading this many tokens costs it at most so many draws. */
const paceFor = (tokens: number, draws: number): number => (draws > 0 ? tokens / draws : Infinity)

/** Whether this volunteer reads fast enough for a check. */
export const isFastEnough = (v: Volunteer, { pace, claim }: Check): boolean =>
  pace === undefined || readsPerDraw(v, claim.class) >= pace

/** Whether somebody who reads so fast may check this key. */
function hasReader(s: State, c: ModelClass, by: Reputation, pace: number): boolean {
  const pools = isOnProbation(s, by) ? [c.referees] : [c.referees, c.veterans]
  for (const pool of pools)
    for (let i = 0; i < Math.min(pool.size, 4); i++) {
      const v = pool.at(i)
      const mayRead = v.reputation.isTrusted || v.reputation.network !== by.network
      if (mayRead && readsPerDraw(v, c) >= pace) return true
    }
  return false
}

/** Whether the whole of a text may be checked whoever wrote it, for what that costs. */
export function isCheapToCheck(
  s: State,
  { class: c, by, inputs, tokens }: Claim,
  reading?: Reading,
): boolean {
  const draws = s.policy.textShare * tokens.length - (reading?.cost ?? 0)
  return hasReader(s, c, by, paceFor(inputs[0]!.length + tokens.length, draws))
}

// ── While it is being written ──

/** More of a text came: perhaps it is time to look at it. */
export function checkChunk(s: State, text: Unit): void {
  const { textShare, chunk } = s.policy
  const drawn = text.tokens.length
  if (drawn < chunk) return
  const reading = (text.reading ??= { checked: 0, next: chunk, cost: 0, check: undefined })
  if (reading.check || drawn < reading.next) return
  reading.next = drawn + chunk
  const { by, assignment } = text.spans.at(-1)!
  if (by.isTrusted) return
  const c = text.job.class
  // The chunk, the one token of it that is drawn and not read, and all of it once more at its end.
  const pace = paceFor(2 * inputLength(text), textShare * drawn - reading.cost - 1)
  const who = auditorsFor(s, c, by)
  if (!who || !hasReader(s, c, by, pace)) return
  s.totals.chunks++
  read(s, text, { claim: newClaim(s, text, by, assignment, null), who, objections: [], pace })
}

function read(s: State, text: Unit, parts: Omit<Check, 'unit' | 'text'>): void {
  const unit = checkUnit(s, parts.claim, true)
  // The last is for the reader to find: whoever says yes without computing does not know it.
  unit.tokens.pop()
  const check: Check = { ...parts, unit, text }
  unit.check = check
  text.reading!.check = check
  queueCheck(s, unit, true)
}

/** A reader's answer. */
export function onChunk(s: State, v: Volunteer, check: Check, result: Result, lease: Lease): void {
  const { claim, unit, objections } = check
  const text = check.text!
  const { reputation: r } = v
  const truth = { by: r, result }
  const isOpen = text.reading!.check === check
  closeUnit(s, unit, lease)
  s.totals.checkMacs += effortOf(claim, v)
  if (isOpen) {
    text.reading!.check = undefined
    text.reading!.cost += unit.cost / readsPerDraw(v, claim.class) + 1
  }
  if (agrees(claim, result)) {
    if (!v.isHouse) payAside(s, { job: claim.job, unit: unit.id }, r, macsOfCheck(claim))
    if (isOpen) checkedUpTo(s, text, claim.tokens.length, r)
  } else if (r.isTrusted) {
    s.totals.wrong++
    if (isOpen) rewrite(s, text, claim, truth, firstDifference(claim, result)!)
    accuseWriters(s, claim, truth)
  } else {
    s.totals.disputes++
    // One of the two is wrong. Where nobody can say which, nobody is accused, and the end's check is waited for.
    if (isOpen && claim.class.referees.size > 0)
      read(s, text, { claim, who: 'trusted', objections: [...objections, truth] })
    return
  }
  if (r.isTrusted)
    for (const { by, result: other } of objections)
      if (!isSame(other, result)) accuse(s, answerOf(claim, by, other), truth)
}

function checkedUpTo(s: State, text: Unit, tokens: number, by: Reputation): void {
  text.reading!.checked = tokens
  s.emit({ type: 'verify-tokens', job: text.job.spec.id, choice: text.first, tokens, by: by.identity })
}

/** From `at` on it is wrong: a trusted engine's tokens take the place of those, and somebody else goes on behind them. */
function rewrite(
  s: State,
  text: Unit,
  claim: Claim,
  truth: { by: Reputation; result: Result },
  at: number,
): void {
  const { output, assignment } = truth.result
  if (output.kind !== 'generate') return
  endLeases(s, text)
  const { length } = output.tokens
  const kept = text.spans.filter(({ from }) => from < at)
  text.spans = [
    ...kept.map((span) => (span.to <= at ? span : { ...span, to: at, signed: undefined })),
    { by: truth.by, assignment, from: at, to: length, signed: undefined },
  ]
  text.tokens = Array.from(output.tokens)
  text.logprobs = output.logprobs && Array.from(output.logprobs.values)
  text.reading!.next = length + s.policy.chunk
  correctText(s, text.id, claim, truth)
  checkedUpTo(s, text, length, truth.by)
  const finish = finishOf(text)
  if (finish) endText(s, text, finish)
  else makeReady(s, text)
}

/** Nobody needs to know any more how far a text is right. Where two contradict each other, who was wrong is found out even so. */
export function dropReading(s: State, { reading }: Unit): void {
  const check = reading?.check
  if (!check) return
  reading.check = undefined
  if (check.objections.length === 0) closeUnit(s, check.unit)
}

/** Several tried to read it and failed. */
export function abandonChunk(s: State, { text, unit }: Check): void {
  text!.reading!.check = undefined
  closeUnit(s, unit)
}
