/**
 * The scalar arithmetic of xn1 (docs/numerics.md): fixed point on 32-bit integers, nothing else. Every WGSL and WASM
 * kernel is built from these same functions, and these definitions are the truth the others are tested against.
 *
 * A *scale* is a pair (m, e) with m in [2^15, 2^16) and value m·2^-e. Stored, it is one u32: m << 8 | (e + 128).
 */

export const I32_MAX = 0x7fffffff

export const packScale = (m: number, e: number): number => ((m << 8) | (e + 128)) >>> 0
export const scaleMantissa = (s: number): number => s >>> 8
export const scaleExponent = (s: number): number => (s & 255) - 128

/** The scale given to a row of zeros; any would do, so it is fixed. */
export const ZERO_ROW_SCALE = { m: 32768, e: 46 } as const

/** High 32 bits of the unsigned product. */
export function umulhi(a: number, b: number): number {
  const al = a & 0xffff
  const ah = a >>> 16
  const bl = b & 0xffff
  const bh = b >>> 16
  const ll = Math.imul(al, bl) >>> 0
  const lh = Math.imul(al, bh) >>> 0
  const hl = Math.imul(ah, bl) >>> 0
  const hh = Math.imul(ah, bh) >>> 0
  const mid = (ll >>> 16) + (lh & 0xffff) + (hl & 0xffff)
  return (hh + (lh >>> 16) + (hl >>> 16) + (mid >>> 16)) >>> 0
}

/** High 32 bits of the signed product. */
export function smulhi(a: number, b: number): number {
  let h = umulhi(a, b) | 0
  if (a < 0) h = (h - b) | 0
  if (b < 0) h = (h - a) | 0
  return h
}

/** floor(a·m / 2^16) for a: i32, m: u16. */
export const mul16 = (a: number, m: number): number =>
  (Math.imul(a >> 16, m) + (Math.imul(a & 0xffff, m) >>> 16)) | 0

/** floor(a·g / 2^16) for a: i32, g: i16 above -32768. */
export const mul16s = (a: number, g: number): number =>
  (Math.imul(a >> 16, g) + (Math.imul(a & 0xffff, g) >> 16)) | 0

/** x / 2^s rounded half up, s ≥ 0; cannot overflow. */
export const rshr = (x: number, s: number): number => (s > 31 ? 0 : s > 0 ? ((x >> (s - 1)) + 1) >> 1 : x)

/** Saturating sum in ±(2^31 - 1). */
export function sadd(a: number, b: number): number {
  const s = a + b
  return s > I32_MAX ? I32_MAX : s < -I32_MAX ? -I32_MAX : s
}

/** |x| as a u32 no larger than 2^31 - 1. */
export const uabs = (x: number): number => (x < 0 ? Math.min(-x, I32_MAX) : x)

/**
 * round(acc·m·2^-e) half up, saturating at ±(2^31 - 1): the only requantisation in xn1. acc: i32, m: u16.
 * e below -14 is taken as -14: there every non-zero product that fits a real tensor has saturated already, and the shift
 * stays inside 32 bits.
 */
export function rq(acc: number, m: number, exponent: number): number {
  const e = exponent < -14 ? -14 : exponent
  const t = Math.imul(acc & 0xffff, m) >>> 0
  const hi = (Math.imul(acc >> 16, m) + (t >>> 16)) | 0
  const frac = t & 0xffff
  if (e >= 17) return rshr(hi, e - 16)
  const k = 16 - e
  const limit = I32_MAX >> k
  if (hi >= limit) return I32_MAX
  if (hi < -limit) return -I32_MAX
  if (e >= 1) return ((hi << k) + ((frac + (1 << (e - 1))) >> e)) | 0
  return ((hi << k) + (frac << -e)) | 0
}

/** Product of two 16-bit mantissas: a·b = m·2^(16 - shift), m again in [2^15, 2^16). Truncates. Packed as m << 1 | shift. */
export function mulm(a: number, b: number): number {
  const p = Math.imul(a, b) >>> 0
  return p >= 0x80000000 ? (p >>> 16) << 1 : ((p >>> 15) << 1) | 1
}

