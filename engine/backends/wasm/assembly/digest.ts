/** A residual row's digest: shaders/digest.ts, four values at a time. */

import { loadPart } from './lanes'

const STEP: i32 = 0x9e3779b1
const START: i32 = 0x85ebca77

/** Digest of d values at row, 16 bytes at out. */
export function digestRow(row: usize, d: i32, out: usize): void {
  let a = i32x4.splat(0)
  let b = i32x4.splat(0)
  let key = i32x4.add(i32x4.splat(START), i32x4.mul(i32x4(0, 1, 2, 3), i32x4.splat(STEP)))
  let next = i32x4.add(key, i32x4.splat(4 * STEP))
  const step = i32x4.splat(8 * STEP)
  let p = row
  const end = row + ((d & ~7) << 2)
  // Two sums side by side: a multiplication takes long, another may begin meanwhile.
  for (; p < end; p += 32) {
    a = i32x4.add(a, mixed(v128.load(p), key))
    b = i32x4.add(b, mixed(v128.load(p, 16), next))
    key = i32x4.add(key, step)
    next = i32x4.add(next, step)
  }
  let left = d & 7
  if (left >= 4) {
    a = i32x4.add(a, mixed(v128.load(p), key))
    key = next
    p += 16
    left -= 4
  }
  if (left) {
    const present = i32x4.lt_s(i32x4(0, 1, 2, 3), i32x4.splat(left))
    a = i32x4.add(a, v128.and(mixed(loadPart(p, left), key), present))
  }
  const w = i32x4.add(a, b)
  v128.store(out, v128.xor(w, i32x4(d, 0, 0, 0)))
  stir(out)
  stir(out)
}

/** ChaCha's quarter round on four words. */
@inline export function stir(at: usize): void {
  let a = load<i32>(at)
  let b = load<i32>(at, 4)
  let c = load<i32>(at, 8)
  let d = load<i32>(at, 12)
  a += b
  d = rotl<i32>(d ^ a, 16)
  c += d
  b = rotl<i32>(b ^ c, 12)
  a += b
  d = rotl<i32>(d ^ a, 8)
  c += d
  b = rotl<i32>(b ^ c, 7)
  store<i32>(at, a)
  store<i32>(at, b, 4)
  store<i32>(at, c, 8)
  store<i32>(at, d, 12)
}

@inline function mixed(v: v128, key: v128): v128 {
  const t = i32x4.mul(i32x4.add(v, key), i32x4.splat(0x85ebca6b))
  return i32x4.mul(v128.xor(t, i32x4.shr_u(t, 15)), i32x4.splat(0xc2b2ae35))
}
