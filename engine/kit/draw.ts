/** Random kernel inputs that can be had again, on any machine: nothing here rounds differently elsewhere. */
import { stride } from '../../shaders/kernel.ts'
import { packScale } from '../../shaders/xn1.ts'

export class Draw {
  #state: number

  /** @param stream another sequence under the same seed, e.g. a case's name */
  constructor(seed: number, stream = '') {
    let h = (seed ^ 0x811c9dc5) | 0
    for (let i = 0; i < stream.length; i++) h = Math.imul(h ^ stream.charCodeAt(i), 0x01000193)
    this.#state = h
  }

  /** splitmix32: 0 … 2³² − 1. */
  u32(): number {
    this.#state = (this.#state + 0x9e3779b9) | 0
    let z = this.#state
    z = Math.imul(z ^ (z >>> 16), 0x21f0aaad)
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97)
    return (z ^ (z >>> 15)) >>> 0
  }

  /** A whole number from `low` to `high`, both included. */
  int(low: number, high: number): number {
    return low + Math.floor((this.u32() / 2 ** 32) * (high - low + 1))
  }

  pick<T>(from: readonly T[]): T {
    return from[this.int(0, from.length - 1)]!
  }

  i32(length: number, magnitude = 2 ** 20): Int32Array {
    return Int32Array.from({ length }, () => this.int(-magnitude, magnitude))
  }

  u32s(length: number): Uint32Array {
    return Uint32Array.from({ length }, () => this.u32())
  }

  i8(length: number, low = -127, high = 127): Int8Array {
    return Int8Array.from({ length }, () => this.int(low, high))
  }

  i16(length: number): Int16Array {
    return Int16Array.from({ length }, () => this.int(-32767, 32767))
  }

  /** int8 rows of k values, stride(k) apart, the tail zero. */
  rows8(rows: number, k: number, low = -127, high = 127): Int8Array {
    const data = new Int8Array(rows * stride(k))
    for (let r = 0; r < rows; r++) for (let i = 0; i < k; i++) data[r * stride(k) + i] = this.int(low, high)
    return data
  }

  /** Packed scales with exponents from `low` to `high`. */
  scales(length: number, low: number, high: number): Uint32Array {
    return Uint32Array.from({ length }, () => packScale(this.int(32768, 65535), this.int(low, high)))
  }

  /** cos | sin << 16 in Q15 of random angles, the four right ones first: by the tangent of the half, which rounds alike everywhere. */
  rope(length: number): Uint32Array {
    return Uint32Array.from({ length }, (_, i) => {
      const t = i < 8 ? 0 : this.u32() / 2 ** 32
      const [cos, sin] = [(1 - t * t) / (1 + t * t), (2 * t) / (1 + t * t)]
      const turned = [[cos, sin], [-sin, cos], [-cos, -sin], [sin, -cos]][i & 3]! // prettier-ignore
      const [c, s] = turned.map((x) => Math.round(32767 * x) & 0xffff) as [number, number]
      return (c | (s << 16)) >>> 0
    })
  }

  /** Residual-like rows, and among them the awkward ones: zeros, a single spike, extremes, tiny values. */
  residual(rows: number, d: number): Int32Array {
    const x = new Int32Array(rows * d)
    for (let r = 0; r < rows; r++) {
      const kind = r % 7
      const magnitude = kind === 5 ? 3 : 2 ** this.int(4, 28)
      const spike = this.int(0, d - 1)
      for (let i = 0; i < d; i++) {
        let v = this.int(-magnitude, magnitude)
        if (kind === 1) v = 0
        if (kind === 2) v = i === spike ? this.pick([-1, 1, 2 ** 30, -(2 ** 31)]) : 0
        if (kind === 3) v = this.pick([-(2 ** 31), 2 ** 31 - 1])
        if (kind === 4) v = i === spike ? -(2 ** 31) : this.int(-5, 5)
        if (kind === 6) v = 2 ** 31 - 1 - this.int(0, 3)
        x[r * d + i] = v
      }
    }
    return x
  }
}

/** 2^(-1/256): square roots are exact to the last bit everywhere, powers are not. */
let step = 0.5
for (let i = 0; i < 8; i++) step = Math.sqrt(step)

/** exp2[k] = 16383·2^16·2^(-k/256) as near as makes no difference, k ≤ 256: the same integers on every machine. */
export function exp2Table(): Int32Array {
  let power = 1
  return Int32Array.from({ length: 257 }, (_, k) => {
    if (k) power *= step
    return Math.round(16383 * 65536 * power)
  })
}

/** A scalar function as `lut` wants it. */
export const tableOf = (f: (x: number) => number): Int32Array =>
  Int32Array.from({ length: 2049 }, (_, i) => Math.round(65536 * f((i - 1024) / 64)))

/** Shaped like tanh and like SiLU, of operations that round alike everywhere. */
export const sigmoidal = (x: number): number => x / (1 + Math.abs(x))
export const bent = (x: number): number => (x / 2) * (1 + sigmoidal(x))
