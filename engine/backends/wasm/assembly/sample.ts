/**
 * The next token of each sequence, without a sort: ids whose probability is not zero are collected once, in rising order;
 * top-k and top-p are then cuts in the order (distance to the maximum, id), found by radix selection on the distance.
 */
import { share } from './rows'
import { exp2q, philox, umulhi } from './xn1'

/** Where a cut falls: every candidate nearer than `distance`, and the first `ties` at it. */
let cutDistance: u32 = 0
let cutTies: u32 = 0

// vocab capacity · logits exp2 records rows out
export function sample(s: usize, n: i32, thread: i32, threads: i32, scratch: usize): void {
  const vocab = load<i32>(s)
  const capacity = load<u32>(s, 4)
  const logits = load<usize>(s, 8)
  const exp2 = load<usize>(s, 12)
  const records = load<usize>(s, 16)
  const rows = load<usize>(s, 20)
  const out = load<usize>(s, 24)
  const to = share(n, thread + 1, threads)
  for (let r = share(n, thread, threads); r < to; r++) {
    const record = records + <usize>r * 48
    const row = logits + (<usize>r * <usize>vocab << 2)
    const inverse = load<u32>(record)
    const position = load<u32>(record, 24)
    const best = argmax(row, vocab)
    const id = inverse ? draw(row, vocab, load<i32>(row + (best << 2)), record, exp2, scratch) : best
    const drawn = load<u32>(record, 28)
    if (drawn < capacity) store<u32>(out + (<usize>r * <usize>capacity + <usize>drawn << 2), id)
    const next = rows + 16 + (r << 4)
    store<u32>(next, id)
    store<u32>(next, position, 4)
    store<u32>(next, load<u32>(record, 32), 8)
    store<u32>(next, position + 1, 12)
    store<u32>(record, position + 1, 24)
    store<u32>(record, drawn + 1, 28)
  }
}

function argmax(row: usize, n: i32): u32 {
  let m = i32x4.splat(0x80000000)
  let i = 0
  for (; i + 16 <= n; i += 16) {
    const p = row + (i << 2)
    const a = i32x4.max_s(v128.load(p), v128.load(p, 16))
    m = i32x4.max_s(m, i32x4.max_s(a, i32x4.max_s(v128.load(p, 32), v128.load(p, 48))))
  }
  m = i32x4.max_s(m, v128.shuffle<i32>(m, m, 2, 3, 0, 1))
  let best = max(i32x4.extract_lane(m, 0), i32x4.extract_lane(m, 1))
  for (; i < n; i++) best = max(best, load<i32>(row + (i << 2)))
  const wanted = i32x4.splat(best)
  i = 0
  while (i + 4 <= n && !v128.any_true(i32x4.eq(v128.load(row + (i << 2)), wanted))) i += 4
  while (load<i32>(row + (i << 2)) != best) i++
  return i
}

/** candidates: u32 [distance, id, p] each; behind them the selection's 256 counters of 8 bytes. */
function draw(row: usize, vocab: i32, best: i32, record: usize, exp2: usize, scratch: usize): u32 {
  const inverse = load<u32>(record)
  const candidates = scratch + 2048
  // Beyond it the exponent has 16 whole bits and the probability is zero.
  const farthest = <u32>min<u64>((<u64>16 << 32) / <u64>inverse, 0xffffffff)
  let end = candidates
  let sum: u64 = 0
  const top = i32x4.splat(best)
  const far = i32x4.splat(farthest)
  for (let i = 0; i < vocab; i += 4) {
    const d = i32x4.sub(top, v128.load(row + (i << 2)))
    if (!v128.any_true(i32x4.le_u(d, far))) continue
    const stop = min(i + 4, vocab)
    for (let j = i; j < stop; j++) {
      const distance = <u32>(best - load<i32>(row + (j << 2)))
      if (distance > farthest) continue
      const product = <u64>distance * <u64>inverse
      if (product >> 36) continue
      const p = exp2q(exp2, <u32>(product >> 16))
      if (p == 0) continue
      store<u32>(end, distance)
      store<u32>(end, j, 4)
      store<u32>(end, p, 8)
      end += 12
      sum += p
    }
  }

  const k = load<u32>(record, 4)
  const count = <u32>((end - candidates) / 12)
  cutDistance = 0xffffffff
  cutTies = 0xffffffff
  if (k && k < count) {
    select(candidates, end, k, false, scratch)
    sum = weigh(candidates, end)
  }
  const target = max<u64>(1, (sum * <u64>load<u32>(record, 8) + 65535) >> 16)
  if (target < sum) {
    select(candidates, end, target, true, scratch)
    sum = weigh(candidates, end)
  }

  const r = umulhi(philox(load<u32>(record, 24), load<u32>(record, 20), load<u32>(record, 12), load<u32>(record, 16)), <u32>sum)
  let mass: u64 = 0
  let ties: u32 = 0
  for (let c = candidates; c < end; c += 12) {
    const distance = load<u32>(c)
    if (distance > cutDistance) continue
    if (distance == cutDistance && ties++ >= cutTies) continue
    mass += load<u32>(c, 8)
    if (mass > r) return load<u32>(c, 4)
  }
  return unreachable()
}

/** Mass within the cut. */
function weigh(candidates: usize, end: usize): u64 {
  let sum: u64 = 0
  let ties: u32 = 0
  for (let c = candidates; c < end; c += 12) {
    const distance = load<u32>(c)
    if (distance > cutDistance) continue
    if (distance == cutDistance && ties++ >= cutTies) continue
    sum += load<u32>(c, 8)
  }
  return sum
}

/**
 * Sets the cut so that what is within reaches `target` (in mass, or in number) and no shorter cut does. Eight bits of the
 * distance at a time. A narrower cut than the present one always results: the present one reaches the target.
 */
function select(candidates: usize, end: usize, target: u64, byMass: bool, histogram: usize): void {
  const limit = cutDistance
  let prefix: u32 = 0
  let reached: u64 = 0
  let one: u64 = 1
  for (let shift = 24; shift >= 0; shift -= 8) {
    memory.fill(histogram, 0, 2048)
    const known = shift == 24 ? 0 : 0xffffffff << (shift + 8)
    for (let c = candidates; c < end; c += 12) {
      const distance = load<u32>(c)
      if (distance > limit || (distance & known) != prefix) continue
      const bin = histogram + (((distance >> shift) & 255) << 3)
      store<u64>(bin, load<u64>(bin) + (byMass ? <u64>load<u32>(c, 8) : 1))
    }
    let digit: u32 = 0
    while (true) {
      const here = load<u64>(histogram + (digit << 3))
      if (reached + here >= target) break
      reached += here
      digit++
    }
    prefix |= digit << shift
  }
  if (byMass) {
    let c = candidates
    while (load<u32>(c) != prefix) c += 12
    one = load<u32>(c, 8)
  }
  cutDistance = prefix
  cutTies = <u32>((target - reached + one - 1) / one)
}
