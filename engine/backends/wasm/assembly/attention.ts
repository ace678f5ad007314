/**
 * softmax(q·kᵀ)·v in tiles of queries that see the same keys: consecutive rows with one base, and the heads of one kv group.
 *
 * Keys, and then values, are brought into the panels that `linear` multiplies with, so that both products are its tiles. The
 * weights of the values, at most 16383, are split into 128·high + low like an A15 operand: their sums join as the twin's do.
 * A query whose row is shorter than the tile's longest gives the keys behind its own a weight of zero.
 */
import { rq4, storePart } from './lanes'
import * as plain from './products'
import * as relaxed from './products-relaxed'
import { exponent, mantissa, mulm, pow2, rq, stride } from './xn1'

/** Most queries of a tile. layout.ts reserves scratch for as many. */
const QUERIES = 12
/** Bytes of what is known of one query; its words below. */
const QUERY = 64
const FACTOR: usize = 0 // f64: query scale · score scale
const SAFE: usize = 8 // f64: below this key scale no score comes near saturation
const MANTISSA: usize = 16
const EXPONENT: usize = 20
const LENGTH: usize = 24
const RECIPROCAL: usize = 28
const SHIFT: usize = 32
const OUT: usize = 36
const MAX: usize = 48 // i32[4]

// heads kvHeads headDim scoreM scoreE packed · rows q qs k v kvs exp2 out
export function attention(s: usize, n: i32, thread: i32, threads: i32, scratch: usize): void {
  const h = load<i32>(s)
  const kv = load<i32>(s, 4)
  const rows = load<usize>(s, 24) + 24
  // Fewer queries to a tile where there would not be a tile for everyone.
  const most = max(1, min(QUERIES, n * h / threads))
  let tile = 0
  for (let t = 0; t < n; ) {
    const base = load<u32>(rows + (t << 4))
    let same = t + 1
    while (same < n && load<u32>(rows + (same << 4)) == base) same++
    for (let group = 0; group < kv; group++) {
      const last = ((group + 1) * h + kv - 1) / kv
      let wide = 1
      for (let head = (group * h + kv - 1) / kv; head < last; head += wide) {
        wide = min(most, last - head)
        const high = most / wide
        // In turn, as later rows of a text have more keys.
        for (let first = t; first < same; first += high, tile++)
          if (tile % threads == thread) attend(s, first, min(high, same - first), head, wide, group, scratch)
      }
    }
    t = same
  }
}

