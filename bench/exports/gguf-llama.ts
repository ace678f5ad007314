/** A Llama decoder with a byte-fallback BPE tokenizer as GGUF, weights in q8_0: what wllama (llama.cpp) loads. */

import type { ModelSpec } from '../../engine/models/spec.ts'
import type { ModelTensors, Weight } from '../../engine/weights/logical.ts'
import { gguf, q8 } from '../formats/gguf.ts'
import type { GgufTensor, GgufValue } from '../formats/gguf.ts'

export interface BpeTokenizer {
  added_tokens: { id: number; content: string }[]
  model: { vocab: Record<string, number>; merges: (string | [string, string])[] }
}

const KIND = { normal: 1, unknown: 2, control: 3, byte: 6 }

/** llama.cpp merges by score, so a merge's rank becomes the score of what it makes. */
function tokenizer({ model, added_tokens }: BpeTokenizer): {
  tokens: string[]
  scores: Float32Array
  kinds: Int32Array
} {
  const tokens: string[] = []
  for (const [token, id] of Object.entries(model.vocab)) tokens[id] = token
  const scores = new Float32Array(tokens.length)
  model.merges.forEach((merge, rank) => {
    const made = typeof merge === 'string' ? merge.replace(' ', '') : merge.join('')
    scores[model.vocab[made]!] = -rank
  })
  const kinds = Int32Array.from(tokens, (token) =>
    /^<0x[0-9A-F]{2}>$/.test(token) ? KIND.byte : KIND.normal,
  )
  for (const { id, content } of added_tokens) kinds[id] = content === '<unk>' ? KIND.unknown : KIND.control
  return { tokens, scores, kinds }
}

/** Rows of each head from halves (Hugging Face) to pairs: llama.cpp rotates neighbours. */
function paired(weight: Float32Array, heads: number, headDim: number, width: number): Float32Array {
  const out = new Float32Array(weight.length)
  const half = headDim / 2
  for (let h = 0; h < heads; h++) {
    for (let i = 0; i < headDim; i++) {
      const from = h * headDim + i
      const to = h * headDim + (i < half ? 2 * i : 2 * (i - half) + 1)
      out.set(weight.subarray(from * width, (from + 1) * width), to * width)
    }
  }
  return out
}

export async function exportGguf(
  spec: ModelSpec,
  tensors: ModelTensors,
  bpe: BpeTokenizer,
): Promise<Uint8Array<ArrayBuffer>> {
  const list: GgufTensor[] = []
  const matrix = async (name: string, weight: Weight, turn?: { heads: number }) => {
    const values = await weight.read()
    const rows = turn ? paired(values, turn.heads, spec.headDim, spec.width) : values
    list.push({ name, shape: weight.shape, format: 'q8_0', bytes: q8(rows) })
  }
  const gain = async (name: string, weight: Weight) => {
    list.push({
      name,
      shape: weight.shape,
      format: 'f32',
      bytes: new Uint8Array((await weight.read()).slice().buffer),
    })
  }
  await matrix('token_embd.weight', tensors.embedding)
  await gain('output_norm.weight', tensors.finalNorm!.gain)
  if (tensors.head !== null) await matrix('output.weight', tensors.head.weight)
  for (let i = 0; i < spec.layers; i++) {
    const block = tensors.blockTensors(i)
    const at = `blk.${i}`
    await gain(`${at}.attn_norm.weight`, block.attnNorm.gain)
    await matrix(`${at}.attn_q.weight`, block.q.weight, { heads: spec.heads })
    await matrix(`${at}.attn_k.weight`, block.k.weight, { heads: spec.kvHeads })
    await matrix(`${at}.attn_v.weight`, block.v.weight)
    await matrix(`${at}.attn_output.weight`, block.o.weight)
    await gain(`${at}.ffn_norm.weight`, block.mlpNorm.gain)
    await matrix(`${at}.ffn_gate.weight`, block.gate!.weight)
    await matrix(`${at}.ffn_up.weight`, block.up.weight)
    await matrix(`${at}.ffn_down.weight`, block.down.weight)
  }
  const u32 = (value: number): GgufValue => ({ type: 'u32', value })
  const { tokens, scores, kinds } = tokenizer(bpe)
  return gguf(
    {
      'general.architecture': { type: 'text', value: 'llama' },
      'general.name': { type: 'text', value: 'bench' },
      'llama.block_count': u32(spec.layers),
      'llama.context_length': u32(spec.context),
      'llama.embedding_length': u32(spec.width),
      'llama.feed_forward_length': u32(spec.ff),
      'llama.attention.head_count': u32(spec.heads),
      'llama.attention.head_count_kv': u32(spec.kvHeads),
      'llama.attention.layer_norm_rms_epsilon': { type: 'f32', value: spec.eps },
      'llama.rope.dimension_count': u32(spec.headDim),
      'llama.rope.freq_base': { type: 'f32', value: spec.rope!.theta },
      'llama.vocab_size': u32(spec.vocab),
      'tokenizer.ggml.model': { type: 'text', value: 'llama' },
      'tokenizer.ggml.tokens': { type: 'texts', value: tokens },
      'tokenizer.ggml.scores': { type: 'f32s', value: scores },
      'tokenizer.ggml.token_type': { type: 'i32s', value: kinds },
      'tokenizer.ggml.bos_token_id': u32(spec.bosId!),
      'tokenizer.ggml.eos_token_id': u32(spec.eosIds[0]!),
      'tokenizer.ggml.unknown_token_id': u32(0),
      'tokenizer.ggml.add_bos_token': { type: 'bool', value: 1 },
      'tokenizer.ggml.add_space_prefix': { type: 'bool', value: 1 },
    },
    list,
  )
}
