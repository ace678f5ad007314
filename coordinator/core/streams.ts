/** Texts as they are handed on, token by token, and how they end. */
import { sliceLogprobs } from '../../protocol/logprobs.ts'
import type { Progress } from '../../protocol/nouns.ts'
import { isSameToken } from './checks.ts'
import { newClaim } from './claims.ts'
import { judgeClaim } from './decide.ts'
import { credit, endLeases, finishUnit } from './jobs.ts'
import type { Job, Lease, Span, State, Unit } from './state.ts'

/** Most tokens this lease may draw. */
export function restTokens(unit: Unit): number {
  const { spec, class: c } = unit.job
  if (spec.kind !== 'generate') return 0
  const { prompt, options } = spec.choices[unit.first]!
  return Math.min(options.maxTokens, c.model.context - prompt.length)
}

export function areTokens({ class: { model } }: Job, tokens: Uint32Array): boolean {
  for (let i = 0; i < tokens.length; i++) {
    if (tokens[i]! >= model.vocab) return false
    // Nothing is drawn after an end token.
    if (i < tokens.length - 1 && model.endIds.includes(tokens[i]!)) return false
  }
  return true
}

/** Who drew the token at this place first. */
export const spanAt = ({ spans }: Unit, at: number): Span | undefined =>
  spans.find(({ from, to }) => from <= at && at < to)

/**
 * Hands on what is new of a stream. Null when all was well; where it contradicts what was handed on before, the place in the
 * output of the first such token.
 */
export function deliver(
  s: State,
  lease: Lease,
  { position, tokens, logprobs, from = position, signature }: Omit<Progress, 'assignment'>,
): number | null {
  const { unit, volunteer: v } = lease
  const { job, tokens: drawn } = unit
  const at = position - lease.base
  const known = Math.min(drawn.length - at, tokens.length)
  for (let i = 0; i < known; i++)
    if (drawn[at + i] !== tokens[i] || !isSameToken(unit.logprobs, at + i, logprobs, i)) return at + i
  if (known === tokens.length) return null
  const index = drawn.length
  const fresh = Array.from(tokens.subarray(known))
  for (const id of fresh) drawn.push(id)
  const told = logprobs && sliceLogprobs(logprobs, known)
  if (told) for (const word of told.values) (unit.logprobs ??= []).push(word)
  const last = unit.spans.at(-1)
  const isMore = last?.assignment === lease.id
  const to = drawn.length
  const span: Span = {
    by: v.reputation,
    assignment: lease.id,
    from: isMore ? last.from : index,
    to,
    signed:
      signature !== undefined ? { from: from - lease.base, to, signature } : isMore ? last.signed : undefined,
  }
  unit.spans = [...(isMore ? unit.spans.slice(0, -1) : unit.spans), span]
  s.totals.tokensDrawn += fresh.length
  credit(job, v, 0, fresh.length, 0)
  s.emit({
    type: 'deliver-tokens',
    job: job.spec.id,
    choice: unit.first,
    index,
    tokens: fresh,
    logprobs: told,
  })
  return null
}

/** Of a requester who would not wait for a check, a stream that had all its tokens when its volunteer left needs nobody else. */
export const isComplete = (unit: Unit): boolean =>
  unit.job.spec.trust === 'fast' && !unit.check && unit.tokens.length > 0 && finishOf(unit) !== null

export function finishOf({ job: { spec, class: c }, first, tokens }: Unit): 'stop' | 'length' | null {
  if (spec.kind !== 'generate') return null
  const { prompt, options } = spec.choices[first]!
  if (c.model.endIds.includes(tokens.at(-1)!)) return 'stop'
  return tokens.length >= options.maxTokens || prompt.length + tokens.length >= c.model.context
    ? 'length'
    : null
}

export const finishComplete = (s: State, unit: Unit): void => endText(s, unit, finishOf(unit)!)

/** The requester wants no more of a choice. */
export function stopChoice(s: State, job: Job, choice: number): void {
  for (const unit of job.open)
    if (unit.first === choice && job.spec.kind === 'generate' && !unit.claim) return endText(s, unit, 'stop')
}

/** A text that ends before its volunteer signed it: whoever drew its last tokens stands for them all, having drawn or redrawn them. */
export function endText(s: State, unit: Unit, finish: 'stop' | 'length'): void {
  const span = unit.spans.at(-1)
  if (!span) {
    s.emit({ type: 'finish-choice', job: unit.job.spec.id, choice: unit.first, finish, tokens: 0 })
    return finishUnit(s, unit)
  }
  endLeases(s, unit)
  const claim = newClaim(s, unit, span.by, span.assignment, null)
  claim.waiting = {
    unit,
    output: null,
    finish,
    volunteer: undefined,
    computeMs: 0,
    isExact: unit.job.spec.trust === 'exact',
  }
  judgeClaim(s, unit, claim)
}
