/** embed, gather, pool, digest and the three that quantise rows. Each takes its step, the row count, and its share of the threads. */
import { loadPart, clearTail, mul16s4, quantiseRow, rowMax, rowRsqrt, rowSum, rq4, sadd4, ssub4, stage, storePart } from './lanes'
import { digestRow } from './digest'
import { ZERO_ROW_SCALE, exponent, mantissa, meanOf, mulm, packScale, stride } from './xn1'

/** First row of a thread's share. */
@inline export function share(n: i32, thread: i32, threads: i32): i32 {
  return <i32>((<i64>n * <i64>thread) / <i64>threads)
}

/** Row `id` of a table as i32: stored plainly (0), or packed in pairs (1), in fours (2), or in fours with 128 added (3). */
function unpackRow(table: usize, id: u32, kp: i32, packed: i32, out: usize): void {
  if (packed == 0) {
    const p = table + <usize>id * <usize>kp
    for (let i = 0; i < kp; i++) store<i32>(out + (i << 2), load<i8>(p + i))
    return
  }
  const run = packed == 1 ? 2 : 4
  const flip = packed == 3 ? -128 : 0
  let p = table + <usize>(id >> 3) * <usize>(kp << 3) + (id & 7) * run
  for (let i = 0; i < kp; i += run) {
    for (let j = 0; j < run; j++) store<i32>(out + ((i + j) << 2), <i32>load<i8>(p + j) ^ flip)
    p += run << 3
  }
}

// d from count packed · rows table scale positions out
export function embed(s: usize, n: i32, thread: i32, threads: i32, scratch: usize): void {
  const d = load<i32>(s)
  const from = load<i32>(s, 4)
  const count = load<i32>(s, 8)
  const packed = load<i32>(s, 12)
  const rows = load<usize>(s, 16)
  const table = load<usize>(s, 20)
  const scale = load<usize>(s, 24)
  const positions = load<usize>(s, 28)
  const out = load<usize>(s, 32)
  const kp = stride(d)
  const to = share(n, thread + 1, threads)
  for (let t = share(n, thread, threads); t < to; t++) {
    const id = load<u32>(rows + 16 + (t << 4)) - <u32>from
    if (id >= <u32>count) continue
    unpackRow(table, id, kp, packed, scratch)
    const w = load<u32>(scale + (id << 2))
    const m = mantissa(w)
    const e = exponent(w)
    const position = positions ? positions + <usize>load<u32>(rows + 20 + (t << 4)) * <usize>(d << 2) : 0
    const o = out + <usize>t * <usize>(d << 2)
    for (let i = 0; i < d; i += 4) {
      const c = d - i
      let v = rq4(v128.load(scratch + (i << 2)), m, e)
      if (position) v = sadd4(v, loadPart(position + (i << 2), c))
      storePart(o + (i << 2), v, c)
    }
  }
}

// d · x picks out
export function gather(s: usize, n: i32, thread: i32, threads: i32): void {
  const bytes = <usize>load<i32>(s) << 2
  const x = load<usize>(s, 4)
  const picks = load<usize>(s, 8)
  const out = load<usize>(s, 12)
  const to = share(n, thread + 1, threads)
  for (let t = share(n, thread, threads); t < to; t++)
    memory.copy(out + <usize>t * bytes, x + <usize>load<u32>(picks + (t << 2)) * bytes, bytes)
}

