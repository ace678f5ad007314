import type { Kernel } from './kernel.ts'
import { stride } from './kernel.ts'
import { quantiseRow } from './xn1.ts'

export type QuantParams = {
  d: number
  /** 1: A15, the low plane is written too, `plane` bytes after the high one. */
  a15: number
  plane: number
}
export interface QuantBuffers {
  x: Int32Array // [n, D] in Q16
  q: Int8Array // [n, stride(D)], with a15 a second plane behind it
  s: Uint32Array // [n]
}

/** Dynamic per-row int8 (or 15-bit) quantisation of a linear layer's input. */
export const quant: Kernel<QuantParams, QuantBuffers> = {
  name: 'quant',
  run({ d, a15, plane }, { x, q, s }, n) {
    const k = stride(d)
    for (let t = 0; t < n; t++) {
      s[t] = quantiseRow(x, t * d, d, 16, q, t * k, a15 ? q : null, plane + t * k)
      q.fill(0, t * k + d, t * k + k)
      if (a15) q.fill(0, plane + t * k + d, plane + t * k + k)
    }
  },
}
