import type { Kernel } from './kernel.ts'
import { stride } from './kernel.ts'
import { rq, sadd, scaleExponent, scaleMantissa } from './xn1.ts'

export type EmbedParams = {
  /** Width D. */
  d: number
  /** This table part holds ids [from, from + count); rows with other ids are left alone. */
  from: number
  count: number
}
export interface EmbedBuffers {
  rows: Uint32Array
  table: Int8Array // [count, stride(D)]
  scale: Uint32Array // [count]
  positions: Int32Array | null // [P, D] in the residual's Q(F)
  out: Int32Array // [n, D]
}

/** Token (and position) embedding: out = table[id]·scale[id] (+ positions[pos]). */
export const embed: Kernel<EmbedParams, EmbedBuffers> = {
  name: 'embed',
  run({ d, from, count }, { rows, table, scale, positions, out }, n) {
    for (let t = 0; t < n; t++) {
      const id = rows[4 + 4 * t]! - from
      if (id < 0 || id >= count) continue
      const position = rows[5 + 4 * t]!
      const s = scale[id]!
      for (let i = 0; i < d; i++) {
        const v = rq(table[id * stride(d) + i]!, scaleMantissa(s), scaleExponent(s))
        out[t * d + i] = positions ? sadd(v, positions[position * d + i]!) : v
      }
    }
  },
}
