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
import { tile1x32 } from './tiles'
import { tile1x32 as relaxed1x32 } from './tiles-relaxed'
import { exponent, lut, mantissa, mulm, mulq16, pow2, rq, sadd, stride } from './xn1'

const STORE = 0
const RESIDUAL = 1
const GATED = 2
const ACT_TABLE = 1

/** Bytes of widened activations kept hot, and the fewest and most rows taken at once. */
const HOT: i32 = 192 * 1024
const ROWS_MIN = 20
const ROWS_MAX = 400

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
  const columnScales = starts + (blockMax << 3)
  const sums = columnScales + 256
  const wide = sums + (blockMax << 6)
  const panel = <usize>kp << 3
  for (let first = 0; first < n; first += blockMax) {
    const rows = min(blockMax, n - first)
    const block = q + <usize>first * <usize>kp
    const plane = a15 ? load<usize>(s, 28) : 0
    if (ASC_FEATURE_RELAXED_SIMD) relaxed.prepare(block, plane, rows, kp, load<i32>(s, 32) == 3 ? 128 : 0, wide, starts)
    else plain.prepare(block, plane, rows, kp, wide)
    const top = scaleRows(load<usize>(s, 40) + (first << 2), rows, rowScales)
    let p = from
    if (rows == 1 && !a15)
      for (; p + 4 <= to; p += 4) {
        if (ASC_FEATURE_RELAXED_SIMD) relaxed1x32(wide, w + <usize>p * panel, panel, kp >> 2, starts, sums)
        else tile1x32(wide, w + <usize>p * panel, panel, kp >> 1, sums)
        for (let i = 0; i < 4; i++) finish(s, first, 1, p + i, kp, top, rowScales, columnScales, sums + (i << 5))
      }
    for (; p < to; p++) {
      if (ASC_FEATURE_RELAXED_SIMD) relaxed.products(wide, w + <usize>p * panel, kp, rows, a15 != 0, starts, sums)
      else plain.products(wide, w + <usize>p * panel, kp, rows, a15 != 0, sums)
      finish(s, first, rows, p, kp, top, rowScales, columnScales, sums)
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

/** Four packed scales as floats: two vectors at `out`. The exponent field is built as an integer. */
@inline function scale4(v: v128, out: usize): void {
  const m = i32x4.shr_u(v, 8)
  const e = i32x4.shl(i32x4.sub(i32x4.splat(1023 + 128), v128.and(v, i32x4.splat(255))), 20)
  const zero = i32x4.splat(0)
  const low = f64x2.mul(f64x2.convert_low_i32x4_u(m), v128.shuffle<i32>(zero, e, 0, 4, 1, 5))
  const high = f64x2.mul(
    f64x2.convert_low_i32x4_u(v128.shuffle<i32>(m, m, 2, 3, 0, 1)),
    v128.shuffle<i32>(zero, e, 2, 6, 3, 7),
  )
  v128.store(out, low)
  v128.store(out, high, 16)
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
  s: usize, first: i32, rows: i32, p: i32, kp: i32, top: f64, rowScales: usize, columnScales: usize, sums: usize,
): void {
  const c0 = p << 3
  const columns = min(8, load<i32>(s, 4) - c0)
  const mode = load<i32>(s, 16)
  const act = load<i32>(s, 20)
  const ws = load<usize>(s, 48) + (c0 << 2)
  const bias = load<usize>(s, 52)
  const table = load<usize>(s, 56)
  const rowStride = <usize>load<i32>(s, 12) << 2
  let out = load<usize>(s, 60) + <usize>first * rowStride + ((load<i32>(s, 8) + (mode == GATED ? c0 >> 1 : c0)) << 2)

  const ws0 = loadPart(ws, columns)
  const ws1 = columns > 4 ? loadPart(ws + 16, columns - 4) : i32x4.splat(0)
  scale4(ws0, columnScales)
  scale4(ws1, columnScales + 32)
  const f0 = v128.load(columnScales)
  const f1 = v128.load(columnScales, 16)
  const f2 = v128.load(columnScales, 32)
  const f3 = v128.load(columnScales, 48)
  const most = f64x2.max(f64x2.max(f0, f1), columns > 4 ? f64x2.max(f2, f3) : f0)
  const largest = Math.max(f64x2.extract_lane(most, 0), f64x2.extract_lane(most, 1))
  // |acc| ≤ 16512·K for any int8 and A15 operands.
  const safe = 16512.0 * <f64>kp * top * largest < 1073741824.0

  let b0 = i32x4.splat(0)
  let b1 = i32x4.splat(0)
  if (bias) {
    b0 = loadPart(bias + (c0 << 2), columns)
    if (columns > 4) b1 = loadPart(bias + (c0 << 2) + 16, columns - 4)
  }
  const mask = i64x2.splat(0xffffffe000000000)
  for (let r = 0; r < rows; r++) {
    let v0 = v128.load(sums)
    let v1 = v128.load(sums, 16)
    if (safe) {
      const f = v128.load_splat<f64>(rowScales + (r << 3))
      v0 = rescale(v0, v128.and(f64x2.mul(f, f0), mask), v128.and(f64x2.mul(f, f1), mask))
      v1 = rescale(v1, v128.and(f64x2.mul(f, f2), mask), v128.and(f64x2.mul(f, f3), mask))
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
      v128.store(sums, v0)
      v128.store(sums, v1, 16)
      for (let c = 0; c < columns; c += 2) {
        let g = load<i32>(sums + (c << 2))
        if (act) g = lut(table, g, act == ACT_TABLE)
        store<i32>(out + (c << 1), mulq16(g, load<i32>(sums + (c << 2), 4)))
      }
    } else {
      if (act) {
        v128.store(sums, v0)
        v128.store(sums, v1, 16)
        for (let c = 0; c < 32; c += 4) store<i32>(sums + c, lut(table, load<i32>(sums + c), act == ACT_TABLE))
        v0 = v128.load(sums)
        v1 = v128.load(sums, 16)
      }
      if (mode == RESIDUAL) {
        v0 = sadd4(loadPart(out, columns), v0)
        if (columns > 4) v1 = sadd4(loadPart(out + 16, columns - 4), v1)
      }
      storePart(out, v0, columns)
      if (columns > 4) storePart(out + 16, v1, columns - 4)
    }
    sums += 32
    out += rowStride
  }
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
