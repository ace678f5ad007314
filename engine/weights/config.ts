/**
 * A Hugging Face `config.json` read into a ModelSpec, or refused by name. What is not understood is never ignored when it
 * would change the numbers: an unknown activation, position scheme or attention window is an error, not a guess.
 */
import type { Activation, ModelSpec, Rope } from '../models/spec.ts'
import { ModelError, quote } from './errors.ts'

export type Json = Record<string, unknown>

export interface ModelConfig {
  spec: ModelSpec
  /** Which linear layers have biases. (gpt2 and bert: all true.) */
  bias: { qkv: boolean; o: boolean; mlp: boolean }
  /** The config is silent about tying: then a checkpoint without an output head can only mean the table. */
  tiedIfHeadless: boolean
}

export interface ConfigFiles {
  config: Json
  generation?: Json | null
  /** sentence-transformers: `modules.json`, the pooling module's `config.json`, `sentence_bert_config.json`. */
  modules?: unknown[] | null
  pooling?: Json | null
  sentence?: Json | null
}

const architectures: Record<string, (c: ConfigReader, files: ConfigFiles) => ModelConfig> = {
  LlamaForCausalLM: (c, files) =>
    llama(c, files, { attentionBias: 'option', qkNorm: false, window: 'use_sliding_window' }),
  MistralForCausalLM: (c, files) =>
    llama(c, files, { attentionBias: 'none', qkNorm: false, window: 'always' }),
  Qwen2ForCausalLM: (c, files) =>
    llama(c, files, { attentionBias: 'qkv', qkNorm: false, window: 'use_sliding_window' }),
  Qwen3ForCausalLM: (c, files) =>
    llama(c, files, { attentionBias: 'option', qkNorm: true, window: 'use_sliding_window' }),
  GPT2LMHeadModel: gpt2,
  BertModel: (c, files) => bert(c, files, 'embed'),
  BertForSequenceClassification: (c, files) => bert(c, files, 'classify'),
}

const activations: ReadonlyMap<string, Activation> = new Map<string, Activation>([
  ['silu', 'silu'],
  ['swish', 'silu'],
  ['gelu', 'gelu'],
  ['gelu_python', 'gelu'],
  ['gelu_new', 'gelu_tanh'],
  ['gelu_fast', 'gelu_tanh'],
  ['gelu_pytorch_tanh', 'gelu_tanh'],
  ['relu', 'relu'],
  ['tanh', 'tanh'],
])

/**
 * The spec of a model from its config files. Throws ModelError `architecture-unsupported`, `activation-unsupported`,
 * `option-unsupported` or `config-invalid`.
 */
export function readConfig(files: ConfigFiles, file = 'config.json'): ModelConfig {
  const c = new ConfigReader(files.config, file)
  const named = c.json.architectures
  const name = Array.isArray(named) && named.length === 1 ? (named[0] as unknown) : named
  const supported = `Chorale reads ${Object.keys(architectures).join(', ')}`
  if (typeof name !== 'string' || !Object.hasOwn(architectures, name)) {
    const shown = quote(typeof name === 'string' ? name : String(JSON.stringify(name)))
    throw new ModelError('architecture-unsupported', {
      file,
      what: `architecture ${shown} is not supported`,
      todo: supported,
    })
  }
  if (c.json.quantization_config != null) {
    throw c.unsupported('quantization_config', 'give the unquantised model: Chorale quantises it itself')
  }
  const read = architectures[name]!(c, files)
  checkIds(c, read.spec)
  return read
}

interface LlamaTraits {
  /** `option`: on q, k, v and o if `attention_bias`; `qkv`: always on those three and not on o. */
  attentionBias: 'none' | 'option' | 'qkv'
  qkNorm: boolean
  /** Whether `sliding_window` counts always, or only with `use_sliding_window`. */
  window: 'always' | 'use_sliding_window'
}

