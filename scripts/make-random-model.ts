/**
 * Write a Hugging Face model folder with seeded random weights: the real shapes of known models for benchmarks, odd small
 * ones for tests. Nothing it makes can say anything sensible.
 *
 *   node scripts/make-random-model.ts <folder> --shape qwen3-0.6b
 *   node scripts/make-random-model.ts <folder> --family llama --width 50 --heads 5 --kv-heads 1 --vocab 257 --untied
 *
 * The same options and seed give the same bytes. Weights are streamed to disk.
 */
import { closeSync, mkdirSync, openSync, writeFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'

type Json = Record<string, unknown>
export type Dtype = 'F32' | 'F16' | 'BF16'

export interface Recipe {
  config: Json
  dtype: Dtype
  /** Other JSON files by path in the folder. */
  files?: Record<string, unknown>
  seed?: number
  /** More than one writes an index and that many shards. */
  shards?: number
}

export interface Dims {
  family: 'llama' | 'qwen2' | 'qwen3' | 'mistral' | 'gpt2' | 'bert' | 'bert-classify'
  layers?: number
  width?: number
  heads?: number
  kvHeads?: number
  headDim?: number
  ff?: number
  vocab?: number
  context?: number
  tied?: boolean
  rope?: 'none' | 'linear' | 'llama3'
  /** llama: biases on attention and feed-forward. */
  bias?: boolean
  act?: string
  labels?: number
  /** sentence-transformers files with this pooling (bert). */
  pooling?: 'mean' | 'cls'
  normalize?: boolean
}

/** Configs as published, without the fields that say nothing about the arithmetic. */
export const shapes: Record<string, () => Recipe> = {
  'qwen3-0.6b': () => ({
    dtype: 'BF16',
    config: {
      architectures: ['Qwen3ForCausalLM'],
      model_type: 'qwen3',
      attention_bias: false,
      bos_token_id: 151643,
      eos_token_id: 151645,
      head_dim: 128,
      hidden_act: 'silu',
      hidden_size: 1024,
      intermediate_size: 3072,
      max_position_embeddings: 40960,
      max_window_layers: 28,
      num_attention_heads: 16,
      num_hidden_layers: 28,
      num_key_value_heads: 8,
      rms_norm_eps: 1e-6,
      rope_scaling: null,
      rope_theta: 1000000,
      sliding_window: null,
      tie_word_embeddings: true,
      torch_dtype: 'bfloat16',
      use_sliding_window: false,
      vocab_size: 151936,
    },
    files: {
      'generation_config.json': {
        bos_token_id: 151643,
        eos_token_id: [151645, 151643],
        do_sample: true,
        temperature: 0.6,
        top_k: 20,
        top_p: 0.95,
      },
    },
  }),
  'minilm-l6': () => ({
    dtype: 'F32',
    config: {
      architectures: ['BertModel'],
      model_type: 'bert',
      hidden_act: 'gelu',
      hidden_size: 384,
      intermediate_size: 1536,
      layer_norm_eps: 1e-12,
      max_position_embeddings: 512,
      num_attention_heads: 12,
      num_hidden_layers: 6,
      pad_token_id: 0,
      position_embedding_type: 'absolute',
      type_vocab_size: 2,
      vocab_size: 30522,
    },
    files: sentenceFiles(384, 256, 'mean', true),
  }),
}

/** A small model by its dimensions. Throws RangeError for dimensions that fit no model. */
export function recipeOf(dims: Dims, dtype: Dtype = 'F32', seed = 1): Recipe {
  const { family, layers = 2, width = 50, heads = 5, vocab = 257, context = 64, ff = width * 2 + 1 } = dims
  if (dims.headDim === undefined && width % heads !== 0)
    throw new RangeError(`${heads} heads do not divide the width ${width}: give a head dimension`)
  const named = { layers, width, heads, vocab, context, ff }
  for (const [name, n] of Object.entries(named))
    if (!Number.isInteger(n) || n < 1) throw new RangeError(`${name} ${n} is not a positive whole number`)
  if (family === 'gpt2') {
    const config = {
      architectures: ['GPT2LMHeadModel'],
      model_type: 'gpt2',
      n_embd: width,
      n_layer: layers,
      n_head: heads,
      n_positions: context,
      n_inner: ff,
      vocab_size: vocab,
      layer_norm_epsilon: 1e-5,
      activation_function: dims.act ?? 'gelu_new',
      tie_word_embeddings: dims.tied ?? true,
      bos_token_id: 256,
      eos_token_id: 256,
    }
    return { config, dtype, seed }
  }
  const config: Json = {
    hidden_size: width,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    intermediate_size: ff,
    vocab_size: vocab,
    max_position_embeddings: context,
  }
  if (family === 'bert' || family === 'bert-classify') {
    Object.assign(config, {
      architectures: [family === 'bert' ? 'BertModel' : 'BertForSequenceClassification'],
      model_type: 'bert',
      type_vocab_size: 2,
      layer_norm_eps: 1e-12,
      hidden_act: dims.act ?? 'gelu',
    })
    if (family === 'bert-classify')
      config.id2label = Object.fromEntries(
        Array.from({ length: dims.labels ?? 3 }, (_, i) => [i, `label-${i}`]),
      )
    const files =
      family === 'bert' && dims.pooling
        ? { files: sentenceFiles(width, context, dims.pooling, dims.normalize ?? true) }
        : {}
    return { config, dtype, seed, ...files }
  }
  const name = { llama: 'Llama', qwen2: 'Qwen2', qwen3: 'Qwen3', mistral: 'Mistral' }[family]
  Object.assign(config, {
    architectures: [`${name}ForCausalLM`],
    model_type: family,
    num_key_value_heads: dims.kvHeads ?? heads,
    rms_norm_eps: 1e-5,
    rope_theta: 10000,
    hidden_act: dims.act ?? 'silu',
    tie_word_embeddings: dims.tied ?? true,
    bos_token_id: 256,
    eos_token_id: 256,
    ...(dims.headDim === undefined ? {} : { head_dim: dims.headDim }),
    ...(dims.bias ? { attention_bias: true, mlp_bias: true } : {}),
  })
  if (dims.rope === 'linear') config.rope_scaling = { type: 'linear', factor: 2 }
  if (dims.rope === 'llama3') {
    config.rope_scaling = {
      rope_type: 'llama3',
      factor: 8,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: context / 2,
    }
  }
  return { config, dtype, seed }
}

function sentenceFiles(
  width: number,
  tokensMax: number,
  pooling: 'mean' | 'cls',
  normalize: boolean,
): Record<string, unknown> {
  const module = (idx: number, path: string, type: string): Json => ({
    idx,
    name: String(idx),
    path,
    type: `sentence_transformers.models.${type}`,
  })
  return {
    'modules.json': [
      module(0, '', 'Transformer'),
      module(1, '1_Pooling', 'Pooling'),
      ...(normalize ? [module(2, '2_Normalize', 'Normalize')] : []),
    ],
    '1_Pooling/config.json': {
      word_embedding_dimension: width,
      pooling_mode_cls_token: pooling === 'cls',
      pooling_mode_mean_tokens: pooling === 'mean',
      pooling_mode_max_tokens: false,
      pooling_mode_mean_sqrt_len_tokens: false,
    },
    'sentence_bert_config.json': { max_seq_length: tokensMax, do_lower_case: false },
  }
}

/** How a tensor's random values are spread: gains around 1, everything else around 0. */
interface Planned {
  name: string
  shape: number[]
  mean: number
  deviation: number
}

/** The tensors a checkpoint of this config has, in order. */
function plan(config: Json): Planned[] {
  const planned: Planned[] = []
  const size = (key: string): number => config[key] as number
  const put = (name: string, shape: number[], deviation: number, mean = 0): void => {
    planned.push({ name, shape, mean, deviation })
  }
  // 1/√inner keeps a linear layer's output as large as its input.
  const linear = (name: string, out: number, inner: number, bias: boolean, turned = false): void => {
    put(`${name}.weight`, turned ? [inner, out] : [out, inner], inner ** -0.5)
    if (bias) put(`${name}.bias`, [out], 0.1)
  }
  const norm = (name: string, n: number, bias: boolean): void => {
    put(`${name}.weight`, [n], 0.1, 1)
    if (bias) put(`${name}.bias`, [n], 0.1)
  }
  const architecture = (config.architectures as string[])[0]!
  const vocab = size('vocab_size')

  if (architecture === 'GPT2LMHeadModel') {
    const width = size('n_embd')
    put('transformer.wte.weight', [vocab, width], 2 * width ** -0.5)
    put('transformer.wpe.weight', [size('n_positions'), width], width ** -0.5)
    for (let i = 0; i < size('n_layer'); i++) {
      const at = `transformer.h.${i}`
      norm(`${at}.ln_1`, width, true)
      linear(`${at}.attn.c_attn`, 3 * width, width, true, true)
      linear(`${at}.attn.c_proj`, width, width, true, true)
      norm(`${at}.ln_2`, width, true)
      linear(`${at}.mlp.c_fc`, size('n_inner'), width, true, true)
      linear(`${at}.mlp.c_proj`, width, size('n_inner'), true, true)
    }
    norm('transformer.ln_f', width, true)
    if (config.tie_word_embeddings === false) put('lm_head.weight', [vocab, width], 2 * width ** -0.5)
    return planned
  }

  const width = size('hidden_size')
  const ff = size('intermediate_size')
  if (architecture.startsWith('Bert')) {
    const classify = architecture === 'BertForSequenceClassification'
    const prefix = classify ? 'bert.' : ''
    for (const [name, rows] of [
      ['word', vocab],
      ['position', size('max_position_embeddings')],
      ['token_type', size('type_vocab_size')],
    ] as const) {
      put(`${prefix}embeddings.${name}_embeddings.weight`, [rows, width], name === 'word' ? 1 : 0.5)
    }
    norm(`${prefix}embeddings.LayerNorm`, width, true)
    for (let i = 0; i < size('num_hidden_layers'); i++) {
      const at = `${prefix}encoder.layer.${i}`
      for (const part of ['query', 'key', 'value']) linear(`${at}.attention.self.${part}`, width, width, true)
      linear(`${at}.attention.output.dense`, width, width, true)
      norm(`${at}.attention.output.LayerNorm`, width, true)
      linear(`${at}.intermediate.dense`, ff, width, true)
      linear(`${at}.output.dense`, width, ff, true)
      norm(`${at}.output.LayerNorm`, width, true)
    }
    linear(`${prefix}pooler.dense`, width, width, true)
    if (classify) linear('classifier', Object.keys(config.id2label as Json).length, width, true)
    return planned
  }

  const heads = size('num_attention_heads')
  const headDim = (config.head_dim as number | undefined) ?? width / heads
  const kv = size('num_key_value_heads') * headDim
  const qkvBias = architecture === 'Qwen2ForCausalLM' || config.attention_bias === true
  put('model.embed_tokens.weight', [vocab, width], 2 * width ** -0.5)
  for (let i = 0; i < size('num_hidden_layers'); i++) {
    const at = `model.layers.${i}`
    norm(`${at}.input_layernorm`, width, false)
    linear(`${at}.self_attn.q_proj`, heads * headDim, width, qkvBias)
    linear(`${at}.self_attn.k_proj`, kv, width, qkvBias)
    linear(`${at}.self_attn.v_proj`, kv, width, qkvBias)
    linear(`${at}.self_attn.o_proj`, width, heads * headDim, config.attention_bias === true)
    if (architecture === 'Qwen3ForCausalLM')
      for (const part of ['q_norm', 'k_norm']) norm(`${at}.self_attn.${part}`, headDim, false)
    norm(`${at}.post_attention_layernorm`, width, false)
    for (const part of ['gate_proj', 'up_proj'])
      linear(`${at}.mlp.${part}`, ff, width, config.mlp_bias === true)
    linear(`${at}.mlp.down_proj`, width, ff, config.mlp_bias === true)
  }
  norm('model.norm', width, false)
  if (config.tie_word_embeddings === false) put('lm_head.weight', [vocab, width], 2 * width ** -0.5)
  return planned
}

/** Write the folder: config, weights (one file or shards), a byte-level tokenizer that fits the vocabulary. */
export function makeRandomModel(
  folder: string,
  { config, dtype, files = {}, seed = 1, shards = 1 }: Recipe,
): void {
  mkdirSync(folder, { recursive: true })
  const json = (name: string, value: unknown): void => {
    mkdirSync(join(folder, name, '..'), { recursive: true })
    writeFileSync(join(folder, name), `${JSON.stringify(value, null, 1)}\n`)
  }
  json('config.json', config)
  for (const [name, value] of Object.entries(files)) json(name, value)
  const encoder = String((config.architectures as string[])[0]).startsWith('Bert')
  const { tokenizer, config: tokenizerConfig } = byteTokenizer(config.vocab_size as number, encoder)
  json('tokenizer.json', tokenizer)
  json('tokenizer_config.json', tokenizerConfig)

  const tensors = plan(config)
  if (shards === 1) {
    writeSafetensors(join(folder, 'model.safetensors'), tensors, dtype, seed)
    return
  }
  const map: Record<string, string> = {}
  for (let s = 0; s < shards; s++) {
    const name = `model-${String(s + 1).padStart(5, '0')}-of-${String(shards).padStart(5, '0')}.safetensors`
    const part = tensors.slice(
      Math.floor((s * tensors.length) / shards),
      Math.floor(((s + 1) * tensors.length) / shards),
    )
    writeSafetensors(join(folder, name), part, dtype, seed)
    for (const tensor of part) map[tensor.name] = name
  }
  const total = tensors.reduce((sum, tensor) => sum + countOf(tensor) * (dtype === 'F32' ? 4 : 2), 0)
  json('model.safetensors.index.json', { metadata: { total_size: total }, weight_map: map })
}

function countOf({ shape }: Planned): number {
  return shape.reduce((a, b) => a * b, 1)
}

function writeSafetensors(path: string, tensors: Planned[], dtype: Dtype, seed: number): void {
  const bytesEach = dtype === 'F32' ? 4 : 2
  const header: Json = { __metadata__: { format: 'pt' } }
  let at = 0
  for (const tensor of tensors) {
    const end = at + countOf(tensor) * bytesEach
    header[tensor.name] = { dtype, shape: tensor.shape, data_offsets: [at, end] }
    at = end
  }
  const text = JSON.stringify(header)
  // The data begins at a multiple of 8, as the reference writer has it.
  const head = Buffer.from(text + ' '.repeat((8 - (text.length % 8)) % 8))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(head.length))
  const file = openSync(path, 'w')
  try {
    writeSync(file, length)
    writeSync(file, head)
    for (const tensor of tensors) writeTensor(file, tensor, dtype, seed)
  } finally {
    closeSync(file)
  }
}

