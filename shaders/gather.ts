import type { Kernel } from './kernel.ts'

export type GatherParams = { d: number }
export interface GatherBuffers {
  x: Int32Array // [rows, D]
  picks: Uint32Array // [n] row numbers
  out: Int32Array // [n, D]
}

/** out[r] = x[picks[r]]: the rows whose logits, or [CLS] state, are wanted. */
export const gather: Kernel<GatherParams, GatherBuffers> = {
  name: 'gather',
  run({ d }, { x, picks, out }, n) {
    for (let r = 0; r < n; r++) out.set(x.subarray(picks[r]! * d, picks[r]! * d + d), r * d)
  },
}
