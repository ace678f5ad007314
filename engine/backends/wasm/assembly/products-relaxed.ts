/**
 * acc = x·wᵀ for a block of rows and a panel of 8 columns, on the relaxed dot (tiles-relaxed.ts). An A15 input's low plane is
 * just as many rows more; the two sums are joined as the twin does.
 */
import { tile1, tile2, tile4, tile5, tile6 } from './tiles-relaxed'

/** Height of the tile that starts when `left` rows are left: sixes, and fours where they even out. */
@inline function height(left: i32): i32 {
  if (left == 8 || left == 10) return 4
  if (left == 7 || left == 9 || left == 13) return 5
  return left > 6 ? 6 : left == 3 ? 2 : left
}

@inline function tile(h: i32, a: usize, w: usize, quads: i32, start: usize, out: usize): void {
  if (h == 6) tile6(a, w, quads, start, out)
  else if (h == 5) tile5(a, w, quads, start, out)
  else if (h == 4) tile4(a, w, quads, start, out)
  else if (h == 2) tile2(a, w, quads, start, out)
  else tile1(a, w, quads, start, out)
}

/**
 * Rows of q (low plane `plane` bytes behind, 0 for none), kp bytes each, into tiles at `into`: kp bytes a row, twice as many
 * rows with a low plane. starts: i32 [row].
 */
export function prepare(q: usize, plane: usize, rows: i32, kp: i32, offset: i32, into: usize, starts: usize): void {
  const all = plane ? rows << 1 : rows
  for (let r = 0, h = 0; r < all; r += h) {
    h = height(all - r)
    for (let i = r; i < r + h; i++) {
      const row = i < rows ? q + <usize>i * <usize>kp : q + plane + <usize>(i - rows) * <usize>kp
      interleave(row, kp, into + <usize>r * <usize>kp + ((i - r) << 2), h << 2)
      store<i32>(starts + (i << 2), offset ? -offset * total(row, kp) : 0)
    }
  }
}

function interleave(row: usize, kp: i32, out: usize, step: usize): void {
  if (step == 4) {
    memory.copy(out, row, kp)
    return
  }
  for (let i = 0; i < kp; i += 16) {
    const v = v128.load(row + i)
    v128.store_lane<u32>(out, v, 0)
    v128.store_lane<u32>(out + step, v, 1)
    v128.store_lane<u32>(out + 2 * step, v, 2)
    v128.store_lane<u32>(out + 3 * step, v, 3)
    out += 4 * step
  }
}

function total(row: usize, kp: i32): i32 {
  let sum = i32x4.splat(0)
  for (let i = 0; i < kp; i += 16)
    sum = i32x4.add(sum, i32x4.extadd_pairwise_i16x8_s(i16x8.extadd_pairwise_i8x16_s(v128.load(row + i))))
  return (
    i32x4.extract_lane(sum, 0) + i32x4.extract_lane(sum, 1) + i32x4.extract_lane(sum, 2) + i32x4.extract_lane(sum, 3)
  )
}

/** sums: i32 [row][8], with as much room again behind them. */
export function products(a: usize, w: usize, kp: i32, rows: i32, a15: bool, starts: usize, sums: usize): void {
  const all = a15 ? rows << 1 : rows
  let out = sums
  let left = all
  while (left) {
    const h = height(left)
    tile(h, a, w, kp >> 2, starts, out)
    a += <usize>kp * h
    starts += h << 2
    out += h << 5
    left -= h
  }
  if (!a15) return
  const low = rows << 5
  for (let p = sums; p < sums + low; p += 16) {
    const carry = i32x4.shr_s(i32x4.add(v128.load(p + low), i32x4.splat(64)), 7)
    v128.store(p, i32x4.add(v128.load(p), carry))
  }
}

/** One row and `count` panels, one behind the other. sums: i32 [panel][8]. */
export function products1(a: usize, w: usize, kp: i32, count: i32, starts: usize, sums: usize): void {
  for (let i = 0; i < count; i++) tile1(a, w + <usize>i * <usize>(kp << 3), kp >> 2, starts, sums + (i << 5))
}
