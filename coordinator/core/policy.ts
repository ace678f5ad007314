/** How much is checked, and what that costs and leaves open: every number of docs/decisions on trust, in one place. */
import type { RequesterId } from '../../protocol/nouns.ts'
import type { Identity, KeptClaim } from './events.ts'

export interface Policy {
  /** Results of a key that are all checked, by trusted engines, before it counts as known: N0. */
  probation: number
  /** q(n) = max(floor, beta / n) of the results after that are checked, n being those accepted. */
  beta: number
  floor: number
  /** A result is final, and its credit vested, after this many further ones of its key, or after so long. */
  windowResults: number
  windowMs: number
  /** Of the results of known keys, this share is followed by a question whose answer is certain already. */
  canaries: number
  /** Of a key that stays away this long, that share of what is not final is checked: the tail. */
  awayMs: number
  tail: number
  /**
   * Texts are all checked where reading them again costs at most this share of writing them; and while they are being written, as
   * often as it pays for, every so many tokens.
   */
  textShare: number
  chunk: number
  /** Answers of one key that may wait for their checks: a newcomer's, besides its slots, and anybody's. */
  pending: number
  /** All results of a convict's neighbours are checked for so long. */
  alarmMs: number
  /** Leaves are waited for this long in a dispute. */
  discloseMs: number
  /** Results that are not final, of everybody: ~500 bytes each. Beyond that the oldest become final early. */
  claims: number
  /** And their token ids, 4 bytes each. */
  claimTokens: number
  /** Keys remembered besides those connected: ~300 bytes each. */
  records: number
}

/** Derived in numerics §7.2: at most 0.07 % of a tenth of all work, all of it lies, becomes final; honest work costs 4.5 to 6.3 % more. */
export const POLICY: Policy = Object.freeze({
  probation: 20,
  beta: 40,
  floor: 0.04,
  windowResults: 1000,
  windowMs: 24 * 3_600_000,
  awayMs: 600_000,
  canaries: 0.01,
  tail: 0.1,
  textShare: 1 / 16,
  chunk: 64,
  pending: 8,
  alarmMs: 3_600_000,
  discloseMs: 5_000,
  claims: 200_000,
  claimTokens: 32 * 1024 * 1024,
  records: 100_000,
})

/** What an earlier life of the coordinator knew, as its settle-unit, check-unit, convict and post effects told it. */
export interface Restore {
  identities?: readonly {
    identity: Identity
    accepted: number
    checked: number
    isConvicted: boolean
  }[]
  /** Balances of the ledger by account; what lies in escrow for none of the claims vests after windowMs more. */
  balances?: Readonly<Record<string, number>>
  /** What is left to requesters with a limit. */
  credit?: Iterable<readonly [RequesterId, number]>
  /** What was not final. */
  claims?: readonly KeptClaim[]
}
