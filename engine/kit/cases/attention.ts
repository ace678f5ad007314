/** heads and attention: rows of several sequences at once, any head size, grouped heads, long and short contexts. */
import { stride } from '../../../shaders/kernel.ts'
import { packScale } from '../../../shaders/xn1.ts'
import type { Case } from '../play.ts'
import type { Draw } from '../draw.ts'
import { exp2Table } from '../draw.ts'

/** [heads, kvHeads, headDim] */
const geometries = [[1, 1, 1], [2, 1, 2], [2, 2, 6], [3, 1, 16], [4, 2, 30], [12, 12, 32], [8, 2, 64], [2, 1, 128], [1, 1, 256]] as const // prettier-ignore

export function* headsCases(draw: (stream: string) => Draw): Generator<Case> {
  for (const [h, kv, hd] of geometries)
    for (const [rope, qkNorm] of [
      [0, 0],
      [1, 0],
      [0, 1],
      [1, 1],
    ] as const) {
      if (rope && hd % 2) continue
      const name = `${h}/${kv} heads of ${hd}${rope ? ', rope' : ''}${qkNorm ? ', norm' : ''}`
      const r = draw(name)
      const n = r.int(1, 9)
      const kvRows = 40
      const sd = stride(hd)
      const rows = rowRecords(r, n, kvRows)
      // Heads as rows: the awkward kinds of row fall on queries, keys and values alike.
      const qkv = r.residual(n * (h + 2 * kv), hd)
      yield {
        kernel: 'heads', name: `${n} rows, ${name}`, domain: 'rows', n,
        params: { heads: h, kvHeads: kv, headDim: hd, rope, qkNorm, epsM: r.int(0, 65535), epsK: r.pick([-40, -8, 3, 20]) },
        slots: {
          rows: { data: rows, kind: 'input' },
          qkv: { data: qkv },
          ropeTable: rope ? { data: r.rope(40 * (hd >> 1)), kind: 'constant' } : null,
          norm: qkNorm ? { data: r.i16(2 * hd), kind: 'constant' } : null,
          q: { data: r.i8((n + 1) * h * sd), out: true },
          qs: { data: r.u32s((n + 1) * h), out: true },
          k: { data: r.i8(kvRows * kv * sd), kind: 'cache', out: true },
          v: { data: r.i8(kvRows * kv * sd), kind: 'cache', out: true },
          kvs: { data: r.u32s(kvRows * 2 * kv), kind: 'cache', out: true },
        },
      } // prettier-ignore
    }
}

export function* attentionCases(draw: (stream: string) => Draw): Generator<Case> {
  for (const [h, kv, hd] of geometries)
    for (const kind of ['usual', 'sharp', 'wild scales', 'long'] as const) {
      if (kind === 'long' && h * hd > 128) continue
      const name = `${h}/${kv} heads of ${hd}, ${kind}`
      const r = draw(name)
      const n = kind === 'long' ? 2 : r.int(1, 9)
      const kvRows = kind === 'long' ? 2100 : 70
      const rows = rowRecords(r, n, kvRows)
      if (kind === 'long') for (let t = 0; t < n; t++) rows.set([3, 2090 - t * 1321], 4 + 4 * t + 2)
      const cache = (): Int8Array => r.rows8(kvRows * kv, hd)
      const q = r.rows8(n * h, hd)
      const k = cache()
      const v = cache()
      if (kind === 'long') v.fill(127)
      const [low, high] = kind === 'wild scales' ? [-90, 100] : [12, 22]
      // log2(e)/sqrt(hd)/127² as a pair, as a model has it; sharp: 64 times that.
      let [score, scoreE] = [Math.LOG2E / Math.sqrt(hd) / 127 ** 2, 0]
      for (; score < 32768; scoreE++) score *= 2
      yield {
        kernel: 'attention', name: `${n} rows, ${name}`, domain: 'rows', n,
        params: {
          heads: h, kvHeads: kv, headDim: hd,
          scoreM: Math.min(65535, Math.round(score)),
          scoreE: kind === 'sharp' ? scoreE - 6 : scoreE,
        },
        slots: {
          rows: { data: rows, kind: 'input' },
          q: { data: q },
          qs: { data: r.scales(n * h, low, high) },
          k: { data: k, kind: 'cache' },
          v: { data: v, kind: 'cache' },
          kvs: { data: kind === 'long' ? equalScales(r, kvRows, kv) : r.scales(kvRows * 2 * kv, low, high), kind: 'cache' },
          exp2: { data: exp2Table(), kind: 'constant' },
          out: { data: r.i32((n + 1) * h * hd), out: true },
        },
      } // prettier-ignore
    }
}

/** Keys so small that all probabilities come out alike, values at full scale: the largest sums there are. */
function equalScales(r: Draw, kvRows: number, kv: number): Uint32Array {
  const scales = new Uint32Array(kvRows * 2 * kv)
  for (let j = 0; j < kvRows; j++)
    for (let g = 0; g < kv; g++) {
      scales[j * 2 * kv + g] = packScale(r.int(32768, 65535), 60)
      scales[j * 2 * kv + kv + g] = packScale(65535, 16)
    }
  return scales
}

/** Row records with distinct KV rows: sequences side by side, each with its base. */
function rowRecords(r: Draw, n: number, kvRows: number): Uint32Array {
  const rows = new Uint32Array(4 * (1 + n))
  rows.set([n, 1, 1, 0])
  const split = r.int(0, n)
  for (let t = 0; t < n; t++) {
    const base = t < split ? 0 : 20
    const position = (t < split ? t : t - split) + 3
    const length = r.pick([1, position + 1, r.int(1, Math.min(kvRows - base, 50))])
    rows.set([r.u32(), position, base, length], 4 + 4 * t)
  }
  return rows
}
