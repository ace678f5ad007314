/**
 * The peephole: a section's steps as plays. With many rows present steps run one by one; with few (a decoder's next token)
 * neighbours run as one launch, so that a decoder layer costs five.
 */
import type { Domain, Recording, Step } from '../../recording.ts'
import {
  headsAttentionLaunch,
  launchOf,
  linearNormLaunch,
  linearNormStorage,
  type Launch,
} from './launches.ts'
import type { Choice } from './variants.ts'

export interface Play<L = Launch> {
  domain: Domain
  /** The first tier whose `most` rows are not exceeded is launched. */
  tiers: Array<{ most: number; launches: L[] }>
}

export const tierFor = <L>(play: Play<L>, n: number): L[] =>
  play.tiers.find(({ most }) => n <= most)!.launches

const normalises = new Set(['quant', 'rmsnorm_quant', 'layernorm_quant'])

export function playOf(
  section: string,
  recording: Recording,
  choice: Choice,
  workgroupBytes: number,
): Play[] {
  const steps = recording.sections[section]!
  const plays: Play[] = []
  for (let i = 0; i < steps.length;) {
    const found = normAndLinears(steps, i, choice, workgroupBytes) ?? headsAndAttention(steps, i, choice)
    const size = found?.size ?? 1
    const group = steps.slice(i, i + size)
    const dead = found?.dropped.every((name) => isDead(name, recording, steps, i + size)) ?? false
    const each = (few: boolean): Launch[] => group.map((step) => launchOf(step, choice, few))
    const tiers = [{ most: Infinity, launches: each(false) }]
    if (choice.fewMax > 0) tiers.unshift({ most: choice.fewMax, launches: each(true) })
    if (found && dead && choice.fewMax > 0) tiers.unshift({ most: found.most, launches: found.launches })
    const { domain } = steps[i]!
    // What more rows than there can be would need is not compiled.
    const last = tiers.findIndex(({ most }) => most >= recording.max[domain])
    plays.push({ domain, tiers: tiers.slice(0, last + 1) })
    i += size
  }
  return plays
}

interface Fused {
  /** Steps it stands for. */
  size: number
  most: number
  launches: Launch[]
  /** Buffers it does not write though its steps would. */
  dropped: string[]
}

/** A normalising step and the linear layer it feeds, which may come in several parts. */
function normAndLinears(
  steps: readonly Step[],
  i: number,
  choice: Choice,
  workgroupBytes: number,
): Fused | undefined {
  const norm = steps[i]!
  if (!normalises.has(norm.kernel)) return undefined
  // A kept row has other readers: every workgroup would race to write it.
  if (norm.buffers.y) return undefined
  const linears: Step[] = []
  for (let step = steps[i + 1]; step; step = steps[i + 1 + linears.length]) {
    const { kernel, buffers, params, domain } = step
    const fits =
      kernel === 'linear' &&
      domain === norm.domain &&
      buffers.q === norm.buffers.q &&
      buffers.s === norm.buffers.s &&
      buffers.out !== norm.buffers.x &&
      params.k === norm.params.d &&
      params.a15 === norm.params.a15 &&
      // linear_norm_traced has no table
      !(norm.buffers.trace && buffers.table) &&
      linearNormStorage(step, choice) <= workgroupBytes
    if (!fits) break
    linears.push(step)
  }
  if (linears.length === 0) return undefined
  return {
    size: 1 + linears.length,
    most: choice.fewMax,
    launches: linears.map((linear, part) =>
      linearNormLaunch(norm, linear, choice, Boolean(norm.buffers.trace) && part === 0),
    ),
    dropped: [norm.buffers.q!, norm.buffers.s!],
  }
}

/** With one row there is one new key per head, so no workgroup waits for another's. */
function headsAndAttention(steps: readonly Step[], i: number, choice: Choice): Fused | undefined {
  const heads = steps[i]!
  const attention = steps[i + 1]
  if (heads.kernel !== 'heads' || attention?.kernel !== 'attention') return undefined
  if (heads.domain !== attention.domain) return undefined
  const shared = ['rows', 'q', 'qs', 'k', 'v', 'kvs'].every(
    (slot) => heads.buffers[slot] === attention.buffers[slot],
  )
  const alike = ['heads', 'kvHeads', 'headDim'].every((name) => heads.params[name] === attention.params[name])
  if (!shared || !alike) return undefined
  return {
    size: 2,
    most: 1,
    launches: [headsAttentionLaunch(heads, attention, choice)],
    dropped: [heads.buffers.q!, heads.buffers.qs!],
  }
}

/** Nobody reads this scratch buffer after step `from` of a section before writing it anew. */
function isDead(name: string, recording: Recording, steps: readonly Step[], from: number): boolean {
  if (recording.buffers[name]!.kind !== 'scratch') return false
  const firstUse = (list: readonly Step[]): boolean | undefined => {
    const step = list.find(({ buffers }) => Object.values(buffers).includes(name))
    return step && reads(step, name)
  }
  const here = firstUse(steps.slice(from))
  if (here !== undefined) return !here
  return !Object.values(recording.sections).some((other) => firstUse(other))
}

function reads({ kernel, buffers }: Step, name: string): boolean {
  const written = {
    heads: ['q', 'qs'],
    quant: ['q', 's'],
    rmsnorm_quant: ['q', 's'],
    layernorm_quant: ['q', 's'],
  }
  const outs: readonly string[] = written[kernel as keyof typeof written] ?? []
  return !outs.some((slot) => buffers[slot] === name)
}
