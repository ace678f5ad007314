/** xn1 on four 32-bit lanes, and whole rows of them. Rows are zero-padded to a multiple of 16 in scratch. */
import { I32_MAX, ZERO_ROW_SCALE, packScale, rsqrt48, shl48 } from './xn1'

/** The first `count` (1 … 4) lanes at p, the others zero. */
export function loadPart(p: usize, count: i32): v128 {
  if (count >= 4) return v128.load(p)
  let v = v128.load_zero<u32>(p)
  if (count > 1) v = i32x4.replace_lane(v, 1, load<i32>(p, 4))
  if (count > 2) v = i32x4.replace_lane(v, 2, load<i32>(p, 8))
  return v
}

/** Stores the first `count` lanes and nothing else. */
export function storePart(p: usize, v: v128, count: i32): void {
  if (count >= 4) {
    v128.store(p, v)
    return
  }
  if (count > 0) store<i32>(p, i32x4.extract_lane(v, 0))
  if (count > 1) store<i32>(p, i32x4.extract_lane(v, 1), 4)
  if (count > 2) store<i32>(p, i32x4.extract_lane(v, 2), 8)
}

@inline export function sadd4(a: v128, b: v128): v128 {
  const s = i32x4.add(a, b)
  const over = i32x4.shr_s(v128.and(v128.xor(a, s), v128.xor(b, s)), 31)
  const limit = v128.xor(i32x4.shr_s(a, 31), i32x4.splat(I32_MAX))
  return i32x4.max_s(v128.bitselect(limit, s, over), i32x4.splat(-I32_MAX))
}

/** a - b, saturating like sadd4. */
@inline export function ssub4(a: v128, b: v128): v128 {
  const s = i32x4.sub(a, b)
  const over = i32x4.shr_s(v128.and(v128.xor(a, b), v128.xor(a, s)), 31)
  const limit = v128.xor(i32x4.shr_s(a, 31), i32x4.splat(I32_MAX))
  return i32x4.max_s(v128.bitselect(limit, s, over), i32x4.splat(-I32_MAX))
}

/** floor(t·m / 2^16), m a u16 in every lane. */
@inline export function mul16x4(t: v128, m: v128): v128 {
  const low = i32x4.shr_u(i32x4.mul(v128.and(t, i32x4.splat(0xffff)), m), 16)
  return i32x4.add(i32x4.mul(i32x4.shr_s(t, 16), m), low)
}

/** floor(t·g / 2^16), g an i16 per lane. */
@inline export function mul16s4(t: v128, g: v128): v128 {
  const low = i32x4.shr_s(i32x4.mul(v128.and(t, i32x4.splat(0xffff)), g), 16)
  return i32x4.add(i32x4.mul(i32x4.shr_s(t, 16), g), low)
}

/** rq with one scale for all lanes. */
export function rq4(acc: v128, m: u32, e0: i32): v128 {
  const e = max(e0, -14)
  const mm = i32x4.splat(m)
  const t = i32x4.mul(v128.and(acc, i32x4.splat(0xffff)), mm)
  const hi = i32x4.add(i32x4.mul(i32x4.shr_s(acc, 16), mm), i32x4.shr_u(t, 16))
  if (e >= 17) {
    if (e > 47) return i32x4.splat(0)
    return i32x4.shr_s(i32x4.add(i32x4.shr_s(hi, e - 17), i32x4.splat(1)), 1)
  }
  const k = 16 - e
  const limit = I32_MAX >> k
  const frac = v128.and(t, i32x4.splat(0xffff))
  let v = i32x4.shl(hi, k)
  v = i32x4.add(v, e >= 1 ? i32x4.shr_u(i32x4.add(frac, i32x4.splat(1 << (e - 1))), e) : i32x4.shl(frac, -e))
  v = v128.bitselect(i32x4.splat(I32_MAX), v, i32x4.ge_s(hi, i32x4.splat(limit)))
  return v128.bitselect(i32x4.splat(-I32_MAX), v, i32x4.lt_s(hi, i32x4.splat(-limit)))
}

@inline export function max4(v: v128): u32 {
  const a = i32x4.max_u(v, v128.shuffle<i32>(v, v, 2, 3, 0, 1))
  return max<u32>(i32x4.extract_lane(a, 0), i32x4.extract_lane(a, 1))
}

/** x[0, d) to zero-padded scratch of stride(d) values. */
export function stage(x: usize, d: i32, row: usize): void {
  memory.copy(row, x, d << 2)
  clearTail(row, d)
}
@inline export function clearTail(row: usize, d: i32): void {
  const end = (d + 15) & ~15
  for (let i = d; i < end; i++) store<i32>(row + (i << 2), 0)
}

