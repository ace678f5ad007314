/**
 * Is an assignment late? A traffic light, as a pure question about times.
 *
 * Green: within what its volunteer's own record allows. Yellow: past E + 4·D, so ask somebody else as well and give this
 * volunteer nothing new. Red: past its lease, so it is somebody else's. Leases follow the volunteer's own estimate: a fixed one
 * shorter than a slow volunteer's honest time would take its work away for ever.
 */
import { LIMITS } from './limits.ts'

export type Light = 'green' | 'yellow' | 'red'

export interface Watch {
  /** When the volunteer could start on it, or last showed progress. */
  since: number
  /** From then to its answer or next progress. */
  expectedMs: number
  deviationMs: number
  rttMs: number
  /** Least grace past the expected end. */
  graceMs: number
  /** When all of a stream should long have come, however steadily its tokens drip. */
  overdueAt: number
}

export const yellowAt = (w: Watch): number => {
  const graceMs = Math.max(w.graceMs, LIMITS.hedgeDeviations * w.deviationMs)
  return Math.min(w.overdueAt, w.since + w.rttMs + w.expectedMs + graceMs)
}

/** max(5 s, RTT + 3·(E + 4·D)) after `since`. */
export const redAt = (w: Watch): number => w.since + leaseMs(w.expectedMs, w.deviationMs, w.rttMs)

export function leaseMs(expectedMs: number, deviationMs: number, rttMs: number): number {
  const ms = rttMs + 3 * (expectedMs + LIMITS.hedgeDeviations * deviationMs)
  return Math.round(Math.min(LIMITS.leaseMsMax, Math.max(LIMITS.leaseMsMin, ms)))
}

export function tardy(w: Watch, now: number): Light {
  return now >= redAt(w) ? 'red' : now >= yellowAt(w) ? 'yellow' : 'green'
}
