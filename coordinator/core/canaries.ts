/**
 * Canaries: now and then a known key is asked a question whose answer is certain already. To it, it looks like any other work; it
 * costs one computation instead of two, and it finds devices that went wrong since their first results were checked.
 */
import { agrees, checkUnit, escalate } from './checks.ts'
import type { Check } from './checks.ts'
import type { Claim } from './claims.ts'
import { closeUnit } from './jobs.ts'
import { assign } from './leases.ts'
import { macsOfCheck, payAside } from './ledger.ts'
import { depthOf, isWilling, roomOf } from './classes.ts'
import type { Lease, ModelClass, State, Volunteer } from './state.ts'
import type { Result } from '../../protocol/nouns.ts'
import { effortOf } from './texts.ts'
import { accept, isOnProbation, isWithinPending } from './trust.ts'
import type { Reputation } from './trust.ts'

/** Kept per model. */
const KNOWN = 32
/** Each asked of so many at most, and of nobody twice: it is paid by unit and key. */
const ASKED = 64

/** A trusted engine computed this: it may be asked of others. */
export function remember(s: State, claim: Claim): void {
  if (claim.output === null || claim.root === null || s.policy.canaries === 0) return
  const { known } = claim.class
  if (known.includes(claim)) return
  if (known.length < KNOWN) known.push(claim)
  else known[s.random.below(KNOWN)] = claim
}

/** After an answer of this volunteer: perhaps it is asked something that is known. */
export function askKnown(s: State, c: ModelClass, v: Volunteer): void {
  const { reputation: r } = v
  if (c.known.length === 0 || r.isTrusted || isOnProbation(s, r)) return
  if (s.random.u32() / 2 ** 32 >= s.policy.canaries) return
  const claim = c.known[s.random.below(c.known.length)]!
  const asked = (claim.asked ??= new Set<Reputation>())
  if (claim.by === r || claim.by.isConvicted || asked.has(r) || asked.size >= ASKED) return
  if (claim.vouchers.some((voucher) => voucher.by === r)) return
  if (!isWilling(s, v) || v.held.length >= depthOf(v) || !isWithinPending(s, v)) return
  const unit = checkUnit(s, claim, false)
  if (roomOf(v, c) < unit.job.need) return
  asked.add(r)
  s.totals.canaries++
  unit.check = { claim, who: 'other', unit, objections: [], isCanary: true }
  unit.state = 'leased'
  assign(s, unit, v, false)
}

/** Right, or in dispute: what was known is computed once more before anybody is said to be wrong. */
export function onCanary(s: State, v: Volunteer, { claim, unit }: Check, result: Result, lease: Lease): void {
  const { reputation: r } = v
  closeUnit(s, unit, lease)
  s.totals.checkMacs += effortOf(claim, v)
  if (agrees(claim, result)) {
    if (r.isConvicted) return
    accept(s, r, true)
    payAside(s, claim, r, macsOfCheck(claim))
  } else if (!claim.check) {
    s.totals.disputes++
    escalate(s, claim, [{ by: r, result }])
  }
}
