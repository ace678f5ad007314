/** What the simulated models compute: a hash of the input instead of a network, so that every answer can be judged. */
import { inputBytes, merkleRoot } from '../../protocol/index.ts'
import type { Hash } from '../../protocol/index.ts'
import type { Assignment, Output } from '../../protocol/nouns.ts'

const mix = (h: number, x: number): number => {
  h = Math.imul(h ^ x, 0x9e3779b1)
  return h ^ (h >>> 15)
}

export const VOCAB = 1000
export const END = 7
export const WIDTH = 2

/** A sequence's state: everything the next token depends on. */
export function read(ids: ArrayLike<number>, seed: string, stream: number): number {
  return fold(mix(stream + 1, Number(BigInt(seed) & 0xffffffffn)), ids)
}

/** The next token, and the state after it. About one in 50 is the end. */
export function draw(h: number): { id: number; next: number } {
  const r = mix(h, 0x5bd1e995) >>> 0
  const id = r % 50 === 0 ? END : 10 + (r % (VOCAB - 10))
  return { id, next: mix(h, id) }
}

/** The whole answer to a prompt. */
export function generate(
  prompt: ArrayLike<number>,
  seed: string,
  stream: number,
  maxTokens: number,
  context: number,
): number[] {
  const tokens: number[] = []
  let h = read(prompt, seed, stream)
  while (tokens.length < maxTokens && prompt.length + tokens.length < context) {
    const { id, next } = draw(h)
    tokens.push(id)
    h = next
    if (id === END) break
  }
  return tokens
}

/** One row's result, i32[WIDTH]: its state as read(row, '0', 0) has it, and the next. */
export function encode(row: ArrayLike<number>): [number, number] {
  const h = fold(mix(1, 0), row)
  return [h | 0, mix(h, 1) | 0]
}

// ── Digests and traces: short, and quick to make; nothing here has to withstand anybody ──

const WORDS = new Uint32Array(8)
const BYTES = Buffer.from(WORDS.buffer)

/** 32 bytes in hex, all of one word. In one piece: large worlds keep hundreds of thousands. */
function hexOfWord(h: number): string {
  WORDS.fill(h)
  return BYTES.toString('hex')
}

function fold(h: number, values: ArrayLike<number>): number {
  for (let i = 0; i < values.length; i++) h = mix(h, values[i]!)
  return h
}

const foldOutput = (output: Output): number =>
  output.kind === 'generate'
    ? fold(mix(output.position, output.finish === 'stop' ? 1 : 0), output.tokens)
    : fold(output.rows, output.values)

export const digestOf = (output: Output): string => hexOfWord(foldOutput(output))

/** What passes through the layers: only who computed it all knows it. */
export function traceOf({ inputs, generate }: Assignment, output: Output): number {
  const replay = generate?.replay ?? 0
  let h = 0x7ace
  for (const row of inputs) h = fold(h, replay ? row.subarray(0, row.length - replay) : row)
  return mix(h, foldOutput(output))
}

const LEAVES = 5

/** A few leaves: a trace says what they are up to the last, which is the output's digest. */
export function leavesOf(trace: number, output: Output): Uint8Array {
  const leaves = new Uint8Array(32 * LEAVES)
  const words = new Uint32Array(leaves.buffer)
  for (let i = 0; i < words.length; i++) words[i] = mix(trace, i >> 3)
  words.fill(foldOutput(output), 8 * (LEAVES - 1))
  return leaves
}

export function rootOf(trace: number, output: Output, leaves?: Uint8Array, hash?: Hash): string {
  if (!leaves || !hash) return hexOfWord(mix(trace, foldOutput(output)))
  const list = Array.from({ length: LEAVES }, (_, i) => leaves.subarray(32 * i, 32 * (i + 1)))
  return hexOf(merkleRoot(list, hash))
}

const hexOf = (bytes: Uint8Array): string =>
  Array.from(bytes, (b) => b.toString(16).padStart(2, '0')).join('')

export const inputOf = (assignment: Assignment, hash: Hash): string => hexOf(hash(inputBytes(assignment)))

/** In the place of SHA-256: 32 bytes that differ when what goes in does. */
export const hash: Hash = (bytes) => {
  let h = mix(bytes.length, 0x51ed)
  for (let i = 0; i < bytes.length; i++) h = Math.imul(h ^ bytes[i]!, 0x01000193)
  const out = new Uint32Array(8)
  for (let i = 0; i < 8; i++) out[i] = h = mix(h, i + 1)
  return new Uint8Array(out.buffer)
}
