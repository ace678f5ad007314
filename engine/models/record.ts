/**
 * A model as a Recording: which kernels over which buffers, for a range of blocks. Families differ only here.
 *
 * Tensors of a pack (D width, H heads, KV kv-heads, hd head dim, F feed-forward; block i):
 *   embed.table i8[V,D] · embed.scale u32[V] · embed.positions i32[P,D] · embed.norm.{gain i16[D], bias i32[D]}
 *   i.norm1.{gain,bias} · i.qkv.{weight i8[(H+2KV)·hd, D], scale, bias} · i.qknorm i16[2,hd] · i.o.{weight,scale,bias}
 *   i.norm2.{gain,bias} · i.up.{weight,scale,bias} (gate and up rows interleaved when gated) · i.down.{…}
 *   final.{gain,bias} · head.{weight,scale,bias} (no weight when tied) · pooler.{…} · classifier.{…}
 *   exp2 i32[257] · act i32[2049] · tanh i32[2049] · rope u32[P, hd/2]
 */
import { DIGEST_WORDS } from '../../shaders/digest.ts'
import type { TraceParams } from '../../shaders/digest.ts'
import type { Dtype } from '../../shaders/kernel.ts'
import { stride } from '../../shaders/kernel.ts'
import type { KernelName } from '../../shaders/kernels.ts'
import { ACT_NONE, ACT_TABLE, ACT_TABLE_FLAT, GATED, RESIDUAL, STORE } from '../../shaders/linear.ts'
import { RECORD } from '../../shaders/sample.ts'
import type { BufferSpec, Counts, Domain, Recording, Step } from '../recording.ts'
import type { Exact, ModelSpec, Scale } from './spec.ts'

export interface RecordOptions {
  /** Blocks [start, end) of the model; the embedding belongs to block 0, the head to the last. */
  blocks: readonly [number, number]
  /** Most rows, picks and segments per run. */
  max: Counts
  /** Rows of the KV cache, all sequences together. */
  kvRows: number
  /** Ids kept per sequence on the device between reads. */
  capacity: number
  bindingBytesMax: number
  /** Keep the trace: digests of the residual after the embedding and after each of these blocks. */
  commit?: boolean
}

/** A tensor's shape in the pack, as the recording needs to know it. */
export type TensorShapes = ReadonlyMap<string, { dtype: Dtype; shape: readonly number[] }>

interface LinearOptions {
  n: number
  k: number
  out: string
  mode?: number
  act?: number
  table?: string | null
  a15: boolean
  domain?: Domain
  /** Tensor prefix of the weight where it is not the layer's own (tied head). */
  weight?: string
}

