import { keepDigest } from './digest.ts'
import type { TraceBuffers, TraceParams } from './digest.ts'
import type { Kernel } from './kernel.ts'
import { stride } from './kernel.ts'
import {
  exactMean, mul16s, mulm, quantiseRow, rowMax, rowRsqrt, rq, sadd, scaleExponent, scaleMantissa,
} from './xn1.ts' // prettier-ignore

export type LayernormQuantParams = {
  d: number
  epsM: number
  epsK: number
  /** The gain's scale with sqrt(D) and the output's binary point folded in: y = gain·x·root · cM·2^-cE. */
  cM: number
  cE: number
  a15: number
  plane: number
} & TraceParams
export interface LayernormQuantBuffers extends TraceBuffers {
  x: Int32Array // [n, D] Q(F)
  gain: Int16Array // [D]
  bias: Int32Array // [D] in the output's binary point
  y: Int32Array | null // [n, D] the normalised row itself; may be x
  q: Int8Array // as quant
  s: Uint32Array
}

/**
 * LayerNorm, then dynamic quantisation. Post-norm models (BERT) keep y as their residual; pre-norm ones (GPT-2) drop it. With a
 * trace, the residual's digests are kept: y's where y is, else those of the rows that came in.
 */
export const layernormQuant: Kernel<LayernormQuantParams, LayernormQuantBuffers> = {
  name: 'layernorm_quant',
  run({ d, epsM, epsK, cM, cE, a15, plane, ...layer }, { x, gain, bias, y, q, s, ...trace }, n) {
    const k = stride(d)
    const row = new Int32Array(d)
    for (let t = 0; t < n; t++) {
      const o = t * d
      if (!y) keepDigest(layer, trace, t, x, o, d)
      const mean = exactMean(x, o, d, 1)
      for (let i = 0; i < d; i++) row[i] = sadd(x[o + i]!, -mean)
      const max = rowMax(row, 0, d)
      if (max === 0) {
        row.set(bias.subarray(0, d))
      } else {
        const n1 = Math.clz32(max) - 1
        const root = rowRsqrt(row, 0, d, n1, epsM, epsK)
        const m = mulm(scaleMantissa(root), cM)
        const e = cE - scaleExponent(root) + (m & 1)
        for (let i = 0; i < d; i++) row[i] = sadd(rq(mul16s(row[i]! << n1, gain[i]!), m >> 1, e), bias[i]!)
      }
      y?.set(row, o)
      if (y) keepDigest(layer, trace, t, row, 0, d)
      s[t] = quantiseRow(row, 0, d, 16, q, t * k, a15 ? q : null, plane + t * k)
      q.fill(0, t * k + d, t * k + k)
      if (a15) q.fill(0, plane + t * k + d, plane + t * k + k)
    }
  },
}
