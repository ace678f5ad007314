/**
 * Credit as double entry: every posting sums to zero. Units are standard units, 10^6 int8 multiply-accumulates as the model's
 * Recording counts them, rounded up per work unit: what a unit is worth, whatever it took. The shell chains and keeps the entries.
 *
 *   accepted   requester → reserved, for the most a job can cost          checked    operator:checks → escrow, of who recomputed it
 *   over       reserved → escrow of who answered each unit (and the       final      escrow → volunteer
 *              model's owners), and what is left → requester              convicted  escrow → the requesters
 *
 * Units are paid when their job is over, in one turn with what is kept of it: after a kill a job that was cut off is done again
 * from its beginning, and none of it was paid.
 */
import type { RequesterId } from '../../protocol/nouns.ts'
import type { Claim } from './claims.ts'
import type { JobSpec, Posting, ServedModel } from './events.ts'
import { NONE } from './lists.ts'
import { partsOf } from './state.ts'
import type { Job, State } from './state.ts'
import type { Reputation } from './trust.ts'

const STANDARD = 1e6
/** Vesting is posted when this much of it has come together: one entry for many units. */
const VEST_TOGETHER = 32

type Line = Posting['lines'][number]

/** int8 multiply-accumulates of one sequence: `read` positions through the blocks, causal or all pairs, and `drawn` tokens. */
function sequence({ macs }: ServedModel, positions: number, drawn: number, isCausal: boolean): number {
  const pairs = isCausal ? (positions * (positions + 1)) / 2 : positions * positions
  return macs.perToken * positions + macs.perPair * pairs + macs.perDraw * drawn + macs.perRow
}

/** What a text is worth: its last token is drawn and not read. */
export const macsOfText = (model: ServedModel, prompt: number, drawn: number): number =>
  Math.ceil(sequence(model, prompt + drawn - 1, drawn, true) / STANDARD)

export function macsOfRows(model: ServedModel, rows: readonly Uint32Array[]): number {
  let macs = 0
  for (const { length } of rows) macs += sequence(model, length, 0, false)
  return Math.ceil(macs / STANDARD)
}

/** What checking a claim costs: rows again; of a text one reading, and no drawing. */
export const macsOfCheck = ({ class: { model }, kind, inputs, tokens }: Claim): number =>
  kind === 'generate'
    ? Math.ceil(sequence(model, inputs[0]!.length + tokens.length - 1, tokens.length, true) / STANDARD)
    : macsOfRows(model, inputs)

/** The most a job can cost. */
export function estimate(model: ServedModel, spec: JobSpec): number {
  let macs = 0
  if (spec.kind === 'generate')
    for (const { prompt, options } of spec.choices)
      macs += macsOfText(model, prompt.length, Math.min(options.maxTokens, model.context - prompt.length))
  else for (const row of spec.rows) macs += Math.ceil(sequence(model, row.length, 0, false) / STANDARD)
  return macs
}

export function post(s: State, entry: Posting): void {
  if (s.credit.size)
    for (const { account, amount } of entry.lines) {
      const requester = /^requester:(.*)$/s.exec(account)?.[1] as RequesterId | undefined
      const left = requester === undefined ? undefined : s.credit.get(requester)
      if (left !== undefined) s.credit.set(requester!, left + amount)
    }
  s.emit({ type: 'post', entry })
}

export function reserve(s: State, job: Job): void {
  const { id, requester } = job.spec
  job.reserved = partsOf(job.spec) ? estimate(job.class.model, job.spec) : 0
  post(s, {
    kind: 'reserve',
    at: s.now,
    job: id,
    lines: [
      { account: `requester:${requester}`, amount: -job.reserved },
      { account: `reserved:${id}`, amount: job.reserved },
    ],
  })
}

/**
 * A job is over: its units are paid, and what it did not need goes back.
 * @param isLost the coordinator gave it up: the operator pays, not who has no answer now and may ask again
 */
export function settleUp(s: State, job: Job, isLost: boolean): void {
  const { id, requester } = job.spec
  for (const claim of job.unpaid) earn(s, job, claim, isLost)
  job.unpaid = NONE
  if (job.reserved === 0) return
  post(s, {
    kind: 'release',
    at: s.now,
    job: id,
    lines: [
      { account: `reserved:${id}`, amount: -job.reserved },
      { account: `requester:${requester}`, amount: job.reserved },
    ],
  })
  job.reserved = 0
}

