import { keepDigest } from './digest.ts'
import type { TraceBuffers, TraceParams } from './digest.ts'
import type { Kernel } from './kernel.ts'
import { stride } from './kernel.ts'
import {
  mul16s, mulm, packScale, quantiseRow, rowMax, rowRsqrt, scaleExponent, scaleMantissa, ZERO_ROW_SCALE,
} from './xn1.ts' // prettier-ignore

export type RmsnormQuantParams = {
  d: number
  /** D·eps·2^(2F) = epsM·2^epsK, epsM a u16. */
  epsM: number
  epsK: number
  a15: number
  plane: number
} & TraceParams
export interface RmsnormQuantBuffers extends TraceBuffers {
  x: Int32Array // [n, D] residual, Q(F)
  gain: Int16Array // [D]
  q: Int8Array // as quant
  s: Uint32Array
}

/**
 * RMSNorm and dynamic quantisation in one: q/127·s = x·gain / sqrt(Σx² + D·eps). The root enters only the row's scale, so no
 * value is rounded twice; the constant sqrt(D) and the gain's own scale live in the next layer's channel scales. With a trace,
 * the digests of the rows that came in are kept.
 */
export const rmsnormQuant: Kernel<RmsnormQuantParams, RmsnormQuantBuffers> = {
  name: 'rmsnorm_quant',
  run({ d, epsM, epsK, a15, plane, ...layer }, { x, gain, q, s, ...trace }, n) {
    const k = stride(d)
    const scaled = new Int32Array(d)
    for (let t = 0; t < n; t++) {
      const o = t * d
      keepDigest(layer, trace, t, x, o, d)
      q.fill(0, t * k, t * k + k)
      if (a15) q.fill(0, plane + t * k, plane + t * k + k)
      const max = rowMax(x, o, d)
      if (max === 0) {
        s[t] = packScale(ZERO_ROW_SCALE.m, ZERO_ROW_SCALE.e)
        continue
      }
      const n1 = Math.clz32(max) - 1
      const root = rowRsqrt(x, o, d, n1, epsM, epsK)
      for (let i = 0; i < d; i++) scaled[i] = mul16s(x[o + i]! << n1, gain[i]!)
      const row = quantiseRow(scaled, 0, d, 0, q, t * k, a15 ? q : null, plane + t * k)
      const m = mulm(scaleMantissa(row), scaleMantissa(root))
      s[t] = packScale(m >> 1, scaleExponent(row) + 15 - scaleExponent(root) + (m & 1))
    }
  },
}
