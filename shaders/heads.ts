import type { Kernel } from './kernel.ts'
import { stride } from './kernel.ts'
import {
  mul16s, mulm, packScale, quantiseRow, rowMax, rowRsqrt, scaleExponent, scaleMantissa, top16,
} from './xn1.ts' // prettier-ignore

export type HeadsParams = {
  heads: number
  kvHeads: number
  headDim: number
  rope: number
  qkNorm: number
  /** headDim·eps·2^32 = epsM·2^epsK for the q/k norm. */
  epsM: number
  epsK: number
}
export interface HeadsBuffers {
  rows: Uint32Array
  qkv: Int32Array // [n, (H + 2·KV)·hd] Q16: queries, keys, values
  ropeTable: Uint32Array | null // [P, hd/2] cos | sin << 16, Q15
  norm: Int16Array | null // [2, hd] gains of the q and k norm
  q: Int8Array // [n, H, stride(hd)]
  qs: Uint32Array // [n, H]
  k: Int8Array // [kvRows, KV, stride(hd)]
  v: Int8Array // [kvRows, KV, stride(hd)]
  kvs: Uint32Array // [kvRows, 2, KV] scales of k, then of v
}

/**
 * From the projected row to int8 heads: (q/k RMSNorm,) RoPE in halves (Llama's pairing i, i + hd/2), one scale per (token,
 * head), keys and values written to their place in the KV cache.
 */
export const heads: Kernel<HeadsParams, HeadsBuffers> = {
  name: 'heads',
  run({ heads: h, kvHeads: kv, headDim: hd, rope, qkNorm, epsM, epsK }, b, n) {
    const sd = stride(hd)
    const half = hd >> 1
    const x = new Int32Array(hd)
    const quantised = new Int8Array(sd)
    for (let t = 0; t < n; t++) {
      const position = b.rows[5 + 4 * t]!
      const kvRow = b.rows[6 + 4 * t]! + position
      for (let head = 0; head < h + 2 * kv; head++) {
        const o = t * (h + 2 * kv) * hd + head * hd
        for (let i = 0; i < hd; i++) x[i] = b.qkv[o + i]!
        const isValue = head >= h + kv
        let f = 16
        let root = 0
        if (qkNorm && !isValue) {
          const max = rowMax(x, 0, hd)
          const n1 = max ? Math.clz32(max) - 1 : 0
          root = rowRsqrt(x, 0, hd, n1, epsM, epsK)
          const g = head < h ? 0 : hd
          for (let i = 0; i < hd; i++) x[i] = mul16s(x[i]! << n1, b.norm![g + i]!)
          f = 15
        }
        if (rope && !isValue) {
          const max = rowMax(x, 0, hd)
          const n1 = max ? Math.clz32(max) - 1 : 0
          for (let i = 0; i < hd; i++) x[i] = Math.max(-32767, Math.min(32767, top16(x[i]!, n1)))
          for (let i = 0; i < half; i++) {
            const word = b.ropeTable![position * half + i]!
            const cos = (word << 16) >> 16
            const sin = word >> 16
            const re = x[i]!
            const im = x[i + half]!
            x[i] = (Math.imul(re, cos) - Math.imul(im, sin)) | 0
            x[i + half] = (Math.imul(im, cos) + Math.imul(re, sin)) | 0
          }
          f += n1 - 1
        }
        quantised.fill(0)
        let s = quantiseRow(x, 0, hd, f, quantised, 0, null, 0)
        if (qkNorm && !isValue) {
          const m = mulm(scaleMantissa(s), scaleMantissa(root))
          s = packScale(m >> 1, scaleExponent(s) - scaleExponent(root) + (m & 1))
        }
        if (head < h) {
          b.q.set(quantised, (t * h + head) * sd)
          b.qs[t * h + head] = s
        } else if (!isValue) {
          b.k.set(quantised, (kvRow * kv + head - h) * sd)
          b.kvs[kvRow * 2 * kv + head - h] = s
        } else {
          b.v.set(quantised, (kvRow * kv + head - h - kv) * sd)
          b.kvs[kvRow * 2 * kv + head - h] = s
        }
      }
    }
  },
}
