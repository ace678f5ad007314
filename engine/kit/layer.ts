/**
 * A decoder layer with random weights as a Recording, for what shows only when steps follow one another: a backend may fuse
 * them, but the residual, the KV cache and the layer's outputs must be those of the steps one by one.
 */
import type { Backend, Program } from '../backends/backend.ts'
import type { BufferSpec, Recording, Step } from '../recording.ts'
import { stride } from '../../shaders/kernel.ts'
import { ACT_TABLE, GATED, RESIDUAL, STORE } from '../../shaders/linear.ts'
import { bytesOf } from './play.ts'
import type { Outputs } from './play.ts'
import { bent, Draw, exp2Table, tableOf } from './draw.ts'

export interface LayerShape {
  d: number
  heads: number
  kvHeads: number
  headDim: number
  ff: number
  norm: 'rms' | 'layer'
  qkNorm: boolean
  a15: 0 | 1
}

export const layerShapes: LayerShape[] = [
  { d: 64, heads: 4, kvHeads: 2, headDim: 16, ff: 96, norm: 'rms', qkNorm: false, a15: 0 },
  { d: 50, heads: 3, kvHeads: 1, headDim: 22, ff: 70, norm: 'rms', qkNorm: true, a15: 1 },
  { d: 72, heads: 2, kvHeads: 2, headDim: 36, ff: 100, norm: 'layer', qkNorm: false, a15: 0 },
  { d: 48, heads: 6, kvHeads: 3, headDim: 64, ff: 40, norm: 'layer', qkNorm: true, a15: 1 },
]

/** Row counts to run one after another: each run adds keys the next one sees. */
const runs = [1, 1, 3, 1, 5, 2]
const ROWS = 5
const KV_ROWS = 300
/** Layers of the trace, of which this one is the second. */
const LAYERS = 3

/** The layer, and the bytes of its constants and inputs by buffer (matrices unpadded). */
export function layerOf(
  shape: LayerShape,
  seed: number,
): { recording: Recording; data: Map<string, Uint8Array> } {
  const { d, heads, kvHeads, headDim: hd, ff, norm, qkNorm, a15 } = shape
  const r = new Draw(seed, JSON.stringify(shape))
  const buffers: Record<string, BufferSpec> = {}
  const data = new Map<string, Uint8Array>()
  const add = (
    name: string,
    dtype: BufferSpec['dtype'],
    kind: BufferSpec['kind'],
    values: ArrayLike<number>,
  ): string => {
    buffers[name] = { dtype, kind, length: values.length }
    data.set(name, bytesOf(values as Int32Array))
    return name
  }
  const widest = stride(Math.max(d, ff, heads * hd))
  const plane = ROWS * widest
  const scratch = (name: string, dtype: BufferSpec['dtype'], length: number): string => {
    buffers[name] = { dtype, kind: 'scratch', length }
    return name
  }
  const matrix = (name: string, n: number, k: number): string => {
    buffers[name] = { dtype: 'i8', kind: 'matrix', length: n * stride(k), matrix: { rows: n, k } }
    data.set(name, bytesOf(r.i8(n * k)))
    return name
  }
  const q = scratch('q', 'i8', 2 * plane)
  const s = scratch('s', 'u32', ROWS)
  const x = add('x', 'i32', 'scratch', r.i32(ROWS * d, 2 ** 18))
  const table = add('table', 'i32', 'constant', tableOf(bent))
  const exp2 = add('exp2', 'i32', 'constant', exp2Table())
  const projected = (heads + 2 * kvHeads) * hd
  const qkv = scratch('qkv', 'i32', ROWS * projected)
  const mixed = scratch('mixed', 'i32', ROWS * heads * hd)
  const hidden = scratch('hidden', 'i32', ROWS * ff)
  const trace = scratch('trace', 'u32', KV_ROWS * LAYERS * 4)
  buffers.rows = { dtype: 'u32', kind: 'input', length: 4 * (1 + ROWS) }
  const cache = { k: 'k', v: 'v', kvs: 'kvs' }
  add('k', 'i8', 'cache', r.rows8(KV_ROWS * kvHeads, hd))
  add('v', 'i8', 'cache', r.rows8(KV_ROWS * kvHeads, hd))
  add('kvs', 'u32', 'cache', r.scales(KV_ROWS * 2 * kvHeads, 12, 22))

  const step = (kernel: Step['kernel'], params: Step['params'], bound: Step['buffers']): Step => ({
    kernel,
    params,
    buffers: bound,
    domain: 'rows',
  })
  const normalise = (name: string): Step => {
    const keeps = name === 'norm1'
    const params = { d, epsM: 40000, epsK: 3, a15, plane, layer: Number(keeps), layers: keeps ? LAYERS : 0 }
    const traced = keeps ? { rows: 'rows', trace } : { rows: null, trace: null }
    const gain = add(`${name}.gain`, 'i16', 'constant', r.i16(d))
    return norm === 'rms'
      ? step('rmsnorm_quant', params, { x, gain, q, s, ...traced })
      : step(
          'layernorm_quant',
          { ...params, cM: 50000, cE: 14 },
          { x, gain, bias: add(`${name}.bias`, 'i32', 'constant', r.i32(d)), y: null, q, s, ...traced },
        )
  }
  const linear = (name: string, k: number, n: number, out: string, mode: number, act: number): Step =>
    step(
      'linear',
      { k, n, outFrom: 0, outStride: mode === GATED ? n / 2 : n, mode, act, a15, plane },
      {
        q,
        s,
        w: matrix(`${name}.w`, n, k),
        ws: add(`${name}.ws`, 'u32', 'constant', r.scales(n, 14, 18)),
        bias: add(`${name}.bias`, 'i32', 'constant', r.i32(n)),
        table: act ? table : null,
        out,
      },
    )
  const quant = (from: string, k: number): Step => step('quant', { d: k, a15, plane }, { x: from, q, s })
  const qh = scratch('qh', 'i8', ROWS * heads * stride(hd))
  const qhs = scratch('qhs', 'u32', ROWS * heads)
  const ropeTable = add(
    'rope',
    'u32',
    'constant',
    r.u32s(KV_ROWS * (hd >> 1)).map((w) => w & 0x7fff7fff),
  )
  const gains = qkNorm ? add('qknorm', 'i16', 'constant', r.i16(2 * hd)) : null
  const body: Step[] = [
    normalise('norm1'),
    linear('qkv', d, projected, qkv, STORE, 0),
    step(
      'heads',
      { heads, kvHeads, headDim: hd, rope: 1, qkNorm: Number(qkNorm), epsM: 40000, epsK: -8 },
      { rows: 'rows', qkv, ropeTable, norm: gains, q: qh, qs: qhs, ...cache },
    ),
    step(
      'attention',
      { heads, kvHeads, headDim: hd, scoreM: 40000, scoreE: 30 },
      { rows: 'rows', q: qh, qs: qhs, ...cache, exp2, out: mixed },
    ),
    quant(mixed, heads * hd),
    linear('o', heads * hd, d, x, RESIDUAL, 0),
    normalise('norm2'),
    linear('up', d, 2 * ff, hidden, GATED, ACT_TABLE),
    quant(hidden, ff),
    linear('down', ff, d, x, RESIDUAL, 0),
  ]
  return { recording: { buffers, sections: { body }, max: { rows: ROWS, picks: 1, segments: 1 } }, data }
}

