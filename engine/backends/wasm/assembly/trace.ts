/**
 * Leaves and root of a trace, as engine/trace.ts defines them: a module of its own, for whichever backend computed. SHA-256 is
 * FIPS 180-4's. Hundreds of short messages are hashed in one call, where a hasher called from outside spends more on the calls.
 */

import { stir } from './digest'

const K = memory.data<u32>([
  0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be,
  0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa,
  0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85,
  0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3,
  0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f,
  0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
]) // prettier-ignore
/** The message schedule, the state, and the last one or two blocks of a message with its padding. */
const W = memory.data(256, 16)
const H = memory.data(32, 16)
const TAIL = memory.data(128, 16)

/** Where memory is the caller's. */
export function free(): usize {
  return (__heap_base + 15) & ~15
}

// ── Leaves ──

/**
 * Folds rows of digests, i32[rows][layers][4], onto those before them; each `chunk` rows become one leaf a layer.
 * @param folds i32[layers][4], zeros at the beginning  @param folded rows in them so far  @param leaves where the next lie
 * @returns how many rows are folded and not yet in a leaf
 */
export function fold(digests: usize, rows: i32, layers: i32, folds: usize, folded: i32, chunk: i32, leaves: usize): i32 {
  const end = folds + (<usize>layers << 4)
  for (let t = 0; t < rows; t++) {
    for (let at = folds; at < end; at += 16, digests += 16) {
      v128.store(at, i32x4.add(v128.load(at), v128.load(digests)))
      stir(at)
    }
    if (++folded === chunk) {
      leaves = close(folds, layers, leaves)
      folded = 0
    }
  }
  return folded
}

/** One leaf a layer of what is folded, which is zeros again afterwards. Returns where the next leaves lie. */
export function close(folds: usize, layers: i32, leaves: usize): usize {
  const zeros = i32x4.splat(0)
  for (let l = 0; l < layers; l++, leaves += 32, folds += 16) {
    v128.store(leaves, v128.load(folds))
    v128.store(leaves, zeros, 16)
    v128.store(folds, zeros)
  }
  return leaves
}

// ── The tree ──

/** RFC 6962 §2.1's Merkle tree hash of `count` leaves of 32 bytes, into the first of as many nodes. */
export function root(leaves: usize, count: i32, nodes: usize): void {
  for (let i = 0; i < count; i++) {
    store<u8>(TAIL, 0)
    memory.copy(TAIL + 1, leaves + (<usize>i << 5), 32)
    finish(33, 33, nodes + (<usize>i << 5))
  }
  // Level by level, two and two; one that is left over goes up as it is, which is the same tree.
  for (let n = count; n > 1; n = (n + 1) >> 1) {
    for (let i = 0; 2 * i + 1 < n; i++) {
      store<u8>(TAIL, 1)
      memory.copy(TAIL + 1, nodes + (<usize>i << 6), 64)
      finish(65, 65, nodes + (<usize>i << 5))
    }
    if (n & 1) memory.copy(nodes + (<usize>(n >> 1) << 5), nodes + (<usize>(n - 1) << 5), 32)
  }
}

// ── SHA-256 ──

/** SHA-256 of bytes at `at`, 32 bytes at `out`. */
export function hash(at: usize, bytes: i32, out: usize): void {
  const whole = bytes & ~63
  memory.copy(TAIL, at + whole, bytes & 63)
  if (whole === 0) return finish(bytes, bytes, out)
  begin()
  for (const rest = at + whole; at < rest; at += 64) compress(at)
  end(bytes & 63, bytes, out)
}

/** Of a message that is in TAIL, up to 119 bytes of it. */
@inline function finish(left: i32, bytes: i32, out: usize): void {
  begin()
  end(left, bytes, out)
}