/** floor(sqrt(n)) of a u32. */
export function isqrt32(n: number): number {
  let x = n >>> 0
  let r = 0
  let bit = 0x40000000
  for (let i = 0; i < 16; i++) {
    const t = (r + bit) >>> 0
    if (x >= t) {
      x = (x - t) >>> 0
      r = ((r >>> 1) + bit) >>> 0
    } else {
      r >>>= 1
    }
    bit >>>= 2
  }
  return r
}

/**
 * 1/sqrt of S = sh·2^16 + sl (sl < 2^16): S^-1/2 = inv·2^(j - 31), inv in [2^15, 2^16). S = 0 gives inv 65535, j 15.
 * Returned packed as inv << 8 | (j + 128).
 */
export function rsqrt48(sh: number, sl: number): number {
  if (sh === 0 && sl === 0) return packScale(65535, 15)
  const top = sh > 0 ? 47 - Math.clz32(sh) : 31 - Math.clz32(sl)
  const j = top >= 30 ? -((top - 30) >> 1) : (31 - top) >> 1
  let s: number
  if (j >= 0) {
    s = ((((sh << 16) | sl) >>> 0) << (2 * j)) >>> 0
  } else {
    const r = -2 * j
    s = r <= 16 ? (((sh << (16 - r)) >>> 0) + (sl >>> r)) >>> 0 : sh >>> (r - 16)
  }
  const inv = Math.min(Math.floor(2147483648 / isqrt32(s)), 65535)
  return packScale(inv, j)
}

/** m·2^k as [high, low] in base 2^16, k clamped to [-16, 26], m: u16. */
export function shl48(m: number, k: number): [number, number] {
  if (k <= -16) return [0, 0]
  if (k < 0) return [0, m >>> -k]
  const c = k > 26 ? 26 : k
  if (c < 16) return [(m << c) >>> 16, (m << c) & 0xffff]
  return [m << (c - 16), 0]
}

/** round(16383·2^-u) for u in Q16, u32. `table` is exp2[257], entry k = round(16383·2^16·2^(-k/256)). */
export function exp2q(table: Int32Array, u: number): number {
  const whole = u >>> 16
  if (whole > 15) return 0
  const frac = u & 0xffff
  const k = frac >>> 8
  const a = table[k]!
  const e = a - (Math.imul(a - table[k + 1]!, frac & 255) >> 8)
  return rshr(e, whole + 16)
}

/**
 * A scalar function by table: x and result in Q16; 2049 entries over [-16, 16), linear in between. Left of it the first
 * entry; right of it x itself when `identity` (SiLU, GELU, ReLU), else the last entry (tanh).
 */
export function lut(table: Int32Array, x: number, identity: boolean): number {
  if (x >= 1048576) return identity ? x : table[2048]!
  if (x < -1048576) return table[0]!
  const u = x + 1048576
  const k = u >> 10
  const a = table[k]!
  return a + ((Math.imul(table[k + 1]! - a, u & 1023) + 512) >> 10)
}

/** a·b / 2^16 rounded half up, saturating; a, b in Q16. */
export function mulq16(a: number, b: number): number {
  const hi = smulhi(a, b)
  const lo = Math.imul(a, b) >>> 0
  if (hi >= 0x7fff) return I32_MAX
  if (hi < -0x7fff) return -I32_MAX
  return ((hi << 16) + (lo >>> 16) + ((lo >>> 15) & 1)) | 0
}

/** Philox4x32-10 (Salmon et al., SC'11): first word of the block for counter (c0, c1, 0, 0) under key (k0, k1). */
export function philox(c0: number, c1: number, k0: number, k1: number): number {
  let x0 = c0 >>> 0
  let x1 = c1 >>> 0
  let x2 = 0
  let x3 = 0
  let a = k0 >>> 0
  let b = k1 >>> 0
  for (let round = 0; round < 10; round++) {
    const h0 = umulhi(0xd2511f53, x0)
    const l0 = Math.imul(0xd2511f53, x0) >>> 0
    const h1 = umulhi(0xcd9e8d57, x2)
    const l1 = Math.imul(0xcd9e8d57, x2) >>> 0
    x0 = (h1 ^ x1 ^ a) >>> 0
    x1 = l1
    x2 = (h0 ^ x3 ^ b) >>> 0
    x3 = l0
    a = (a + 0x9e3779b9) >>> 0
    b = (b + 0xbb67ae85) >>> 0
  }
  return x0
}