/** Bytes of the layer's residual, outputs and KV cache after each run, by what they are. */
export async function playLayer(backend: Backend, shape: LayerShape, seed: number): Promise<Outputs> {
  const { recording, data } = layerOf(shape, seed)
  const program = await backend.load(recording)
  try {
    fill(program, recording, data)
    const found: Outputs = new Map()
    let position = 280
    for (const [at, n] of runs.entries()) {
      const rows = new Uint32Array(4 * (1 + n))
      rows.set([n, 1, 1, 0])
      // One sequence from KV row 2 on, its rows in a row; at the end two sequences side by side.
      for (let t = 0; t < n; t++) {
        const other = at === runs.length - 1 && t === 1
        rows.set(other ? [0, 1, 0, 2] : [0, position, 2, position + 1], 4 + 4 * t)
        if (!other) position++
      }
      program.write('rows', 0, bytesOf(rows))
      program.run(['body'], { rows: n, picks: 0, segments: 0 })
      for (const name of ['x', 'mixed', 'hidden', 'k', 'v', 'kvs']) {
        const size = data.get(name)?.length ?? 4 * recording.buffers[name]!.length
        found.set(`${name} after run ${at} of ${n} rows`, await program.read(name, 0, size))
      }
    }
    return found
  } finally {
    program.free()
  }
}

/** Only a norm and the linear layer behind it, which a backend may play as one over few rows. */
export async function playNormAndLinear(backend: Backend, shape: LayerShape, seed: number): Promise<Outputs> {
  const { recording: whole, data } = layerOf(shape, seed)
  const steps = whole.sections.body!.slice(0, 2)
  const used = new Set(steps.flatMap(({ buffers }) => Object.values(buffers)))
  const buffers = Object.fromEntries(
    Object.entries(whole.buffers).filter(([name]) => used.has(name) || name === 'rows'),
  )
  const recording: Recording = { ...whole, buffers, sections: { body: steps } }
  const program = await backend.load(recording)
  try {
    fill(program, recording, data)
    const found: Outputs = new Map()
    for (const n of [1, 3, ROWS]) {
      program.write('rows', 0, bytesOf(Uint32Array.of(n, 1, 1, 0)))
      program.run(['body'], { rows: n, picks: 0, segments: 0 })
      found.set(
        `qkv of ${n} rows`,
        await program.read('qkv', 0, 4 * (recording.buffers.qkv!.length / ROWS) * n),
      )
    }
    return found
  } finally {
    program.free()
  }
}

function fill(program: Program, { buffers }: Recording, data: ReadonlyMap<string, Uint8Array>): void {
  for (const [name, values] of data) {
    if (!buffers[name]) continue
    if (buffers[name].matrix) program.writeMatrix(name, 0, values)
    else program.write(name, 0, values)
  }
}
