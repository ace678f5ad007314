/**
 * What a receipt and an evidence bundle say, and every check of them that needs no computing again: `chorale verify` does these
 * and then recomputes. docs/trust.md explains the fields to people.
 */
import { hash } from 'node:crypto'
import * as v from 'valibot'
import {
  inputBytes, progressBytes, progressStatement, resultStatement, rootFromPath, wordsPerToken,
} from '../../protocol/index.ts' // prettier-ignore
import type { GenerateOptions, Logprobs, ModelDigest, UnitInput } from '../../protocol/index.ts'
import { bytesOf, importKey, isSignedBy } from '../identity.ts'
import { flawOfSeal } from './seal.ts'
import type { Flaw } from './seal.ts'

export const RECEIPT_FORMAT = 'chorale receipt 1'
export const EVIDENCE_FORMAT = 'chorale evidence 1'

const whole = v.pipe(v.number(), v.safeInteger(), v.minValue(0))
const share = v.pipe(v.number(), v.minValue(0), v.maxValue(1))
const text = v.pipe(v.string(), v.maxLength(1000))
const digest = v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/, '64 lower-case hex digits are due'))
const hex = v.pipe(v.string(), v.regex(/^([0-9a-f]{2})*$/, 'lower-case hex digits are due'))
const isBase64 = (length: number) => (value: string) => bytesOf(value, length) !== null
const publicKey = v.pipe(v.string(), v.check(isBase64(32), '32 bytes in base64url without padding are due'))
const signature = v.pipe(v.string(), v.check(isBase64(64), '64 bytes in base64url without padding are due'))
/** `house` is the coordinator's own engine: it has no key but the coordinator's. */
const identity = v.union([v.literal('house'), publicKey], 'a public key, or house, is due')
const ids = v.pipe(v.array(v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(2 ** 24 - 1))))

const options = v.strictObject({
  max_tokens: v.pipe(whole, v.minValue(1), v.maxValue(2 ** 32 - 1)),
  temperature: v.pipe(v.number(), v.minValue(0), v.maxValue(100)),
  top_k: v.pipe(whole, v.maxValue(2 ** 31)),
  top_p: share,
  seed: v.pipe(v.string(), v.regex(/^\d{1,20}$/), v.check((s) => BigInt(s) < 1n << 64n, 'it is below 2^64')), // prettier-ignore
  stream: v.pipe(whole, v.maxValue(2 ** 32 - 1)),
  logprobs: v.optional(v.pipe(whole, v.maxValue(20))),
})

const kind = v.picklist(['generate', 'embed', 'classify'])
const check = v.strictObject({
  kind: v.picklist(['none', 'pending', 'abandoned', 'audited', 'replicated', 'trusted']),
  rate: share,
  /** Of the lottery. */
  period: whole,
  by: v.array(identity),
})
const answer = { volunteer: identity, output: v.nullable(digest), root: v.nullable(digest) }
const ended = { coordinator: publicKey, seal: hex, signature }

const receipt = v.strictObject({
  format: v.literal(RECEIPT_FORMAT),
  id: text,
  /** Unix seconds. */
  issued_at: whole,
  request: v.strictObject({
    model: digest,
    model_name: text,
    numerics: v.literal('xn1'),
    kind,
    trust: v.picklist(['fast', 'checked', 'exact']),
    inputs: v.pipe(v.array(v.pipe(ids, v.minLength(1))), v.minLength(1)),
    /** Of a text: one per choice, `input` being the place of its prompt in `inputs`. */
    choices: v.optional(v.array(v.strictObject({ input: whole, ...options.entries }))),
  }),
  units: v.array(
    v.strictObject({
      unit: text,
      first: whole,
      count: v.pipe(whole, v.minValue(1)),
      ...answer,
      assignment: text,
      input: v.nullable(digest),
      signature: v.nullable(signature),
      /** Of a text that ended before it was signed: the volunteer's signature under what it had streamed, from this place in the sequence on. */
      streamed: v.optional(v.strictObject({ from: whole, signature })),
      /** Standard units: 10^6 int8 multiply-accumulates. */
      macs: whole,
      /** What a text became. */
      tokens: v.optional(ids),
      check,
      status: v.picklist(['provisional', 'final', 'corrected']),
      /** The wrong answer that this one replaces. */
      replaced: v.optional(v.strictObject({ ...answer, assignment: text, signature: v.nullable(signature) })),
    }),
  ),
  verification: v.picklist(['unverified', 'sampled', 'audited', 'replicated', 'trusted']),
  policy: v.strictObject({
    probation: whole,
    beta: v.pipe(v.number(), v.minValue(0)),
    floor: share,
    window_results: whole,
    window_ms: whole,
    tail: share,
  }),
  /** At most this share of answers verified like this one is wrong and stays unnoticed, as long as `liars` of all work is lies. */
  bound: v.strictObject({ undetected: share, liars: share, meaning: text }),
  /** The periods it was drawn in, and what was promised of each before. */
  lottery: v.array(v.strictObject({ period: whole, commitment: digest })),
  /** The ledger's head when this was issued: no entry before it can be changed without this receipt showing it. */
  ledger: v.strictObject({ seq: whole, hash: digest }),
  ...ended,
})
export type Receipt = v.InferOutput<typeof receipt>
export type ReceiptUnit = Receipt['units'][number]

