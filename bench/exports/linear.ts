/** What both exports share: reading weights, and a linear layer in f32 or dynamically quantised int8. */

import type { Linear, Weight } from '../../engine/weights/logical.ts'
import type { OnnxGraph } from '../formats/onnx.ts'
import { MICROSOFT } from '../formats/onnx.ts'

export type Precision = 'f32' | 'q8'

/** transformers.js's file name for a precision. */
export const FILE: Record<Precision, string> = { f32: 'model.onnx', q8: 'model_quantized.onnx' }

export async function constant(graph: OnnxGraph, weight: Weight): Promise<string> {
  return graph.constant('f32', weight.shape, await weight.read())
}

/** [out, in] rows of several layers, one below the other → [in, out], as ONNX wants the right-hand side of a product. */
async function columns(
  layers: readonly Linear[],
): Promise<{ data: Float32Array; rows: number; inputs: number }> {
  const inputs = layers[0]!.weight.shape[1]!
  const rows = layers.reduce((sum, layer) => sum + layer.weight.shape[0]!, 0)
  const data = new Float32Array(rows * inputs)
  let row = 0
  for (const layer of layers) {
    const weight = await layer.weight.read()
    for (let r = 0; r < layer.weight.shape[0]!; r++, row++) {
      for (let i = 0; i < inputs; i++) data[i * rows + row] = weight[r * inputs + i]!
    }
  }
  return { data, rows, inputs }
}

export interface Quantised {
  /** int8, [in, out]. */
  weight: string
  /** f32, [out]: symmetric, one per output channel. */
  scale: string
}

/** Several layers over the same input as one matrix. */
export async function floatWeight(graph: OnnxGraph, layers: readonly Linear[]): Promise<string> {
  const { data, rows, inputs } = await columns(layers)
  return graph.constant('f32', [inputs, rows], data)
}

export async function int8Weight(graph: OnnxGraph, layers: readonly Linear[]): Promise<Quantised> {
  const { data, rows, inputs } = await columns(layers)
  const scales = new Float32Array(rows)
  const quantised = new Int8Array(data.length)
  for (let column = 0; column < rows; column++) {
    let largest = 0
    for (let i = 0; i < inputs; i++) largest = Math.max(largest, Math.abs(data[i * rows + column]!))
    const scale = largest === 0 ? 1 : largest / 127
    scales[column] = scale
    for (let i = 0; i < inputs; i++)
      quantised[i * rows + column] = Math.round(data[i * rows + column]! / scale)
  }
  return {
    weight: graph.constant('i8', [inputs, rows], quantised),
    scale: graph.constant('f32', [rows], scales),
  }
}

/** Biases one after the other; null when the layers have none. */
export async function biasOf(graph: OnnxGraph, layers: readonly Linear[]): Promise<string | null> {
  const parts: Float32Array[] = []
  for (const { weight, bias } of layers)
    parts.push(bias === null ? new Float32Array(weight.shape[0]!) : await bias.read())
  if (layers.every(({ bias }) => bias === null)) return null
  const all = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0))
  let at = 0
  for (const part of parts) {
    all.set(part, at)
    at += part.length
  }
  return graph.constant('f32', [all.length], all)
}

/** x · Wᵀ of one or more layers side by side, without their biases: fused operators add those. */
export async function product(
  graph: OnnxGraph,
  x: string,
  layers: readonly Linear[],
  precision: Precision,
  output?: string,
): Promise<string> {
  if (precision === 'f32') return graph.node('MatMul', [x, await floatWeight(graph, layers)], {}, '', output)
  const { weight, scale } = await int8Weight(graph, layers)
  return graph.node('DynamicQuantizeMatMul', [x, weight, scale], {}, MICROSOFT, output)
}
