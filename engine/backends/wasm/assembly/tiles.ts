/**
 * Products of h rows and 8 columns over K, by i32x4.dot_i16x8_s.
 *
 * a: activations widened to i16, pairs of k together and the h rows' pairs side by side: [pair][row] of 4 bytes.
 * w: a panel of 8 weight rows, [pair][column] of 2 bytes, widened to i16 as it is loaded.
 * out: i32 [row][8].
 * Ten sums, two weights and one activation stay in registers: V8 spills above about 15 vectors.
 */

@inline function dot(sum: v128, x: v128, w: v128): v128 {
  return i32x4.add(sum, i32x4.dot_i16x8_s(x, w))
}

export function tile5(a: usize, w: usize, pairs: i32, out: usize): void {
  let a0 = i32x4.splat(0), b0 = i32x4.splat(0)
  let a1 = i32x4.splat(0), b1 = i32x4.splat(0)
  let a2 = i32x4.splat(0), b2 = i32x4.splat(0)
  let a3 = i32x4.splat(0), b3 = i32x4.splat(0)
  let a4 = i32x4.splat(0), b4 = i32x4.splat(0)
  const end = w + (pairs << 4)
  do {
    const w0 = v128.load_ext<i8>(w)
    const w1 = v128.load_ext<i8>(w, 8)
    let x = v128.load_splat<i32>(a)
    a0 = dot(a0, x, w0)
    b0 = dot(b0, x, w1)
    x = v128.load_splat<i32>(a, 4)
    a1 = dot(a1, x, w0)
    b1 = dot(b1, x, w1)
    x = v128.load_splat<i32>(a, 8)
    a2 = dot(a2, x, w0)
    b2 = dot(b2, x, w1)
    x = v128.load_splat<i32>(a, 12)
    a3 = dot(a3, x, w0)
    b3 = dot(b3, x, w1)
    x = v128.load_splat<i32>(a, 16)
    a4 = dot(a4, x, w0)
    b4 = dot(b4, x, w1)
    a += 20
    w += 16
  } while (w != end)
  v128.store(out, a0)
  v128.store(out, b0, 16)
  v128.store(out, a1, 32)
  v128.store(out, b1, 48)
  v128.store(out, a2, 64)
  v128.store(out, b2, 80)
  v128.store(out, a3, 96)
  v128.store(out, b3, 112)
  v128.store(out, a4, 128)
  v128.store(out, b4, 144)
}

export function tile4(a: usize, w: usize, pairs: i32, out: usize): void {
  let a0 = i32x4.splat(0), b0 = i32x4.splat(0)
  let a1 = i32x4.splat(0), b1 = i32x4.splat(0)
  let a2 = i32x4.splat(0), b2 = i32x4.splat(0)
  let a3 = i32x4.splat(0), b3 = i32x4.splat(0)
  const end = w + (pairs << 4)
  do {
    const w0 = v128.load_ext<i8>(w)
    const w1 = v128.load_ext<i8>(w, 8)
    let x = v128.load_splat<i32>(a)
    a0 = dot(a0, x, w0)
    b0 = dot(b0, x, w1)
    x = v128.load_splat<i32>(a, 4)
    a1 = dot(a1, x, w0)
    b1 = dot(b1, x, w1)
    x = v128.load_splat<i32>(a, 8)
    a2 = dot(a2, x, w0)
    b2 = dot(b2, x, w1)
    x = v128.load_splat<i32>(a, 12)
    a3 = dot(a3, x, w0)
    b3 = dot(b3, x, w1)
    a += 16
    w += 16
  } while (w != end)
  v128.store(out, a0)
  v128.store(out, b0, 16)
  v128.store(out, a1, 32)
  v128.store(out, b1, 48)
  v128.store(out, a2, 64)
  v128.store(out, b2, 80)
  v128.store(out, a3, 96)
  v128.store(out, b3, 112)
}

export function tile2(a: usize, w: usize, pairs: i32, out: usize): void {
  let a0 = i32x4.splat(0), b0 = i32x4.splat(0)
  let a1 = i32x4.splat(0), b1 = i32x4.splat(0)
  const end = w + (pairs << 4)
  do {
    const w0 = v128.load_ext<i8>(w)
    const w1 = v128.load_ext<i8>(w, 8)
    let x = v128.load_splat<i32>(a)
    a0 = dot(a0, x, w0)
    b0 = dot(b0, x, w1)
    x = v128.load_splat<i32>(a, 4)
    a1 = dot(a1, x, w0)
    b1 = dot(b1, x, w1)
    a += 8
    w += 16
  } while (w != end)
  v128.store(out, a0)
  v128.store(out, b0, 16)
  v128.store(out, a1, 32)
  v128.store(out, b1, 48)
}

/**
 * One row by one panel, front to back: what streams best from memory. Four sums per column hide the dot's latency.
 * `pairs` is a multiple of 4, as rows are padded to 16 bytes.
 */
export function tile1(a: usize, w: usize, pairs: i32, out: usize): void {
  let a0 = i32x4.splat(0), b0 = i32x4.splat(0)
  let a1 = i32x4.splat(0), b1 = i32x4.splat(0)
  let a2 = i32x4.splat(0), b2 = i32x4.splat(0)
  let a3 = i32x4.splat(0), b3 = i32x4.splat(0)
  const end = w + (pairs << 4)
  do {
    let x = v128.load_splat<i32>(a)
    a0 = dot(a0, x, v128.load_ext<i8>(w))
    b0 = dot(b0, x, v128.load_ext<i8>(w, 8))
    x = v128.load_splat<i32>(a, 4)
    a1 = dot(a1, x, v128.load_ext<i8>(w, 16))
    b1 = dot(b1, x, v128.load_ext<i8>(w, 24))
    x = v128.load_splat<i32>(a, 8)
    a2 = dot(a2, x, v128.load_ext<i8>(w, 32))
    b2 = dot(b2, x, v128.load_ext<i8>(w, 40))
    x = v128.load_splat<i32>(a, 12)
    a3 = dot(a3, x, v128.load_ext<i8>(w, 48))
    b3 = dot(b3, x, v128.load_ext<i8>(w, 56))
    a += 16
    w += 64
  } while (w != end)
  v128.store(out, i32x4.add(i32x4.add(a0, a1), i32x4.add(a2, a3)))
  v128.store(out, i32x4.add(i32x4.add(b0, b1), i32x4.add(b2, b3)), 16)
}
