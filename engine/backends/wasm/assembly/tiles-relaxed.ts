/**
 * Products of h rows and 8 columns over K, by i32x4.relaxed_dot_i8x16_i7x16_add_s: 16 products an instruction.
 *
 * What the instruction does with a second operand beyond 0 … 127 is the engine's choice, one choice per engine: u8 (x86 with
 * VNNI) or s8 (ARM). It is asked at start-up (probe.ts); weights are then stored as w + 128 or as w, and the sums of an
 * offset row start at -128·Σx. Either way they are exact.
 *
 * a: activations, fours of k and the h rows' fours side by side: [four][row] of 4 bytes.
 * w: a panel of 8 weight rows, [four][column] of 4 bytes.
 * start: i32 [row], what each row's sums start from. out: i32 [row][8].
 */

@inline export function dot(sum: v128, x: v128, w: v128): v128 {
  return i32x4.relaxed_dot_i8x16_i7x16_add_s(x, w, sum)
}

export function tile6(a: usize, w: usize, quads: i32, start: usize, out: usize): void {
  let a0 = v128.load_splat<i32>(start), b0 = a0
  let a1 = v128.load_splat<i32>(start, 4), b1 = a1
  let a2 = v128.load_splat<i32>(start, 8), b2 = a2
  let a3 = v128.load_splat<i32>(start, 12), b3 = a3
  let a4 = v128.load_splat<i32>(start, 16), b4 = a4
  let a5 = v128.load_splat<i32>(start, 20), b5 = a5
  const end = w + (quads << 5)
  do {
    const w0 = v128.load(w)
    const w1 = v128.load(w, 16)
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
    x = v128.load_splat<i32>(a, 20)
    a5 = dot(a5, x, w0)
    b5 = dot(b5, x, w1)
    a += 24
    w += 32
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
  v128.store(out, a5, 160)
  v128.store(out, b5, 176)
}

export function tile5(a: usize, w: usize, quads: i32, start: usize, out: usize): void {
  let a0 = v128.load_splat<i32>(start), b0 = a0
  let a1 = v128.load_splat<i32>(start, 4), b1 = a1
  let a2 = v128.load_splat<i32>(start, 8), b2 = a2
  let a3 = v128.load_splat<i32>(start, 12), b3 = a3
  let a4 = v128.load_splat<i32>(start, 16), b4 = a4
  const end = w + (quads << 5)
  do {
    const w0 = v128.load(w)
    const w1 = v128.load(w, 16)
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
    w += 32
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

export function tile4(a: usize, w: usize, quads: i32, start: usize, out: usize): void {
  let a0 = v128.load_splat<i32>(start), b0 = a0
  let a1 = v128.load_splat<i32>(start, 4), b1 = a1
  let a2 = v128.load_splat<i32>(start, 8), b2 = a2
  let a3 = v128.load_splat<i32>(start, 12), b3 = a3
  const end = w + (quads << 5)
  do {
    const w0 = v128.load(w)
    const w1 = v128.load(w, 16)
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
    w += 32
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

export function tile2(a: usize, w: usize, quads: i32, start: usize, out: usize): void {
  let a0 = v128.load_splat<i32>(start), b0 = a0
  let a1 = v128.load_splat<i32>(start, 4), b1 = a1
  const end = w + (quads << 5)
  do {
    const w0 = v128.load(w)
    const w1 = v128.load(w, 16)
    let x = v128.load_splat<i32>(a)
    a0 = dot(a0, x, w0)
    b0 = dot(b0, x, w1)
    x = v128.load_splat<i32>(a, 4)
    a1 = dot(a1, x, w0)
    b1 = dot(b1, x, w1)
    a += 8
    w += 32
  } while (w != end)
  v128.store(out, a0)
  v128.store(out, b0, 16)
  v128.store(out, a1, 32)
  v128.store(out, b1, 48)
}

/**
 * One row by one panel, front to back: what streams best from memory. Four sums per column hide the dot's latency.
 * `quads` is a multiple of 4, as rows are padded to 16 bytes.
 */
export function tile1(a: usize, w: usize, quads: i32, start: usize, out: usize): void {
  let a0 = v128.load_splat<i32>(start), b0 = a0
  let a1 = i32x4.splat(0), b1 = a1
  let a2 = a1, b2 = a1
  let a3 = a1, b3 = a1
  const end = w + (quads << 5)
  do {
    let x = v128.load_splat<i32>(a)
    a0 = dot(a0, x, v128.load(w))
    b0 = dot(b0, x, v128.load(w, 16))
    x = v128.load_splat<i32>(a, 4)
    a1 = dot(a1, x, v128.load(w, 32))
    b1 = dot(b1, x, v128.load(w, 48))
    x = v128.load_splat<i32>(a, 8)
    a2 = dot(a2, x, v128.load(w, 64))
    b2 = dot(b2, x, v128.load(w, 80))
    x = v128.load_splat<i32>(a, 12)
    a3 = dot(a3, x, v128.load(w, 96))
    b3 = dot(b3, x, v128.load(w, 112))
    a += 16
    w += 128
  } while (w != end)
  v128.store(out, i32x4.add(i32x4.add(a0, a1), i32x4.add(a2, a3)))
  v128.store(out, i32x4.add(i32x4.add(b0, b1), i32x4.add(b2, b3)), 16)
}

