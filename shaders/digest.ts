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
 * The digests of residual rows, where no kernel that holds them anyway keeps them. They tell rows apart that differ by accident:
 * one changed value always shows, more of them but for 2^-32 where all are 4 apart, 2^-128 where not. They are no cryptography:
 * rows with one digest can be worked out. What is right is always a computation's to say; digests say where two computations part.
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
 * Four words. Each value is mixed with its place by two multiplications and goes into one of four sums, so any order gives the
 * same; then the sums are stirred until every word depends on all.
 */
export function rowDigest(x: Int32Array, o: number, d: number): Uint32Array {
  const w = new Int32Array(4)
  for (let i = 0; i < d; i++) {
    const t = Math.imul((x[o + i]! + Math.imul(i, 0x9e3779b1) + 0x85ebca77) | 0, 0x85ebca6b)
    w[i & 3]! += Math.imul(t ^ (t >>> 15), 0xc2b2ae35)
  }
  w[0]! ^= d
  stir(w, 0)
  stir(w, 0)
  return new Uint32Array(w.buffer)
}

/** ChaCha's quarter round on four words from `at` on: no two inputs come out the same, and words depend on each other. */
export function stir(w: Int32Array, at: number): void {
  let a = w[at]!
  let b = w[at + 1]!
  let c = w[at + 2]!
  let d = w[at + 3]!
  a = (a + b) | 0
  d = rotl(d ^ a, 16)
  c = (c + d) | 0
  b = rotl(b ^ c, 12)
  a = (a + b) | 0
  d = rotl(d ^ a, 8)
  c = (c + d) | 0
  b = rotl(b ^ c, 7)
  w[at] = a
  w[at + 1] = b
  w[at + 2] = c
  w[at + 3] = d
}

const rotl = (v: number, by: number): number => (v << by) | (v >>> (32 - by))
