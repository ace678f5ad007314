import type { Kernel } from './kernel.ts'

/** Which layer of a trace a kernel keeps; `layers` 0: none. */
export type TraceParams = {
  /** The row's layer in the trace, and how many a position has there. */
  layer: number
  layers: number
}
export interface TraceBuffers {
  rows: Uint32Array | null
  /** [kvRows, layers, 4]: what is kept of a row of the residual stream lies where its key does. */
  trace: Uint32Array | null
}

/** Words of a row's digest. */
export const DIGEST_WORDS = 4

export type DigestParams = { d: number } & TraceParams
export interface DigestBuffers extends TraceBuffers {
  x: Int32Array // [n, D]
}

/**
 * The digests of residual rows, where no kernel that holds them anyway keeps them. 16 bytes tell rows apart that differ by
 * accident: one value always changes them, more do but for 2^-64. They are no cryptography: a rule to find two rows alike can be
 * worked out. What is right is always a computation's to say; digests say where two computations part.
 */
export const digest: Kernel<DigestParams, DigestBuffers> = {
  name: 'digest',
  run({ d, ...params }, { x, ...buffers }, n) {
    for (let t = 0; t < n; t++) keepDigest(params, buffers, t, x, t * d, d)
  },
}

/** Keeps the digest of row t, d values of x from o on. */
export function keepDigest(
  { layer, layers }: TraceParams,
  { rows, trace }: TraceBuffers,
  t: number,
  x: Int32Array,
  o: number,
  d: number,
): void {
  if (!trace || layers === 0) return
  const kvRow = rows![6 + 4 * t]! + rows![5 + 4 * t]!
  trace.set(rowDigest(x, o, d), 4 * (kvRow * layers + layer))
}

/**
 * Four words. Each value is mixed with its place by multiplications and shifts, and goes into two of eight sums, so any order
 * gives the same; then the sums are folded and stirred until every word depends on all.
 */
export function rowDigest(x: Int32Array, o: number, d: number): Uint32Array {
  const a = new Uint32Array(4)
  const b = new Uint32Array(4)
  for (let i = 0; i < d; i++) {
    let t = Math.imul((x[o + i]! + Math.imul(i, 0x9e3779b1) + 0x85ebca77) | 0, 0x85ebca6b)
    t = Math.imul(t ^ (t >>> 15), 0xc2b2ae35)
    a[i & 3]! += t
    b[i & 3]! += Math.imul(t ^ (t >>> 13), 0x27d4eb2f)
  }
  const w = a.map((v, j) => v ^ rotl(b[(j + 1) & 3]!, 16))
  w[0]! ^= d
  for (let round = 0; round < 2; round++) {
    // ChaCha's quarter round.
    w[0]! += w[1]!
    w[3] = rotl(w[3]! ^ w[0]!, 16)
    w[2]! += w[3]
    w[1] = rotl(w[1]! ^ w[2]!, 12)
    w[0]! += w[1]
    w[3] = rotl(w[3] ^ w[0]!, 8)
    w[2]! += w[3]
    w[1] = rotl(w[1] ^ w[2]!, 7)
  }
  return w
}

const rotl = (v: number, by: number): number => (v << by) | (v >>> (32 - by))
