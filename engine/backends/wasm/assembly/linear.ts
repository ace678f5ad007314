/**
 * out = act(x·Wᵀ·scales + bias), stored, added to the residual, or gated.
 *
 * A block of rows is brought into tile order once; then for each panel of 8 columns: the sums of all rows, and one epilogue.
 * The products are plain or relaxed SIMD by build; they are the same.
 *
 * The requantisation runs in float lanes: acc·(m·2^-e) is exact in 53 bits, floor(y + 1/2) is the twin's rounding, and
 * mulm's truncation is a mask on the mantissa. Where a result could come near saturation the scalar twin is used instead.
 */
import { loadPart, sadd4, storePart } from './lanes'
import { share } from './rows'
import * as plain from './products'
import * as relaxed from './products-relaxed'
import { exponent, mantissa, mulm, mulq16, pow2, rq, stride } from './xn1'

const RESIDUAL = 1
const GATED = 2
const ACT_TABLE = 1

/** Bytes of widened activations kept hot, and the fewest and most rows taken at once. */
const HOT: i32 = 192 * 1024
const ROWS_MIN = 20
const ROWS_MAX = 400
/** Panels of a single row taken at once. */
const TOGETHER = 16

/** Rows of activations taken at once. layout.ts reserves scratch by the same rule. */
@inline function blockRows(kp: i32): i32 {
  return min(ROWS_MAX, max(ROWS_MIN, (HOT / (2 * kp) / 20) * 20))
}

// k n outFrom outStride mode act a15 plane packed · q s w ws bias table out
export function linear(s: usize, n: i32, thread: i32, threads: i32, scratch: usize): void {
  const kp = stride(load<i32>(s))
  const columns = load<i32>(s, 4)
  const a15 = load<i32>(s, 24)
  const q = load<usize>(s, 36)
  const w = load<usize>(s, 44)
  const panels = (columns + 7) >> 3
  const from = share(panels, thread, threads)
  const to = share(panels, thread + 1, threads)
  if (from == to) return
  const blockMax = blockRows(kp)
  const rowScales = scratch
  const starts = rowScales + (blockMax << 3)
  const sums = starts + (blockMax << 3)
  const wide = sums + (blockMax << 6)
  const panel = <usize>kp << 3
  for (let first = 0; first < n; first += blockMax) {
    const rows = min(blockMax, n - first)
    const block = q + <usize>first * <usize>kp
    const plane = a15 ? load<usize>(s, 28) : 0
    if (ASC_FEATURE_RELAXED_SIMD) relaxed.prepare(block, plane, rows, kp, load<i32>(s, 32) == 3 ? 128 : 0, wide, starts)
    else plain.prepare(block, plane, rows, kp, wide)
    // |acc| ≤ 16512·K for any int8 and A15 operands: below this column scale nothing comes near saturation.
    const limit = 1073741824.0 / (16512.0 * <f64>kp * scaleRows(load<usize>(s, 40) + (first << 2), rows, rowScales))
    let p = from
    if (rows == 1 && !a15)
      // One row: several panels' sums first, then their epilogues, so that the processor overlaps them.
      while (p < to) {
        const count = min(TOGETHER, to - p)
        if (ASC_FEATURE_RELAXED_SIMD) relaxed.products1(wide, w + <usize>p * panel, kp, count, starts, sums)
        else plain.products1(wide, w + <usize>p * panel, kp, count, sums)
        for (let i = 0; i < count; i++) finish(s, first, 1, p + i, limit, rowScales, sums + (i << 5))
        p += count
      }
    for (; p < to; p++) {
      if (ASC_FEATURE_RELAXED_SIMD) relaxed.products(wide, w + <usize>p * panel, kp, rows, a15 != 0, starts, sums)
      else plain.products(wide, w + <usize>p * panel, kp, rows, a15 != 0, sums)
      finish(s, first, rows, p, limit, rowScales, sums)
    }
  }
}

/** Packed scales to floats; returns the largest. */
function scaleRows(s: usize, rows: i32, out: usize): f64 {
  let top: f64 = 0
  for (let r = 0; r < rows; r++) {
    const v = load<u32>(s + (r << 2))
    const f = <f64>mantissa(v) * pow2(-exponent(v))
    store<f64>(out + (r << 3), f)
    top = Math.max(top, f)
  }
  return top
}

