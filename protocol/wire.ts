/** Messages → bytes, and the bytes a result is named by. Every machine that runs this is little-endian. */
import { encodeFrame } from './frame.ts'
import { wordsPerToken } from './logprobs.ts'
import { FROM_COORDINATOR, FROM_VOLUNTEER } from './messages.ts'
import type { FromCoordinator, FromVolunteer } from './messages.ts'
import type { Logprobs, Output } from './nouns.ts'

const bytesOf = (array: Uint32Array | Int32Array): Uint8Array =>
  new Uint8Array(array.buffer, array.byteOffset, array.byteLength)

/** Parts of a payload: ids (or values), then log-probabilities. */
function parts(values: Uint32Array | Int32Array, logprobs?: Logprobs): Uint8Array[] {
  return logprobs ? [bytesOf(values), bytesOf(logprobs.values)] : [bytesOf(values)]
}

/**
 * The canonical bytes of an output, whose SHA-256 is the result's digest: token ids u32[n] followed by log-probabilities if
 * they were asked for, or values i32[rows, width]; little-endian. They are the payload of the result's frame.
 */
export function outputBytes(output: Output): Uint8Array<ArrayBuffer> {
  const pieces = output.kind === 'generate' ? parts(output.tokens, output.logprobs) : parts(output.values)
  const whole = new Uint8Array(pieces.reduce((n, p) => n + p.length, 0))
  let at = 0
  for (const piece of pieces) {
    whole.set(piece, at)
    at += piece.length
  }
  return whole
}

/**
 * The canonical bytes of tokens of a text that is not over: each id u32, followed by its log-probabilities if they were asked for;
 * little-endian. Token by token, so that those of a text are those of its pieces one after another; without log-probabilities
 * they are outputBytes().
 */
export function progressBytes(tokens: Uint32Array, logprobs?: Logprobs): Uint8Array<ArrayBuffer> {
  const words = logprobs ? wordsPerToken(logprobs) : 0
  const all = new Uint32Array(tokens.length * (1 + words))
  for (let i = 0; i < tokens.length; i++) {
    all[i * (1 + words)] = tokens[i]!
    if (logprobs) all.set(logprobs.values.subarray(i * words, (i + 1) * words), i * (1 + words) + 1)
  }
  return new Uint8Array(all.buffer)
}

/** Throws ProtocolError `tooLarge`. @param sequence counted per connection and direction, from 0 */
export function encodeFromVolunteer(message: FromVolunteer, sequence: number): Uint8Array<ArrayBuffer> {
  const { type, ...meta } = message
  const code = FROM_VOLUNTEER[type]
  if (message.type === 'result') {
    const { type: _, output, ...rest } = message
    if (output.kind !== 'generate') {
      const { values, ...shape } = output
      return encodeFrame(code, sequence, { ...rest, output: shape }, parts(values))
    }
    const { tokens, logprobs, ...shape } = output
    const meta = {
      ...rest,
      output: { ...shape, count: tokens.length, logprobs: logprobs && { top: logprobs.top } },
    }
    return encodeFrame(code, sequence, meta, parts(tokens, logprobs))
  }
  if (message.type === 'tokens') {
    const { assignment, position, tokens, logprobs, from, signature } = message
    const count = tokens.length
    const meta = { assignment, position, count, logprobs: logprobs && { top: logprobs.top }, from, signature }
    return encodeFrame(code, sequence, meta, parts(tokens, logprobs))
  }
  if (message.type === 'leaves') {
    const { assignment, leaves } = message
    return encodeFrame(code, sequence, { assignment, count: leaves.length / 32 }, [leaves])
  }
  return encodeFrame(code, sequence, meta)
}

/** Throws ProtocolError `tooLarge`. @param sequence counted per connection and direction, from 0 */
export function encodeFromCoordinator(message: FromCoordinator, sequence: number): Uint8Array<ArrayBuffer> {
  const { type, ...meta } = message
  if (message.type !== 'assign') return encodeFrame(FROM_COORDINATOR[type], sequence, meta)
  const assignments = message.assignments.map(({ inputs, ...rest }) => ({
    ...rest,
    lengths: inputs.map((i) => i.length),
  }))
  const payload = message.assignments.flatMap(({ inputs }) => inputs.map(bytesOf))
  return encodeFrame(FROM_COORDINATOR.assign, sequence, { assignments }, payload)
}
