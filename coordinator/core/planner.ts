/** Jobs into units: a generate unit per choice, encoder rows cut to the measured speed of the volunteer that takes them. */
import type { Assignment, Millis, UnitId } from '../../protocol/nouns.ts'
import type { UnitInput } from '../../protocol/statements.ts'
import { LIMITS as WIRE, PAYLOAD_BYTES_MAX } from '../../protocol/limits.ts'
import { LIMITS } from './limits.ts'
import { speedOf } from './classes.ts'
import { added, NONE } from './lists.ts'
import { partsOf, shapeOf } from './state.ts'
import type { Job, Lease, ModelClass, State, Unit, Volunteer } from './state.ts'
import type { JobSpec } from './events.ts'

/** Work in read tokens: what estimates are per. A generate unit is counted as if it drew all it may. */
export function costOf(spec: JobSpec, part: number): number {
  if (spec.kind !== 'generate') return spec.rows[part]!.length
  const { prompt, options } = spec.choices[part]!
  return prompt.length + LIMITS.drawCost * options.maxTokens
}

export function totalCost(spec: JobSpec): number {
  let cost = 0
  for (let i = partsOf(spec) - 1; i >= 0; i--) cost += costOf(spec, i)
  return cost
}

export function tokensOf(spec: JobSpec): number {
  let tokens = 0
  if (spec.kind === 'generate') for (const { prompt } of spec.choices) tokens += prompt.length
  else for (const row of spec.rows) tokens += row.length
  return tokens
}

/**
 * How long a unit for this volunteer should take: clamp(10·RTT, 300 ms, 1 s). Those it computes side by side share its time, so
 * that each takes as many times as long.
 */
export const unitMs = (v: Volunteer): Millis =>
  Math.min(
    LIMITS.unitMsMax,
    v.concurrency * Math.max(LIMITS.unitMsMin, LIMITS.roundTripsHidden * v.rttMs.mean),
  )

/** Takes the next unit of a job that has one, for this volunteer. The caller leases it in the same call. */
export function cut(s: State, job: Job, v: Volunteer): Unit {
  const { spec } = job
  const first = job.next
  let cost = costOf(spec, first)
  let count = 1
  if (spec.kind !== 'generate') {
    const c = job.class
    const perCost = speedOf(v, c).service.mean
    // A requester who waits would rather have the rest spread over everybody who is free.
    const share = spec.priority === 'interactive' ? job.restCost / Math.max(1, c.idle.size) : Infinity
    const target = Math.min(unitMs(v) / perCost, share)
    const rowsMax = Math.min(
      WIRE.rowsPerUnit,
      Math.floor(PAYLOAD_BYTES_MAX / (4 * Math.max(1, shapeOf(c.model, spec.kind)?.width ?? 1))),
    )
    const end = Math.min(spec.rows.length, first + rowsMax)
    while (first + count < end && cost + costOf(spec, first + count) <= target)
      cost += costOf(spec, first + count++)
  }
  job.next = first + count
  job.restCost -= cost
  job.class.queuedCost -= cost
  job.class.queuedParts -= count
  job.units++
  const unit: Unit = {
    id: s.id('u') as UnitId,
    job,
    state: 'leased',
    first,
    count,
    cost,
    inputs: undefined,
    input: undefined,
    tokens: spec.kind === 'generate' ? [] : NONE,
    logprobs: undefined,
    spans: NONE,
    copies: NONE,
    leases: NONE,
    excluded: NONE,
    failedBy: NONE,
    attempts: 0,
    check: undefined,
    claim: undefined,
    isDisputed: false,
    objections: NONE,
    reading: undefined,
  }
  job.open = added(job.open, unit)
  return unit
}

/** What a unit asks, from its beginning. */
export function partsOfUnit(unit: Unit): UnitInput {
  const { spec } = unit.job
  if (spec.kind !== 'generate') {
    const { rows } = spec
    unit.inputs ??= unit.count === rows.length ? rows : rows.slice(unit.first, unit.first + unit.count)
    return { kind: spec.kind, inputs: unit.inputs }
  }
  const { prompt, options } = spec.choices[unit.first]!
  unit.inputs ??= [prompt]
  return { kind: 'generate', inputs: unit.inputs, generate: options }
}

/** What a volunteer is sent. A text that was begun elsewhere has the tokens already drawn as part of its input, to be drawn again. */
export function assignmentOf(unit: Unit, lease: Lease, leaseMs: Millis): Assignment {
  const { spec } = unit.job
  const { id } = lease
  const { model, priority, kind } = spec
  if (kind !== 'generate')
    return { id, unit: unit.id, model, leaseMs, priority, kind, inputs: partsOfUnit(unit).inputs }
  const { prompt, options } = spec.choices[unit.first]!
  const drawn = unit.tokens
  let input = prompt
  if (drawn.length) {
    input = new Uint32Array(prompt.length + drawn.length)
    input.set(prompt)
    input.set(drawn, prompt.length)
  }
  const generate = drawn.length ? { ...options, replay: drawn.length } : options
  return { id, unit: unit.id, model, leaseMs, priority, kind, inputs: [input], generate }
}

/** Length of a generate unit's input if it were sent now; 0 for encoders. */
export const inputLength = ({ job: { spec }, first, tokens }: Unit): number =>
  spec.kind === 'generate' ? spec.choices[first]!.prompt.length + tokens.length : 0

/** Cost of what is left of a unit. */
export function restOf(unit: Unit): number {
  const { spec } = unit.job
  if (spec.kind !== 'generate') return unit.cost
  // To check a text is to read it.
  if (unit.check) return inputLength(unit)
  return (
    inputLength(unit) + LIMITS.drawCost * (spec.choices[unit.first]!.options.maxTokens - unit.tokens.length)
  )
}

/** Ready units, roughly: encoder rows are counted as units of the usual size. */
export function readyUnits(c: ModelClass): number {
  return c.model.task === 'generate'
    ? c.queuedParts
    : Math.min(c.queuedParts, (c.queuedCost * c.service.mean) / LIMITS.unitMsMin)
}
