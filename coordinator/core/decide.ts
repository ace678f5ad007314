/** Whether an answer is checked, by whom, and whether its requester waits for that. */
import { auditorsFor, hasVeteran, isDrawn, startCheck } from './checks.ts'
import { settle } from './claims.ts'
import type { Claim } from './claims.ts'
import { endLeases } from './jobs.ts'
import type { Lease, State, Unit } from './state.ts'
import { isCheapToCheck } from './texts.ts'
import { accept, checkRate, isOnProbation } from './trust.ts'

/** Decides how an answer is checked, and delivers it: before or after. */
export function judgeClaim(s: State, unit: Unit, claim: Claim, lease?: Lease): void {
  const { by } = claim
  const { class: c, spec } = unit.job
  unit.claim = claim
  s.totals.macs += claim.macs
  if (by.isTrusted) {
    claim.checked = 'trusted'
    accept(s, by, true)
    claim.isAccepted = true
    return settle(s, claim, lease)
  }
  let who = auditorsFor(s, c, by)
  if (spec.trust === 'exact') {
    claim.rate = 1
    who = c.referees.size ? 'trusted' : hasVeteran(c, by) ? 'established' : 'other'
  } else
    claim.rate = spec.kind === 'generate' && isCheapToCheck(s, claim, unit.reading) ? 1 : checkRate(s, by)
  const isFast = spec.trust === 'fast'
  // Of nobody who could, a fast answer does not wait; others wait for somebody to come.
  if (who === null && isFast) claim.rate = 0
  else if (isDrawn(s, claim, claim.rate)) {
    claim.checked = 'pending'
    if (isFast) {
      startCheck(s, claim, who ?? 'trusted', false)
      return settle(s, claim, lease)
    }
    endLeases(s, unit, lease)
    unit.state = 'checking'
    return startCheck(s, claim, who ?? 'trusted', true)
  }
  if (!isOnProbation(s, by)) {
    accept(s, by, false)
    claim.isAccepted = true
  }
  settle(s, claim, lease)
}
