/**
 * Disputes: a trusted engine computed something else. What was delivered is corrected, whoever said it is asked to show its leaves,
 * and convicted whether or not it does: its key is closed for good, its credit goes back, and what else it said is computed again.
 */
import { CLOSE } from '../../protocol/errors.ts'
import { LIMITS as WIRE } from '../../protocol/limits.ts'
import { merklePath, merkleRoot } from '../../protocol/merkle.ts'
import type { AssignmentId, Progress, Result } from '../../protocol/nouns.ts'
import { wordsPerToken } from '../../protocol/logprobs.ts'
import { inputBytes } from '../../protocol/statements.ts'
import { progressBytes } from '../../protocol/wire.ts'
import { firstDifference } from './checks.ts'
import type { Answer } from './checks.ts'
import { checkOf, digestOf, finalize, hex, newClaim, openClaims, settle } from './claims.ts'
import type { Claim } from './claims.ts'
import type { Evidence, Streamed } from './events.ts'
import { takeBack } from './leases.ts'
import { burn, macsOfCheck } from './ledger.ts'
import { recheck } from './recall.ts'
import { place } from './classes.ts'
import type { Span, State, Volunteer } from './state.ts'
import { recordOf } from './trust.ts'
import type { Reputation } from './trust.ts'
import { dismiss } from './volunteers.ts'

/** Somebody's word that a trusted engine contradicts. */
export type Accused = Pick<
  Claim,
  'by' | 'assignment' | 'class' | 'kind' | 'inputs' | 'options' | 'input' | 'output' | 'root' | 'signature'
> & {
  /** What the signature is under, where that is no whole answer; then there is neither output nor root. */
  said?: Streamed
}

/** While both sides are asked for their leaves. */
export interface Trial {
  readonly accused: Accused
  readonly truth: Answer
  accusedLeaves: Uint8Array | undefined
  refereeLeaves: Uint8Array | undefined
  isOver: boolean
}

/** An answer to a claim's question. */
export const answerOf = (claim: Accused, by: Reputation, result: Result): Accused => ({
  by,
  assignment: result.assignment,
  class: claim.class,
  kind: claim.kind,
  inputs: claim.inputs,
  options: claim.options,
  input: result.input ?? claim.input,
  output: result.digest,
  root: result.root ?? null,
  signature: result.signature ?? null,
})

/** Who streamed a part of a text that nobody signed the whole of. */
function writerOf(s: State, claim: Claim, { by, assignment, signed }: Omit<Span, 'from' | 'to'>): Accused {
  const { class: c, kind, inputs, streamed, tokens, logprobs } = claim
  const { options } = streamed!
  const input = digestOf(s, inputBytes({ kind, inputs, generate: options }))
  const accused = {
    by,
    assignment,
    class: c,
    kind,
    inputs,
    options,
    input,
    output: null,
    root: null,
    signature: null,
  }
  if (!signed) return accused
  const cut = (words: ArrayLike<number>, each: number): number[] =>
    Array.from(words).slice(each * signed.from, each * signed.to)
  const said: Streamed = { from: inputs[0]!.length + signed.from, tokens: Uint32Array.from(cut(tokens, 1)) }
  if (logprobs && options.logprobs !== undefined) {
    const top = options.logprobs
    said.logprobs = { top, values: Int32Array.from(cut(logprobs, wordsPerToken({ top }))) }
  }
  return { ...accused, signature: signed.signature, said }
}

/** Who says something else of a text than was delivered. @param claim the text as delivered */
export function objectorOf(
  s: State,
  claim: Claim,
  { position, tokens, logprobs, from = position, signature }: Omit<Progress, 'assignment'>,
): Accused {
  const base = claim.inputs[0]!.length
  const before = position - base
  const told = logprobs ? Array.from(claim.logprobs ?? []).slice(0, before * wordsPerToken(logprobs)) : []
  const heard: Claim = {
    ...claim,
    tokens: [...Array.from(claim.tokens).slice(0, before), ...tokens],
    logprobs: logprobs && [...told, ...logprobs.values],
  }
  const signed =
    signature === undefined ? undefined : { from: from - base, to: heard.tokens.length, signature }
  return writerOf(s, heard, { by: claim.by, assignment: claim.assignment, signed })
}

/** Of a text that nobody signed the whole of: whoever streamed a token that is not the right one. */
export function accuseWriters(s: State, claim: Claim, truth: Answer): void {
  for (const span of claim.streamed?.spans ?? []) {
    const { from, to } = span.signed ?? span
    if (firstDifference(claim, truth.result, from, to) !== null) accuse(s, writerOf(s, claim, span), truth)
  }
}