/** The recording of blocks [start, end) of a model. */
export function record(spec: ModelSpec, exact: Exact, tensors: TensorShapes, options: RecordOptions): Recording {
  const { width: d, heads, kvHeads, headDim, ff, vocab } = spec
  const [start, end] = options.blocks
  const { max, kvRows } = options
  const buffers: Record<string, BufferSpec> = {}
  const isFirst = start === 0
  const isLast = end === spec.layers
  const widest = Math.max(stride(d), stride(heads * headDim), stride(ff))
  const mostRows = Math.max(max.rows, max.picks, max.segments)
  const plane = mostRows * widest

  const scratch = (name: string, dtype: Dtype, length: number, kind: BufferSpec['kind'] = 'scratch'): string => {
    buffers[name] ??= { dtype, length: Math.max(length, 4), kind }
    return name
  }
  const constant = (tensor: string, from = 0, to?: number): string => {
    const { dtype, shape } = tensors.get(tensor)!
    const rows = shape[0]!
    const whole = from === 0 && (to ?? rows) === rows
    const name = whole ? tensor : `${tensor}@${from}`
    const perRow = shape.slice(1).reduce((a, b) => a * b, 1)
    const source = { tensor, from, to: to ?? rows }
    buffers[name] ??= { dtype, length: (source.to - from) * perRow, kind: 'constant', source }
    return name
  }
  const optional = (tensor: string, from?: number, to?: number): string | null =>
    tensors.has(tensor) ? constant(tensor, from, to) : null
  const matrix = (tensor: string, k: number, from: number, to: number): string => {
    const rows = tensors.get(tensor)!.shape[0]!
    const name = from === 0 && to === rows ? tensor : `${tensor}@${from}`
    buffers[name] ??= {
      dtype: 'i8',
      length: (to - from) * stride(k),
      kind: 'matrix',
      matrix: { rows: to - from, k },
      source: { tensor, from, to },
    }
    return name
  }
  /** Row ranges of a matrix that each fit one binding. */
  const parts = (n: number, k: number): Array<[number, number]> => {
    const most = Math.max(16, Math.floor(options.bindingBytesMax / stride(k) / 16) * 16)
    return Array.from({ length: Math.ceil(n / most) }, (_, i) => [i * most, Math.min(n, (i + 1) * most)])
  }

  const rows = scratch('rows', 'u32', 4 * (1 + max.rows), 'input')
  const x = scratch('x', 'i32', max.rows * d)
  const q = scratch('q', 'i8', 2 * plane)
  const s = scratch('s', 'u32', mostRows)

  const step = (
    kernel: KernelName, params: Step['params'], bound: Step['buffers'], domain: Domain = 'rows',
  ): Step => ({ kernel, params, buffers: bound, domain }) // prettier-ignore

  const linear = (name: string, o: LinearOptions): Step[] => {
    const mode = o.mode ?? STORE
    const half = mode === GATED ? 1 : 0
    const weight = o.weight ?? `${name}.weight`
    return parts(o.n, o.k).map(([from, to]) =>
      step(
        'linear',
        { k: o.k, n: to - from, outFrom: from >> half, outStride: o.n >> half, mode, act: o.act ?? ACT_NONE, a15: Number(o.a15), plane }, // prettier-ignore
        {
          q, s, w: matrix(weight, o.k, from, to), ws: constant(`${name}.scale`, from, to),
          bias: optional(`${name}.bias`, from, to), table: o.table ? constant(o.table) : null, out: o.out,
        }, // prettier-ignore
        o.domain,
      ),
    )
  }
  const quantise = (from: string, k: number, a15: boolean, domain: Domain = 'rows'): Step =>
    step('quant', { d: k, a15: Number(a15), plane }, { x: from, q, s }, domain)

  // A range of blocks keeps its own layers, so that the traces of all ranges, one after the other, are the model's.
  const firstLayer = isFirst ? 0 : start + 1
  const layers = end + 1 - firstLayer
  const trace = options.commit ? scratch('trace', 'u32', kvRows * layers * DIGEST_WORDS) : null
  type Traced = { params: TraceParams; buffers: { rows: string | null; trace: string | null } }
  const untraced: Traced = { params: { layer: 0, layers: 0 }, buffers: { rows: null, trace: null } }
  /** What a step needs to keep layer l of the trace. */
  const traced = (l: number): Traced =>
    trace && l >= firstLayer ? { params: { layer: l - firstLayer, layers }, buffers: { rows, trace } } : untraced

  /** Normalises `from` and quantises it; `y` keeps the normalised row (post-norm models). */
  const norm = (
    name: string, c: Scale | null, from: string, y: string | null, a15: boolean, keeps = untraced, domain: Domain = 'rows',
  ): Step => {
    const eps = { epsM: exact.eps.m, epsK: exact.eps.k }
    const common = { d, ...eps, a15: Number(a15), plane, ...keeps.params }
    return spec.norm === 'rms'
      ? step('rmsnorm_quant', common, { x: from, gain: constant(`${name}.gain`), q, s, ...keeps.buffers }, domain)
      : step(
          'layernorm_quant',
          { ...common, cM: c!.m, cE: c!.e },
          { x: from, gain: constant(`${name}.gain`), bias: constant(`${name}.bias`), y, q, s, ...keeps.buffers },
          domain,
        )
  } // prettier-ignore

  const body: Step[] = []
  if (isFirst) {
    for (const [from, to] of parts(vocab, d))
      body.push(
        step('embed', { d, from, count: to - from }, {
          rows, table: matrix('embed.table', d, from, to), scale: constant('embed.scale', from, to),
          positions: optional('embed.positions'), out: x,
        }), // prettier-ignore
      )
  }

  const postNorm = spec.family === 'bert'
  if (postNorm) {
    const a15 = exact.blocks[start]?.a15.qkv ?? false
    body.push(isFirst ? norm('embed.norm', exact.embedNorm, x, x, a15, traced(0)) : quantise(x, d, a15))
  }

  const projected = (heads + 2 * kvHeads) * headDim
  const qkv = scratch('qkv', 'i32', max.rows * projected)
  const qh = scratch('qh', 'i8', max.rows * heads * stride(headDim))
  const qhs = scratch('qhs', 'u32', max.rows * heads)
  const mixed = scratch('mixed', 'i32', max.rows * heads * headDim)
  const hidden = scratch('hidden', 'i32', max.rows * ff)
  const exp2 = constant('exp2')

  for (let i = start; i < end; i++) {
    const block = exact.blocks[i]!
    const k = scratch(`${i}.k`, 'i8', kvRows * kvHeads * stride(headDim), 'cache')
    const v = scratch(`${i}.v`, 'i8', kvRows * kvHeads * stride(headDim), 'cache')
    const kvs = scratch(`${i}.kvs`, 'u32', kvRows * 2 * kvHeads, 'cache')
    const act = { act: spec.act === 'tanh' ? ACT_TABLE_FLAT : ACT_TABLE, table: 'act' }

    if (!postNorm) body.push(norm(`${i}.norm1`, block.norm1, x, null, block.a15.qkv, traced(i)))
    body.push(...linear(`${i}.qkv`, { n: projected, k: d, out: qkv, a15: block.a15.qkv }))
    body.push(
      step(
        'heads',
        {
          heads, kvHeads, headDim, rope: Number(spec.rope !== null), qkNorm: Number(spec.qkNorm),
          epsM: exact.headEps?.m ?? 0, epsK: exact.headEps?.k ?? 0,
        }, // prettier-ignore
        { rows, qkv, ropeTable: spec.rope ? constant('rope') : null, norm: optional(`${i}.qknorm`), q: qh, qs: qhs, k, v, kvs },
      ),
      step(
        'attention',
        { heads, kvHeads, headDim, scoreM: block.score.m, scoreE: block.score.e },
        { rows, q: qh, qs: qhs, k, v, kvs, exp2, out: mixed },
      ),
      quantise(mixed, heads * headDim, block.a15.o),
      ...linear(`${i}.o`, { n: d, k: heads * headDim, out: x, mode: RESIDUAL, a15: block.a15.o }),
      norm(postNorm ? `${i}.norm1` : `${i}.norm2`, postNorm ? block.norm1 : block.norm2, x, postNorm ? x : null, block.a15.up),
      ...linear(`${i}.up`, {
        n: spec.gated ? 2 * ff : ff, k: d, out: hidden, mode: spec.gated ? GATED : STORE, a15: block.a15.up, ...act,
      }), // prettier-ignore
      quantise(hidden, ff, block.a15.down),
      ...linear(`${i}.down`, { n: d, k: ff, out: x, mode: RESIDUAL, a15: block.a15.down }),
    )
    if (postNorm) body.push(norm(`${i}.norm2`, block.norm2, x, x, exact.blocks[i + 1]?.a15.qkv ?? false, traced(i + 1)))
  }
  // Nothing here holds the last block's rows.
  if (!postNorm && trace) {
    const last = traced(end)
    body.push(step('digest', { d, ...last.params }, { x, ...last.buffers }))
  }

  const sections: Recording['sections'] = { body }
  if (isLast && spec.task === 'generate') {
    const last = scratch('last', 'i32', max.picks * d)
    const logits = scratch('logits', 'i32', max.picks * vocab)
    const picks = scratch('picks', 'u32', max.picks, 'input')
    const records = scratch('records', 'u32', max.picks * RECORD.words, 'input')
    const ids = scratch('ids', 'u32', max.picks * options.capacity)
    sections.logits = [
      step('gather', { d }, { x, picks, out: last }, 'picks'),
      norm('final', exact.finalNorm, last, null, exact.a15.head, untraced, 'picks'),
      ...linear('head', {
        n: vocab, k: d, out: logits, a15: exact.a15.head, domain: 'picks',
        ...(spec.tied ? { weight: 'embed.table' } : {}),
      }), // prettier-ignore
    ]
    sections.sample = [
      step('sample', { vocab, capacity: options.capacity }, { logits, exp2, records, rows, out: ids }, 'picks'),
    ]
  }
  if (isLast && spec.task !== 'generate') {
    const segments = scratch('segments', 'u32', 2 * max.segments, 'input')
    const pooled = scratch('pooled', 'i32', max.segments * d)
    const pooling = (mean: boolean, unit: boolean): Step =>
      step('pool', { d, mean: Number(mean), unit: Number(unit) }, { x, segments, out: pooled }, 'segments')
    sections.embed = [pooling(spec.pooling !== 'cls', spec.normalize)]
    if (spec.task === 'classify') {
      const state = scratch('state', 'i32', max.segments * d)
      const labels = spec.labels!.length
      const logits = scratch('logits', 'i32', max.segments * labels)
      sections.classify = [
        pooling(false, false),
        quantise(pooled, d, exact.a15.pooler, 'segments'),
        ...linear('pooler', {
          n: d, k: d, out: state, act: ACT_TABLE_FLAT, table: 'tanh', a15: exact.a15.pooler, domain: 'segments',
        }), // prettier-ignore
        quantise(state, d, exact.a15.classifier, 'segments'),
        ...linear('classifier', {
          n: labels, k: d, out: logits, a15: exact.a15.classifier, domain: 'segments',
        }), // prettier-ignore
      ]
    }
  }
  return { buffers, sections, max }
}