/** Largest |x| of a padded row, at most 2^31 - 1. */
export function rowMax(row: usize, n: i32): u32 {
  let m = i32x4.splat(0)
  const end = row + (n << 2)
  for (let p = row; p < end; p += 16) m = i32x4.max_u(m, i32x4.abs(v128.load(p)))
  return min<u32>(max4(m), I32_MAX)
}

/** rsqrt48 of Σ top16(x)² + epsM·2^epsK over a padded row; n ≤ 65,536. */
export function rowRsqrt(row: usize, n: i32, n1: i32, epsM: u32, epsK: i32): u32 {
  let high = i32x4.splat(0)
  let low = i32x4.splat(0)
  const one = i32x4.splat(1)
  const mask = i32x4.splat(0xffff)
  const end = row + (n << 2)
  for (let p = row; p < end; p += 16) {
    const v = i32x4.shr_s(i32x4.add(i32x4.shr_s(i32x4.shl(v128.load(p), n1), 15), one), 1)
    const square = i32x4.mul(v, v)
    high = i32x4.add(high, i32x4.shr_u(square, 16))
    low = i32x4.add(low, v128.and(square, mask))
  }
  const sum = (sum4(high) << 16) + sum4(low)
  return rsqrt48(sum + shl48(epsM, epsK - 2 * (16 - n1)))
}

@inline function sum4(v: v128): u64 {
  return (
    <u64><u32>i32x4.extract_lane(v, 0) + <u64><u32>i32x4.extract_lane(v, 1) +
    <u64><u32>i32x4.extract_lane(v, 2) + <u64><u32>i32x4.extract_lane(v, 3)
  )
}

/** Σ of a padded row, exact. */
export function rowSum(row: usize, n: i32): i64 {
  let a = i64x2.splat(0)
  const end = row + (n << 2)
  for (let p = row; p < end; p += 16) {
    const v = v128.load(p)
    a = i64x2.add(a, i64x2.add(i64x2.extend_low_i32x4_s(v), i64x2.extend_high_i32x4_s(v)))
  }
  return i64x2.extract_lane(a, 0) + i64x2.extract_lane(a, 1)
}

@inline function quantise8(p: usize, s: i32, r: v128): v128 {
  const t = mul16x4(i32x4.shl(v128.load(p), s), r)
  return i32x4.shr_s(i32x4.add(i32x4.shr_s(t, 22), i32x4.splat(1)), 1)
}
@inline function quantise15(p: usize, s: i32, r: v128): v128 {
  const t = mul16x4(i32x4.shl(v128.load(p), s), r)
  return i32x4.shr_s(i32x4.add(i32x4.shr_s(t, 15), i32x4.splat(1)), 1)
}
@inline function narrow(a: v128, b: v128, c: v128, d: v128): v128 {
  return i8x16.narrow_i16x8_s(i16x8.narrow_i32x4_s(a, b), i16x8.narrow_i32x4_s(c, d))
}
@inline function upper(v: v128): v128 {
  return i32x4.shr_s(i32x4.add(v, i32x4.splat(64)), 7)
}

/** Dynamic quantisation of a padded row of n (a multiple of 16) values; `lo` 0 or the low plane's row. */
export function quantiseRow(row: usize, n: i32, f: i32, q: usize, lo: usize): u32 {
  const m = rowMax(row, n)
  if (m == 0) {
    memory.fill(q, 0, n)
    if (lo) memory.fill(lo, 0, n)
    return ZERO_ROW_SCALE
  }
  const s = <i32>clz(m) - 1
  const d = (m << s) >> 15
  const r = i32x4.splat(2130706432 / d)
  if (lo) {
    for (let i = 0; i < n; i += 16) {
      const p = row + (i << 2)
      const a = quantise15(p, s, r)
      const b = quantise15(p + 16, s, r)
      const c = quantise15(p + 32, s, r)
      const e = quantise15(p + 48, s, r)
      const ha = upper(a)
      const hb = upper(b)
      const hc = upper(c)
      const he = upper(e)
      v128.store(q + i, narrow(ha, hb, hc, he))
      v128.store(
        lo + i,
        narrow(
          i32x4.sub(a, i32x4.shl(ha, 7)), i32x4.sub(b, i32x4.shl(hb, 7)),
          i32x4.sub(c, i32x4.shl(hc, 7)), i32x4.sub(e, i32x4.shl(he, 7)),
        ),
      )
    }
  } else {
    for (let i = 0; i < n; i += 16) {
      const p = row + (i << 2)
      v128.store(
        q + i,
        narrow(quantise8(p, s, r), quantise8(p + 16, s, r), quantise8(p + 32, s, r), quantise8(p + 48, s, r)),
      )
    }
  }
  return packScale(d, s - 15 + f)
}