@inline function begin(): void {
  store<u32>(H, 0x6a09e667)
  store<u32>(H, 0xbb67ae85, 4)
  store<u32>(H, 0x3c6ef372, 8)
  store<u32>(H, 0xa54ff53a, 12)
  store<u32>(H, 0x510e527f, 16)
  store<u32>(H, 0x9b05688c, 20)
  store<u32>(H, 0x1f83d9ab, 24)
  store<u32>(H, 0x5be0cd19, 28)
}

/** @param left bytes in TAIL  @param bytes of the whole message, below 2^29 */
function end(left: i32, bytes: i32, out: usize): void {
  const size: usize = left < 56 ? 64 : 128
  store<u8>(TAIL + left, 0x80)
  memory.fill(TAIL + left + 1, 0, size - 5 - left)
  store<u32>(TAIL + size - 4, bswap<u32>(<u32>bytes << 3))
  compress(TAIL)
  if (size === 128) compress(TAIL + 64)
  for (let i: usize = 0; i < 32; i += 4) store<u32>(out + i, bswap<u32>(load<u32>(H + i)))
}

function compress(block: usize): void {
  for (let i: usize = 0; i < 64; i += 4) store<u32>(W + i, bswap<u32>(load<u32>(block + i)))
  for (let p = W, e = W + 192; p < e; p += 4) {
    const x = load<u32>(p, 4)
    const y = load<u32>(p, 56)
    const s0 = rotr<u32>(x, 7) ^ rotr<u32>(x, 18) ^ (x >> 3)
    const s1 = rotr<u32>(y, 17) ^ rotr<u32>(y, 19) ^ (y >> 10)
    store<u32>(p, load<u32>(p) + s0 + load<u32>(p, 36) + s1, 64)
  }
  let a = load<u32>(H)
  let b = load<u32>(H, 4)
  let c = load<u32>(H, 8)
  let d = load<u32>(H, 12)
  let e = load<u32>(H, 16)
  let f = load<u32>(H, 20)
  let g = load<u32>(H, 24)
  let h = load<u32>(H, 28)
  // Eight rounds a turn: the letters are back in their places then, and none was moved.
  for (let i: usize = 0; i < 256; i += 32) {
    h += before(e, f, g, i, 0); d += h; h += after(a, b, c)
    g += before(d, e, f, i, 4); c += g; g += after(h, a, b)
    f += before(c, d, e, i, 8); b += f; f += after(g, h, a)
    e += before(b, c, d, i, 12); a += e; e += after(f, g, h)
    d += before(a, b, c, i, 16); h += d; d += after(e, f, g)
    c += before(h, a, b, i, 20); g += c; c += after(d, e, f)
    b += before(g, h, a, i, 24); f += b; b += after(c, d, e)
    a += before(f, g, h, i, 28); e += a; a += after(b, c, d)
  } // prettier-ignore
  store<u32>(H, load<u32>(H) + a)
  store<u32>(H, load<u32>(H, 4) + b, 4)
  store<u32>(H, load<u32>(H, 8) + c, 8)
  store<u32>(H, load<u32>(H, 12) + d, 12)
  store<u32>(H, load<u32>(H, 16) + e, 16)
  store<u32>(H, load<u32>(H, 20) + f, 20)
  store<u32>(H, load<u32>(H, 24) + g, 24)
  store<u32>(H, load<u32>(H, 28) + h, 28)
}

/** Σ1(e) + Ch(e, f, g) + K + W of round (i + at) ÷ 4. */
@inline function before(e: u32, f: u32, g: u32, i: usize, at: usize): u32 {
  return (rotr<u32>(e, 6) ^ rotr<u32>(e, 11) ^ rotr<u32>(e, 25)) + (g ^ (e & (f ^ g))) + load<u32>(K + i + at) + load<u32>(W + i + at)
}

/** Σ0(a) + Maj(a, b, c). */
@inline function after(a: u32, b: u32, c: u32): u32 {
  return (rotr<u32>(a, 2) ^ rotr<u32>(a, 13) ^ rotr<u32>(a, 22)) + ((a & b) | (c & (a | b)))
}