const chunk = 1 << 20

function writeTensor(file: number, tensor: Planned, dtype: Dtype, seed: number): void {
  const draw = deviates(seed, tensor.name)
  const values = new Float32Array(chunk)
  const count = countOf(tensor)
  for (let at = 0; at < count; at += chunk) {
    const part = values.subarray(0, Math.min(chunk, count - at))
    for (let i = 0; i < part.length; i++) part[i] = tensor.mean + tensor.deviation * draw()
    writeAll(file, encodeFloats(part, dtype))
  }
}

function writeAll(file: number, bytes: Uint8Array): void {
  for (let done = 0; done < bytes.length;) done += writeSync(file, bytes, done)
}

/** Round to the stored format: bf16 by cutting (nothing here needs more), f16 to nearest. */
function encodeFloats(values: Float32Array, dtype: Dtype): Uint8Array {
  if (dtype === 'F32') return new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
  if (dtype === 'F16') return new Uint8Array(new Float16Array(values).buffer)
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length)
  const half = new Uint16Array(values.length)
  for (let i = 0; i < half.length; i++) half[i] = words[i]! >>> 16
  return new Uint8Array(half.buffer)
}

/**
 * Near-normal values of mean 0 and deviation 1, one stream for each (seed, name): the sum of four random bytes, centred. It
 * ends at ±3.45, and is several times quicker than Box-Muller, which for 600 million values is half a minute.
 */
