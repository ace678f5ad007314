/**
 * acc = x·wᵀ for a block of rows and a panel of 8 columns, on plain SIMD128. A15 inputs are one i16 operand, 128·high + low,
 * so they cost the same; their sums are taken in K-blocks that can't overflow and joined as 128·hi + lo, which is exactly
 * the twin's high + ((low + 64) >> 7).
 */
import { tile1, tile2, tile4, tile5 } from './tiles'

/** K-pairs whose A15 products fit an i32: 768·16512·128 < 2^31. */
const A15_PAIRS = 384

/** Height of the tile that starts when `left` rows are left: fives and fours where they add up, else smaller. */
@inline function height(left: i32): i32 {
  const fours = (5 - (left % 5)) % 5
  if (left >= 4 * fours) return left > 4 * fours ? 5 : 4
  if (left == 6) return 4
  return left > 6 ? 5 : left > 1 ? 2 : 1
}

@inline function tile(h: i32, a: usize, w: usize, pairs: i32, out: usize): void {
  if (h == 5) tile5(a, w, pairs, out)
  else if (h == 4) tile4(a, w, pairs, out)
  else if (h == 2) tile2(a, w, pairs, out)
  else tile1(a, w, pairs, out)
}

/** Rows of q (low plane `plane` bytes behind, 0 for none), kp bytes each, widened into tiles at `into`: 2·kp bytes a row. */
export function prepare(q: usize, plane: usize, rows: i32, kp: i32, into: usize): void {
  for (let r = 0, h = 0; r < rows; r += h) {
    h = height(rows - r)
    const out = into + <usize>r * <usize>(kp << 1)
    if (h == 1) widen1(q + <usize>r * <usize>kp, plane, kp, out)
    else for (let i = 0; i < h; i++) widen(q + <usize>(r + i) * <usize>kp, plane, kp, out + (i << 2), h << 2)
  }
}

@inline function operand(row: usize, plane: usize): v128 {
  const v = v128.load_ext<i8>(row)
  return plane ? i16x8.add(i16x8.shl(v, 7), v128.load_ext<i8>(row + plane)) : v
}
function widen(row: usize, plane: usize, kp: i32, out: usize, step: usize): void {
  for (let i = 0; i < kp; i += 8) {
    const v = operand(row + i, plane)
    v128.store_lane<u32>(out, v, 0)
    v128.store_lane<u32>(out + step, v, 1)
    v128.store_lane<u32>(out + 2 * step, v, 2)
    v128.store_lane<u32>(out + 3 * step, v, 3)
    out += 4 * step
  }
}
function widen1(row: usize, plane: usize, kp: i32, out: usize): void {
  for (let i = 0; i < kp; i += 8) v128.store(out + (i << 1), operand(row + i, plane))
}

/** sums: i32 [row][8], with as much room again behind them. */
export function products(a: usize, w: usize, kp: i32, rows: i32, a15: bool, sums: usize): void {
  const bytes = <usize>kp << 1
  let left = rows
  while (left) {
    const h = height(left)
    if (a15) tile15(h, a, w, kp, sums)
    else tile(h, a, w, kp >> 1, sums)
    a += bytes * h
    sums += h << 5
    left -= h
  }
}

/** One row and `count` panels, one behind the other. sums: i32 [panel][8]. */
export function products1(a: usize, w: usize, kp: i32, count: i32, sums: usize): void {
  for (let i = 0; i < count; i++) tile1(a, w + <usize>i * <usize>(kp << 3), kp >> 1, sums + (i << 5))
}

/** One A15 tile. Partial sums, and the low seven bits of every K-block summed apart, stand behind its sums for a moment. */
function tile15(h: i32, a: usize, w: usize, kp: i32, sums: usize): void {
  const part = sums + (h << 5)
  const low = part + (h << 5)
  memory.fill(sums, 0, h << 5)
  memory.fill(low, 0, h << 5)
  for (let k = 0; k < kp; k += A15_PAIRS * 2) {
    tile(h, a + <usize>(k >> 1) * <usize>(h << 2), w + (<usize>k << 3), min(A15_PAIRS, (kp - k) >> 1), part)
    for (let i = 0; i < h << 5; i += 16) {
      const y = v128.load(part + i)
      v128.store(sums + i, i32x4.add(v128.load(sums + i), i32x4.shr_s(y, 7)))
      v128.store(low + i, i32x4.add(v128.load(low + i), v128.and(y, i32x4.splat(127))))
    }
  }
  for (let i = 0; i < h << 5; i += 16) {
    const carry = i32x4.shr_s(i32x4.add(v128.load(low + i), i32x4.splat(64)), 7)
    v128.store(sums + i, i32x4.add(v128.load(sums + i), carry))
  }
}
