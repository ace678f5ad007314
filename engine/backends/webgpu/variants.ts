/** The ways to launch a kernel that has more than one, listed once; all give the same bytes. */

export interface Choice {
  /** Words per chunk of a matrix panel, see panels.ts. */
  chunk: 1 | 4
  threadsPerGroup: number
  threadsPerRow: number
  threadsPerHead: number
  threadsPerVocab: number
  /** Up to this many rows a step is launched its `few` way. */
  fewMax: number
}

export const gpuChoice: Choice = {
  chunk: 4,
  threadsPerGroup: 64,
  threadsPerRow: 64,
  threadsPerHead: 32,
  threadsPerVocab: 256,
  fewMax: 4,
}

export const softwareChoice: Choice = {
  chunk: 4,
  threadsPerGroup: 64,
  threadsPerRow: 4,
  threadsPerHead: 4,
  threadsPerVocab: 4,
  fewMax: 4,
}

export interface LinearClass {
  k: number
  n: number
  gated: boolean
}
export interface LinearLaunch {
  shader: string
  extra: Record<string, number>
  groups(rows: number): readonly [number, number]
}

export function linearMany(_choice: Choice, { n }: LinearClass): LinearLaunch {
  const extra = { WG: 32 }
  return { shader: 'linear', extra, groups: (rows) => [Math.ceil(n / 128), Math.ceil(rows / 4)] }
}

export function linearFew(choice: Choice, of: LinearClass): LinearLaunch {
  return linearMany(choice, of)
}
