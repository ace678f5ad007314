import type { Kernel } from './kernel.ts'
import { stride } from './kernel.ts'
import { lut, mulm, mulq16, rq, sadd, scaleExponent, scaleMantissa } from './xn1.ts'

/** What happens to a product before it is stored. */
export const STORE = 0
/** out += value, saturating: the residual stream. */
export const RESIDUAL = 1
/** Weight rows come in pairs (gate, up); out = act(gate)·up, half as many columns. */
export const GATED = 2

export const ACT_NONE = 0
/** Table with identity tail: SiLU, GELU, ReLU. */
export const ACT_TABLE = 1
/** Table with constant tails: tanh. */
export const ACT_TABLE_FLAT = 2

export type LinearParams = {
  k: number
  /** Weight rows in this part. */
  n: number
  /** First output column of this part, and columns per output row (both after GATED's halving). */
  outFrom: number
  outStride: number
  mode: number
  act: number
  a15: number
  plane: number
}
export interface LinearBuffers {
  q: Int8Array // [rows, stride(K)], a15: low plane `plane` bytes behind
  s: Uint32Array // [rows] row scales
  w: Int8Array // [N, stride(K)]
  ws: Uint32Array // [N] channel scales, the output's binary point folded in
  bias: Int32Array | null // [N]
  table: Int32Array | null // [2049]
  out: Int32Array // [rows, outStride]
}

/** int8 × int8 → int32 → one requantisation: out = act(x·Wᵀ + bias), stored, added to the residual, or gated. */
export const linear: Kernel<LinearParams, LinearBuffers> = {
  name: 'linear',
  run({ k, n, outFrom, outStride, mode, act, a15, plane }, { q, s, w, ws, bias, table, out }, rows) {
    const kp = stride(k)
    const column = (t: number, c: number): number => {
      let acc = 0
      for (let i = 0; i < kp; i++) acc = (acc + q[t * kp + i]! * w[c * kp + i]!) | 0
      if (a15) {
        let low = 0
        for (let i = 0; i < kp; i++) low = (low + q[plane + t * kp + i]! * w[c * kp + i]!) | 0
        acc = (acc + ((low + 64) >> 7)) | 0
      }
      const m = mulm(scaleMantissa(s[t]!), scaleMantissa(ws[c]!))
      const v = rq(acc, m >> 1, scaleExponent(s[t]!) + scaleExponent(ws[c]!) - 16 + (m & 1))
      return bias ? sadd(v, bias[c]!) : v
    }
    const activate = (v: number): number => (act ? lut(table!, v, act === ACT_TABLE) : v)
    for (let t = 0; t < rows; t++) {
      if (mode === GATED) {
        for (let c = 0; c < n; c += 2)
          out[t * outStride + outFrom + (c >> 1)] = mulq16(activate(column(t, c)), column(t, c + 1))
      } else {
        for (let c = 0; c < n; c++) {
          const o = t * outStride + outFrom + c
          const v = activate(column(t, c))
          out[o] = mode === RESIDUAL ? sadd(out[o]!, v) : v
        }
      }
    }
  },
}
