/** Which tensors a model has in xn1, and what shape: the one list that packer, manifest and recording agree on. */
import type { Dtype } from '../../shaders/kernel.ts'
import type { ModelSpec } from '../models/spec.ts'

export interface ExpectedTensor {
  dtype: Dtype
  shape: number[]
  /** May be left out (biases a model does not have). */
  optional: boolean
  /** The file it goes into: one per block, the embedding, the head, and the tables everybody needs. */
  file: string
}

export function expectedTensors(spec: ModelSpec): Map<string, ExpectedTensor> {
  const { width: d, heads, kvHeads, headDim, ff, vocab, context, layers } = spec
  const tensors = new Map<string, ExpectedTensor>()
  const add = (file: string, name: string, dtype: Dtype, shape: number[], optional = false): void => {
    tensors.set(name, { dtype, shape, optional, file })
  }
  const linear = (file: string, name: string, n: number, k: number): void => {
    add(file, `${name}.weight`, 'i8', [n, k])
    add(file, `${name}.scale`, 'u32', [n])
    add(file, `${name}.bias`, 'i32', [n], true)
  }
  const norm = (file: string, name: string): void => {
    add(file, `${name}.gain`, 'i16', [d])
    if (spec.norm === 'layer') add(file, `${name}.bias`, 'i32', [d])
  }

  add('embedding.bin', 'embed.table', 'i8', [vocab, d])
  add('embedding.bin', 'embed.scale', 'u32', [vocab])
  if (!spec.rope) add('embedding.bin', 'embed.positions', 'i32', [context, d])
  if (spec.family === 'bert') norm('embedding.bin', 'embed.norm')

  for (let i = 0; i < layers; i++) {
    const file = `block-${i}.bin`
    norm(file, `${i}.norm1`)
    linear(file, `${i}.qkv`, (heads + 2 * kvHeads) * headDim, d)
    if (spec.qkNorm) add(file, `${i}.qknorm`, 'i16', [2, headDim])
    linear(file, `${i}.o`, d, heads * headDim)
    norm(file, `${i}.norm2`)
    linear(file, `${i}.up`, spec.gated ? 2 * ff : ff, d)
    linear(file, `${i}.down`, d, ff)
  }

  if (spec.task === 'generate') {
    norm('head.bin', 'final')
    if (spec.tied) {
      add('head.bin', 'head.scale', 'u32', [vocab])
    } else {
      linear('head.bin', 'head', vocab, d)
    }
  }
  if (spec.task === 'classify') {
    linear('head.bin', 'pooler', d, d)
    linear('head.bin', 'classifier', spec.labels!.length, d)
    add('head.bin', 'tanh', 'i32', [2049])
  }
  add('tables.bin', 'exp2', 'i32', [257])
  add('tables.bin', 'act', 'i32', [2049])
  if (spec.rope) add('tables.bin', 'rope', 'u32', [context, headDim / 2])
  return tensors
}
