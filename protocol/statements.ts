/**
 * What is signed and what is hashed, byte for byte: both ends and every stranger who re-checks an answer build the same
 * strings. Statements are UTF-8 lines, so that they can be read; a name and a version come first, so that no signature
 * under one means anything under another.
 */
import type { Digest, GenerateOptions, ModelDigest, PublicKey, UnitKind } from './nouns.ts'

const lines = (...all: string[]): Uint8Array<ArrayBuffer> => new TextEncoder().encode(all.join('\n') + '\n')

/** What a volunteer signs to say hello: bound to this coordinator and this connection. */
export const helloStatement = (coordinator: PublicKey, nonce: string): Uint8Array<ArrayBuffer> =>
  lines('chorale hello 1', `coordinator ${coordinator}`, `nonce ${nonce}`)

export interface ResultClaim {
  coordinator: PublicKey
  assignment: string
  model: ModelDigest
  /** SHA-256 of inputBytes(). */
  input: Digest
  /** SHA-256 of outputBytes(). */
  output: Digest
  /** Merkle root of the trace. */
  root: Digest
}

/** What a volunteer signs with a result. */
export const resultStatement = (claim: ResultClaim): Uint8Array<ArrayBuffer> =>
  lines(
    'chorale result 1',
    `coordinator ${claim.coordinator}`,
    `assignment ${claim.assignment}`,
    'numerics xn1',
    `model ${claim.model}`,
    `input ${claim.input}`,
    `output ${claim.output}`,
    `root ${claim.root}`,
  )

/** What was said of a text that is not over. */
export interface ProgressClaim extends Omit<ResultClaim, 'root'> {
  /** Place in the sequence of the first token streamed; where something was to be replayed, all before it came out the same. */
  from: number
  /** SHA-256 of progressBytes() of all tokens from there on. */
  output: Digest
}

/** What a volunteer signs with tokens on the way: «in the answer to this question, these are the tokens from this place on». */
export const progressStatement = (claim: ProgressClaim): Uint8Array<ArrayBuffer> =>
  lines(
    'chorale progress 1',
    `coordinator ${claim.coordinator}`,
    `assignment ${claim.assignment}`,
    'numerics xn1',
    `model ${claim.model}`,
    `input ${claim.input}`,
    `from ${claim.from}`,
    `output ${claim.output}`,
  )

export interface UnitInput {
  kind: Exclude<UnitKind, 'stage'>
  /** Token ids, one list per row; of a generate unit the prompt and what it is to replay. */
  inputs: readonly Uint32Array[]
  generate?: GenerateOptions
}

const KINDS = { generate: 1, embed: 2, classify: 3 } as const
const NAME = new TextEncoder().encode('chorale.input.1\0')
const NONE = 0xffff_ffff

/**
 * The canonical bytes of what a unit asks for, little-endian: the name (16 bytes), kind u32; for generate maxTokens, topK, stream,
 * logprobs (0xffffffff: none) as u32, temperature, topP as f64, seed u64; then rows u32, their lengths u32[rows] and their ids
 * u32[…]. What is to be replayed is left out: an answer that was taken over or checked answers the same question.
 */
export function inputBytes({ kind, inputs, generate }: UnitInput): Uint8Array<ArrayBuffer> {
  const rows = generate?.replay ? [inputs[0]!.subarray(0, inputs[0]!.length - generate.replay)] : inputs
  const ids = rows.reduce((n, row) => n + row.length, 0)
  const bytes = new Uint8Array(NAME.length + 4 + (generate ? 40 : 0) + 4 * (1 + rows.length + ids))
  const view = new DataView(bytes.buffer)
  bytes.set(NAME)
  let at = NAME.length
  const word = (value: number): void => {
    view.setUint32(at, value, true)
    at += 4
  }
  word(KINDS[kind])
  if (generate) {
    const { maxTokens, sampling, logprobs } = generate
    for (const value of [maxTokens, sampling.topK, sampling.stream, logprobs ?? NONE]) word(value)
    view.setFloat64(at, sampling.temperature, true)
    view.setFloat64(at + 8, sampling.topP, true)
    view.setBigUint64(at + 16, BigInt(sampling.seed), true)
    at += 24
  }
  word(rows.length)
  for (const row of rows) word(row.length)
  for (const row of rows) for (let i = 0; i < row.length; i++) word(row[i]!)
  return bytes
}