/** A unit was answered: by whom, and who made the model. */
function earn(s: State, job: Job, claim: Claim, isLost: boolean): void {
  const { by, macs, unit, isFinal } = claim
  // Right as it is: but a closed key earns nothing, and its requester pays nothing.
  if (by.isConvicted) return
  if (!isLost) job.reserved -= macs
  const { owners = NONE } = claim.class.model
  let own = macs
  for (const { share } of owners) own -= Math.floor(macs * share)
  const from = isLost ? 'operator:lost' : `reserved:${claim.job}`
  const lines: Line[] = [{ account: from, amount: -macs }, intoHands(by, own, isFinal)]
  for (const { name, share } of owners)
    lines.push({ account: `owner:${name}`, amount: Math.floor(macs * share) })
  claim.paid = isFinal ? 0 : own
  post(s, { kind: 'earn', at: s.now, job: claim.job, unit, identity: by.identity, lines })
}

/** Checking is work as well, and nobody can tell it from other work: the operator pays for it. */
export function payCheck(s: State, claim: Claim, auditor: Reputation, macs: number): void {
  const isFinal = auditor.isTrusted || claim.isFinal
  const lines = [{ account: 'operator:checks', amount: -macs }, intoHands(auditor, macs, isFinal)]
  claim.vouchers = [...claim.vouchers, { by: auditor, paid: isFinal ? 0 : macs }]
  post(s, { kind: 'earn', at: s.now, job: claim.job, unit: claim.unit, identity: auditor.identity, lines })
}

/**
 * Canaries, and reading texts that are still being written, are work too. It is paid together with the latest answer of who did
 * it, and reversed if that is.
 */
export function payAside(
  s: State,
  { job, unit }: Pick<Claim, 'job' | 'unit'>,
  r: Reputation,
  macs: number,
): void {
  const own = r.claims.at(-1)
  if (!r.isTrusted) {
    if (!own || own.isFinal || r.isConvicted) return
    own.vouchers = [...own.vouchers, { by: r, paid: macs }]
  }
  const lines = [{ account: 'operator:checks', amount: -macs }, intoHands(r, macs, r.isTrusted)]
  post(s, { kind: 'earn', at: s.now, job, unit, identity: r.identity, lines })
}

function intoHands(r: Reputation, amount: number, isFinal: boolean): Line {
  r.isUntold = true
  if (isFinal) r.vested += amount
  else r.escrow += amount
  return { account: `${isFinal ? 'volunteer' : 'escrow'}:${r.identity}`, amount }
}

/** A claim is final: so is what it earned, and what checking it did. */
export function vest(s: State, { by, paid, vouchers }: Claim): void {
  vestOne(s, by, paid)
  for (const voucher of vouchers) vestOne(s, voucher.by, voucher.paid)
}

function vestOne(s: State, by: Reputation, paid: number): void {
  if (by.isConvicted || paid === 0) return
  by.vesting += paid
  by.vestings++
  by.isUntold = true
  if (by.vestings >= VEST_TOGETHER || by.volunteer === undefined) postVesting(s, by)
}

export function postVesting(s: State, r: Reputation): void {
  const amount = r.vesting
  r.vestings = 0
  if (amount === 0) return
  r.vesting = 0
  r.escrow -= amount
  r.vested += amount
  post(s, {
    kind: 'vest',
    at: s.now,
    identity: r.identity,
    lines: [
      { account: `escrow:${r.identity}`, amount: -amount },
      { account: `volunteer:${r.identity}`, amount },
    ],
  })
}

/** What an earlier life left in escrow, its window being over. */
export function vestRestored(s: State, r: Reputation): void {
  if (r.isConvicted) return
  r.vesting += r.restored
  r.restored = 0
  postVesting(s, r)
}

/** A convict's unvested credit goes back to whom it came from; of an earlier life nobody remembers whom. */
export function burn(s: State, r: Reputation, open: readonly Claim[]): void {
  postVesting(s, r)
  const back = new Map<string, number>()
  let rest = r.escrow
  for (const { requester, paid } of open) {
    back.set(requester, (back.get(requester) ?? 0) + paid)
    rest -= paid
  }
  // Nothing to take back is an entry too: from here on this key is paid nothing.
  const lines: Line[] = r.escrow === 0 ? [] : [{ account: `escrow:${r.identity}`, amount: -r.escrow }]
  for (const [requester, amount] of back)
    if (amount !== 0) lines.push({ account: `requester:${requester}`, amount })
  if (rest !== 0) lines.push({ account: 'operator:reversed', amount: rest })
  r.escrow = 0
  r.restored = 0
  post(s, { kind: 'convict', at: s.now, identity: r.identity, lines })
}
