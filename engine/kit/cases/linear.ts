/** linear: every mode and act, and the shapes and scales its tiles could stumble over. */
import { stride } from '../../../shaders/kernel.ts'
import { ACT_NONE, ACT_TABLE, ACT_TABLE_FLAT, GATED, RESIDUAL, STORE } from '../../../shaders/linear.ts'
import type { Case } from '../play.ts'
import type { Draw } from '../draw.ts'
import { bent, sigmoidal, tableOf } from '../draw.ts'

interface Shape {
  m: number
  k: number
  n: number
  mode?: number
  act?: number
  a15?: 0 | 1
  bias?: boolean
  /** Every activation and weight at ±127. */
  extreme?: boolean
  /** Exponents of row and channel scales: `wide` reaches saturation on both sides and products that vanish. */
  scales?: 'usual' | 'wide'
  /** The part writes into wider rows, from this column on. */
  outFrom?: number
}

const shapes: Shape[] = [
  { m: 1, k: 1, n: 1 },
  { m: 1, k: 16, n: 8, bias: true },
  { m: 2, k: 17, n: 7, a15: 1 },
  { m: 3, k: 31, n: 9, act: ACT_TABLE, bias: true },
  { m: 4, k: 64, n: 16, mode: RESIDUAL, bias: true },
  { m: 5, k: 97, n: 23, act: ACT_TABLE_FLAT, scales: 'wide' },
  { m: 6, k: 48, n: 26, mode: GATED, act: ACT_TABLE },
  { m: 7, k: 33, n: 38, mode: GATED, a15: 1, bias: true },
  { m: 8, k: 127, n: 12, mode: RESIDUAL, a15: 1, scales: 'wide', bias: true },
  { m: 9, k: 16, n: 2, mode: GATED, act: ACT_TABLE, scales: 'wide' },
  { m: 11, k: 256, n: 40, a15: 1 },
  { m: 13, k: 384, n: 17, outFrom: 5, bias: true },
  { m: 16, k: 128, n: 32, mode: GATED, act: ACT_TABLE, outFrom: 3, bias: true },
  { m: 17, k: 769, n: 19, a15: 1 },
  { m: 19, k: 63, n: 64, mode: RESIDUAL, outFrom: 2 },
  { m: 23, k: 384, n: 384, bias: true, act: ACT_TABLE },
  { m: 31, k: 80, n: 5, a15: 1, act: ACT_TABLE_FLAT, bias: true },
  { m: 33, k: 384, n: 392 },
  { m: 33, k: 96, n: 41, scales: 'wide', bias: true },
  { m: 1, k: 2048, n: 520, bias: true },
  { m: 1, k: 1537, n: 1031, mode: RESIDUAL },
  { m: 1, k: 512, n: 1030, mode: GATED, act: ACT_TABLE },
  { m: 2, k: 8192, n: 9, extreme: true },
  { m: 1, k: 8192, n: 33, extreme: true, a15: 1 },
  { m: 5, k: 8191, n: 8, extreme: true, a15: 1, mode: RESIDUAL },
  { m: 12, k: 4096, n: 8, extreme: true, scales: 'wide' },
  { m: 129, k: 128, n: 48, bias: true },
]

export function* linearCases(draw: (stream: string) => Draw): Generator<Case> {
  for (const shape of shapes) {
    const { m, k, n, mode = STORE, act = ACT_NONE, a15 = 0, bias = false, extreme = false } = shape
    const { scales = 'usual', outFrom = 0 } = shape
    const name = [
      `${m}x${k}x${n}`,
      ['store', 'residual', 'gated'][mode],
      ['no act', 'table', 'flat table'][act],
      a15 ? 'a15' : '',
      bias ? 'bias' : '',
      extreme ? '±127' : '',
      scales === 'wide' ? 'wide scales' : '',
      outFrom ? `from column ${outFrom}` : '',
    ].filter(Boolean).join(', ') // prettier-ignore
    const r = draw(name)
    const plane = (m + 1) * stride(k)
    const q = new Int8Array(plane * (1 + a15))
    q.set(extreme ? r.rows8(m, k).map((v) => Math.sign(v) * 127) : r.rows8(m, k))
    if (a15)
      q.set(extreme ? r.rows8(m, k).map((v) => (v > 0 ? 63 : v && -64)) : r.rows8(m, k, -64, 63), plane)
    const w = extreme ? r.rows8(n, k).map((v) => Math.sign(v) * 127) : r.rows8(n, k)
    if (extreme) {
      // One row and one column of one sign, and equal: the largest sum there is.
      q.fill(127, 0, k)
      w.fill(127, 0, k)
      if (a15) q.fill(-64, plane, plane + k)
    } else if (m > 2) {
      q.fill(0, stride(k), 2 * stride(k))
    }
    const out = outFrom + (mode === GATED ? n / 2 : n) + (outFrom && 1)
    yield {
      kernel: 'linear', name, domain: 'rows', n: m,
      params: { k, n, outFrom, outStride: out, mode, act, a15, plane },
      slots: {
        q: { data: q },
        // Usual: products from far below one to 2^24 in Q16.
        s: { data: scales === 'wide' ? r.scales(m + 1, -30, 40) : r.scales(m + 1, 4, 10) },
        w: { data: w, k },
        ws: { data: scales === 'wide' ? r.scales(n, -30, 60) : r.scales(n, 22, 28), kind: 'constant' },
        bias: bias ? { data: r.i32(n, r.pick([2 ** 18, 2 ** 31 - 1])), kind: 'constant' } : null,
        table: act ? { data: tableOf(act === ACT_TABLE ? bent : sigmoidal), kind: 'constant' } : null,
        out: { data: r.i32((m + 1) * out, r.pick([2 ** 20, 2 ** 31 - 1])), out: true },
      },
    } // prettier-ignore
  }
}
