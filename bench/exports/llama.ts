/**
 * A Llama decoder as an ONNX graph of ONNX Runtime's fused operators, in the form its generator tool writes and transformers.js
 * runs: grouped-query attention with RoPE inside, skip + RMSNorm in one node. Inputs input_ids [batch, length], attention_mask [batch,
 * total], past_key_values.i.{key,value} [batch, kvHeads, past, headDim]; outputs logits and present.i.{key,value}.
 *
 * The batch dimension must be called `batch_size`: transformers.js shapes the empty cache by that name.
 */

import type { ModelSpec } from '../../engine/models/spec.ts'
import type { ModelTensors, Norm } from '../../engine/weights/logical.ts'
import { ropeFrequencies } from '../../engine/weights/rope.ts'
import { MICROSOFT, OnnxGraph } from '../formats/onnx.ts'
import { biasOf, constant, product } from './linear.ts'
import type { Precision } from './linear.ts'

function ropeTables(graph: OnnxGraph, spec: ModelSpec): [cos: string, sin: string] {
  const frequencies = ropeFrequencies(spec.rope!, spec.headDim)
  const half = frequencies.length
  const table = (f: (angle: number) => number) =>
    Float32Array.from({ length: spec.context * half }, (_, i) =>
      f(Math.floor(i / half) * frequencies[i % half]!),
    )
  const dims = [spec.context, half]
  return [graph.constant('f32', dims, table(Math.cos)), graph.constant('f32', dims, table(Math.sin))]
}

export async function exportLlama(
  spec: ModelSpec,
  tensors: ModelTensors,
  precision: Precision,
): Promise<Uint8Array<ArrayBuffer>> {
  if (spec.family !== 'llama' || spec.rope === null || tensors.finalNorm === null) {
    throw new Error('this export is for Llama decoders only')
  }
  const graph = new OnnxGraph()
  const ids = graph.input('input_ids', 'i64', ['batch_size', 'length'])
  const mask = graph.input('attention_mask', 'i64', ['batch_size', 'total'])
  const seen = graph.node('ReduceSum', [mask, graph.i64([1])], { keepdims: 0 })
  const last = graph.node('Cast', [graph.node('Sub', [seen, graph.i64([1])])], { to: 6 })
  const totals = graph.node('Gather', [
    graph.node('Shape', [mask]),
    graph.constant('i64', [], BigInt64Array.of(1n)),
  ])
  const total = graph.node('Cast', [totals], { to: 6 })
  const [cos, sin] = ropeTables(graph, spec)
  const epsilon = { float: spec.eps }

  let residual = graph.node('Gather', [await constant(graph, tensors.embedding), ids])
  const addNorm = async (added: string, { gain }: Norm): Promise<string> => {
    const inputs = [added, residual, await constant(graph, gain)]
    const [normed, , , sum] = graph.nodes(
      'SkipSimplifiedLayerNormalization',
      inputs,
      [`${added}_normed`, '', '', `${added}_sum`],
      { epsilon },
      MICROSOFT,
    )
    residual = sum!
    return normed!
  }

  let x = ''
  for (let i = 0; i < spec.layers; i++) {
    const block = tensors.blockTensors(i)
    if (i === 0) {
      const inputs = [residual, await constant(graph, block.attnNorm.gain)]
      x = graph.node('SimplifiedLayerNormalization', inputs, { axis: -1, epsilon, stash_type: 1 })
    }
    const past = (part: string) =>
      graph.input(`past_key_values.${i}.${part}`, 'f32', ['batch_size', spec.kvHeads, 'past', spec.headDim])
    const layers = [block.q, block.k, block.v]
    let qkv = await product(graph, x, layers, precision)
    const bias = await biasOf(graph, layers)
    if (bias !== null) qkv = graph.node('Add', [qkv, bias])
    const [attended] = graph.nodes(
      'GroupQueryAttention',
      [qkv, '', '', past('key'), past('value'), last, total, cos, sin],
      [`attended.${i}`, `present.${i}.key`, `present.${i}.value`],
      {
        num_heads: spec.heads,
        kv_num_heads: spec.kvHeads,
        scale: { float: 1 / Math.sqrt(spec.headDim) },
        do_rotary: 1,
        rotary_interleaved: 0,
      },
      MICROSOFT,
    )
    for (const part of ['key', 'value']) {
      graph.output(`present.${i}.${part}`, 'f32', ['batch_size', spec.kvHeads, 'total', spec.headDim])
    }
    const mixed = await addNorm(await product(graph, attended!, [block.o], precision), block.mlpNorm)
    const gate = await product(graph, mixed, [block.gate!], precision)
    const silu = graph.node('QuickGelu', [gate], { alpha: { float: 1 } }, MICROSOFT)
    const gated = graph.node('Mul', [silu, await product(graph, mixed, [block.up], precision)])
    const next = i + 1 < spec.layers ? tensors.blockTensors(i + 1).attnNorm : tensors.finalNorm
    x = await addNorm(await product(graph, gated, [block.down], precision), next)
  }
  const head = tensors.head ?? { weight: tensors.embedding, bias: null }
  await product(graph, x, [head], precision, 'logits')
  graph.output('logits', 'f32', ['batch_size', 'length', spec.vocab])
  return graph.bytes()
}