/** Rows [t, t + high) and heads [head, head + wide) of one group. */
function attend(s: usize, t: i32, high: i32, head: i32, wide: i32, group: i32, scratch: usize): void {
  const h = load<i32>(s)
  const kv = load<i32>(s, 4)
  const hd = load<i32>(s, 8)
  const scoreM = load<u32>(s, 12)
  const scoreE = load<i32>(s, 16)
  const offset = load<i32>(s, 20) == 3 ? 128 : 0
  const rows = load<usize>(s, 24) + 24
  const q = load<usize>(s, 28)
  const qs = load<usize>(s, 32)
  const exp2 = load<usize>(s, 48)
  const sd = stride(hd)
  const queries = high * wide
  const step = <usize>kv * <usize>sd
  const base = <usize>load<u32>(rows + (t << 4))

  let longest = 0
  for (let r = 0; r < high; r++) longest = max(longest, load<i32>(rows + (t + r << 4), 4))
  const kp = stride(longest)

  const known = scratch
  const starts = known + QUERIES * QUERY
  const sums = starts + QUERIES * 8
  const panel = sums + QUERIES * 128
  const copy = panel + max(sd << 3, kp << 4)
  const tiles = copy + QUERIES * sd
  const scales = tiles + 2 * QUERIES * sd
  const pairs = scales + (kp << 2)
  const planes = pairs + (kp << 2)
  const plane = queries * kp
  // Scores, and once they are weights in two planes, those in tile order.
  const z = planes + 2 * plane

  for (let i = 0; i < queries; i++) {
    const r = t + i / wide
    const unit = <usize>(r * h + head + i % wide)
    memory.copy(copy + i * sd, q + unit * <usize>sd, sd)
    const scale = load<u32>(qs + (unit << 2))
    const m = mulm(mantissa(scale), scoreM)
    const e = exponent(scale) + scoreE - 16 + <i32>(m & 1)
    const factor = <f64>(m >> 1) * pow2(-e)
    const it = known + i * QUERY
    store<f64>(it, factor, FACTOR)
    store<f64>(it, 1073741824.0 / (16384.0 * <f64>sd * factor), SAFE)
    store<u32>(it, m >> 1, MANTISSA)
    store<i32>(it, e, EXPONENT)
    store<i32>(it, load<i32>(rows + (r << 4), 4), LENGTH)
    store<usize>(it, load<usize>(s, 52) + (unit * <usize>hd << 2), OUT)
    v128.store(it, i32x4.splat(0x80000000), MAX)
  }
  if (longest > 0) {
    prepare(copy, 0, queries, sd, offset, tiles, starts)
    const keys = load<usize>(s, 36) + base * step + <usize>group * <usize>sd
    const keyScales = load<usize>(s, 44) + (base * <usize>(2 * kv) + <usize>group << 2)
    for (let j = 0; j < longest; j += 8) {
      packKeys(keys, step, j, longest - 1, sd, offset, panel)
      products(tiles, panel, sd, queries, false, starts, sums)
      score8(known, queries, keyScales, <usize>kv << 3, j, longest - 1, sums, z, kp, scales)
    }
  }

  let vE = 256
  for (let r = 0; r < high; r++) {
    const it = known + r * wide * QUERY
    const length = load<i32>(it, LENGTH)
    const e = lowest(scales, length)
    if (e != vE) pairUp(scales, kp, e, pairs)
    vE = e
    for (let i = r * wide; i < (r + 1) * wide; i++) {
      const total = weights(z + (i * kp << 2), length, kp, max1(known + i * QUERY), exp2, pairs, planes + i * kp, plane)
      const shift = <i32>clz(total)
      store<u32>(known + i * QUERY, length ? min<u32>(65535, 0x80000000 / ((total << shift) >> 16)) : 0, RECIPROCAL)
      store<i32>(known + i * QUERY, 15 + vE - shift, SHIFT)
    }
  }
  if (longest == 0) {
    for (let i = 0; i < queries; i++) memory.fill(load<usize>(known + i * QUERY, OUT), 0, hd << 2)
    return
  }
  prepare(planes, plane, queries, kp, offset, z, starts)
  const values = load<usize>(s, 40) + base * step + <usize>group * <usize>sd
  for (let i = 0; i < hd; i += 16) {
    packValues(values + i, step, longest, kp, offset, panel)
    for (let d = i; d < min(hd, i + 16); d += 8) {
      products(z, panel + (d - i) * kp, kp, queries, true, starts, sums)
      for (let j = 0; j < queries; j++) {
        const it = known + j * QUERY
        const out = load<usize>(it, OUT) + (d << 2)
        const m = load<u32>(it, RECIPROCAL)
        const e = load<i32>(it, SHIFT)
        storePart(out, rq4(v128.load(sums + (j << 5)), m, e), hd - d)
        if (hd - d > 4) storePart(out + 16, rq4(v128.load(sums + (j << 5), 16), m, e), hd - d - 4)
      }
    }
  }
}

@inline function prepare(q: usize, plane: usize, rows: i32, kp: i32, offset: i32, into: usize, starts: usize): void {
  if (ASC_FEATURE_RELAXED_SIMD) relaxed.prepare(q, plane, rows, kp, offset, into, starts)
  else plain.prepare(q, plane, rows, kp, into)
}
@inline function products(a: usize, w: usize, kp: i32, rows: i32, a15: bool, starts: usize, sums: usize): void {
  if (ASC_FEATURE_RELAXED_SIMD) relaxed.products(a, w, kp, rows, a15, starts, sums)
  else plain.products(a, w, kp, rows, a15, sums)
}