// d mean unit · x segments out
export function pool(s: usize, n: i32, thread: i32, threads: i32, scratch: usize): void {
  const d = load<i32>(s)
  const mean = load<i32>(s, 4)
  const unit = load<i32>(s, 8)
  const x = load<usize>(s, 12)
  const segments = load<usize>(s, 16)
  const out = load<usize>(s, 20)
  const bytes = <usize>d << 2
  const to = share(n, thread + 1, threads)
  for (let t = share(n, thread, threads); t < to; t++) {
    const first = x + <usize>load<u32>(segments + (t << 3)) * bytes
    const length = load<i32>(segments + (t << 3), 4)
    const o = out + <usize>t * bytes
    if (!mean) memory.copy(scratch, first, bytes)
    else
      for (let i = 0; i < d; i += 4) {
        const c = d - i
        let a = i64x2.splat(0)
        let b = i64x2.splat(0)
        let p = first + (i << 2)
        for (let j = 0; j < length; j++) {
          const v = loadPart(p, c)
          a = i64x2.add(a, i64x2.extend_low_i32x4_s(v))
          b = i64x2.add(b, i64x2.extend_high_i32x4_s(v))
          p += bytes
        }
        store<i32>(scratch + (i << 2), meanOf(i64x2.extract_lane(a, 0), length))
        store<i32>(scratch + (i << 2), meanOf(i64x2.extract_lane(a, 1), length), 4)
        store<i32>(scratch + (i << 2), meanOf(i64x2.extract_lane(b, 0), length), 8)
        store<i32>(scratch + (i << 2), meanOf(i64x2.extract_lane(b, 1), length), 12)
      }
    clearTail(scratch, d)
    const kp = stride(d)
    const max = unit ? rowMax(scratch, kp) : 0
    if (max) {
      const n1 = <i32>clz(max) - 1
      const root = rowRsqrt(scratch, kp, n1, 0, 0)
      for (let i = 0; i < d; i += 4)
        v128.store(
          scratch + (i << 2),
          rq4(i32x4.shl(v128.load(scratch + (i << 2)), n1), mantissa(root), 23 - exponent(root)),
        )
    }
    memory.copy(o, scratch, bytes)
  }
}

// d a15 plane · x q s
export function quant(s: usize, n: i32, thread: i32, threads: i32, scratch: usize): void {
  const d = load<i32>(s)
  const a15 = load<i32>(s, 4)
  const plane = load<usize>(s, 8)
  const x = load<usize>(s, 12)
  const q = load<usize>(s, 16)
  const scales = load<usize>(s, 20)
  const kp = stride(d)
  const to = share(n, thread + 1, threads)
  for (let t = share(n, thread, threads); t < to; t++) {
    let row = x + <usize>t * <usize>(d << 2)
    if (d != kp) {
      stage(row, d, scratch)
      row = scratch
    }
    const o = q + <usize>t * <usize>kp
    store<u32>(scales + (t << 2), quantiseRow(row, kp, 16, o, a15 ? o + plane : 0))
  }
}

/** Where the digest of row t of this layer lies in a trace, 0 without a trace. */
@inline function placeOf(rows: usize, trace: usize, t: i32, layer: i32, layers: i32): usize {
  if (!trace) return 0
  const kvRow = load<u32>(rows + 24 + (t << 4)) + load<u32>(rows + 20 + (t << 4))
  return trace + (<usize>(kvRow * layers + layer) << 4)
}

// d layer layers · x rows trace
export function digest(s: usize, n: i32, thread: i32, threads: i32): void {
  const d = load<i32>(s)
  const layer = load<i32>(s, 4)
  const layers = load<i32>(s, 8)
  const x = load<usize>(s, 12)
  const rows = load<usize>(s, 16)
  const trace = load<usize>(s, 20)
  const to = share(n, thread + 1, threads)
  for (let t = share(n, thread, threads); t < to; t++)
    digestRow(x + <usize>t * <usize>(d << 2), d, placeOf(rows, trace, t, layer, layers))
}

