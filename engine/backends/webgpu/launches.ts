/** From a Recording's steps to launches: which WGSL file plays a step, with which override constants, over which grid. */
import type { Params } from '../../../shaders/kernel.ts'
import { stride } from '../../../shaders/kernel.ts'
import type { Domain, Step } from '../../recording.ts'
import { linearFew, linearMany, type Choice, type LinearVariant } from './variants.ts'

type Grid = readonly [x: number, y: number]

export interface Launch {
  /** Name of a WGSL file. */
  shader: string
  /** Values of its overrides. */
  constants: Record<string, number>
  /** The step's params: those that differ from layer to layer travel as a uniform (layerOf). */
  params: Params
  /** Name in WGSL → buffer of the recording, null where there is none. */
  buffers: Record<string, string | null>
  domain: Domain
  /** Workgroups for n rows (or picks, or segments), before folding. */
  groups(n: number): Grid
  /** Rough cost of n rows in multiply-adds, for splitting submissions. */
  work(n: number): number
}

const domains: Record<Domain, number> = { rows: 0, picks: 1, segments: 2 }

/** The words of shaders/shared/layer.wgsl. */
const layerWords = ['cM', 'cE', 'scoreM', 'scoreE', 'layer', '', '', '']
export const layerOf = (params: Params): Int32Array<ArrayBuffer> =>
  Int32Array.from(layerWords, (name) => params[name] ?? 0)

/** Override constants are named as the twin's params: epsM → EPS_M; planes are counted in words, not bytes. */
export function constantsOf(params: Params, domain: Domain): Record<string, number> {
  const fixed = Object.entries(params).filter(([name]) => !layerWords.includes(name))
  const named = fixed.map(([name, value]) => {
    const constant = name.replace(/([a-z0-9])([A-Z])/g, '$1_$2').toUpperCase()
    return [constant, name === 'plane' ? value / 4 : value]
  })
  return { ...(Object.fromEntries(named) as Record<string, number>), DOMAIN: domains[domain] }
}

/** How a step alone is launched, when few rows are present or when many are. */
export function launchOf(step: Step, choice: Choice, few: boolean): Launch {
  const { kernel, params, buffers, domain } = step
  const p = (name: string): number => params[name] ?? 0
  const d = p('d')
  const constants = constantsOf(params, domain)
  const launch = (
    extra: Record<string, number>,
    groups: (n: number) => Grid,
    work: (n: number) => number,
  ): Launch => ({
    shader: kernel,
    params,
    buffers,
    domain,
    constants: { ...constants, ...extra },
    groups,
    work,
  })
  const perValue = (n: number): Grid => [Math.ceil((n * d) / choice.valueThreads), 1]
  const perRow = (n: number): Grid => [n, 1]
  const rowWork = (n: number): number => 20 * n * d
  switch (kernel) {
    case 'embed':
      return launch(
        { WG: choice.valueThreads, HAS_POSITIONS: Number(buffers.positions !== null) },
        perValue,
        rowWork,
      )
    case 'gather':
      return launch({ WG: choice.valueThreads }, perValue, rowWork)
    case 'digest':
    case 'quant':
    case 'rmsnorm_quant':
    case 'pool':
      return launch({ WG: choice.rowThreads }, perRow, rowWork)
    case 'layernorm_quant': {
      const y = buffers.y === null ? 0 : buffers.y === buffers.x ? 2 : 1
      const played = launch({ WG: choice.rowThreads, Y: y }, perRow, rowWork)
      // One buffer may not be bound twice for writing.
      return { ...played, buffers: { ...buffers, y: y === 1 ? buffers.y! : null } }
    }
    case 'linear':
      return linearLaunch(step, few ? linearFew[choice.few]! : linearMany[choice.many]!)
    case 'heads': {
      const each = p('heads') + 2 * p('kvHeads')
      return launch(
        { WG: choice.headThreads, ...headConstants(step) },
        (n) => [n * each, 1],
        (n) => 20 * n * each * p('headDim'),
      )
    }
    case 'attention': {
      const size = { F32: choice.f32, ...headConstants(step) }
      const work = attentionWork(step)
      if (few) return launch({ WG: choice.rowThreads, ...size }, (n) => [n * p('heads'), 1], work)
      // 32: so that TILE probabilities of each query fit WebGPU's default workgroup storage
      const queries = Math.min(32, Math.max(1, Math.floor(choice.queryThreads / size.CHUNKS)))
      const groups = (n: number): Grid => [Math.ceil(n / queries) * p('heads'), 1]
      return { ...launch({ QUERIES: queries, ...size }, groups, work), shader: 'attention_rows' }
    }
    case 'sample':
      return launch({ WG: choice.vocabThreads }, perRow, (n) => 20 * n * p('vocab'))
  }
}