function deviates(seed: number, name: string): () => number {
  let h = (0x811c9dc5 ^ seed) | 0
  for (let i = 0; i < name.length; i++) h = Math.imul(h ^ name.charCodeAt(i), 0x01000193)
  // sfc32 (C. Doty-Humphrey, PractRand).
  let a = h,
    b = seed | 0,
    c = 0x9e3779b9 | 0,
    counter = 1
  const next = (): number => {
    const t = (a + b + counter) | 0
    counter = (counter + 1) | 0
    a = b ^ (b >>> 9)
    b = (c + (c << 3)) | 0
    c = (((c << 21) | (c >>> 11)) + t) | 0
    return t
  }
  for (let i = 0; i < 15; i++) next()
  // The variance of a byte is (256² - 1)/12.
  const scale = 1 / Math.sqrt((4 * (65536 - 1)) / 12)
  return () => {
    const t = next()
    return ((t & 255) + ((t >>> 8) & 255) + ((t >>> 16) & 255) + (t >>> 24) - 510) * scale
  }
}

/**
 * A byte-level tokenizer: ids 0 … 255 are the bytes, 256 is `<|end|>`; for encoders 256 … 258 are [CLS], [SEP], [PAD] instead.
 * Throws RangeError if the vocabulary is too small for it.
 */