// d epsM epsK a15 plane layer layers · x gain q s rows trace
export function rmsnormQuant(s: usize, n: i32, thread: i32, threads: i32, scratch: usize): void {
  const d = load<i32>(s)
  const epsM = load<i32>(s, 4)
  const epsK = load<i32>(s, 8)
  const a15 = load<i32>(s, 12)
  const plane = load<usize>(s, 16)
  const layer = load<i32>(s, 20)
  const layers = load<i32>(s, 24)
  const x = load<usize>(s, 28)
  const gain = load<usize>(s, 32)
  const q = load<usize>(s, 36)
  const scales = load<usize>(s, 40)
  const rows = load<usize>(s, 44)
  const trace = load<usize>(s, 48)
  const kp = stride(d)
  const to = share(n, thread + 1, threads)
  for (let t = share(n, thread, threads); t < to; t++) {
    let row = x + <usize>t * <usize>(d << 2)
    if (d != kp) {
      stage(row, d, scratch)
      row = scratch
    }
    if (trace) digestRow(row, d, placeOf(rows, trace, t, layer, layers))
    const o = q + <usize>t * <usize>kp
    const low = a15 ? o + plane : 0
    const max = rowMax(row, kp)
    if (max == 0) {
      memory.fill(o, 0, kp)
      if (low) memory.fill(low, 0, kp)
      store<u32>(scales + (t << 2), ZERO_ROW_SCALE)
      continue
    }
    const n1 = <i32>clz(max) - 1
    const root = rowRsqrt(row, kp, n1, epsM, epsK)
    for (let i = 0; i < kp; i += 4) {
      const g = v128.load_ext<i16>(gain + (i << 1))
      v128.store(scratch + (i << 2), mul16s4(i32x4.shl(v128.load(row + (i << 2)), n1), g))
    }
    const r = quantiseRow(scratch, kp, 0, o, low)
    const m = mulm(mantissa(r), mantissa(root))
    store<u32>(scales + (t << 2), packScale(m >> 1, exponent(r) + 15 - exponent(root) + (m & 1)))
  }
}

// d epsM epsK cM cE a15 plane layer layers · x gain bias y q s rows trace
export function layernormQuant(s: usize, n: i32, thread: i32, threads: i32, scratch: usize): void {
  const d = load<i32>(s)
  const epsM = load<i32>(s, 4)
  const epsK = load<i32>(s, 8)
  const cM = load<u32>(s, 12)
  const cE = load<i32>(s, 16)
  const a15 = load<i32>(s, 20)
  const plane = load<usize>(s, 24)
  const layer = load<i32>(s, 28)
  const layers = load<i32>(s, 32)
  const x = load<usize>(s, 36)
  const gain = load<usize>(s, 40)
  const bias = load<usize>(s, 44)
  const y = load<usize>(s, 48)
  const q = load<usize>(s, 52)
  const scales = load<usize>(s, 56)
  const rows = load<usize>(s, 60)
  const trace = load<usize>(s, 64)
  const kp = stride(d)
  const bytes = <usize>d << 2
  const to = share(n, thread + 1, threads)
  for (let t = share(n, thread, threads); t < to; t++) {
    stage(x + <usize>t * bytes, d, scratch)
    if (trace && !y) digestRow(scratch, d, placeOf(rows, trace, t, layer, layers))
    const mean = i32x4.splat(meanOf(rowSum(scratch, kp), d))
    for (let i = 0; i < kp; i += 4) v128.store(scratch + (i << 2), ssub4(v128.load(scratch + (i << 2)), mean))
    clearTail(scratch, d)
    const max = rowMax(scratch, kp)
    if (max == 0) memory.copy(scratch, bias, bytes)
    else {
      const n1 = <i32>clz(max) - 1
      const root = rowRsqrt(scratch, kp, n1, epsM, epsK)
      const m = mulm(mantissa(root), cM)
      const e = cE - exponent(root) + <i32>(m & 1)
      for (let i = 0; i < kp; i += 4) {
        const p = scratch + (i << 2)
        const v = mul16s4(i32x4.shl(v128.load(p), n1), v128.load_ext<i16>(gain + (i << 1)))
        v128.store(p, sadd4(rq4(v, m >> 1, e), v128.load(bias + (i << 2))))
      }
      clearTail(scratch, d)
    }
    if (y) {
      memory.copy(y + <usize>t * bytes, scratch, bytes)
      if (trace) digestRow(scratch, d, placeOf(rows, trace, t, layer, layers))
    }
    const o = q + <usize>t * <usize>kp
    store<u32>(scales + (t << 2), quantiseRow(scratch, kp, 16, o, a15 ? o + plane : 0))
  }
}
