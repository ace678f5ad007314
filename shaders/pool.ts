import type { Kernel } from './kernel.ts'
import { exactMean, rowMax, rowRsqrt, rq, scaleExponent, scaleMantissa } from './xn1.ts'

export type PoolParams = {
  d: number
  /** 1: mean over the segment's rows; 0: its first row ([CLS]). */
  mean: number
  /** 1: scaled to unit length, in Q24; 0: left in the residual's Q(F). */
  unit: number
}
export interface PoolBuffers {
  x: Int32Array // [rows, D]
  segments: Uint32Array // [n, 2] first row, rows
  out: Int32Array // [n, D]
}

/** A sentence's vector from its rows. A zero vector stays zero. */
export const pool: Kernel<PoolParams, PoolBuffers> = {
  name: 'pool',
  run({ d, mean, unit }, { x, segments, out }, n) {
    for (let s = 0; s < n; s++) {
      const first = segments[2 * s]!
      const length = segments[2 * s + 1]!
      for (let i = 0; i < d; i++)
        out[s * d + i] = mean ? exactMean(x, first * d + i, length, d) : x[first * d + i]!
      const max = unit ? rowMax(out, s * d, d) : 0
      if (max === 0) continue
      const n1 = Math.clz32(max) - 1
      const root = rowRsqrt(out, s * d, d, n1, 0, 0)
      for (let i = 0; i < d; i++)
        out[s * d + i] = rq(out[s * d + i]! << n1, scaleMantissa(root), 23 - scaleExponent(root))
    }
  },
}