const evidence = v.strictObject({
  format: v.literal(EVIDENCE_FORMAT),
  id: text,
  /** Unix seconds. */
  convicted_at: whole,
  request: v.strictObject({
    model: digest,
    numerics: v.literal('xn1'),
    kind,
    inputs: v.pipe(v.array(v.pipe(ids, v.minLength(1))), v.minLength(1)),
    options: v.optional(options),
  }),
  input: digest,
  accused: v.strictObject({
    ...answer,
    volunteer: publicKey,
    assignment: text,
    signature: v.nullable(signature),
    /**
     * Where no whole answer was signed, but what was streamed of a text: `output` is the digest of these tokens, `from` the place of
     * the first in the sequence. Log-probabilities as in a result.
     */
    streamed: v.optional(
      v.strictObject({
        from: whole,
        tokens: v.pipe(ids, v.minLength(1)),
        logprobs: v.optional(
          v.array(v.pipe(v.number(), v.integer(), v.minValue(-(2 ** 31)), v.maxValue(2 ** 31 - 1))),
        ),
      }),
    ),
  }),
  /** `tokens`: of a text whose end nobody signed, it drew so many. */
  referee: v.strictObject({ ...answer, output: digest, tokens: v.optional(v.pipe(whole, v.minValue(1))) }),
  /** Where the traces first differ, with what shows that each leaf lies under its root. */
  leaf: v.nullable(
    v.strictObject({
      index: whole,
      count: whole,
      /** Layer and positions; null for the last leaf, the output. */
      place: v.nullable(v.strictObject({ layer: whole, from: whole, to: whole })),
      accused: digest,
      accused_path: v.array(digest),
      referee: digest,
      referee_path: v.array(digest),
    }),
  ),
  ...ended,
})
export type EvidenceBundle = v.InferOutput<typeof evidence>

/** A document that is not what it should be: the field by its path, why, and how to get a good one. */
export class DocumentError extends Error {
  override name = 'DocumentError'
  readonly field: string

  constructor({ field, why }: Flaw) {
    super(`${field}: ${why}`)
    this.field = field
  }
}

/** Reads either document by its `format`. Throws DocumentError naming the field that has not the shape it should have. */
export function parseDocument(json: unknown): Receipt | EvidenceBundle {
  const format = (json as { format?: unknown } | null)?.format
  const known = format === RECEIPT_FORMAT || format === EVIDENCE_FORMAT
  if (!known) {
    const why = `${JSON.stringify(format)?.slice(0, 60) ?? 'it is missing:'} is neither "${RECEIPT_FORMAT}" nor "${EVIDENCE_FORMAT}"`
    throw new DocumentError({ field: 'format', why })
  }
  const parsed = v.safeParse(format === RECEIPT_FORMAT ? receipt : evidence, json, { abortEarly: true })
  if (parsed.success) return parsed.output
  const issue = parsed.issues[0]
  throw new DocumentError({ field: v.getDotPath(issue) ?? 'format', why: issue.message })
}

/** @param expected the coordinator whose word it should be, if that is known: otherwise it is whoever signed it */
export function flawOfReceipt(receipt: Receipt, expected?: string): Flaw | null {
  return flawOfSigner(receipt, expected) ?? flawOfSeal(receipt) ?? flawOfUnits(receipt)
}

/** As flawOfReceipt(). Whether the accused's answer is wrong shows only when it is computed again. */
export function flawOfEvidence(bundle: EvidenceBundle, expected?: string): Flaw | null {
  return flawOfSigner(bundle, expected) ?? flawOfSeal(bundle) ?? flawOfAccusation(bundle)
}

function flawOfSigner({ coordinator }: { coordinator: string }, expected: string | undefined): Flaw | null {
  if (expected === undefined || expected === coordinator) return null
  return { field: 'coordinator', why: `it is another coordinator's: ${coordinator} instead of ${expected}` }
}

