import type { Kernel } from './kernel.ts'
import { stride } from './kernel.ts'
import { exp2q, mulm, rq, scaleExponent, scaleMantissa } from './xn1.ts'

export type AttentionParams = {
  heads: number
  kvHeads: number
  headDim: number
  /** log2(e)/sqrt(hd)/127² as a scale: scores come out in Q16 of base-2 exponents. */
  scoreM: number
  scoreE: number
}
export interface AttentionBuffers {
  rows: Uint32Array
  q: Int8Array // [n, H, stride(hd)]
  qs: Uint32Array // [n, H]
  k: Int8Array // [kvRows, KV, stride(hd)]
  v: Int8Array // [kvRows, KV, stride(hd)]
  kvs: Uint32Array // [kvRows, 2, KV]
  exp2: Int32Array // [257]
  out: Int32Array // [n, H·hd]; the value scale's 1/127 is left to the next layer's channel scales
}

/**
 * softmax(q·kᵀ)·v for one row and head over KV rows base … base + length - 1: scores in Q16, the true row maximum first,
 * probabilities of 14 bits, value scales folded into them against the smallest exponent of the row, one reciprocal per row.
 * Σ p·v is kept as 128·hi + lo, so partial sums over any tiling give the same bytes.
 */
export const attention: Kernel<AttentionParams, AttentionBuffers> = {
  name: 'attention',
  run({ heads: h, kvHeads: kv, headDim: hd, scoreM, scoreE }, { rows, q, qs, k, v, kvs, exp2, out }, n) {
    const sd = stride(hd)
    for (let t = 0; t < n; t++) {
      const base = rows[6 + 4 * t]!
      const length = rows[7 + 4 * t]!
      const z = new Int32Array(length)
      for (let head = 0; head < h; head++) {
        const group = Math.floor((head * kv) / h)
        const qo = (t * h + head) * sd
        const qScale = mulm(scaleMantissa(qs[t * h + head]!), scoreM)
        const qE = scaleExponent(qs[t * h + head]!) + scoreE - 16 + (qScale & 1)
        let max = -0x80000000
        let vE = 127
        for (let j = 0; j < length; j++) {
          const ko = ((base + j) * kv + group) * sd
          let acc = 0
          for (let i = 0; i < sd; i++) acc += q[qo + i]! * k[ko + i]!
          const kScale = kvs[(base + j) * 2 * kv + group]!
          const m = mulm(qScale >> 1, scaleMantissa(kScale))
          z[j] = rq(acc, m >> 1, qE + scaleExponent(kScale) - 16 + (m & 1))
          if (z[j]! > max) max = z[j]!
          vE = Math.min(vE, scaleExponent(kvs[(base + j) * 2 * kv + kv + group]!))
        }
        let total = 0
        for (let j = 0; j < length; j++) {
          const p = exp2q(exp2, (max - z[j]!) >>> 0)
          total += p
          const vScale = kvs[(base + j) * 2 * kv + kv + group]!
          const w = scaleMantissa(vScale) >>> Math.min(31, scaleExponent(vScale) - vE)
          z[j] = (Math.imul(p, w) + 32768) >>> 16
        }
        const shift = Math.clz32(total)
        const reciprocal = Math.min(65535, Math.floor(2147483648 / ((total << shift) >>> 16)))
        for (let i = 0; i < hd; i++) {
          let hi = 0
          let lo = 0
          for (let j = 0; j < length; j++) {
            const x = v[((base + j) * kv + group) * sd + i]!
            hi += (z[j]! >> 7) * x
            lo += (z[j]! & 127) * x
          }
          out[(t * h + head) * hd + i] = rq((hi + ((lo + 64) >> 7)) | 0, reciprocal, 15 + vE - shift)
        }
      }
    }
  },
}
