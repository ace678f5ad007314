/**
 * softmax(q·kᵀ)·v per row and head, in three passes over the row's keys: scores and their true maximum, probabilities with
 * the value scales folded in (i16, at most 16383), and the weighted sum of values.
 */
import { rq4, storePart } from './lanes'
import { share } from './rows'
import { exponent, mantissa, mulm, pow2, rq, stride } from './xn1'

/** Keys whose weighted values fit an i32: 768·16383·128 < 2^31. */
const KEYS = 768

// heads kvHeads headDim scoreM scoreE · rows q qs k v kvs exp2 out
export function attention(s: usize, n: i32, thread: i32, threads: i32, scratch: usize): void {
  const h = load<i32>(s)
  const kv = load<i32>(s, 4)
  const hd = load<i32>(s, 8)
  const scoreM = load<u32>(s, 12)
  const scoreE = load<i32>(s, 16)
  const rows = load<usize>(s, 20)
  const q = load<usize>(s, 24)
  const qs = load<usize>(s, 28)
  const k = load<usize>(s, 32)
  const v = load<usize>(s, 36)
  const kvs = load<usize>(s, 40)
  const exp2 = load<usize>(s, 44)
  const out = load<usize>(s, 48)
  const sd = stride(hd)
  const step = <usize>kv * <usize>sd
  const scaleStep = <usize>kv << 3
  const query = scratch // i16[sd]
  const z = scratch + (sd << 1)
  const to = share(n * h, thread + 1, threads)
  for (let unit = share(n * h, thread, threads); unit < to; unit++) {
    const t = unit / h
    const head = unit - t * h
    const group = (head * kv) / h
    const base = <usize>load<u32>(rows + 24 + (t << 4))
    const length = load<i32>(rows + 28 + (t << 4))
    const o = out + (<usize>unit * <usize>hd << 2)
    if (length == 0) {
      memory.fill(o, 0, hd << 2)
      continue
    }
    const row = q + <usize>unit * <usize>sd
    for (let i = 0; i < sd; i += 8) v128.store(query + (i << 1), v128.load_ext<i8>(row + i))
    const keyScales = kvs + (base * <usize>(2 * kv) + <usize>group << 2)
    const valueScales = keyScales + (kv << 2)
    // Behind the row's scores, the value scales of its keys side by side.
    const gathered = z + (((length + 3) & ~3) << 2)
    const max = scores(
      query, sd, load<u32>(qs + (unit << 2)), scoreM, scoreE,
      k + base * step + <usize>group * <usize>sd, step,
      kvs + (base * <usize>(2 * kv) + <usize>group << 2), scaleStep, length, z, gathered,
    )
    const vE = lowest(gathered, length)
    const total = weights(z, length, max, exp2, gathered, vE)
    const shift = <i32>clz(total)
    const reciprocal = min<u32>(65535, 0x80000000 / ((total << shift) >> 16))
    const values = v + base * step + <usize>group * <usize>sd
    const e = 15 + vE - shift
    for (let i = 0; i < sd; i += 16) sum16(z, values + i, step, length, o + (i << 2), hd - i, reciprocal, e)
  }
}

/**
 * z[j] in Q16 for every key; returns their maximum. The keys' value scales, half a scale row behind their own, are gathered
 * on the way. What fills the last four up repeats the last key.
 */