/** The first, and the last, two of four packed scales as floats. The exponent field is built as an integer. */
@inline function scaleLow(v: v128): v128 {
  const e = i32x4.shl(i32x4.sub(i32x4.splat(1023 + 128), v128.and(v, i32x4.splat(255))), 20)
  return f64x2.mul(f64x2.convert_low_i32x4_u(i32x4.shr_u(v, 8)), v128.shuffle<i32>(i32x4.splat(0), e, 0, 4, 1, 5))
}
@inline function scaleHigh(v: v128): v128 {
  return scaleLow(v128.shuffle<i32>(v, v, 2, 3, 0, 1))
}

/** floor(acc·scale + 1/2) on four lanes, |result| < 2^30. */
@inline function rescale(acc: v128, low: v128, high: v128): v128 {
  const half = f64x2.splat(0.5)
  // Adding 1.5·2^52 leaves a whole number's two's complement in the low word.
  const whole = f64x2.splat(6755399441055744)
  const a = f64x2.floor(f64x2.add(f64x2.mul(f64x2.convert_low_i32x4_s(acc), low), half))
  const upper = v128.shuffle<i32>(acc, acc, 2, 3, 0, 1)
  const b = f64x2.floor(f64x2.add(f64x2.mul(f64x2.convert_low_i32x4_s(upper), high), half))
  return v128.shuffle<i32>(f64x2.add(a, whole), f64x2.add(b, whole), 0, 2, 4, 6)
}

/** Requantise, add the bias, activate and store one panel's sums for a block of rows. */
function finish(
  s: usize, first: i32, rows: i32, p: i32, limit: f64, rowScales: usize, sums: usize,
): void {
  const c0 = p << 3
  const columns = min(8, load<i32>(s, 4) - c0)
  const full = columns == 8
  const mode = load<i32>(s, 16)
  const act = load<i32>(s, 20)
  const ws = load<usize>(s, 48) + (c0 << 2)
  let bias = load<usize>(s, 52)
  const table = load<usize>(s, 56)
  const rowStride = <usize>load<i32>(s, 12) << 2
  let out = load<usize>(s, 60) + <usize>first * rowStride + ((load<i32>(s, 8) + (mode == GATED ? c0 >> 1 : c0)) << 2)

  const ws0 = full ? v128.load(ws) : loadPart(ws, columns)
  const ws1 = full ? v128.load(ws, 16) : loadRest(ws, columns)
  const f0 = scaleLow(ws0)
  const f1 = scaleHigh(ws0)
  const f2 = scaleLow(ws1)
  const f3 = scaleHigh(ws1)
  // Absent columns count as 0.
  const most = f64x2.max(f64x2.max(f0, f1), f64x2.max(f2, f3))
  const safe = !v128.any_true(f64x2.ge(most, f64x2.splat(limit)))

  let b0 = i32x4.splat(0)
  let b1 = b0
  if (bias) {
    bias += c0 << 2
    b0 = full ? v128.load(bias) : loadPart(bias, columns)
    b1 = full ? v128.load(bias, 16) : loadRest(bias, columns)
  }
  const mask = i64x2.splat(0xffffffe000000000)
  for (let r = 0; r < rows; r++) {
    let v0: v128
    let v1: v128
    if (safe) {
      const f = v128.load_splat<f64>(rowScales + (r << 3))
      v0 = rescale(v128.load(sums), v128.and(f64x2.mul(f, f0), mask), v128.and(f64x2.mul(f, f1), mask))
      v1 = rescale(v128.load(sums, 16), v128.and(f64x2.mul(f, f2), mask), v128.and(f64x2.mul(f, f3), mask))
    } else {
      requantise(sums, load<u32>(load<usize>(s, 40) + ((first + r) << 2)), ws, columns)
      v0 = v128.load(sums)
      v1 = v128.load(sums, 16)
    }
    if (bias) {
      v0 = sadd4(v0, b0)
      v1 = sadd4(v1, b1)
    }
    if (mode == GATED) {
      let gate = v128.shuffle<i32>(v0, v1, 0, 2, 4, 6)
      const up = v128.shuffle<i32>(v0, v1, 1, 3, 5, 7)
      if (act) gate = lut4(table, gate, act == ACT_TABLE)
      gate = mulq16x4(gate, up)
      if (full) v128.store(out, gate)
      else storePart(out, gate, columns >> 1)
    } else {
      if (act) {
        v0 = lut4(table, v0, act == ACT_TABLE)
        v1 = lut4(table, v1, act == ACT_TABLE)
      }
      if (full) {
        if (mode == RESIDUAL) {
          v0 = sadd4(v128.load(out), v0)
          v1 = sadd4(v128.load(out, 16), v1)
        }
        v128.store(out, v0)
        v128.store(out, v1, 16)
      } else {
        if (mode == RESIDUAL) {
          v0 = sadd4(loadPart(out, columns), v0)
          v1 = sadd4(loadRest(out, columns), v1)
        }
        storePart(out, v0, columns)
        if (columns > 4) storePart(out + 16, v1, columns - 4)
      }
    }
    sums += 32
    out += rowStride
  }
}

