/** A residual row's digest: shaders/digest.ts, four values at a time. */

const STEP: i32 = 0x9e3779b1
const START: i32 = 0x85ebca77

/** Digest of d values at row, 16 bytes at out. */
export function digestRow(row: usize, d: i32, out: usize): void {
  let a = i32x4.splat(0)
  let b = i32x4.splat(0)
  let key = i32x4.add(i32x4.splat(START), i32x4.mul(i32x4(0, 1, 2, 3), i32x4.splat(STEP)))
  const step = i32x4.splat(4 * STEP)
  const whole = d & ~3
  for (let i = 0; i < whole; i += 4) {
    const t = mixed(v128.load(row + (i << 2)), key)
    a = i32x4.add(a, t)
    b = i32x4.add(b, mixedAgain(t))
    key = i32x4.add(key, step)
  }
  if (d != whole) {
    let v = v128.load_zero<u32>(row + (whole << 2))
    if (d - whole > 1) v = i32x4.replace_lane(v, 1, load<i32>(row + (whole << 2), 4))
    if (d - whole > 2) v = i32x4.replace_lane(v, 2, load<i32>(row + (whole << 2), 8))
    const present = i32x4.lt_s(i32x4(0, 1, 2, 3), i32x4.splat(d - whole))
    const t = mixed(v, key)
    a = i32x4.add(a, v128.and(t, present))
    b = i32x4.add(b, v128.and(mixedAgain(t), present))
  }
  b = v128.shuffle<i32>(b, b, 1, 2, 3, 0)
  const w = v128.xor(a, v128.or(i32x4.shl(b, 16), i32x4.shr_u(b, 16)))
  let w0 = i32x4.extract_lane(w, 0) ^ d
  let w1 = i32x4.extract_lane(w, 1)
  let w2 = i32x4.extract_lane(w, 2)
  let w3 = i32x4.extract_lane(w, 3)
  for (let round = 0; round < 2; round++) {
    w0 += w1
    w3 = rotl<i32>(w3 ^ w0, 16)
    w2 += w3
    w1 = rotl<i32>(w1 ^ w2, 12)
    w0 += w1
    w3 = rotl<i32>(w3 ^ w0, 8)
    w2 += w3
    w1 = rotl<i32>(w1 ^ w2, 7)
  }
  store<i32>(out, w0)
  store<i32>(out, w1, 4)
  store<i32>(out, w2, 8)
  store<i32>(out, w3, 12)
}

@inline function mixed(v: v128, key: v128): v128 {
  const t = i32x4.mul(i32x4.add(v, key), i32x4.splat(0x85ebca6b))
  return i32x4.mul(v128.xor(t, i32x4.shr_u(t, 15)), i32x4.splat(0xc2b2ae35))
}
@inline function mixedAgain(t: v128): v128 {
  return i32x4.mul(v128.xor(t, i32x4.shr_u(t, 13)), i32x4.splat(0x27d4eb2f))
}
