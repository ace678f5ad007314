/**
 * Requesters with a limit spend what they were granted, and no more: a job is taken only if the most it can cost is left. All of it
 * is reserved in the same call, so requests that come at once cannot spend the same credit. Standard units.
 */
import type { RequesterId } from '../../protocol/nouns.ts'
import type { JobError, JobSpec, Posting, ServedModel } from './events.ts'
import { estimate, post } from './ledger.ts'
import type { State } from './state.ts'

/** Whoever is granted something, be it nothing, has a limit from then on. @param amount below 0: taken back, of what is left */
export function grant(s: State, requester: RequesterId, amount: number): void {
  const left = s.credit.get(requester) ?? 0
  if (left + amount < 0) return
  s.credit.set(requester, left)
  if (amount !== 0) post(s, { kind: 'grant', at: s.now, lines: grantOf(requester, amount) })
}

/** What was granted to whom stays to be seen: it is what that account owes. */
export const grantOf = (requester: RequesterId, amount: number): Posting['lines'] => [
  { account: `granted:${requester}`, amount: -amount },
  { account: `requester:${requester}`, amount },
]

/** Why a job can't be paid for; null if it can. */
export function lackOf(s: State, model: ServedModel, spec: JobSpec): JobError | null {
  const left = s.credit.get(spec.requester)
  if (left === undefined) return null
  const most = estimate(model, spec)
  if (most <= left) return null
  const hint = spec.kind === 'generate' ? ' A smaller max_tokens reserves less.' : ''
  const message = `It may cost up to ${most} credits, and ${left} are left.${hint}`
  // What others reserve is more than most of them need.
  return s.jobsOf.has(spec.requester)
    ? { code: 'insufficient_credits', message: `${message} More may be when your other requests are over.`, retryMs: RETRY_MS }
    : { code: 'insufficient_credits', message }
} // prettier-ignore

const RETRY_MS = 1_000
