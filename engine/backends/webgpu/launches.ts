/**
 * From a Recording's steps to launches: which WGSL file plays a step, with which override constants, over which grid.
 * Kernels with more than one way to do it are listed in `variants.ts`.
 */
import type { Params } from '../../../shaders/kernel.ts'
import { stride } from '../../../shaders/kernel.ts'
import { GATED } from '../../../shaders/linear.ts'
import type { Domain, Step } from '../../recording.ts'
import { linearFew, linearMany, type Choice } from './variants.ts'

export interface Launch {
  /** Name of a WGSL file. */
  shader: string
  /** Values of its overrides. */
  constants: Record<string, number>
  /** Name in WGSL → buffer of the recording, null where there is none. */
  buffers: Record<string, string | null>
  domain: Domain
  /** Workgroups for n rows (or picks, or segments), before folding. */
  groups(n: number): readonly [number, number]
  /** Rough cost of n rows in multiply-adds, for splitting submissions. */
  work(n: number): number
}

const domains: Record<Domain, number> = { rows: 0, picks: 1, segments: 2 }

/** Override constants are named as the twin's params: epsM → EPS_M. */
export const constantName = (name: string): string =>
  name.replace(/([a-z0-9])([A-Z])/g, '$1_$2').toUpperCase()

export function constantsOf(params: Params): Record<string, number> {
  return Object.fromEntries(Object.entries(params).map(([name, value]) => [constantName(name), value]))
}

/** How a step is launched, when few rows are present or when many are. */
export function launchOf(step: Step, choice: Choice, few: boolean): Launch {
  const { kernel, params, buffers, domain } = step
  const p = (name: string): number => params[name] ?? 0
  const d = p('d')
  const base = { shader: kernel, buffers, domain }
  const constants: Record<string, number> = { ...constantsOf(params), DOMAIN: domains[domain] }
  if ('plane' in params) constants.PLANE = p('plane') / 4
  const values = choice.threadsPerGroup
  const rows = choice.threadsPerRow
  const perValue = {
    groups: (n: number) => [Math.ceil((n * d) / values), 1] as const,
    work: (n: number) => n * d,
  }
  const perRow = { groups: (n: number) => [n, 1] as const, work: (n: number) => 20 * n * d }
  switch (kernel) {
    case 'embed':
      constants.HAS_POSITIONS = Number(buffers.positions !== null)
      return { ...base, ...perValue, constants: { ...constants, WG: values, CHUNK: choice.chunk } }
    case 'gather':
      return { ...base, ...perValue, constants: { ...constants, WG: values } }
    case 'quant':
    case 'rmsnorm_quant':
    case 'pool':
      return { ...base, ...perRow, constants: { ...constants, WG: rows } }
    case 'layernorm_quant': {
      const y = buffers.y === null ? 0 : buffers.y === buffers.x ? 2 : 1
      // One buffer may not be bound twice for writing.
      const bound = { ...buffers, y: y === 1 ? buffers.y! : null }
      return { ...base, ...perRow, buffers: bound, constants: { ...constants, WG: rows, Y: y } }
    }
    case 'linear': {
      constants.HAS_BIAS = Number(buffers.bias !== null)
      const { shader, extra, groups } = (few ? linearFew : linearMany)(choice, {
        k: p('k'),
        n: p('n'),
        gated: p('mode') === GATED,
      })
      const work = (n: number): number => n * p('n') * stride(p('k')) * (1 + p('a15'))
      return { ...base, shader, groups, work, constants: { ...constants, ...extra } }
    }
    case 'heads': {
      const each = p('heads') + 2 * p('kvHeads')
      const size = { H: p('heads'), KV: p('kvHeads'), HD: p('headDim') }
      const groups = (n: number): readonly [number, number] => [n * each, 1]
      const work = (n: number): number => 20 * n * each * p('headDim')
      return { ...base, groups, work, constants: { ...constants, ...size, WG: choice.threadsPerHead } }
    }
    case 'attention': {
      const hd = p('headDim')
      const size = { H: p('heads'), KV: p('kvHeads'), HD: hd, CHUNKS: stride(hd) / 16 }
      const groups = (n: number): readonly [number, number] => [n * p('heads'), 1]
      // The length is known on the device only: reckoned as if each row saw all rows before it.
      const work = (n: number): number => n * p('heads') * hd * 8 * Math.max(n, 256)
      return { ...base, groups, work, constants: { ...constants, ...size, WG: choice.threadsPerRow } }
    }
    case 'sample':
      return {
        ...base,
        constants: { ...constants, WG: choice.threadsPerVocab },
        groups: (n) => [n, 1],
        work: (n) => 20 * n * p('vocab'),
      }
  }
}

/** A grid within WebGPU's 65,535 per dimension; kernels undo it with groupIndex(). */
export function folded(groups: readonly [number, number]): readonly [number, number] {
  const [x, y] = groups
  if (x <= 65535 || y !== 1) return groups
  const high = Math.ceil(x / 65535)
  return [Math.ceil(x / high), high]
}