/** The second four of a part panel's columns. */
function loadRest(p: usize, columns: i32): v128 {
  return columns > 4 ? loadPart(p + 16, columns - 4) : i32x4.splat(0)
}

/** lut on four lanes. Both neighbours of a table are fetched in one 64-bit load. */
function lut4(table: usize, x: v128, identity: bool): v128 {
  const low = i32x4.splat(-1048576)
  const high = i32x4.splat(1048576)
  // Beyond the table any entry will do for now.
  const u = i32x4.sub(i32x4.max_s(low, i32x4.min_s(x, i32x4.splat(1048575))), low)
  const k = i32x4.shl(i32x4.shr_u(u, 10), 2)
  const e0 = v128.load64_zero(table + i32x4.extract_lane(k, 0))
  const e1 = v128.load64_zero(table + i32x4.extract_lane(k, 1))
  const e2 = v128.load64_zero(table + i32x4.extract_lane(k, 2))
  const e3 = v128.load64_zero(table + i32x4.extract_lane(k, 3))
  const p = v128.shuffle<i32>(e0, e1, 0, 4, 1, 5)
  const q = v128.shuffle<i32>(e2, e3, 0, 4, 1, 5)
  const a = v128.shuffle<i64>(p, q, 0, 2)
  const b = v128.shuffle<i64>(p, q, 1, 3)
  const rise = i32x4.mul(i32x4.sub(b, a), v128.and(u, i32x4.splat(1023)))
  let y = i32x4.add(a, i32x4.shr_s(i32x4.add(rise, i32x4.splat(512)), 10))
  const tail = identity ? x : v128.load_splat<i32>(table + 8192)
  y = v128.bitselect(tail, y, i32x4.ge_s(x, high))
  return v128.bitselect(v128.load_splat<i32>(table), y, i32x4.lt_s(x, low))
}

/** mulq16 on four lanes, by the scalar: 64-bit shifts of lanes cost more than they save. */
@inline function mulq16x4(a: v128, b: v128): v128 {
  let v = i32x4.splat(mulq16(i32x4.extract_lane(a, 0), i32x4.extract_lane(b, 0)))
  v = i32x4.replace_lane(v, 1, mulq16(i32x4.extract_lane(a, 1), i32x4.extract_lane(b, 1)))
  v = i32x4.replace_lane(v, 2, mulq16(i32x4.extract_lane(a, 2), i32x4.extract_lane(b, 2)))
  return i32x4.replace_lane(v, 3, mulq16(i32x4.extract_lane(a, 3), i32x4.extract_lane(b, 3)))
}

/** The twin's own arithmetic on one row's sums, in place. */
function requantise(sums: usize, row: u32, ws: usize, columns: i32): void {
  for (let c = 0; c < columns; c++) {
    const w = load<u32>(ws + (c << 2))
    const m = mulm(mantissa(row), mantissa(w))
    const e = exponent(row) + exponent(w) - 16 + <i32>(m & 1)
    store<i32>(sums + (c << 2), rq(load<i32>(sums + (c << 2)), m >> 1, e))
  }
}