function llama(c: ConfigReader, files: ConfigFiles, traits: LlamaTraits): ModelConfig {
  const width = c.int('hidden_size')
  const heads = c.int('num_attention_heads')
  const kvHeads = c.int('num_key_value_heads', heads)
  if (heads % kvHeads !== 0)
    throw c.invalid('num_key_value_heads', `${kvHeads} does not divide the ${heads} heads`)
  const headDim = c.headDim(width, heads)
  if (headDim % 2 !== 0) throw c.invalid('head_dim', `${headDim} is odd, and rotary positions turn pairs`)
  const context = c.int('max_position_embeddings')
  checkWindow(c, context, traits.window)
  for (const option of ['partial_rotary_factor', 'rope_interleaved', 'no_rope_layers']) {
    const value = c.json[option]
    if (value != null && value !== 1 && value !== false) throw c.unsupported(option)
  }
  const option = traits.attentionBias === 'option' && c.bool('attention_bias', false)
  const spec: ModelSpec = {
    family: 'llama',
    task: 'generate',
    layers: c.int('num_hidden_layers'),
    width,
    heads,
    kvHeads,
    headDim,
    ff: c.int('intermediate_size'),
    vocab: c.int('vocab_size'),
    context,
    norm: 'rms',
    eps: c.number('rms_norm_eps', 1e-6),
    act: c.activation('hidden_act', 'silu'),
    gated: true,
    rope: readRope(c),
    qkNorm: traits.qkNorm,
    tied: c.bool('tie_word_embeddings', false),
    pooling: null,
    normalize: false,
    labels: null,
    ...c.ends(files.generation),
  }
  const bias = { qkv: traits.attentionBias === 'qkv' || option, o: option, mlp: c.bool('mlp_bias', false) }
  return { spec, bias, tiedIfHeadless: c.json.tie_word_embeddings == null }
}

/** A window as long as the context changes nothing; a shorter one is another attention. */
function checkWindow(c: ConfigReader, context: number, counts: LlamaTraits['window']): void {
  const window = c.json.sliding_window
  const used = counts === 'always' || c.bool('use_sliding_window', false)
  if (used && window != null && !(typeof window === 'number' && window >= context)) {
    throw c.unsupported(
      'sliding_window',
      `only full attention is supported: a window of null, or of at least the context ${context}`,
    )
  }
  const types = c.json.layer_types
  if (types != null && !(Array.isArray(types) && types.every((type) => type === 'full_attention'))) {
    throw c.unsupported('layer_types', 'only full_attention is supported')
  }
}

/** `rope_theta` + `rope_scaling`, or the one `rope_parameters` that newer configs have. */
function readRope(c: ConfigReader): Rope {
  const parameters = c.object('rope_parameters')
  const scaling = parameters ?? c.object('rope_scaling')
  const r = new ConfigReader(scaling ?? {}, c.file, parameters ? 'rope_parameters.' : 'rope_scaling.')
  const theta = parameters?.rope_theta == null ? c.number('rope_theta', 10000) : r.number('rope_theta')
  if (theta <= 1) throw c.invalid('rope_theta', `${theta} is not above 1`)
  const type = scaling
    ? (scaling.rope_type ?? scaling.type ?? (parameters ? 'default' : undefined))
    : 'default'
  if (type === 'default') return { theta, scaling: null }
  if (type === 'linear') return { theta, scaling: { type, factor: r.number('factor') } }
  if (type === 'llama3') {
    const lowFreqFactor = r.number('low_freq_factor')
    const highFreqFactor = r.number('high_freq_factor')
    if (highFreqFactor <= lowFreqFactor)
      throw r.invalid('high_freq_factor', `${highFreqFactor} is not above low_freq_factor ${lowFreqFactor}`)
    const originalContext = r.int('original_max_position_embeddings')
    return {
      theta,
      scaling: { type, factor: r.number('factor'), lowFreqFactor, highFreqFactor, originalContext },
    }
  }
  throw r.unsupported('rope_type', 'default, linear and llama3 are supported', type)
}

function gpt2(c: ConfigReader, files: ConfigFiles): ModelConfig {
  const width = c.int('n_embd')
  const heads = c.int('n_head')
  const refused: [string, unknown][] = [
    ['scale_attn_weights', true],
    ['scale_attn_by_inverse_layer_idx', false],
    ['add_cross_attention', false],
  ]
  for (const [option, normal] of refused) {
    if ((c.json[option] ?? normal) !== normal)
      throw c.unsupported(option, `only ${String(normal)} is supported`)
  }
  const spec: ModelSpec = {
    family: 'gpt2',
    task: 'generate',
    layers: c.int('n_layer'),
    width,
    heads,
    kvHeads: heads,
    headDim: c.headDim(width, heads),
    ff: c.int('n_inner', 4 * width),
    vocab: c.int('vocab_size'),
    context: c.int('n_positions', c.json.n_ctx),
    norm: 'layer',
    eps: c.number('layer_norm_epsilon', 1e-5),
    act: c.activation('activation_function', 'gelu_new'),
    gated: false,
    rope: null,
    qkNorm: false,
    tied: c.bool('tie_word_embeddings', true),
    pooling: null,
    normalize: false,
    labels: null,
    ...c.ends(files.generation),
  }
  return { spec, bias: { qkv: true, o: true, mlp: true }, tiedIfHeadless: c.json.tie_word_embeddings == null }
}

