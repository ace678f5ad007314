/** The functions of xn1 that are tables: part of the artefact, so that no device computes them. */
import type { Activation, ModelSpec } from '../../engine/models/spec.ts'
import { activationOf } from '../../engine/weights/activations.ts'
import { ropeFrequencies } from '../../engine/weights/rope.ts'

/** round(16383·2^16·2^(-k/256)), k = 0 … 256. */
export const exp2Table = (): Int32Array =>
  Int32Array.from({ length: 257 }, (_, k) => Math.round(16383 * 65536 * 2 ** (-k / 256)))

/** round(2^16·f((k - 1024)/64)), k = 0 … 2048. */
export function functionTable(act: Activation): Int32Array {
  const f = activationOf(act)
  return Int32Array.from({ length: 2049 }, (_, k) => Math.round(65536 * f((k - 1024) / 64)))
}

/** cos | sin << 16 in Q15 (32767 = 1), u32[context, headDim/2]. */
export function ropeTable(spec: ModelSpec): Uint32Array {
  const frequencies = ropeFrequencies(spec.rope!, spec.headDim)
  const half = spec.headDim / 2
  const table = new Uint32Array(spec.context * half)
  for (let p = 0; p < spec.context; p++)
    for (let i = 0; i < half; i++) {
      const cos = Math.round(32767 * Math.cos(p * frequencies[i]!))
      const sin = Math.round(32767 * Math.sin(p * frequencies[i]!))
      table[p * half + i] = ((cos & 0xffff) | (sin << 16)) >>> 0
    }
  return table
}