// --- rows: the pieces that more than one kernel is made of ---

/** Largest |x| of x[o, o+n), at most 2^31 - 1. */
export function rowMax(x: Int32Array, o: number, n: number): number {
  let m = 0
  for (let i = 0; i < n; i++) {
    const a = uabs(x[o + i]!)
    if (a > m) m = a
  }
  return m
}

/** One normalised value (|t| < 2^31) to int8 by reciprocal R = floor(127·2^24 / d). */
export const quantise8 = (t: number, r: number): number => ((mul16(t, r) >> 22) + 1) >> 1
/** The same to 15 bits: 128·hi + lo, lo in [-64, 63]. */
export const quantise15 = (t: number, r: number): number => ((mul16(t, r) >> 15) + 1) >> 1

/**
 * Dynamic quantisation of one row: x[o, o+n) → q[qo, qo+n) in ±127, and with `lo` (A15 inputs) the low plane as well.
 * Returns its scale (m, e), packed: real value = q/127 · m·2^-e when x is in Q(f).
 */
export function quantiseRow(
  x: Int32Array,
  o: number,
  n: number,
  f: number,
  q: Int8Array,
  qo: number,
  lo: Int8Array | null,
  loO: number,
): number {
  // prettier-ignore
  const max = rowMax(x, o, n)
  if (max === 0) {
    q.fill(0, qo, qo + n)
    lo?.fill(0, loO, loO + n)
    return packScale(ZERO_ROW_SCALE.m, ZERO_ROW_SCALE.e)
  }
  const s = Math.clz32(max) - 1
  const d = (max << s) >>> 15
  const r = Math.floor(2130706432 / d)
  if (lo) {
    for (let i = 0; i < n; i++) {
      const v = quantise15(x[o + i]! << s, r)
      const hi = (v + 64) >> 7
      q[qo + i] = hi
      lo[loO + i] = v - (hi << 7)
    }
  } else {
    for (let i = 0; i < n; i++) q[qo + i] = quantise8(x[o + i]! << s, r)
  }
  return packScale(d, s - 15 + f)
}

/** (x·2^n1) >> 16 rounded: a normalised value (top bit at 2^30) to 16 bits. */
export const top16 = (x: number, n1: number): number => (((x << n1) >> 15) + 1) >> 1

/**
 * rsqrt48 of Σ top16(x)² + eps over x[o, o+n), where the row's largest |x| has its top bit at 2^(30 - n1) and eps is
 * epsM·2^epsK in units of x²: the row's 1/norm, for RMSNorm, LayerNorm, q/k norm and unit vectors. n ≤ 65,536.
 */
export function rowRsqrt(
  x: Int32Array,
  o: number,
  n: number,
  n1: number,
  epsM: number,
  epsK: number,
): number {
  let sh = 0
  let sl = 0
  for (let i = 0; i < n; i++) {
    const v = top16(x[o + i]!, n1)
    const square = Math.imul(v, v) >>> 0
    sh += square >>> 16
    sl += square & 0xffff
  }
  const [eh, el] = shl48(epsM, epsK - 2 * (16 - n1))
  sh += eh
  sl += el
  sh += sl >>> 16
  return rsqrt48(sh >>> 0, sl & 0xffff)
}

/** round(Σ x[o + i·stride] / n), exact over 64 bits, for n ≤ 32,768 values. */
export function exactMean(x: Int32Array, o: number, n: number, stride: number): number {
  let sh = 0
  let sl = 0
  for (let i = 0; i < n; i++) {
    const v = x[o + i * stride]!
    sh += v >> 16
    sl += v & 0xffff
  }
  const whole = Math.floor(sh / n)
  return (whole * 65536 + Math.floor(((sh - whole * n) * 65536 + sl + (n >> 1)) / n)) | 0
}
