/** In words, how far an answer is known to be right: from what was done about it. */
import type { UnitCheck, Verification } from './events.ts'

/** From least to most. */
const ORDER: readonly Verification[] = ['unverified', 'sampled', 'audited', 'replicated', 'trusted']

/** Of one unit. What the lottery might have drawn was sampled; what it drew and nobody could check is as if nothing had been done. */
export function verificationOf(kind: UnitCheck['kind'], rate: number): Verification {
  if (kind === 'pending') return 'sampled'
  if (kind === 'none') return rate > 0 ? 'sampled' : 'unverified'
  return kind === 'abandoned' ? 'unverified' : kind
}

/** The one that says less. */
export const weaker = (a: Verification, b: Verification): Verification =>
  ORDER.indexOf(a) < ORDER.indexOf(b) ? a : b
