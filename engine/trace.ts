/**
 * What a unit's answer is committed to by: the trace of its computation. The trace is the residual stream after the embedding
 * (layer 0) and after every block (1 … L), one row per position; kernels digest each row to 16 bytes while they hold it
 * (shaders/digest.ts). Here these become leaves and a root.
 *
 *   leaf(r, c, l) = SHA-256 of the digests, little-endian, of positions c·chunk … of sequence r at layer l
 *   leaves in order of r, c, l; the very last is SHA-256 of the output's canonical bytes
 *   root = RFC 6962's Merkle tree hash of the leaves
 *
 * A root shows that two computations agree, and the first leaf that differs where they part.
 */
import { sha256 } from '@noble/hashes/sha2.js'
import { DIGEST_WORDS } from '../shaders/digest.ts'
import { ModelError } from './weights/errors.ts'

/** Positions per leaf, doubled until the leaves are at most LEAVES_MAX. */
export const CHUNK = 32
/** Leaves of one unit: as many as a frame of the protocol carries. */
export const LEAVES_MAX = 32_768

export interface TraceShape {
  /** Positions of each sequence. */
  lengths: readonly number[]
  /** Rows of the residual stream per position: blocks + 1 of a whole model. */
  layers: number
}

/** What a leaf is about. */
export type LeafPlace =
  { part: 'output' } | { part: 'trace'; sequence: number; from: number; to: number; layer: number }

/** Positions per leaf of a trace. Throws ModelError `input-invalid` for one that does not fit even with a leaf per sequence and layer. */
export function chunkOf({ lengths, layers }: TraceShape): number {
  const longest = Math.max(...lengths)
  for (let chunk = CHUNK; ; chunk *= 2) {
    const chunks = lengths.reduce((n, length) => n + Math.ceil(length / chunk), 0)
    if (chunks * layers + 1 <= LEAVES_MAX) return chunk
    if (chunk >= longest)
      throw new ModelError('input-invalid', {
        what: `${lengths.length} sequences of ${layers} layers are more than ${LEAVES_MAX} leaves`, todo: 'Ask for fewer rows at once',
      }) // prettier-ignore
  }
}

/** Leaves of a unit, its output's included. */
export function leafCount(shape: TraceShape): number {
  const chunk = chunkOf(shape)
  return shape.lengths.reduce((n, length) => n + Math.ceil(length / chunk), 0) * shape.layers + 1
}

/** Where leaf `index` of a unit lies. Throws RangeError for an index outside. */
export function leafPlace(shape: TraceShape, index: number): LeafPlace {
  const { lengths, layers } = shape
  const chunk = chunkOf(shape)
  let left = index
  for (const [sequence, length] of lengths.entries()) {
    const here = Math.ceil(length / chunk) * layers
    if (left >= 0 && left < here) {
      const from = Math.floor(left / layers) * chunk
      return { part: 'trace', sequence, from, to: Math.min(length, from + chunk), layer: left % layers }
    }
    left -= here
  }
  if (left === 0) return { part: 'output' }
  throw new RangeError(`no leaf ${index}: this trace has ${leafCount(shape)}`)
}

/**
 * The leaves of a unit, 32 bytes each.
 * @param sequences per sequence the rows' digests u32[length][layers][4]
 * @param output the output's canonical bytes
 */
export function leavesOf(sequences: readonly Uint32Array[], layers: number, output: Uint8Array): Uint8Array {
  const lengths = sequences.map((s) => s.length / (layers * DIGEST_WORDS))
  const shape = { lengths, layers }
  const chunk = chunkOf(shape)
  const leaves = new Uint8Array(32 * leafCount(shape))
  const words = new Uint32Array(chunk * DIGEST_WORDS)
  const bytes = new Uint8Array(words.buffer)
  let at = 0
  for (const [r, digests] of sequences.entries())
    for (let from = 0; from < lengths[r]!; from += chunk) {
      const to = Math.min(lengths[r]!, from + chunk)
      for (let layer = 0; layer < layers; layer++, at += 32) {
        for (let p = from; p < to; p++)
          for (let w = 0, i = (p * layers + layer) * DIGEST_WORDS; w < DIGEST_WORDS; w++, i++)
            words[(p - from) * DIGEST_WORDS + w] = digests[i]!
        leaves.set(sha256(bytes.subarray(0, (to - from) * 4 * DIGEST_WORDS)), at)
      }
    }
  leaves.set(sha256(output), at)
  return leaves
}

/** RFC 6962 §2.1's Merkle tree hash of leaves of 32 bytes, in lower-case hex; protocol/merkle.ts says the same at length. */
export function rootOf(leaves: Uint8Array): string {
  const count = leaves.length / 32
  if (!Number.isInteger(count) || count === 0) throw new RangeError(`${leaves.length} bytes are no leaves`)
  const leaf = new Uint8Array(33)
  const node = new Uint8Array(65).fill(1, 0, 1)
  // Complete subtrees so far, largest first: as binary digits of the count.
  const stack: Array<{ size: number; hash: Uint8Array }> = []
  const join = (): void => {
    const right = stack.pop()!
    const left = stack.pop()!
    node.set(left.hash, 1)
    node.set(right.hash, 33)
    stack.push({ size: left.size + right.size, hash: sha256(node) })
  }
  for (let i = 0; i < count; i++) {
    leaf.set(leaves.subarray(32 * i, 32 * i + 32), 1)
    stack.push({ size: 1, hash: sha256(leaf) })
    while (stack.length > 1 && stack.at(-2)!.size === stack.at(-1)!.size) join()
  }
  while (stack.length > 1) join()
  return Array.from(stack[0]!.hash, (b) => b.toString(16).padStart(2, '0')).join('')
}
