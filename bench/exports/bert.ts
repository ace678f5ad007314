/**
 * A BERT classifier as an ONNX graph of ONNX Runtime's fused operators: what its own optimiser makes of the model, and the
 * best its CPU can be given. Inputs input_ids and attention_mask, int64 [batch, length]; output logits [batch, labels].
 */

import type { ModelSpec } from '../../engine/models/spec.ts'
import type { ModelTensors } from '../../engine/weights/logical.ts'
import { MICROSOFT, OnnxGraph } from '../formats/onnx.ts'
import { biasOf, constant, floatWeight, int8Weight, product } from './linear.ts'
import type { Precision } from './linear.ts'

export async function exportBert(
  spec: ModelSpec,
  tensors: ModelTensors,
  precision: Precision,
): Promise<Uint8Array<ArrayBuffer>> {
  const { positions, embeddingNorm, pooler, classifier } = tensors
  if (positions === null || embeddingNorm === null || pooler === null || classifier === null) {
    throw new Error('this export is for BERT classifiers only')
  }
  const graph = new OnnxGraph()
  const ids = graph.input('input_ids', 'i64', ['batch', 'length'])
  const mask = graph.node('Cast', [graph.input('attention_mask', 'i64', ['batch', 'length'])], { to: 6 })

  const length = graph.node('Slice', [graph.node('Shape', [ids]), graph.i64([1]), graph.i64([2])])
  const places = graph.node('Slice', [
    await constant(graph, positions),
    graph.i64([0]),
    length,
    graph.i64([0]),
  ])
  const words = graph.node('Gather', [await constant(graph, tensors.embedding), ids])
  const norm = { axis: -1, epsilon: { float: spec.eps } }
  let x = graph.node(
    'LayerNormalization',
    [
      graph.node('Add', [words, places]),
      await constant(graph, embeddingNorm.gain),
      await constant(graph, embeddingNorm.bias!),
    ],
    norm,
  )

  for (let i = 0; i < spec.layers; i++) {
    const block = tensors.blockTensors(i)
    const qkv = [block.q, block.k, block.v]
    const bias = (await biasOf(graph, qkv)) ?? ''
    const heads = { num_heads: spec.heads }
    let attended: string
    if (precision === 'f32') {
      attended = graph.node('Attention', [x, await floatWeight(graph, qkv), bias, mask], heads, MICROSOFT)
    } else {
      const [bytes, scale, zero] = graph.nodes('DynamicQuantizeLinear', [x], 3) as [string, string, string]
      const { weight, scale: weightScale } = await int8Weight(graph, qkv)
      const inputs = [bytes, weight, bias, scale, weightScale, mask, zero]
      attended = graph.node('QAttention', inputs, heads, MICROSOFT)
    }
    const skip = async (
      sum: string,
      residual: string,
      { gain, bias: shift }: typeof block.attnNorm,
      added: string | null,
    ) =>
      graph.node(
        'SkipLayerNormalization',
        [sum, residual, await constant(graph, gain), await constant(graph, shift!), added ?? ''],
        { epsilon: { float: spec.eps } },
        MICROSOFT,
      )
    const out = await product(graph, attended, [block.o], precision)
    x = await skip(out, x, block.attnNorm, await biasOf(graph, [block.o]))
    const wide = await product(graph, x, [block.up], precision)
    const active = graph.node('BiasGelu', [wide, (await biasOf(graph, [block.up])) ?? ''], {}, MICROSOFT)
    const narrow = await product(graph, active, [block.down], precision)
    x = await skip(narrow, x, block.mlpNorm, await biasOf(graph, [block.down]))
  }

  const first = graph.node('Gather', [x, graph.constant('i64', [], BigInt64Array.of(0n))], { axis: 1 })
  const gemm = async (input: string, layer: typeof pooler, output?: string) =>
    graph.node(
      'Gemm',
      [input, await constant(graph, layer.weight), await constant(graph, layer.bias!)],
      { transB: 1 },
      '',
      output,
    )
  await gemm(graph.node('Tanh', [await gemm(first, pooler)]), classifier, 'logits')
  graph.output('logits', 'f32', ['batch', classifier.weight.shape[0]!])
  return graph.bytes()
}