export function byteTokenizer(vocab: number, encoder = false): { tokenizer: Json; config: Json } {
  const named = encoder ? ['[CLS]', '[SEP]', '[PAD]'] : ['<|end|>']
  if (vocab < 256 + named.length)
    throw new RangeError(`a byte-level tokenizer needs a vocabulary of ${256 + named.length}, not ${vocab}`)
  const special = (id: string): Json => ({ SpecialToken: { id, type_id: 0 } })
  const template = {
    type: 'TemplateProcessing',
    single: [special('[CLS]'), { Sequence: { id: 'A', type_id: 0 } }, special('[SEP]')],
    pair: [
      special('[CLS]'),
      { Sequence: { id: 'A', type_id: 0 } },
      special('[SEP]'),
      { Sequence: { id: 'B', type_id: 1 } },
      special('[SEP]'),
    ],
    special_tokens: Object.fromEntries(
      ['[CLS]', '[SEP]'].map((id, i) => [id, { id, ids: [256 + i], tokens: [id] }]),
    ),
  }
  const tokenizer = {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: named.map((content, i) => ({
      id: 256 + i,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    })),
    normalizer: null,
    pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true },
    post_processor: encoder
      ? template
      : { type: 'ByteLevel', add_prefix_space: true, trim_offsets: false, use_regex: true },
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: '',
      end_of_word_suffix: '',
      fuse_unk: false,
      byte_fallback: false,
      vocab: Object.fromEntries(byteLetters().map((letter, byte) => [letter, byte])),
      merges: [],
    },
  }
  const config = encoder
    ? {
        tokenizer_class: 'PreTrainedTokenizerFast',
        cls_token: '[CLS]',
        sep_token: '[SEP]',
        pad_token: '[PAD]',
        clean_up_tokenization_spaces: false,
      }
    : {
        tokenizer_class: 'PreTrainedTokenizerFast',
        eos_token: '<|end|>',
        clean_up_tokenization_spaces: false,
      }
  return { tokenizer, config }
}