/** A linear step in one of its variants. */
export function linearLaunch(step: Step, variant: LinearVariant): Launch {
  const { params, buffers, domain } = step
  const { k = 0, n = 0, a15 = 0 } = params
  return {
    shader: variant.shader,
    params,
    constants: {
      ...constantsOf(params, domain),
      HAS_BIAS: Number(buffers.bias !== null),
      ...variant.constants,
    },
    buffers,
    domain,
    groups: (rows) => [Math.ceil(n / variant.columns), Math.ceil(rows / variant.rows)],
    work: (rows) => rows * n * stride(k) * (1 + a15),
  }
}

/** A normalising or quantising step and a linear one after it, as one; `keeps` the trace that the norm keeps. */
export function linearNormLaunch(norm: Step, linear: Step, choice: Choice, keeps: boolean): Launch {
  const alone = linearLaunch(linear, linearFew[choice.few]!)
  const { k = 0, a15 = 0 } = linear.params
  const prologue = { quant: 1, rmsnorm_quant: 2, layernorm_quant: 3 }[norm.kernel as string]!
  const chunks = stride(k) / 16
  return {
    ...alone,
    shader: keeps ? 'linear_norm_traced' : 'linear_norm',
    params: norm.params,
    constants: {
      ...constantsOf(norm.params, norm.domain),
      ...alone.constants,
      PROLOGUE: prologue,
      CHUNKS: chunks,
      CHUNKS_LOW: a15 ? chunks : 1,
    },
    buffers: {
      ...linear.buffers,
      x: norm.buffers.x!,
      gain: norm.buffers.gain ?? null,
      shift: norm.buffers.bias ?? null,
      ...(keeps ? { rows: norm.buffers.rows!, trace: norm.buffers.trace! } : {}),
    },
  }
}

/** Workgroup storage of a fused linear step, in bytes. */
export function linearNormStorage(linear: Step, choice: Choice): number {
  const { k = 0, a15 = 0 } = linear.params
  return (1 + a15) * stride(k) + linearFew[choice.few]!.storageBytes + 256
}

/** heads and attention as one, for a single row. */
export function headsAttentionLaunch(heads: Step, attention: Step, choice: Choice): Launch {
  const { domain } = heads
  return {
    shader: 'heads_attention',
    params: attention.params,
    constants: {
      ...constantsOf(heads.params, domain),
      ...constantsOf(attention.params, domain),
      ...headConstants(heads),
      WG: choice.rowThreads,
      F32: choice.f32,
    },
    buffers: { ...heads.buffers, exp2: attention.buffers.exp2!, out: attention.buffers.out! },
    domain,
    groups: () => [heads.params.heads!, 1],
    work: attentionWork(attention),
  }
}

function headConstants({ params }: Step): { H: number; KV: number; HD: number; CHUNKS: number } {
  const { heads = 0, kvHeads = 0, headDim = 0 } = params
  return { H: heads, KV: kvHeads, HD: headDim, CHUNKS: stride(headDim) / 16 }
}

/** The length is known on the device only: reckoned as if each row saw the rows before it, and 256 at least. */
function attentionWork({ params }: Step): (n: number) => number {
  return (n) => n * params.heads! * params.headDim! * 8 * Math.max(n, 256)
}

/** A grid within WebGPU's 65,535 per dimension; kernels undo it with groupIndex(). */
export function folded(groups: Grid): Grid {
  const [x, y] = groups
  if (x <= 65535 || y !== 1) return groups
  const high = Math.ceil(x / 65535)
  return [Math.ceil(x / high), high]
}