function flawOfUnits({ coordinator, request, units, lottery }: Receipt): Flaw | null {
  const parts = request.choices?.length ?? request.inputs.length
  if ((request.kind === 'generate') !== (request.choices !== undefined))
    return { field: 'request.choices', why: 'texts have choices, rows have none' }
  const bad = request.choices?.findIndex(({ input }) => input >= request.inputs.length) ?? -1
  if (bad >= 0) return { field: `request.choices.${bad}.input`, why: 'there is no such input' }
  const covered = new Uint8Array(parts)
  for (const [i, unit] of units.entries()) {
    const at = `units.${i}`
    if (unit.first + unit.count > parts || (request.choices && unit.count !== 1))
      return { field: `${at}.count`, why: `the request has ${parts} parts` }
    for (let part = unit.first; part < unit.first + unit.count; part++) {
      if (covered[part]) return { field: `${at}.first`, why: `part ${part} is answered by two units` }
      covered[part] = 1
    }
    const asked = unitInput(request, unit)
    const input = sha256(inputBytes(asked))
    if (unit.input !== null && unit.input !== input)
      return { field: `${at}.input`, why: `the digest of the request's part is ${input}` }
    if (!lottery.some(({ period }) => period === unit.check.period))
      return { field: `${at}.check.period`, why: 'the receipt has no promise for it' }
    const { tokens, output } = unit
    const hasLogprobs = request.choices?.[unit.first]!.logprobs !== undefined
    if (tokens && output !== null && !hasLogprobs && sha256(wordsOf(tokens)) !== output)
      return { field: `${at}.tokens`, why: `their digest is not the output's` }
    const claims = [{ field: at, answer: unit as Answer }]
    if (unit.replaced) claims.push({ field: `${at}.replaced`, answer: unit.replaced })
    for (const { field, answer } of claims) {
      const flaw = flawOfClaim(field, answer, { coordinator, model: request.model, input })
      if (flaw) return flaw
    }
    const flaw = flawOfEnd(at, unit, asked, { coordinator, model: request.model as ModelDigest, input })
    if (flaw) return flaw
  }
  const open = covered.indexOf(0)
  return open < 0 ? null : { field: 'units', why: `part ${open} of the request is answered by none` }
}

interface Answer {
  volunteer: string
  assignment: string
  output: string | null
  root: string | null
  signature: string | null
  streamed?: EvidenceBundle['accused']['streamed']
}

/** Whether the volunteer named stands by this answer, or by these tokens of one, to this question. */
function flawOfClaim(
  field: string,
  { volunteer, assignment, output, root, signature, streamed }: Answer,
  { coordinator, model, input }: { coordinator: string; model: string; input: string },
): Flaw | null {
  // The house signs nothing: the coordinator's signature is its own.
  if (signature === null) return null
  const key = importKey(volunteer)
  if (!key) return { field: `${field}.volunteer`, why: 'it is no Ed25519 public key' }
  if (output === null) return { field: `${field}.output`, why: 'it is missing, and yet signed' }
  const common = { coordinator, assignment, model: model as ModelDigest, input, output }
  let statement: Uint8Array
  if (streamed) statement = progressStatement({ ...common, from: streamed.from })
  else if (root !== null) statement = resultStatement({ ...common, root })
  else return { field: `${field}.root`, why: 'it is missing, and yet signed' }
  if (isSignedBy(key, statement, signature)) return null
  const what = streamed ? 'output and place' : 'output and root'
  const why = `it is not this volunteer’s signature of this assignment, model, input, ${what} for this coordinator`
  return { field: `${field}.signature`, why }
}

/** Whether the volunteer named streamed a text to the end that it has here. */
function flawOfEnd(
  field: string,
  { streamed, volunteer, assignment, tokens = [], output, signature }: ReceiptUnit,
  { inputs, generate }: UnitInput,
  question: { coordinator: string; model: ModelDigest; input: string },
): Flaw | null {
  if (!streamed) return null
  if (output !== null || signature !== null || !generate || generate.logprobs !== undefined)
    return { field: `${field}.streamed`, why: 'there is a whole answer, or no text' }
  const { from, signature: end } = streamed
  const said = Uint32Array.from(tokens).subarray(from - inputs[0]!.length)
  const claim = { ...question, assignment, from, output: sha256(progressBytes(said)) }
  const key = importKey(volunteer)
  if (!key) return { field: `${field}.volunteer`, why: 'it is no Ed25519 public key' }
  if (from >= inputs[0]!.length && said.length > 0 && isSignedBy(key, progressStatement(claim), end))
    return null
  return {
    field: `${field}.streamed.signature`,
    why: 'it is not this volunteer’s signature of these tokens from this place on',
  }
}