function bert(c: ConfigReader, files: ConfigFiles, task: 'embed' | 'classify'): ModelConfig {
  const width = c.int('hidden_size')
  const heads = c.int('num_attention_heads')
  if ((c.json.position_embedding_type ?? 'absolute') !== 'absolute')
    throw c.unsupported('position_embedding_type', 'only absolute is supported')
  if (c.bool('is_decoder', false)) throw c.unsupported('is_decoder')
  const problem = c.json.problem_type
  if (task === 'classify' && problem != null && problem !== 'single_label_classification') {
    throw c.unsupported('problem_type', 'only single_label_classification is supported')
  }
  const rows = c.int('max_position_embeddings')
  const s = new ConfigReader(files.sentence ?? {}, 'sentence_bert_config.json')
  const spec: ModelSpec = {
    family: 'bert',
    task,
    layers: c.int('num_hidden_layers'),
    width,
    heads,
    kvHeads: heads,
    headDim: c.headDim(width, heads),
    ff: c.int('intermediate_size'),
    vocab: c.int('vocab_size'),
    context: Math.min(rows, s.int('max_seq_length', rows)),
    norm: 'layer',
    eps: c.number('layer_norm_eps', 1e-12),
    act: c.activation('hidden_act', 'gelu'),
    gated: false,
    rope: null,
    qkNorm: false,
    tied: false,
    ...(task === 'embed' ? readPooling(files) : { pooling: 'mean', normalize: true }),
    labels: task === 'classify' ? readLabels(c) : null,
    bosId: null,
    eosIds: [],
  }
  return { spec, bias: { qkv: true, o: true, mlp: true }, tiedIfHeadless: false }
}

/**
 * sentence-transformers' list of modules: Transformer, Pooling, and Normalize if unit length is wanted. Without the list:
 * mean and unit length, what most encoders were trained for and the OpenAI API promises.
 */
function readPooling({ modules, pooling }: ConfigFiles): Pick<ModelSpec, 'pooling' | 'normalize'> {
  if (modules == null) return { pooling: 'mean', normalize: true }
  const file = 'modules.json'
  const types = modules.map((module) => {
    const type = isObject(module) ? module.type : null
    if (typeof type !== 'string')
      throw new ModelError('config-invalid', {
        file,
        what: 'a module has no type',
        todo: 'Get a sound copy of it',
      })
    // "sentence_transformers.models.Pooling", and longer paths in newer releases: the last part is the class.
    return type.split('.').at(-1)!
  })
  const known = ['Transformer', 'Pooling', 'Normalize']
  if (types.length < 2 || types.length > 3 || types.some((type, i) => type !== known[i])) {
    throw new ModelError('option-unsupported', {
      file,
      what: `modules ${quote(types.join(', '))} are not supported`,
      todo: 'Chorale reads Transformer, Pooling and optionally Normalize',
    })
  }
  const p = new ConfigReader(pooling ?? {}, '1_Pooling/config.json')
  const on = Object.keys(p.json).filter((key) => key.startsWith('pooling_mode_') && p.json[key] === true)
  // Newer releases write one `pooling_mode: "mean"`; older ones a flag for each mode.
  if (typeof p.json.pooling_mode === 'string') on.push(p.json.pooling_mode)
  const mode = on.length === 1 ? on[0]!.replace('pooling_mode_', '') : null
  const kind =
    mode === 'mean_tokens' || mode === 'mean' ? 'mean' : mode === 'cls_token' || mode === 'cls' ? 'cls' : null
  if (!kind) throw p.unsupported('pooling_mode', 'one of mean and cls is supported', on)
  return { pooling: kind, normalize: types.length === 3 }
}

