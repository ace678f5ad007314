/** From float weights to the integers of xn1. Floats end here: what comes out is the artefact, whatever rounding made it. */
import type { Scale } from '../../engine/models/spec.ts'
import { packScale } from '../../shaders/xn1.ts'

/** The nearest (m, e) with m in [2^15, 2^16) to a positive number. */
export function toScale(value: number): Scale {
  let e = 15 - Math.floor(Math.log2(value))
  let m = Math.round(value * 2 ** e)
  if (m >= 65536) {
    m = 32768
    e -= 1
  } else if (m < 32768) {
    e += 1
    m = Math.round(value * 2 ** e)
  }
  return { m, e }
}

/** A number as m·2^k, m a u16 with its top bit set. */
export function toEpsilon(value: number): { m: number; k: number } {
  const { m, e } = toScale(value)
  return { m, k: -e }
}

/** Channels whose scale would not fit the packed form are zero for every input that fits the residual stream. */
function packChannel(value: number): number {
  if (!(value > 0)) return packScale(32768, 46)
  const { m, e } = toScale(value)
  return packScale(m, Math.max(-128, Math.min(127, e)))
}

/**
 * int8 rows, one scale per row. rows f32[n, k] → weight i8[n, k] and scale u32[n] holding (|row|max/127)·factor.
 */
export function quantiseRows(
  rows: Float32Array,
  k: number,
  factor: number,
): { weight: Int8Array; scale: Uint32Array } {
  const n = rows.length / k
  const weight = new Int8Array(rows.length)
  const scale = new Uint32Array(n)
  for (let r = 0; r < n; r++) {
    let max = 0
    for (let i = r * k; i < (r + 1) * k; i++) {
      const a = Math.abs(rows[i]!)
      if (a > max) max = a
    }
    scale[r] = packChannel((max / 127) * factor)
    if (max === 0) continue
    const inverse = 127 / max
    for (let i = r * k; i < (r + 1) * k; i++) weight[i] = Math.round(rows[i]! * inverse)
  }
  return { weight, scale }
}

/** A norm's gain as i16 and the number each step stands for. */
export function quantiseGain(gain: Float32Array): { gain: Int16Array; step: number } {
  const max = gain.reduce((m, g) => Math.max(m, Math.abs(g)), 0)
  const step = max === 0 ? 1 : max / 32767
  return { gain: Int16Array.from(gain, (g) => Math.round(g / step)), step }
}

/** Fixed point with `bits` fraction bits, clamped to i32. */
export const toFixed = (values: Float32Array, bits: number): Int32Array =>
  Int32Array.from(values, (v) => Math.max(-0x7fffffff, Math.min(0x7fffffff, Math.round(v * 2 ** bits))))