/** Whether these are the tokens of a text that were signed. */
function flawOfStreamed({ request, accused, referee }: EvidenceBundle): Flaw | null {
  const { streamed, output, root, signature } = accused
  if (!streamed) {
    // Half of a text is no answer to be compared with a whole one.
    const isWhole = referee.tokens === undefined || output === null
    return isWhole
      ? null
      : { field: 'referee.tokens', why: 'the accused signed a whole answer: all of it is due' }
  }
  const { from, tokens } = streamed
  const field = 'accused.streamed'
  if (!request.options) return { field, why: 'only texts are streamed' }
  if (signature === null)
    return { field: 'accused.signature', why: 'it is missing: what was streamed was signed' }
  if (root !== null) return { field: 'accused.root', why: 'of what was streamed there is none' }
  if (referee.tokens === undefined)
    return { field: 'referee.tokens', why: 'it is missing: how much was drawn again' }
  const base = request.inputs[0]!.length
  if (from < base) return { field: `${field}.from`, why: `the prompt has ${base} tokens` }
  const logprobs = logprobsOf(request.options, streamed)
  const { logprobs: top } = request.options
  const due = top === undefined ? 0 : tokens.length * wordsPerToken({ top })
  if ((logprobs?.values.length ?? 0) !== due)
    return { field: `${field}.logprobs`, why: `${due} numbers are due` }
  const digest = sha256(progressBytes(Uint32Array.from(tokens), logprobs))
  return digest === output
    ? null
    : { field: 'accused.output', why: `the digest of what was streamed is ${digest}` }
}

/** As far as there are any. */
export const logprobsOf = (
  { logprobs: top }: OptionsDocument,
  { logprobs }: { logprobs?: readonly number[] },
): Logprobs | undefined =>
  top === undefined || logprobs === undefined ? undefined : { top, values: Int32Array.from(logprobs) }

function flawOfAccusation(bundle: EvidenceBundle): Flaw | null {
  const { coordinator, request, input, accused, referee, leaf } = bundle
  if ((request.kind === 'generate') !== (request.options !== undefined))
    return { field: 'request.options', why: 'texts have options, rows have none' }
  const asked = sha256(inputBytes(evidenceInput(request)))
  if (asked !== input) return { field: 'input', why: `the digest of what was asked is ${asked}` }
  const claim = { coordinator, model: request.model, input }
  const flaw = flawOfStreamed(bundle) ?? flawOfClaim('accused', accused, claim)
  if (flaw) return flaw
  if (accused.output === referee.output && accused.root === referee.root)
    return { field: 'accused.output', why: 'it is what the referee found: nothing is shown to be wrong' }
  if (!leaf) return null
  const sides = [
    ['accused', accused.root, leaf.accused, leaf.accused_path],
    ['referee', referee.root, leaf.referee, leaf.referee_path],
  ] as const
  for (const [side, root, leafHash, path] of sides) {
    const steps = path.map((step) => Buffer.from(step, 'hex'))
    const found = rootFromPath(Buffer.from(leafHash, 'hex'), leaf.index, leaf.count, steps, sha256Bytes)
    if (!found || root === null || Buffer.from(found).toString('hex') !== root)
      return {
        field: `leaf.${side}_path`,
        why: `leaf ${leaf.index} of ${leaf.count} does not lie under the ${side}'s root`,
      }
  }
  return leaf.accused === leaf.referee
    ? { field: 'leaf.accused', why: "it is the referee's leaf: here the two do not differ" }
    : null
}

/** What a unit of a receipt asked for. */
export function unitInput(
  { kind, inputs, choices }: Receipt['request'],
  { first, count }: { first: number; count: number },
): UnitInput {
  if (!choices)
    return { kind, inputs: inputs.slice(first, first + count).map((row) => Uint32Array.from(row)) }
  const { input, ...given } = choices[first]!
  return { kind, inputs: [Uint32Array.from(inputs[input]!)], generate: generateOptions(given) }
}

export function evidenceInput({ kind, inputs, options }: EvidenceBundle['request']): UnitInput {
  const rows = inputs.map((row) => Uint32Array.from(row))
  return { kind, inputs: rows, ...(options && { generate: generateOptions(options) }) }
}

export type OptionsDocument = v.InferOutput<typeof options>

const generateOptions = (o: OptionsDocument): GenerateOptions => ({
  maxTokens: o.max_tokens,
  sampling: { temperature: o.temperature, topK: o.top_k, topP: o.top_p, seed: o.seed, stream: o.stream },
  logprobs: o.logprobs,
})

export const optionsDocument = ({ maxTokens, sampling, logprobs }: GenerateOptions): OptionsDocument => ({
  max_tokens: maxTokens,
  temperature: sampling.temperature,
  top_k: sampling.topK,
  top_p: sampling.topP,
  seed: sampling.seed,
  stream: sampling.stream,
  logprobs,
})

/** Little-endian, as outputs are hashed. */
const wordsOf = (ids: readonly number[]): Uint8Array => new Uint8Array(Uint32Array.from(ids).buffer)
const sha256Bytes = (bytes: Uint8Array): Uint8Array => hash('sha256', bytes, 'buffer')
export const sha256 = (bytes: Uint8Array | string): string => hash('sha256', bytes)
