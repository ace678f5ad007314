/**
 * What computing costs, in int8 multiply-adds (MACs): a sum over a model's layers that anybody can do again from its spec, so that
 * work can be paid for by what it was and not by how long somebody says it took. An A15 layer counts once like any other, and what
 * norms, activations and sampling cost is left out: both are chosen by the packer or by the device, not by who asked.
 */
import type { ModelSpec } from './models/spec.ts'

export interface Macs {
  /** Per position computed: the blocks' matrices. */
  perToken: number
  /** Per position and position it attends to, itself included: scores, and values mixed. */
  perPair: number
  /** Per token drawn: the head. 0 for encoders. */
  perDraw: number
  /** Per row of a classify unit: pooler and classifier. 0 for others. */
  perRow: number
}

export function macsOf(spec: ModelSpec): Macs {
  const { layers, width: d, heads, kvHeads, headDim, ff, vocab } = spec
  const attention = (2 * heads + 2 * kvHeads) * headDim * d
  const feedForward = (spec.gated ? 3 : 2) * d * ff
  return {
    perToken: layers * (attention + feedForward),
    perPair: layers * 2 * heads * headDim,
    perDraw: spec.task === 'generate' ? vocab * d : 0,
    perRow: spec.task === 'classify' ? d * d + d * spec.labels!.length : 0,
  }
}
