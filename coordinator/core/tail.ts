/** Whoever leaves for good has nothing to lose any more: some of its last answers are checked. */
import { auditorsFor, isDrawn } from './checks.ts'
import { openClaims } from './claims.ts'
import { recheck } from './recall.ts'
import type { State } from './state.ts'
import type { Reputation } from './trust.ts'

export function checkTail(s: State, r: Reputation): void {
  if (r.volunteer || r.isConvicted || s.now < r.awayAt + s.policy.awayMs) return
  for (const claim of openClaims(r)) {
    if (claim.check || (claim.checked !== 'none' && claim.checked !== 'abandoned')) continue
    const who = auditorsFor(s, claim.class, r)
    // A second draw of the same ticket: below the sum of both rates, and not below the first.
    if (who && isDrawn(s, claim, Math.min(1, claim.rate + s.policy.tail))) recheck(s, claim, who)
  }
}
