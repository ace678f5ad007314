/** The scalar arithmetic of xn1 as WASM has it: 64-bit products where the twins (shaders/xn1.ts) split into halves. */

export const I32_MAX: i32 = 0x7fffffff
export const ZERO_ROW_SCALE: u32 = (32768 << 8) | (46 + 128)

@inline export function packScale(m: u32, e: i32): u32 {
  return (m << 8) | <u32>(e + 128)
}
@inline export function mantissa(s: u32): u32 {
  return s >> 8
}
@inline export function exponent(s: u32): i32 {
  return <i32>(s & 255) - 128
}
@inline export function stride(k: i32): i32 {
  return (k + 15) & ~15
}

/** 2^e as a float, for |e| ≤ 1022: floats hold scales exactly, and only exactly representable products are formed. */
@inline export function pow2(e: i32): f64 {
  return reinterpret<f64>(<i64>(1023 + e) << 52)
}

@inline export function umulhi(a: u32, b: u32): u32 {
  return <u32>((<u64>a * <u64>b) >> 32)
}
@inline export function mul16s(a: i32, g: i32): i32 {
  return <i32>((<i64>a * <i64>g) >> 16)
}
@inline export function top16(x: i32, n1: i32): i32 {
  return (((x << n1) >> 15) + 1) >> 1
}
/** round(acc·m·2^-e) half up, saturating where the twin does: by the product's high 32 bits. */
export function rq(acc: i32, m: u32, e0: i32): i32 {
  const e = max(e0, -14)
  const p = <i64>acc * <i64>m
  if (e >= 17) return e > 47 ? 0 : <i32>(((p >> (e - 1)) + 1) >> 1)
  const hi = <i32>(p >> 16)
  const limit = I32_MAX >> (16 - e)
  if (hi >= limit) return I32_MAX
  if (hi < -limit) return -I32_MAX
  return e >= 1 ? <i32>((p + (<i64>1 << (e - 1))) >> e) : <i32>(p << -e)
}

/** a·b = m·2^(16 - shift), packed as m << 1 | shift. */
@inline export function mulm(a: u32, b: u32): u32 {
  const p = a * b
  return <i32>p < 0 ? (p >> 16) << 1 : ((p >> 15) << 1) | 1
}

/** 1/sqrt(s) as a packed scale: inv·2^(j - 31). The float root of a whole number below 2^32, floored, is its isqrt. */
export function rsqrt48(s: u64): u32 {
  if (s == 0) return packScale(65535, 15)
  const top = 63 - <i32>clz(s)
  const j = top >= 30 ? -((top - 30) >> 1) : (31 - top) >> 1
  const n = <u32>(j >= 0 ? s << (2 * j) : s >> (-2 * j))
  const root = <u32>Math.floor(Math.sqrt(<f64>n))
  return packScale(min<u32>(0x80000000 / root, 65535), j)
}

/** m·2^k, k clamped to [-16, 26]. */
export function shl48(m: u32, k: i32): u64 {
  if (k <= -16) return 0
  return k < 0 ? <u64>(m >> -k) : <u64>m << min(k, 26)
}

/** round(16383·2^-u) for u in Q16. */
@inline export function exp2q(table: usize, u: u32): i32 {
  const whole = u >> 16
  if (whole > 15) return 0
  const at = table + (((u >> 8) & 255) << 2)
  const a = load<i32>(at)
  const e = a - (((a - load<i32>(at, 4)) * <i32>(u & 255)) >> 8)
  return ((e >> <i32>(whole + 15)) + 1) >> 1
}

/** a·b / 2^16 rounded half up, saturating by the product's high word. */
export function mulq16(a: i32, b: i32): i32 {
  const p = <i64>a * <i64>b
  const hi = <i32>(p >> 32)
  if (hi >= 0x7fff) return I32_MAX
  if (hi < -0x7fff) return -I32_MAX
  return <i32>((p + 0x8000) >> 16)
}

/** Philox4x32-10: first word of the block for counter (c0, c1, 0, 0) under key (k0, k1). */
export function philox(c0: u32, c1: u32, k0: u32, k1: u32): u32 {
  let x0 = c0
  let x1 = c1
  let x2: u32 = 0
  let x3: u32 = 0
  for (let round = 0; round < 10; round++) {
    const a = <u64>0xd2511f53 * <u64>x0
    const b = <u64>0xcd9e8d57 * <u64>x2
    x0 = <u32>(b >> 32) ^ x1 ^ k0
    x1 = <u32>b
    x2 = <u32>(a >> 32) ^ x3 ^ k1
    x3 = <u32>a
    k0 += 0x9e3779b9
    k1 += 0xbb67ae85
  }
  return x0
}

/** floor((sum + n/2) / n): a rounded mean of n values; 0 of none. */
export function meanOf(sum: i64, n: i32): i32 {
  if (n == 0) return 0
  const a = sum + <i64>(n >> 1)
  let q = a / <i64>n
  if (a < 0 && q * <i64>n != a) q--
  return <i32>q
}
