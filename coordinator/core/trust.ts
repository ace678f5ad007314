/** What is known of a key, and how much of what it says is checked. numerics §7: q(n) = 1 in probation, then max(floor, β / n). */
import type { Millis } from '../../protocol/nouns.ts'
import type { Claim } from './claims.ts'
import type { Identity, IdentityRecord } from './events.ts'
import type { Restore } from './policy.ts'
import { place } from './classes.ts'
import type { State, Volunteer } from './state.ts'

/** A key's record; it outlives its connections. */
export interface Reputation {
  readonly identity: Identity
  /** Where it was last. */
  network: string
  /** The house, or a key the operator listed: what it computes is the truth for verdicts. */
  isTrusted: boolean
  /** Results accepted: in probation only those checked and found right. n of q(n). */
  accepted: number
  /** Of them, checked and found right. */
  checked: number
  /** All its results in this life, accepted yet or not. */
  results: number
  /** It was given something in this life. */
  hasWorked: boolean
  /** Answers whose checks are not done. */
  pending: number
  /** A trusted engine contradicts it; it has a moment to show its leaves. */
  isAccused: boolean
  isConvicted: boolean
  volunteer: Volunteer | undefined
  awayAt: Millis
  /** What may still be found wrong, oldest first; some behind the first may be final already. */
  claims: Claim[]
  /** Others' answers it said were right. */
  vouched: Claim[]
  /** Credit that can be reversed, and credit for good; of the first, what is to become the second with the next posting. */
  escrow: number
  vested: number
  vesting: number
  /** Of how many claims the last is. */
  vestings: number
  /** Of an earlier life, for what is no claim any more: vests after the window. */
  restored: number
  /** Something of it changed since its volunteer was told. */
  isUntold: boolean
}

/** What an earlier life knew of its keys; their credit in escrow is final after another window. */
export function restoreRecords(s: State, { identities = [], balances = {}, claims = [] }: Restore): void {
  for (const { identity, accepted, checked, isConvicted } of identities) {
    const r = reputationOf(s, identity, '', false)
    r.accepted = accepted
    r.checked = checked
    r.isConvicted = isConvicted
    r.vested = balances[`volunteer:${identity}`] ?? 0
  }
  for (const [account, amount] of Object.entries(balances)) {
    const identity = /^escrow:(.*)$/.exec(account)?.[1]
    if (identity === undefined) continue
    const r = reputationOf(s, identity, '', false)
    r.escrow = r.restored = amount
  }
  // The clock is not known yet: the first event tells the time.
  s.timers.push(0, { kind: 'restored', claims })
}

export function reputationOf(s: State, identity: Identity, network: string, isTrusted: boolean): Reputation {
  const known = s.records.get(identity)
  if (known) {
    known.network = network
    known.isTrusted = isTrusted
    return known
  }
  const fresh: Reputation = {
    identity,
    network,
    isTrusted,
    accepted: 0,
    checked: 0,
    results: 0,
    hasWorked: false,
    pending: 0,
    isAccused: false,
    isConvicted: false,
    volunteer: undefined,
    awayAt: 0,
    claims: [],
    vouched: [],
    escrow: 0,
    vested: 0,
    vesting: 0,
    vestings: 0,
    restored: 0,
    isUntold: true,
  }
  s.records.set(identity, fresh)
  return fresh
}

/** Of a key that goes: forgotten if there is nothing to remember. Identities cost nothing, so those without work are not kept. */
export function away(s: State, r: Reputation): void {
  r.volunteer = undefined
  r.awayAt = s.now
  if (r.isConvicted) return
  if (isBlank(r)) {
    s.records.delete(r.identity)
    return
  }
  s.timers.push(s.now + s.policy.awayMs, { kind: 'tail', record: r })
  // The longest away come first.
  s.records.delete(r.identity)
  s.records.set(r.identity, r)
  if (s.records.size - s.volunteers.size <= s.policy.records) return
  // Those in front that must be remembered go to the back, or nobody behind them would ever be forgotten.
  for (let i = 0; i < 16; i++) {
    const old = s.records.values().next().value!
    s.records.delete(old.identity)
    if (isForgettable(old)) return
    s.records.set(old.identity, old)
  }
}

const isForgettable = (r: Reputation): boolean =>
  !r.volunteer && !r.isConvicted && !r.isAccused && r.pending === 0 && r.claims.length === 0

const isBlank = (r: Reputation): boolean => !r.hasWorked && r.accepted === 0 && r.restored === 0

/** Its results are all checked, by trusted engines: it is new, or somebody from its network was convicted lately. */
export const isOnProbation = (s: State, r: Reputation): boolean =>
  !r.isTrusted && (r.accepted < s.policy.probation || (s.alarms.size > 0 && isAlarmed(s, r.network)))

function isAlarmed(s: State, network: string): boolean {
  const until = s.alarms.get(network)
  if (until === undefined) return false
  if (until > s.now) return true
  s.alarms.delete(network)
  return false
}

/** q(n) */
export function checkRate(s: State, r: Reputation): number {
  if (r.isTrusted) return 0
  if (isOnProbation(s, r)) return 1
  return Math.min(1, Math.max(s.policy.floor, s.policy.beta / Math.max(1, r.accepted)))
}

/** Known long enough to check others: where q(n) has reached its floor. */
export const isVeteran = (s: State, r: Reputation): boolean =>
  !r.isTrusted &&
  r.accepted >= s.policy.beta / s.policy.floor &&
  !r.isAccused &&
  !r.isConvicted &&
  !isOnProbation(s, r)

/** Whether it may be given more before its answers were checked. */
export function isWithinPending(s: State, v: Volunteer): boolean {
  const { pending, accepted, isAccused } = v.reputation
  if (isAccused) return false
  return pending < (accepted < s.policy.probation ? v.slots : Math.max(v.slots, s.policy.pending))
}

export const recordOf = ({ accepted, checked }: Reputation): IdentityRecord => ({ accepted, checked })

/** One more answer of it is accepted. */
export function accept(s: State, r: Reputation, isChecked: boolean): void {
  r.accepted++
  if (isChecked) r.checked++
  r.isUntold = true
  const { probation, beta, floor } = s.policy
  const isPromoted = r.accepted === probation || r.accepted === Math.ceil(beta / floor)
  if (isPromoted && r.volunteer) place(s, r.volunteer)
}

export function raisePending(s: State, r: Reputation, by: 1 | -1): void {
  r.pending += by
  if (r.volunteer) place(s, r.volunteer)
}

/** Tells a volunteer where its key stands, if that changed. */
export function tellStanding(s: State, v: Volunteer): void {
  const { reputation: r } = v
  if (!r.isUntold) return
  r.isUntold = false
  const { accepted, checked, escrow, vested, vesting } = r
  s.emit({
    type: 'send',
    volunteer: v.id,
    message: {
      type: 'standing',
      standing: {
        accepted,
        checked,
        checkRate: checkRate(s, r),
        pending: escrow - vesting,
        vested: vested + vesting,
      },
    },
  })
}
