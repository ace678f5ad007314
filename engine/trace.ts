/**
 * What a unit's answer is committed to by: the trace of its computation. The trace is the residual stream after the embedding
 * (layer 0) and after every block (1 … L), one row per position; kernels digest each row to 16 bytes while they hold it
 * (shaders/digest.ts). Here these become leaves and a root.
 *
 *   positions are counted through all sequences of the unit, c·chunk … (c + 1)·chunk are one leaf of each layer
 *   fold(c, l): h = 0; for each position h = stir(h + digest), word by word (stir: a quarter round, shaders/digest.ts)
 *   leaf(c, l) = fold(c, l), little-endian, and 16 zeros; in order of c, l; the very last is SHA-256 of the output's canonical bytes
 *   root = RFC 6962's Merkle tree hash of the leaves
 *
 * A root shows that two computations agree, and the first leaf that differs where they part.
 */
import { sha256 } from '@noble/hashes/sha2.js'
import { hex } from './hex.ts'
import { DIGEST_WORDS, stir } from '../shaders/digest.ts'

/** Positions per leaf, doubled until the leaves are at most LEAVES_MAX. */
export const CHUNK = 64
/** Leaves of one unit: as many as a frame of the protocol carries. */
export const LEAVES_MAX = 32_768

export interface TraceShape {
  /** Positions of each sequence. */
  lengths: readonly number[]
  /** Rows of the residual stream per position: blocks + 1 of a whole model. */
  layers: number
}

/** What a leaf is about: the output, or positions [from, to) at a layer, counted through all sequences. */
export type LeafPlace = { part: 'output' } | { part: 'trace'; from: number; to: number; layer: number }

const total = (lengths: readonly number[]): number => lengths.reduce((a, b) => a + b, 0)

/** Positions per leaf of a trace. */
export function chunkOf({ lengths, layers }: TraceShape): number {
  let chunk = CHUNK
  while (Math.ceil(total(lengths) / chunk) * layers >= LEAVES_MAX) chunk *= 2
  return chunk
}

/** Leaves of a unit, its output's included. */
export const leafCount = (shape: TraceShape): number =>
  Math.ceil(total(shape.lengths) / chunkOf(shape)) * shape.layers + 1

/** Where leaf `index` of a unit lies. Throws RangeError for an index outside. */
export function leafPlace(shape: TraceShape, index: number): LeafPlace {
  const count = leafCount(shape)
  if (!(index >= 0 && index < count)) throw new RangeError(`no leaf ${index}: this trace has ${count}`)
  if (index === count - 1) return { part: 'output' }
  const chunk = chunkOf(shape)
  const from = Math.floor(index / shape.layers) * chunk
  return {
    part: 'trace',
    from,
    to: Math.min(total(shape.lengths), from + chunk),
    layer: index % shape.layers,
  }
}

/**
 * The leaves of a unit, 32 bytes each.
 * @param sequences per sequence the rows' digests u32[length][layers][4]
 * @param output the output's canonical bytes
 */
export function leavesOf(sequences: readonly Uint32Array[], layers: number, output: Uint8Array): Uint8Array {
  const words = layers * DIGEST_WORDS
  const shape = { lengths: sequences.map((s) => s.length / words), layers }
  const chunk = chunkOf(shape)
  const leaves = new Uint8Array(32 * leafCount(shape))
  const folds = new Int32Array(words)
  const bytes = new Uint8Array(folds.buffer)
  let at = 0
  let folded = 0
  const close = (): void => {
    for (let l = 0; l < layers; l++) leaves.set(bytes.subarray(16 * l, 16 * l + 16), 32 * at++)
    folds.fill(0)
    folded = 0
  }
  for (const sequence of sequences) {
    const digests = new Int32Array(sequence.buffer, sequence.byteOffset, sequence.length)
    for (let row = 0; row < digests.length; row += words) {
      for (let w = 0; w < words; w++) folds[w]! += digests[row + w]!
      for (let w = 0; w < words; w += DIGEST_WORDS) stir(folds, w)
      if (++folded === chunk) close()
    }
  }
  if (folded > 0) close()
  digestTo(leaves, at, output)
  return leaves
}

/** RFC 6962 §2.1's Merkle tree hash of leaves of 32 bytes, in lower-case hex; protocol/merkle.ts says the same at length. */
export function rootOf(leaves: Uint8Array): string {
  const count = leaves.length / 32
  if (!Number.isInteger(count) || count === 0) throw new RangeError(`${leaves.length} bytes are no leaves`)
  const nodes = new Uint8Array(leaves.length)
  const leaf = new Uint8Array(33)
  for (let i = 0; i < count; i++) {
    leaf.set(leaves.subarray(32 * i, 32 * i + 32), 1)
    digestTo(nodes, i, leaf)
  }
  // Level by level, two and two; one that is left over goes up as it is, which is the same tree.
  const pair = new Uint8Array(65).fill(1, 0, 1)
  for (let n = count; n > 1; n = Math.ceil(n / 2)) {
    for (let i = 0; 2 * i + 1 < n; i++) {
      pair.set(nodes.subarray(64 * i, 64 * i + 64), 1)
      digestTo(nodes, i, pair)
    }
    if (n % 2) nodes.copyWithin(16 * (n - 1), 32 * (n - 1), 32 * n)
  }
  return hex(nodes.subarray(0, 32))
}

const fresh = sha256.create()
const hasher = sha256.create()

/** SHA-256 of bytes, as the i-th 32 bytes of `to`. One hasher for all: a short unit spends more on making them than on hashing. */
function digestTo(to: Uint8Array, i: number, bytes: Uint8Array): void {
  // oxlint-disable-next-line no-underscore-dangle -- the library's own way to begin anew
  fresh._cloneInto(hasher)
  hasher.update(bytes).digestInto(to.subarray(32 * i, 32 * i + 32))
}