/** GPT-2's letter for each byte: itself where it is printable, otherwise one from U+0100 on. */
function byteLetters(): string[] {
  let next = 256
  return Array.from({ length: 256 }, (_, byte) => {
    const printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174
    return String.fromCodePoint(printable ? byte : next++)
  })
}

function main(): void {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      shape: { type: 'string' },
      family: { type: 'string' },
      seed: { type: 'string', default: '1' },
      shards: { type: 'string', default: '1' },
      dtype: { type: 'string' },
      layers: { type: 'string' },
      width: { type: 'string' },
      heads: { type: 'string' },
      'kv-heads': { type: 'string' },
      'head-dim': { type: 'string' },
      ff: { type: 'string' },
      vocab: { type: 'string' },
      context: { type: 'string' },
      labels: { type: 'string' },
      untied: { type: 'boolean' },
      bias: { type: 'boolean' },
      rope: { type: 'string' },
      act: { type: 'string' },
      pooling: { type: 'string' },
    },
  })
  const [folder] = positionals
  const families = ['llama', 'qwen2', 'qwen3', 'mistral', 'gpt2', 'bert', 'bert-classify']
  const known =
    values.shape !== undefined ? Object.hasOwn(shapes, values.shape) : families.includes(values.family ?? '')
  if (folder === undefined || !known) {
    console.error(
      `usage: make-random-model.ts <folder> (--shape ${Object.keys(shapes).join(' | ')} | --family ${families.join(' | ')} [--width 50 …])`,
    )
    process.exitCode = 2
    return
  }
  const number = (text: string | undefined): number | undefined =>
    text === undefined ? undefined : Number(text)
  const given: Record<string, unknown> = {
    layers: number(values.layers),
    width: number(values.width),
    heads: number(values.heads),
    kvHeads: number(values['kv-heads']),
    headDim: number(values['head-dim']),
    ff: number(values.ff),
    vocab: number(values.vocab),
    context: number(values.context),
    labels: number(values.labels),
    tied: values.untied ? false : undefined,
    bias: values.bias,
    rope: values.rope,
    act: values.act,
    pooling: values.pooling,
  }
  const dims = {
    family: values.family,
    ...Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)),
  } as Dims
  const recipe = values.shape === undefined ? recipeOf(dims) : shapes[values.shape]!()
  if (values.dtype !== undefined) recipe.dtype = values.dtype as Dtype
  if (!['F32', 'F16', 'BF16'].includes(recipe.dtype))
    throw new RangeError(`dtype ${recipe.dtype} is not F32, F16 or BF16`)
  makeRandomModel(folder, { ...recipe, seed: Number(values.seed), shards: Number(values.shards) })
  console.log(`wrote ${folder}`)
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) main()