function scores(
  query: usize, sd: i32, qScale: u32, scoreM: u32, scoreE: i32,
  keys: usize, step: usize, scales: usize, scaleStep: usize, length: i32, z: usize, gathered: usize,
): i32 {
  const qm = mulm(mantissa(qScale), scoreM)
  const qE = exponent(qScale) + scoreE - 16 + <i32>(qm & 1)
  const qf = <f64>(qm >> 1) * pow2(-qE)
  // Below this key scale no score of this row comes near saturation.
  const safe = 1073741824.0 / (16384.0 * <f64>sd * qf)
  const mask = i64x2.splat(0xffffffe000000000)
  const half = f64x2.splat(0.5)
  const whole = f64x2.splat(6755399441055744)
  let max = i32x4.splat(0x80000000)
  const last = length - 1
  const half8 = scaleStep >> 1
  for (let j = 0; j < length; j += 4) {
    const n1 = min(j + 1, last)
    const n2 = min(j + 2, last)
    const n3 = min(j + 3, last)
    const k0 = keys + <usize>j * step
    const k1 = keys + <usize>n1 * step
    const k2 = keys + <usize>n2 * step
    const k3 = keys + <usize>n3 * step
    let a0 = i32x4.splat(0)
    let a1 = i32x4.splat(0)
    let a2 = i32x4.splat(0)
    let a3 = i32x4.splat(0)
    for (let i = 0; i < sd; i += 8) {
      const x = v128.load(query + (i << 1))
      a0 = i32x4.add(a0, i32x4.dot_i16x8_s(x, v128.load_ext<i8>(k0 + i)))
      a1 = i32x4.add(a1, i32x4.dot_i16x8_s(x, v128.load_ext<i8>(k1 + i)))
      a2 = i32x4.add(a2, i32x4.dot_i16x8_s(x, v128.load_ext<i8>(k2 + i)))
      a3 = i32x4.add(a3, i32x4.dot_i16x8_s(x, v128.load_ext<i8>(k3 + i)))
    }
    a0 = i32x4.add(v128.shuffle<i32>(a0, a1, 0, 4, 2, 6), v128.shuffle<i32>(a0, a1, 1, 5, 3, 7))
    a2 = i32x4.add(v128.shuffle<i32>(a2, a3, 0, 4, 2, 6), v128.shuffle<i32>(a2, a3, 1, 5, 3, 7))
    const acc = i32x4.add(v128.shuffle<i32>(a0, a2, 0, 1, 4, 5), v128.shuffle<i32>(a0, a2, 2, 3, 6, 7))

    const s0 = scales + <usize>j * scaleStep
    const s1 = scales + <usize>n1 * scaleStep
    const s2 = scales + <usize>n2 * scaleStep
    const s3 = scales + <usize>n3 * scaleStep
    const ks = four(s0, s1, s2, s3)
    v128.store(gathered + (j << 2), four(s0 + half8, s1 + half8, s2 + half8, s3 + half8))
    const m = i32x4.shr_u(ks, 8)
    const e = i32x4.shl(i32x4.sub(i32x4.splat(1023 + 128), v128.and(ks, i32x4.splat(255))), 20)
    const zero = i32x4.splat(0)
    const f0 = f64x2.mul(f64x2.convert_low_i32x4_u(m), v128.shuffle<i32>(zero, e, 0, 4, 1, 5))
    const f1 = f64x2.mul(
      f64x2.convert_low_i32x4_u(v128.shuffle<i32>(m, m, 2, 3, 0, 1)),
      v128.shuffle<i32>(zero, e, 2, 6, 3, 7),
    )
    let v: v128
    if (v128.any_true(f64x2.ge(f64x2.max(f0, f1), f64x2.splat(safe)))) {
      v = i32x4.splat(score(i32x4.extract_lane(acc, 0), qm >> 1, qE, i32x4.extract_lane(ks, 0)))
      v = i32x4.replace_lane(v, 1, score(i32x4.extract_lane(acc, 1), qm >> 1, qE, i32x4.extract_lane(ks, 1)))
      v = i32x4.replace_lane(v, 2, score(i32x4.extract_lane(acc, 2), qm >> 1, qE, i32x4.extract_lane(ks, 2)))
      v = i32x4.replace_lane(v, 3, score(i32x4.extract_lane(acc, 3), qm >> 1, qE, i32x4.extract_lane(ks, 3)))
    } else {
      const qq = f64x2.splat(qf)
      const upper = v128.shuffle<i32>(acc, acc, 2, 3, 0, 1)
      const y0 = f64x2.mul(f64x2.convert_low_i32x4_s(acc), v128.and(f64x2.mul(qq, f0), mask))
      const y1 = f64x2.mul(f64x2.convert_low_i32x4_s(upper), v128.and(f64x2.mul(qq, f1), mask))
      const w0 = f64x2.add(f64x2.floor(f64x2.add(y0, half)), whole)
      const w1 = f64x2.add(f64x2.floor(f64x2.add(y1, half)), whole)
      v = v128.shuffle<i32>(w0, w1, 0, 2, 4, 6)
    }
    v128.store(z + (j << 2), v)
    max = i32x4.max_s(max, v)
  }
  max = i32x4.max_s(max, v128.shuffle<i32>(max, max, 2, 3, 0, 1))
  return i32x4.extract_lane(i32x4.max_s(max, v128.shuffle<i32>(max, max, 1, 0, 3, 2)), 0)
}