function readLabels(c: ConfigReader): string[] {
  const given = c.object('id2label')
  if (!given) {
    const count = c.int('num_labels', 2)
    return Array.from({ length: count }, (_, i) => `LABEL_${i}`)
  }
  const count = Object.keys(given).length
  return Array.from({ length: count }, (_, i) => {
    const label = Object.hasOwn(given, String(i)) ? given[String(i)] : undefined
    if (typeof label !== 'string') throw c.invalid('id2label', `it has ${count} names and none for ${i}`)
    return label
  })
}

function checkIds(c: ConfigReader, { vocab, bosId, eosIds }: ModelSpec): void {
  for (const [key, ids] of [
    ['bos_token_id', bosId === null ? [] : [bosId]],
    ['eos_token_id', eosIds],
  ] as const) {
    for (const id of ids) if (id >= vocab) throw c.invalid(key, `${id} is not in the vocabulary of ${vocab}`)
  }
}

/** Typed reads of one JSON object, each with an error that names file and field. */
class ConfigReader {
  readonly json: Json
  readonly file: string
  readonly #path: string

  constructor(json: Json, file: string, path = '') {
    this.json = json
    this.file = file
    this.#path = path
  }

  invalid(key: string, what: string): ModelError {
    return new ModelError('config-invalid', {
      file: this.file,
      what: `${this.#path}${key}: ${what}`,
      todo: 'Correct it, or get a sound copy',
    })
  }

  unsupported(key: string, supported = 'use a model without it', value = this.json[key]): ModelError {
    const what = `${this.#path}${key} = ${quote(String(JSON.stringify(value))).slice(1, -1)} is not supported`
    return new ModelError('option-unsupported', {
      file: this.file,
      what,
      todo: supported[0]!.toUpperCase() + supported.slice(1),
    })
  }

  /** 1 … 2^31-1. Null and absent give `otherwise`, or an error without one. */
  int(key: string, otherwise?: unknown): number {
    const value = this.json[key] ?? otherwise
    if (value === undefined || value === null) throw this.invalid(key, 'it is not there')
    if (!Number.isInteger(value) || (value as number) < 1 || (value as number) > 0x7fffffff) {
      throw this.invalid(key, `${quote(String(JSON.stringify(value)))} is not a positive whole number`)
    }
    return value as number
  }

  /** Positive and finite. */
  number(key: string, otherwise?: number): number {
    const value = this.json[key] ?? otherwise
    if (value === undefined) throw this.invalid(key, 'it is not there')
    if (typeof value !== 'number' || !(value > 0) || value === Infinity) {
      throw this.invalid(key, `${quote(String(JSON.stringify(value)))} is not a positive number`)
    }
    return value
  }

  bool(key: string, otherwise: boolean): boolean {
    const value = this.json[key] ?? otherwise
    if (typeof value !== 'boolean')
      throw this.invalid(key, `${quote(String(JSON.stringify(value)))} is not true or false`)
    return value
  }

  object(key: string): Json | null {
    const value = this.json[key] ?? null
    if (value !== null && !isObject(value)) throw this.invalid(key, 'it is not an object')
    return value
  }

  headDim(width: number, heads: number): number {
    if (this.json.head_dim != null) return this.int('head_dim')
    if (width % heads !== 0)
      throw this.invalid('head_dim', `it is not there, and ${heads} heads do not divide the width ${width}`)
    return width / heads
  }

  activation(key: string, otherwise: string): Activation {
    const value = this.json[key] ?? otherwise
    const act = typeof value === 'string' ? activations.get(value) : undefined
    if (act) return act
    throw new ModelError('activation-unsupported', {
      file: this.file,
      what: `${key} ${quote(String(value))} is not supported`,
      todo: `Chorale knows ${[...activations.keys()].join(', ')}`,
    })
  }

  /** Begin and end ids; the generation config's word counts before the model config's. */
  ends(generation: Json | null | undefined): { bosId: number | null; eosIds: number[] } {
    const id = (key: string, value: unknown): number => {
      if (!Number.isInteger(value) || (value as number) < 0)
        throw this.invalid(key, `${quote(String(JSON.stringify(value)))} is not a token id`)
      return value as number
    }
    const bos = generation?.bos_token_id ?? this.json.bos_token_id ?? null
    const eos: unknown = generation?.eos_token_id ?? this.json.eos_token_id ?? []
    return {
      bosId: bos === null ? null : id('bos_token_id', bos),
      eosIds: [
        ...new Set(
          (Array.isArray(eos) ? (eos as unknown[]) : [eos]).map((value) => id('eos_token_id', value)),
        ),
      ],
    }
  }
}

export function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