/** The claim is wrong: the truth is delivered in its place. @param v whose truth it is */
export function condemn(s: State, claim: Claim, truth: Answer, v: Volunteer): void {
  claim.isWrong = true
  s.totals.wrong++
  if (claim.waiting) replace(s, claim, truth, v)
  else {
    const { job, unit, by, first, count, kind } = claim
    const { output, digest, root } = truth.result
    s.emit({
      type: 'check-unit', job, unit, identity: by.identity, verdict: 'wrong',
      check: { ...checkOf(claim), kind: 'trusted' }, macs: macsOfCheck(claim), record: recordOf(by),
    }) // prettier-ignore
    s.emit({
      type: 'correct-unit', job, unit, first, count, choice: kind === 'generate' ? first : null,
      identity: truth.by.identity, output, digest, root: root ?? null, isJobOpen: s.jobs.has(job),
    }) // prettier-ignore
    if (by.isConvicted) finalize(s, claim)
  }
  if (!claim.streamed) return accuse(s, claim, truth)
  accuseWriters(s, claim, truth)
  const { by } = claim
  // All it drew itself is right: it went on behind somebody else's wrong log-probabilities, which it was never shown.
  if (by.isAccused || by.isConvicted) return
  claim.isWrong = false
  finalize(s, claim)
}

/** The answer that waited is not delivered; the referee's is. */
function replace(s: State, claim: Claim, truth: Answer, v: Volunteer): void {
  const waiting = claim.waiting!
  const { unit } = waiting
  const { result } = truth
  claim.waiting = undefined
  claim.isFinal = true
  const right = newClaim(s, unit, truth.by, result.assignment, result)
  right.rate = claim.rate
  right.checked = 'trusted'
  const { output } = result
  if (output.kind === 'generate') correctText(s, unit.id, right, truth)
  const finish = output.kind === 'generate' && claim.output !== null ? output.finish : waiting.finish
  right.waiting = { ...waiting, output, finish, volunteer: v, computeMs: result.computeMs }
  settle(s, right)
}

/** Tokens were delivered as they came: these take their place. */
export function correctText(s: State, unit: Claim['unit'], right: Claim, truth: Answer): void {
  const { output, digest, root } = truth.result
  const { job, first, count } = right
  s.emit({
    type: 'correct-unit', job, unit, first, count, choice: first, identity: truth.by.identity, output, digest,
    root: root ?? null, isJobOpen: true,
  }) // prettier-ignore
}

/** Whoever said this was wrong, for certain. */
export function accuse(s: State, accused: Accused, truth: Answer): void {
  const { by } = accused
  const known = s.records.get(by.identity)
  // Forgotten meanwhile, or met again as somebody new.
  if (!known) s.records.set(by.identity, by)
  else if (known !== by) return accuse(s, { ...accused, by: known }, truth)
  if (by.isConvicted || by.isAccused) return
  if (by.isTrusted) {
    const text = `two trusted engines contradict each other: ${by.identity} on ${accused.assignment}, ${truth.by.identity} on ${truth.result.assignment}`
    s.emit({ type: 'note', level: 'warn', text })
    return
  }
  by.isAccused = true
  const v = by.volunteer
  if (v) takeAll(s, v)
  const trial: Trial = {
    accused,
    truth,
    accusedLeaves: undefined,
    refereeLeaves: undefined,
    isOver: false,
  }
  const referee = truth.by.volunteer
  if (!v || !referee || accused.root === null || truth.result.root === undefined || !s.hash)
    return convict(s, trial)
  ask(s, trial, v, accused.assignment)
  ask(s, trial, referee, truth.result.assignment)
  s.timers.push(s.now + s.policy.discloseMs, { kind: 'trial', trial })
}

function ask(s: State, trial: Trial, v: Volunteer, assignment: AssignmentId): void {
  s.trials.set(assignment, trial)
  s.emit({ type: 'send', volunteer: v.id, message: { type: 'disclose', assignment } })
}

/** What it holds goes to others. */
function takeAll(s: State, v: Volunteer): void {
  place(s, v)
  for (const lease of v.held.toReversed()) takeBack(s, lease)
}

/** Leaves nobody asked for, or asked for twice, are let pass: they may have crossed a verdict. */
export function onLeaves(s: State, v: Volunteer, assignment: AssignmentId, leaves: Uint8Array): void {
  const trial = s.trials.get(assignment)
  if (!trial) return
  const { accused, truth } = trial
  if (assignment === accused.assignment && v.reputation === accused.by) trial.accusedLeaves ??= leaves
  else if (assignment === truth.result.assignment && v.reputation === truth.by) trial.refereeLeaves ??= leaves
  if (trial.accusedLeaves && trial.refereeLeaves) convict(s, trial)
}