/** The twin's own arithmetic, for scales that could saturate. */
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

/** Smallest exponent among packed scales, the last four filled up with repeats. */
function lowest(scales: usize, length: i32): i32 {
  const mask = i32x4.splat(255)
  let m = mask
  for (let j = 0; j < length; j += 4) m = i32x4.min_u(m, v128.and(v128.load(scales + (j << 2)), mask))
  m = i32x4.min_u(m, v128.shuffle<i32>(m, m, 2, 3, 0, 1))
  return min(i32x4.extract_lane(m, 0), i32x4.extract_lane(m, 1)) - 128
}

/** floor of lanes in [0, 2^23): beyond 2^23 a float's last bit is worth one, so its low bits are the whole number. */
@inline function whole23(v: v128): v128 {
  return v128.and(f32x4.add(f32x4.floor(v), f32x4.splat(8388608)), i32x4.splat(0x7fffff))
}

/**
 * z: scores (i32) become weights (i16) in place, filled up with zeros; returns Σ p.
 * Shifts by lane are products with powers of two: of 15 and 16 bit numbers, exact in f32.
 */
function weights(z: usize, length: i32, max: i32, exp2: usize, scales: usize, vE: i32): u32 {
  const end = (length + 3) & ~3
  // A distance of 2^31 has probability zero.
  for (let j = length; j < end; j++) store<i32>(z + (j << 2), max ^ <i32>0x80000000)
  const top = i32x4.splat(max)
  const low = i32x4.splat(255)
  let total = i32x4.splat(0)
  for (let j = 0; j < end; j += 4) {
    const u = i32x4.sub(top, v128.load(z + (j << 2)))
    const k = i32x4.shl(v128.and(i32x4.shr_u(u, 8), low), 2)
    const e0 = v128.load64_zero(exp2 + i32x4.extract_lane(k, 0))
    const e1 = v128.load64_zero(exp2 + i32x4.extract_lane(k, 1))
    const e2 = v128.load64_zero(exp2 + i32x4.extract_lane(k, 2))
    const e3 = v128.load64_zero(exp2 + i32x4.extract_lane(k, 3))
    const x = v128.shuffle<i32>(e0, e1, 0, 4, 1, 5)
    const y = v128.shuffle<i32>(e2, e3, 0, 4, 1, 5)
    const a = v128.shuffle<i64>(x, y, 0, 2)
    const b = v128.shuffle<i64>(x, y, 1, 3)
    const e = i32x4.sub(a, i32x4.shr_s(i32x4.mul(i32x4.sub(a, b), v128.and(u, low)), 8))
    // ((e >> (whole + 15)) + 1) >> 1 = floor((e >> 15)·2^-(whole + 1) + 1/2); from 16 whole bits on it is zero.
    const octaves = i32x4.min_u(i32x4.shr_u(u, 16), i32x4.splat(16))
    const power = i32x4.shl(i32x4.sub(i32x4.splat(126), octaves), 23)
    const scaled = f32x4.mul(f32x4.convert_i32x4_u(i32x4.shr_u(e, 15)), power)
    const p = whole23(f32x4.add(scaled, f32x4.splat(0.5)))
    total = i32x4.add(total, p)
    const s = v128.load(scales + (j << 2))
    const shift = i32x4.min_s(i32x4.sub(v128.and(s, low), i32x4.splat(vE + 128)), i32x4.splat(31))
    const m = f32x4.convert_i32x4_u(i32x4.shr_u(s, 8))
    const w = whole23(f32x4.mul(m, i32x4.shl(i32x4.sub(i32x4.splat(127), shift), 23)))
    const v = i32x4.shr_u(i32x4.add(i32x4.mul(p, w), i32x4.splat(32768)), 16)
    v128.store_lane<u64>(z + (j << 1), i16x8.narrow_i32x4_s(v, v), 0)
  }
  total = i32x4.add(total, v128.shuffle<i32>(total, total, 2, 3, 0, 1))
  return i32x4.extract_lane(total, 0) + i32x4.extract_lane(total, 1)
}