/** Keys j … j + 7, the last repeated as often as it takes, into one panel: [four or pair of dims][key]. */
function packKeys(keys: usize, step: usize, j: i32, last: i32, sd: i32, offset: i32, panel: usize): void {
  const flip = i8x16.splat(<i8>offset)
  for (let half = 0; half < 8; half += 4) {
    const k0 = keys + <usize>min(j + half, last) * step
    const k1 = keys + <usize>min(j + half + 1, last) * step
    const k2 = keys + <usize>min(j + half + 2, last) * step
    const k3 = keys + <usize>min(j + half + 3, last) * step
    let out = panel + (ASC_FEATURE_RELAXED_SIMD ? half << 2 : half << 1)
    for (let i = 0; i < sd; i += 16) {
      const a = v128.xor(v128.load(k0 + i), flip)
      const b = v128.xor(v128.load(k1 + i), flip)
      const c = v128.xor(v128.load(k2 + i), flip)
      const d = v128.xor(v128.load(k3 + i), flip)
      if (ASC_FEATURE_RELAXED_SIMD) {
        const ab = v128.shuffle<i32>(a, b, 0, 4, 1, 5)
        const cd = v128.shuffle<i32>(c, d, 0, 4, 1, 5)
        const ef = v128.shuffle<i32>(a, b, 2, 6, 3, 7)
        const gh = v128.shuffle<i32>(c, d, 2, 6, 3, 7)
        v128.store(out, v128.shuffle<i64>(ab, cd, 0, 2))
        v128.store(out, v128.shuffle<i64>(ab, cd, 1, 3), 32)
        v128.store(out, v128.shuffle<i64>(ef, gh, 0, 2), 64)
        v128.store(out, v128.shuffle<i64>(ef, gh, 1, 3), 96)
      } else {
        const ab = v128.shuffle<i16>(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
        const cd = v128.shuffle<i16>(c, d, 0, 8, 1, 9, 2, 10, 3, 11)
        const ef = v128.shuffle<i16>(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
        const gh = v128.shuffle<i16>(c, d, 4, 12, 5, 13, 6, 14, 7, 15)
        store4(out, v128.shuffle<i32>(ab, cd, 0, 4, 1, 5), v128.shuffle<i32>(ab, cd, 2, 6, 3, 7))
        store4(out + 64, v128.shuffle<i32>(ef, gh, 0, 4, 1, 5), v128.shuffle<i32>(ef, gh, 2, 6, 3, 7))
      }
      out += 128
    }
  }
}
/** Four pairs of dims, each of four keys, 16 bytes apart. */
@inline function store4(out: usize, a: v128, b: v128): void {
  v128.store_lane<u64>(out, a, 0)
  v128.store_lane<u64>(out, a, 1, 16)
  v128.store_lane<u64>(out, b, 0, 32)
  v128.store_lane<u64>(out, b, 1, 48)
}

/** 16 dims of all values into two panels: [four or pair of keys][dim]. Behind the last key anything goes: its weight is 0. */
function packValues(values: usize, step: usize, length: i32, kp: i32, offset: i32, panel: usize): void {
  const flip = i8x16.splat(<i8>offset)
  const second = panel + (kp << 3)
  const last = length - 1
  for (let j = 0; j < kp; j += 4) {
    const out = <usize>j << 3
    const a = v128.xor(v128.load(values + <usize>min(j, last) * step), flip)
    const b = v128.xor(v128.load(values + <usize>min(j + 1, last) * step), flip)
    const c = v128.xor(v128.load(values + <usize>min(j + 2, last) * step), flip)
    const d = v128.xor(v128.load(values + <usize>min(j + 3, last) * step), flip)
    const ab = v128.shuffle<i8>(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
    const cd = v128.shuffle<i8>(c, d, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
    const ef = v128.shuffle<i8>(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
    const gh = v128.shuffle<i8>(c, d, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
    if (ASC_FEATURE_RELAXED_SIMD) {
      v128.store(panel + out, v128.shuffle<i16>(ab, cd, 0, 8, 1, 9, 2, 10, 3, 11))
      v128.store(panel + out, v128.shuffle<i16>(ab, cd, 4, 12, 5, 13, 6, 14, 7, 15), 16)
      v128.store(second + out, v128.shuffle<i16>(ef, gh, 0, 8, 1, 9, 2, 10, 3, 11))
      v128.store(second + out, v128.shuffle<i16>(ef, gh, 4, 12, 5, 13, 6, 14, 7, 15), 16)
    } else {
      v128.store(panel + out, ab)
      v128.store(panel + out, cd, 16)
      v128.store(second + out, ef)
      v128.store(second + out, gh, 16)
    }
  }
}

/**
 * z[j …] in Q16 for eight keys of every query, and each query's maximum. The keys' value scales, half a scale row behind their
 * own, are gathered on the way. The keys' factors are the same for all queries: floats hold them exactly, and mulm's
 * truncation is a mask on the mantissa.
 */
function score8(
  known: usize, queries: i32, scales: usize, step: usize, j: i32, last: i32, sums: usize, z: usize, kp: i32, gathered: usize,
): void {
  const half8 = step >> 1
  const s0 = scales + <usize>j * step
  const s1 = scales + <usize>min(j + 1, last) * step
  const s2 = scales + <usize>min(j + 2, last) * step
  const s3 = scales + <usize>min(j + 3, last) * step
  const s4 = scales + <usize>min(j + 4, last) * step
  const s5 = scales + <usize>min(j + 5, last) * step
  const s6 = scales + <usize>min(j + 6, last) * step
  const s7 = scales + <usize>min(j + 7, last) * step
  const ka = four(s0, s1, s2, s3)
  const kb = four(s4, s5, s6, s7)
  v128.store(gathered + (j << 2), four(s0 + half8, s1 + half8, s2 + half8, s3 + half8))
  v128.store(gathered + (j << 2), four(s4 + half8, s5 + half8, s6 + half8, s7 + half8), 16)
  const f0 = scaleLow(ka)
  const f1 = scaleLow(v128.shuffle<i32>(ka, ka, 2, 3, 0, 1))
  const f2 = scaleLow(kb)
  const f3 = scaleLow(v128.shuffle<i32>(kb, kb, 2, 3, 0, 1))
  const top2 = f64x2.max(f64x2.max(f0, f1), f64x2.max(f2, f3))
  const top = Math.max(f64x2.extract_lane(top2, 0), f64x2.extract_lane(top2, 1))
  const lanes = i32x4(0, 1, 2, 3)
  const least = i32x4.splat(0x80000000)
  let out = z + (j << 2)
  for (let i = 0; i < queries; i++, sums += 32, known += QUERY, out += kp << 2) {
    let va: v128
    let vb: v128
    const a = v128.load(sums)
    const b = v128.load(sums, 16)
    if (top >= load<f64>(known, SAFE)) {
      va = saturating(a, ka, load<u32>(known, MANTISSA), load<i32>(known, EXPONENT))
      vb = saturating(b, kb, load<u32>(known, MANTISSA), load<i32>(known, EXPONENT))
    } else {
      const factor = v128.load_splat<u64>(known, FACTOR)
      va = rescale(a, factor, f0, f1)
      vb = rescale(b, factor, f2, f3)
    }
    v128.store(out, va)
    v128.store(out, vb, 16)
    const left = load<i32>(known, LENGTH) - j
    if (left < 8) {
      va = v128.bitselect(va, least, i32x4.lt_s(lanes, i32x4.splat(left)))
      vb = v128.bitselect(vb, least, i32x4.lt_s(lanes, i32x4.splat(left - 4)))
    }
    v128.store(known, i32x4.max_s(v128.load(known, MAX), i32x4.max_s(va, vb)), MAX)
  }
}

@inline function scaleLow(v: v128): v128 {
  const e = i32x4.shl(i32x4.sub(i32x4.splat(1023 + 128), v128.and(v, i32x4.splat(255))), 20)
  return f64x2.mul(f64x2.convert_low_i32x4_u(i32x4.shr_u(v, 8)), v128.shuffle<i32>(i32x4.splat(0), e, 0, 4, 1, 5))
}

@inline function rescale(acc: v128, factor: v128, low: v128, high: v128): v128 {
  const mask = i64x2.splat(0xffffffe000000000)
  const half = f64x2.splat(0.5)
  const whole = f64x2.splat(6755399441055744)
  const upper = v128.shuffle<i32>(acc, acc, 2, 3, 0, 1)
  const y0 = f64x2.mul(f64x2.convert_low_i32x4_s(acc), v128.and(f64x2.mul(factor, low), mask))
  const y1 = f64x2.mul(f64x2.convert_low_i32x4_s(upper), v128.and(f64x2.mul(factor, high), mask))
  const w0 = f64x2.add(f64x2.floor(f64x2.add(y0, half)), whole)
  const w1 = f64x2.add(f64x2.floor(f64x2.add(y1, half)), whole)
  return v128.shuffle<i32>(w0, w1, 0, 2, 4, 6)
}

/** The twin's own arithmetic, for scales that could saturate. */
function saturating(acc: v128, scales: v128, qm: u32, qE: i32): v128 {
  let v = i32x4.splat(score(i32x4.extract_lane(acc, 0), qm, qE, i32x4.extract_lane(scales, 0)))
  v = i32x4.replace_lane(v, 1, score(i32x4.extract_lane(acc, 1), qm, qE, i32x4.extract_lane(scales, 1)))
  v = i32x4.replace_lane(v, 2, score(i32x4.extract_lane(acc, 2), qm, qE, i32x4.extract_lane(scales, 2)))
  return i32x4.replace_lane(v, 3, score(i32x4.extract_lane(acc, 3), qm, qE, i32x4.extract_lane(scales, 3)))
}
function score(acc: i32, qm: u32, qE: i32, k: u32): i32 {
  const m = mulm(qm, mantissa(k))
  return rq(acc, m >> 1, qE + exponent(k) - 16 + <i32>(m & 1))
}

@inline function four(p0: usize, p1: usize, p2: usize, p3: usize): v128 {
  let v = v128.load_zero<u32>(p0)
  v = v128.load_lane<u32>(p1, v, 1)
  v = v128.load_lane<u32>(p2, v, 2)
  return v128.load_lane<u32>(p3, v, 3)
}

function max1(known: usize): i32 {
  let m = v128.load(known, MAX)
  m = i32x4.max_s(m, v128.shuffle<i32>(m, m, 2, 3, 0, 1))
  return i32x4.extract_lane(i32x4.max_s(m, v128.shuffle<i32>(m, m, 1, 0, 3, 2)), 0)
}

/** Smallest exponent among the first `length` packed scales. */
function lowest(scales: usize, length: i32): i32 {
  const mask = i32x4.splat(255)
  let m = mask
  let j = 0
  for (; j + 4 <= length; j += 4) m = i32x4.min_u(m, v128.and(v128.load(scales + (j << 2)), mask))
  m = i32x4.min_u(m, v128.shuffle<i32>(m, m, 2, 3, 0, 1))
  let e = min(i32x4.extract_lane(m, 0), i32x4.extract_lane(m, 1))
  for (; j < length; j++) e = min(e, load<u8>(scales + (j << 2)))
  return e - 128
}

/**
 * What each probability is multiplied with, w = mantissa >> (exponent - vE), as two i16: w >> 1 and w & 1, for the dot with
 * 2p and p. A shift by lane is a product with a power of two, exact in f32.
 */
function pairUp(scales: usize, kp: i32, vE: i32, pairs: usize): void {
  for (let j = 0; j < kp << 2; j += 16) {
    const s = v128.load(scales + j)
    const shift = i32x4.min_s(i32x4.sub(v128.and(s, i32x4.splat(255)), i32x4.splat(vE + 128)), i32x4.splat(31))
    const power = i32x4.shl(i32x4.sub(i32x4.splat(127), i32x4.max_s(shift, i32x4.splat(0))), 23)
    const v = f32x4.floor(f32x4.mul(f32x4.convert_i32x4_s(i32x4.shr_u(s, 8)), power))
    // Beyond 2^23 a float's last bit is worth one, so its low bits are the whole number.
    const w = v128.and(f32x4.add(v, f32x4.splat(8388608)), i32x4.splat(0x7fffff))
    v128.store(pairs + j, v128.or(i32x4.shr_u(w, 1), i32x4.shl(v128.and(w, i32x4.splat(1)), 16)))
  }
}

/** e >> 15 for four distances u in Q16, e the interpolated exponential in Q16 of 14 bits, before its octaves. */
@inline function exponentials(u: v128, exp2: usize): v128 {
  const k = v128.and(i32x4.shr_u(u, 6), i32x4.splat(1020))
  const x = v128.load_lane<u64>(exp2 + i32x4.extract_lane(k, 1), v128.load64_zero(exp2 + i32x4.extract_lane(k, 0)), 1)
  const y = v128.load_lane<u64>(exp2 + i32x4.extract_lane(k, 3), v128.load64_zero(exp2 + i32x4.extract_lane(k, 2)), 1)
  const a = v128.shuffle<i32>(x, y, 0, 2, 4, 6)
  const b = v128.shuffle<i32>(x, y, 1, 3, 5, 7)
  const low = v128.and(u, i32x4.splat(255))
  return i32x4.shr_s(i32x4.sub(a, i32x4.shr_s(i32x4.mul(i32x4.sub(a, b), low), 8)), 15)
}

@inline function round15(a: v128, b: v128): v128 {
  if (ASC_FEATURE_RELAXED_SIMD) return i16x8.relaxed_q15mulr_s(a, b)
  return i16x8.q15mulr_sat_s(a, b)
}

/** Scores become weights, split into two planes of kp bytes and zero behind `length`; returns Σ p. */
function weights(
  z: usize, length: i32, kp: i32, top: i32, exp2: usize, pairs: usize, high: usize, plane: usize,
): u32 {
  // A distance of 2^31 has probability zero.
  for (let j = length; j < kp; j++) store<i32>(z + (j << 2), top ^ <i32>0x80000000)
  const tops = i32x4.splat(top)
  const ones = i16x8.splat(1)
  const rounding = i32x4.splat(32768)
  // 2^(14 - octaves) as bytes, the low one from place `octaves`, the high one from eight places on.
  const powers = i8x16(0, 0, 0, 0, 0, 0, 0, -128, 64, 32, 16, 8, 4, 2, 1, 0)
  let total = i32x4.splat(0)
  for (let j = 0; j < kp; j += 8) {
    const ua = i32x4.sub(tops, v128.load(z + (j << 2)))
    const ub = i32x4.sub(tops, v128.load(z + (j << 2), 16))
    const e = i16x8.narrow_i32x4_s(exponentials(ua, exp2), exponentials(ub, exp2))
    const octaves = i16x8.min_u(v128.shuffle<i16>(ua, ub, 1, 3, 5, 7, 9, 11, 13, 15), i16x8.splat(15))
    const places = i16x8.add(v128.or(octaves, i16x8.shl(octaves, 8)), i16x8.splat(0x0800))
    // ((e >> octaves) + 1) >> 1 = (e·2^(14 - octaves) + 2^14) >> 15; from 15 octaves on it is zero.
    const p = round15(e, v128.swizzle(powers, places))
    total = i32x4.add(total, i32x4.dot_i16x8_s(p, ones))
    const twice = i16x8.add(p, p)
    const pa = v128.shuffle<i16>(twice, p, 0, 8, 1, 9, 2, 10, 3, 11)
    const pb = v128.shuffle<i16>(twice, p, 4, 12, 5, 13, 6, 14, 7, 15)
    const wa = i32x4.add(i32x4.dot_i16x8_s(pa, v128.load(pairs + (j << 2))), rounding)
    const wb = i32x4.add(i32x4.dot_i16x8_s(pb, v128.load(pairs + (j << 2), 16)), rounding)
    const w = i16x8.narrow_i32x4_s(i32x4.shr_u(wa, 16), i32x4.shr_u(wb, 16))
    const hi = i16x8.shr_u(w, 7)
    const lo = v128.and(w, i16x8.splat(127))
    v128.store_lane<u64>(high + j, i8x16.narrow_i16x8_s(hi, hi), 0)
    v128.store_lane<u64>(high + plane + j, i8x16.narrow_i16x8_s(lo, lo), 0)
  }
  total = i32x4.add(total, v128.shuffle<i32>(total, total, 2, 3, 0, 1))
  return i32x4.extract_lane(total, 0) + i32x4.extract_lane(total, 1)
}