/** A trusted engine's recomputation is all it takes; leaves only show where. */
export function convict(s: State, trial: Trial): void {
  if (trial.isOver) return
  trial.isOver = true
  const { accused, truth } = trial
  const { by, class: c, kind, inputs, options, output, root, signature, said } = accused
  s.trials.delete(accused.assignment)
  s.trials.delete(truth.result.assignment)
  by.isAccused = false
  by.isConvicted = true
  s.totals.convicted++
  const { result } = truth
  const evidence: Evidence = {
    assignment: accused.assignment,
    model: c.model.digest,
    unit: { kind, inputs, ...(options && { generate: options }) },
    input: accused.input ?? result.input ?? '',
    output: said ? digestOf(s, progressBytes(said.tokens, said.logprobs)) : output,
    root,
    signature,
    ...(said && { streamed: said }),
    referee: {
      identity: truth.by.identity,
      output: result.digest,
      root: result.root ?? null,
      ...(output === null && result.output.kind === 'generate' && { tokens: result.output.tokens.length }),
    },
    leaf: firstLeaf(s, trial),
  }
  s.emit({ type: 'convict', identity: by.identity, at: s.now, evidence })
  if (by.volunteer)
    dismiss(s, by.volunteer, CLOSE.convicted, `Assignment ${accused.assignment} was answered wrongly.`)
  s.alarms.set(by.network, s.now + s.policy.alarmMs)
  s.timers.push(s.now + s.policy.alarmMs, { kind: 'alarm', network: by.network })
  placeNetwork(s, by.network)
  const open = openClaims(by)
  burn(s, by, open)
  for (const claim of [...open, ...by.vouched]) again(s, claim, by)
  by.claims = []
  by.vouched = []
}

/** Its neighbours are trusted less from now on, or as before again. */
export function placeNetwork(s: State, network: string): void {
  if (s.alarms.get(network)! <= s.now) s.alarms.delete(network)
  for (const v of s.volunteers.values()) if (v.reputation.network === network) place(s, v)
  for (const c of s.classes.values()) s.touch(c)
}

/** What a convict said, or said was right, is computed again while it can be corrected. */
function again(s: State, claim: Claim, convict: Reputation): void {
  if (claim.isWrong) return finalize(s, claim)
  if (claim.isFinal || claim.check) return
  claim.vouchers = claim.vouchers.filter((v) => v.by !== convict)
  recheck(s, claim, claim.class.referees.size ? 'trusted' : 'established')
}

/** Where the two traces part: the first leaf that differs, with its way up to each root. */
function firstLeaf(s: State, { accused, truth, accusedLeaves, refereeLeaves }: Trial): Evidence['leaf'] {
  const { hash } = s
  if (!hash || !accusedLeaves?.length || accusedLeaves.length !== refereeLeaves?.length) return null
  if (accusedLeaves.length % 32) return null
  const [mine, theirs] = [split(accusedLeaves), split(refereeLeaves)]
  if (hex(merkleRoot(mine, hash)) !== accused.root || hex(merkleRoot(theirs, hash)) !== truth.result.root)
    return null
  const index = mine.findIndex((leaf, i) => leaf.some((byte, k) => byte !== theirs[i]![k]))
  if (index < 0) return null
  return {
    index,
    count: mine.length,
    place: placeOf(accused, truth.result, index, mine.length),
    accused: mine[index]!,
    accusedPath: merklePath(mine, index, hash),
    referee: theirs[index]!,
    refereePath: merklePath(theirs, index, hash),
  }
}

const split = (leaves: Uint8Array): Uint8Array[] =>
  Array.from({ length: leaves.length / 32 }, (_, i) => leaves.subarray(32 * i, 32 * (i + 1)))

/** Positions under one leaf; doubled until the leaves fit a frame. As in docs/protocol.md §Commitments. */
const POSITIONS_PER_LEAF = 64

/** Leaves go by positions, counted through all sequences, and at each by layer (0 is the embedding); the last is the output. */
function placeOf(
  { kind, inputs, class: { model } }: Accused,
  { output }: Result,
  index: number,
  count: number,
): { layer: number; from: number; to: number } | null {
  const drawn = kind === 'generate' && output.kind === 'generate' ? output.tokens.length - 1 : 0
  const positions = inputs.reduce((n, row) => n + row.length, drawn)
  const layers = model.layers + 1
  let size = POSITIONS_PER_LEAF
  while (Math.ceil(positions / size) * layers >= WIRE.leaves) size *= 2
  if (index >= count - 1 || count !== Math.ceil(positions / size) * layers + 1) return null
  const from = Math.floor(index / layers) * size
  return { layer: index % layers, from, to: Math.min(positions, from + size) }
}
