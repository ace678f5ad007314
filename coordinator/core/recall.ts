/**
 * Answers of an earlier life of the coordinator that are not final. Who stands for each, and what it was paid, is known from the
 * start; what was asked and said stays in the store until it is to be checked.
 */
import type { UnitId } from '../../protocol/nouns.ts'
import { giveUp, startCheck } from './checks.ts'
import type { Who } from './checks.ts'
import { finalize, open, openClaims } from './claims.ts'
import type { Claim } from './claims.ts'
import type { KeptClaim, Recalled, SignedEnd } from './events.ts'
import { NONE } from './lists.ts'
import type { ModelClass, Span, State } from './state.ts'
import { reputationOf } from './trust.ts'
import type { Reputation } from './trust.ts'

/** Goes on where the earlier life ended: windows run on, and checks that were due are made. */
export function restoreClaims(s: State, kept: readonly KeptClaim[]): void {
  const authors = new Set<Reputation>()
  for (const one of kept.toSorted((a, b) => b.ageMs - a.ageMs || a.index - b.index)) {
    const by = reputationOf(s, one.identity, '', false)
    const c = s.classes.get(one.model)
    by.hasWorked = true
    by.results = Math.max(by.results, one.index)
    // Nobody computes its model any more: it stays as it is, and what it earned vests with the rest.
    if (!c) {
      s.emit({ type: 'finalize-unit', job: one.job, unit: one.unit })
      continue
    }
    by.restored -= by.isConvicted ? 0 : one.paid
    authors.add(by)
    open(s, bareClaim(s, c, by, one))
  }
  for (const by of authors) {
    // What it loses by leaving is as little as before.
    by.awayAt = s.now
    s.timers.push(s.now + s.policy.awayMs, { kind: 'tail', record: by })
    for (const claim of openClaims(by)) if (isDue(claim)) recheck(s, claim, 'trusted')
  }
}

/** A check was under way; or, its author or somebody who had said that it is right being convicted, it was to be computed again. */
const isDue = ({ checked, isCorrected, by, vouchers }: Claim): boolean =>
  checked === 'pending' || isCorrected === true || by.isConvicted || vouchers.some((v) => v.by.isConvicted)

function bareClaim(s: State, c: ModelClass, by: Reputation, kept: KeptClaim): Claim {
  const { job, requester, unit, assignment, root, check, paid, index, ageMs } = kept
  const claim: Claim = {
    job, requester, unit, class: c, kind: c.model.task, first: 0, count: 0, inputs: NONE, options: undefined, tokens: NONE,
    by, assignment, input: null, output: null, root, signature: null, macs: 0, rate: check.rate, period: check.period,
    checked: check.kind,
    // What they were paid is no part of what this claim holds.
    vouchers: check.by.map((identity) => ({ by: reputationOf(s, identity, '', false), paid: 0 })),
    paid: by.isConvicted ? 0 : paid,
    isAccepted: check.kind !== 'pending', isFinal: false,
    isWrong: false, isCorrected: check.kind === 'trusted',
    check: undefined, waiting: undefined, isBare: true, size: 0, index, at: s.now - ageMs,
  } // prettier-ignore
  for (const voucher of claim.vouchers) voucher.by.vouched.push(claim)
  return claim
}

/** An answer that was delivered is computed again. */
export function recheck(s: State, claim: Claim, who: Who): void {
  claim.checked = 'pending'
  if (!claim.isBare) return startCheck(s, claim, who, false)
  if (s.recalls.has(claim.unit)) return
  s.recalls.set(claim.unit, claim)
  s.emit({ type: 'recall-unit', unit: claim.unit })
}

/** What its author is known to have streamed: to the end. */
function spanOf({ by, assignment }: Claim, { from, signature }: SignedEnd, prompt: number, to: number): Span {
  const at = from - prompt
  return { by, assignment, from: at, to, signed: { from: at, to, signature } }
}

/** The store has found it, or not. */
export function onRecalled(s: State, unit: UnitId, recalled: Recalled | null): void {
  const claim = s.recalls.get(unit)
  s.recalls.delete(unit)
  if (!claim || claim.isFinal) return
  if (!recalled) {
    giveUp(s, claim)
    // Without its question nothing more can be found out.
    return finalize(s, claim)
  }
  const size = recalled.inputs.reduce((n, row) => n + row.length, recalled.tokens.length)
  const { options: asked, output, inputs, tokens, streamed: end } = recalled
  // A text that ended before it was signed is asked for as far as it went.
  const options = asked && output === null ? { ...asked, maxTokens: tokens.length } : asked
  const streamed = asked &&
    end && { spans: [spanOf(claim, end, inputs[0]!.length, tokens.length)], options: asked }
  Object.assign(claim, recalled, { options, streamed, isBare: false, size } satisfies Partial<Claim>)
  s.openTokens += size
  // Where its author was is forgotten until it comes back: nobody can be said to be from elsewhere.
  const isAnywhere = claim.by.network === ''
  startCheck(s, claim, isAnywhere || claim.class.referees.size ? 'trusted' : 'established', false)
}