@inline function join(hi: v128, lo: v128): v128 {
  return i32x4.add(hi, i32x4.shr_s(i32x4.add(lo, i32x4.splat(64)), 7))
}

/** 16 dims of Σ weight·value, requantised; `left` of them are stored. */
function sum16(z: usize, v: usize, step: usize, length: i32, out: usize, left: i32, m: u32, e: i32): void {
  const low = i32x4.splat(127)
  let h0 = i32x4.splat(0), l0 = i32x4.splat(0)
  let h1 = i32x4.splat(0), l1 = i32x4.splat(0)
  let h2 = i32x4.splat(0), l2 = i32x4.splat(0)
  let h3 = i32x4.splat(0), l3 = i32x4.splat(0)
  for (let from = 0; from < length; from += KEYS) {
    const to = min(from + KEYS, length)
    let a0 = i32x4.splat(0)
    let a1 = i32x4.splat(0)
    let a2 = i32x4.splat(0)
    let a3 = i32x4.splat(0)
    for (let j = from; j < to; j += 2) {
      const w = v128.load_splat<i32>(z + (j << 1))
      const p = v + <usize>j * step
      const r = j + 1 < length ? p + step : p
      const x0 = v128.load_ext<i8>(p)
      const y0 = v128.load_ext<i8>(r)
      a0 = i32x4.add(a0, i32x4.dot_i16x8_s(w, v128.shuffle<i16>(x0, y0, 0, 8, 1, 9, 2, 10, 3, 11)))
      a1 = i32x4.add(a1, i32x4.dot_i16x8_s(w, v128.shuffle<i16>(x0, y0, 4, 12, 5, 13, 6, 14, 7, 15)))
      const x1 = v128.load_ext<i8>(p, 8)
      const y1 = v128.load_ext<i8>(r, 8)
      a2 = i32x4.add(a2, i32x4.dot_i16x8_s(w, v128.shuffle<i16>(x1, y1, 0, 8, 1, 9, 2, 10, 3, 11)))
      a3 = i32x4.add(a3, i32x4.dot_i16x8_s(w, v128.shuffle<i16>(x1, y1, 4, 12, 5, 13, 6, 14, 7, 15)))
    }
    h0 = i32x4.add(h0, i32x4.shr_s(a0, 7))
    h1 = i32x4.add(h1, i32x4.shr_s(a1, 7))
    h2 = i32x4.add(h2, i32x4.shr_s(a2, 7))
    h3 = i32x4.add(h3, i32x4.shr_s(a3, 7))
    l0 = i32x4.add(l0, v128.and(a0, low))
    l1 = i32x4.add(l1, v128.and(a1, low))
    l2 = i32x4.add(l2, v128.and(a2, low))
    l3 = i32x4.add(l3, v128.and(a3, low))
  }
  storePart(out, rq4(join(h0, l0), m, e), left)
  if (left > 4) storePart(out + 16, rq4(join(h1, l1), m, e), left - 4)
  if (left > 8) storePart(out + 32, rq4(join(h2, l2), m, e), left - 8)
  if (left > 12) storePart(out + 48, rq4(join(h3, l3), m, e), left - 12)
}
