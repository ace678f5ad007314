/** From the projected row to int8 heads: q/k norm, RoPE, one scale per head, keys and values to their place in the cache. */
import { clearTail, mul16s4, quantiseRow, rowMax, rowRsqrt, stage } from './lanes'
import { share } from './rows'
import { exponent, mantissa, mulm, packScale, stride, top16 } from './xn1'

// heads kvHeads headDim rope qkNorm epsM epsK · rows qkv ropeTable norm q qs k v kvs
export function heads(s: usize, n: i32, thread: i32, threads: i32, scratch: usize): void {
  const h = load<i32>(s)
  const kv = load<i32>(s, 4)
  const hd = load<i32>(s, 8)
  const rope = load<i32>(s, 12)
  const qkNorm = load<i32>(s, 16)
  const epsM = load<u32>(s, 20)
  const epsK = load<i32>(s, 24)
  const rows = load<usize>(s, 28)
  const qkv = load<usize>(s, 32)
  const ropeTable = load<usize>(s, 36)
  const norm = load<usize>(s, 40)
  const sd = stride(hd)
  const all = h + 2 * kv
  const to = share(n * all, thread + 1, threads)
  for (let unit = share(n * all, thread, threads); unit < to; unit++) {
    const t = unit / all
    const head = unit - t * all
    const position = load<u32>(rows + 20 + (t << 4))
    const kvRow = load<u32>(rows + 24 + (t << 4)) + position
    const isValue = head >= h + kv
    stage(qkv + (<usize>unit * <usize>hd << 2), hd, scratch)
    let f = 16
    let root: u32 = 0
    if (qkNorm && !isValue) {
      const max = rowMax(scratch, sd)
      const n1 = max ? <i32>clz(max) - 1 : 0
      root = rowRsqrt(scratch, sd, n1, epsM, epsK)
      const gain = norm + (head < h ? 0 : hd << 1)
      for (let i = 0; i < sd; i += 4) {
        const p = scratch + (i << 2)
        v128.store(p, mul16s4(i32x4.shl(v128.load(p), n1), v128.load_ext<i16>(gain + (i << 1))))
      }
      clearTail(scratch, hd)
      f = 15
    }
    if (rope && !isValue) {
      const max = rowMax(scratch, sd)
      const n1 = max ? <i32>clz(max) - 1 : 0
      const half = hd >> 1
      turn(scratch, half, ropeTable + (<usize>position * <usize>half << 2), n1)
      f += n1 - 1
    }
    let to8: usize
    let scale: usize
    if (head < h) {
      to8 = load<usize>(s, 44) + <usize>(t * h + head) * <usize>sd
      scale = load<usize>(s, 48) + (<usize>(t * h + head) << 2)
    } else {
      const group = isValue ? head - h - kv : head - h
      to8 = (isValue ? load<usize>(s, 56) : load<usize>(s, 52)) + <usize>(kvRow * kv + group) * <usize>sd
      scale = load<usize>(s, 60) + (<usize>(kvRow * 2 * kv + head - h) << 2)
    }
    let r = quantiseRow(scratch, sd, f, to8, 0)
    if (qkNorm && !isValue) {
      const m = mulm(mantissa(r), mantissa(root))
      r = packScale(m >> 1, exponent(r) - exponent(root) + (m & 1))
    }
    store<u32>(scale, r)
  }
}

@inline function q15(v: v128, n1: i32): v128 {
  const top = i32x4.shr_s(i32x4.add(i32x4.shr_s(i32x4.shl(v, n1), 15), i32x4.splat(1)), 1)
  return i32x4.max_s(i32x4.splat(-32767), i32x4.min_s(i32x4.splat(32767), top))
}

/** Rotates the pairs (i, i + half) by cos | sin << 16. */
function turn(x: usize, half: i32, words: usize, n1: i32): void {
  let i = 0
  for (; i + 4 <= half; i += 4) {
    const p = x + (i << 2)
    const word = v128.load(words + (i << 2))
    const cos = i32x4.shr_s(i32x4.shl(word, 16), 16)
    const sin = i32x4.shr_s(word, 16)
    const re = q15(v128.load(p), n1)
    const im = q15(v128.load(p + (half << 2)), n1)
    v128.store(p, i32x4.sub(i32x4.mul(re, cos), i32x4.mul(im, sin)))
    v128.store(p + (half << 2), i32x4.add(i32x4.mul(im, cos), i32x4.mul(re, sin)))
  }
  for (; i < half; i++) {
    const p = x + (i << 2)
    const word = load<i32>(words + (i << 2))
    const cos = (word << 16) >> 16
    const sin = word >> 16
    const re = max(-32767, min(32767, top16(load<i32>(p), n1)))
    const im = max(-32767, min(32767, top16(load<i32>(p + (half << 2)), n1)))
    store<i32>(p, re * cos - im * sin)
    store<i32>(p + (half << 2), im * cos + re * sin)
  }
}
