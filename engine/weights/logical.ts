/**
 * A model's weights under one set of names, whatever its family calls them and however it lays them out. Nothing is read
 * from disk until asked for, and everything comes as float32, row-major, linear weights as [out, in].
 */
import type { ModelSpec } from '../models/spec.ts'
import type { ModelConfig } from './config.ts'
import { ModelError, quote } from './errors.ts'
import type { TensorSource } from './safetensors.ts'

/** One weight to be read. Reading rejects with a ModelError as `TensorSource.read` does. */
export interface Weight {
  /** The tensor(s) it is made from, for messages. */
  readonly name: string
  /** [out, in], or [n]. */
  readonly shape: readonly number[]
  read(): Promise<Float32Array>
  /** Rows `from` ≤ row < `to`. */
  readRows(from: number, to: number): Promise<Float32Array>
}

/** y = x · weightᵀ + bias. */
export interface Linear {
  /** [out, in] */
  readonly weight: Weight
  /** [out] */
  readonly bias: Weight | null
}

/** RMSNorm has a gain, LayerNorm a gain and a bias; both [n]. */
export interface Norm {
  readonly gain: Weight
  readonly bias: Weight | null
}

export interface BlockTensors {
  /** llama, gpt2: before attention. bert: after attention's residual sum. */
  readonly attnNorm: Norm
  /** [heads·headDim, width] */
  readonly q: Linear
  /** [kvHeads·headDim, width] */
  readonly k: Linear
  readonly v: Linear
  /** [width, heads·headDim] */
  readonly o: Linear
  /** Qwen3: over each head, [headDim]. */
  readonly qNorm: Norm | null
  readonly kNorm: Norm | null
  /** llama, gpt2: before the feed-forward. bert: after its residual sum. */
  readonly mlpNorm: Norm
  /** [ff, width]; null if the feed-forward is not gated. */
  readonly gate: Linear | null
  /** [ff, width] */
  readonly up: Linear
  /** [width, ff] */
  readonly down: Linear
}

export interface ModelTensors {
  /** [vocab, width] */
  readonly embedding: Weight
  /** Learned positions, [context, width]; bert's token type 0 is already added. */
  readonly positions: Weight | null
  /** bert. */
  readonly embeddingNorm: Norm | null
  /** 0 ≤ i < spec.layers. */
  blockTensors(i: number): BlockTensors
  /** llama, gpt2. */
  readonly finalNorm: Norm | null
  /** [vocab, width]; null if tied: then the head is `embedding`. */
  readonly head: Linear | null
  /** bert, classify: [width, width], tanh follows. */
  readonly pooler: Linear | null
  /** bert, classify: [labels, width]. */
  readonly classifier: Linear | null
}

/**
 * Find every weight the spec needs in `source` and check its shape; the data stays on disk.
 * Throws ModelError `tensor-missing`, `tensor-shape`, and `tensor-unexpected` for a tensor of the model that the config
 * does not account for (say, a bias where it says there is none): leaving it out would be another model.
 */
export function mapTensors(spec: ModelSpec, bias: ModelConfig['bias'], source: TensorSource): ModelTensors {
  const finder = new Finder(source)
  const tensors =
    spec.family === 'llama'
      ? llama(spec, bias, finder)
      : spec.family === 'gpt2'
        ? gpt2(spec, finder)
        : bert(spec, finder)
  finder.checkLeftOver()
  return tensors
}

class Finder {
  readonly source: TensorSource
  readonly #used = new Set<string>()
  readonly #ignored: RegExp[] = []

  constructor(source: TensorSource) {
    this.source = source
  }

  /** A tensor stored just as wanted. */
  weight(name: string, ...shape: number[]): Weight {
    this.expect(name, ...shape)
    return {
      name,
      shape,
      read: () => this.source.read(name),
      readRows: (from, to) => this.source.readRows(name, from, to),
    }
  }

  expect(name: string, ...shape: number[]): void {
    const info = this.source.info(name)
    this.#used.add(name)
    if (info.shape.length !== shape.length || info.shape.some((n, i) => n !== shape[i])) {
      throw new ModelError('tensor-shape', {
        file: info.file,
        tensor: name,
        what: `its shape is [${info.shape.join(', ')}], the config asks for [${shape.join(', ')}]`,
        todo: 'Config and weights are of different models: get both from one place',
      })
    }
  }

  linear(name: string, out: number, inner: number, bias: boolean): Linear {
    return {
      weight: this.weight(`${name}.weight`, out, inner),
      bias: bias ? this.weight(`${name}.bias`, out) : null,
    }
  }

  norm(name: string, n: number, bias: boolean): Norm {
    // The oldest checkpoints say gamma and beta, as TensorFlow did.
    const [gain, shift] = this.source.has(`${name}.gamma`) ? ['gamma', 'beta'] : ['weight', 'bias']
    return { gain: this.weight(`${name}.${gain}`, n), bias: bias ? this.weight(`${name}.${shift}`, n) : null }
  }

  /** Tensors that may be there and do not matter: buffers, and heads of another task. */
  ignore(...patterns: RegExp[]): void {
    this.#ignored.push(...patterns)
  }

  checkLeftOver(): void {
    const over = this.source
      .names()
      .find((name) => !this.#used.has(name) && !this.#ignored.some((pattern) => pattern.test(name)))
    if (over === undefined) return
    throw new ModelError('tensor-unexpected', {
      file: this.source.info(over).file,
      tensor: over,
      what: 'nothing in the config says what it is for',
      todo: 'Config and weights are of different models: get both from one place',
    })
  }
}

function llama(spec: ModelSpec, bias: ModelConfig['bias'], find: Finder): ModelTensors {
  const { width, ff, vocab, headDim, heads, kvHeads } = spec
  find.ignore(/\.rotary_emb\.inv_freq$/)
  if (spec.tied) find.ignore(/^lm_head\.weight$/)
  const blocks = Array.from(
    { length: checkLayers(spec, find.source, /^model\.layers\.(\d+)\./) },
    (_, i): BlockTensors => {
      const at = `model.layers.${i}`
      const headNorm = (name: string): Norm | null =>
        spec.qkNorm ? find.norm(`${at}.self_attn.${name}`, headDim, false) : null
      return {
        attnNorm: find.norm(`${at}.input_layernorm`, width, false),
        q: find.linear(`${at}.self_attn.q_proj`, heads * headDim, width, bias.qkv),
        k: find.linear(`${at}.self_attn.k_proj`, kvHeads * headDim, width, bias.qkv),
        v: find.linear(`${at}.self_attn.v_proj`, kvHeads * headDim, width, bias.qkv),
        o: find.linear(`${at}.self_attn.o_proj`, width, heads * headDim, bias.o),
        qNorm: headNorm('q_norm'),
        kNorm: headNorm('k_norm'),
        mlpNorm: find.norm(`${at}.post_attention_layernorm`, width, false),
        gate: find.linear(`${at}.mlp.gate_proj`, ff, width, bias.mlp),
        up: find.linear(`${at}.mlp.up_proj`, ff, width, bias.mlp),
        down: find.linear(`${at}.mlp.down_proj`, width, ff, bias.mlp),
      }
    },
  )
  return {
    embedding: find.weight('model.embed_tokens.weight', vocab, width),
    positions: null,
    embeddingNorm: null,
    blockTensors: blockOf(blocks),
    finalNorm: find.norm('model.norm', width, false),
    head: spec.tied ? null : find.linear('lm_head', vocab, width, false),
    pooler: null,
    classifier: null,
  }
}

/** OpenAI's layout: linear weights are Conv1D, [in, out], and q, k, v lie side by side in one. */
function gpt2(spec: ModelSpec, find: Finder): ModelTensors {
  const { width, ff, vocab, context } = spec
  const prefix = find.source.has('transformer.wte.weight') ? 'transformer.' : ''
  find.ignore(/\.attn\.(bias|masked_bias)$/)
  if (spec.tied) find.ignore(/^lm_head\.weight$/)
  const conv = (name: string, out: number, inner: number, from = 0, of = out): Linear => {
    find.expect(`${name}.weight`, inner, of)
    find.expect(`${name}.bias`, of)
    return {
      weight: columns(find.source, `${name}.weight`, inner, of, from, out),
      bias: computed(`${name}.bias`, [out], async () =>
        find.source.readRows(`${name}.bias`, from, from + out),
      ),
    }
  }
  const blocks = Array.from(
    { length: checkLayers(spec, find.source, /^(?:transformer\.)?h\.(\d+)\./) },
    (_, i): BlockTensors => {
      const at = `${prefix}h.${i}`
      return {
        attnNorm: find.norm(`${at}.ln_1`, width, true),
        q: conv(`${at}.attn.c_attn`, width, width, 0, 3 * width),
        k: conv(`${at}.attn.c_attn`, width, width, width, 3 * width),
        v: conv(`${at}.attn.c_attn`, width, width, 2 * width, 3 * width),
        o: conv(`${at}.attn.c_proj`, width, width),
        qNorm: null,
        kNorm: null,
        mlpNorm: find.norm(`${at}.ln_2`, width, true),
        gate: null,
        up: conv(`${at}.mlp.c_fc`, ff, width),
        down: conv(`${at}.mlp.c_proj`, width, ff),
      }
    },
  )
  return {
    embedding: find.weight(`${prefix}wte.weight`, vocab, width),
    positions: find.weight(`${prefix}wpe.weight`, context, width),
    embeddingNorm: null,
    blockTensors: blockOf(blocks),
    finalNorm: find.norm(`${prefix}ln_f`, width, true),
    head: spec.tied ? null : find.linear('lm_head', vocab, width, false),
    pooler: null,
    classifier: null,
  }
}

function bert(spec: ModelSpec, find: Finder): ModelTensors {
  const { width, ff, vocab, context, task, labels } = spec
  const source = find.source
  const prefix = source.has('bert.embeddings.word_embeddings.weight') ? 'bert.' : ''
  find.ignore(/(^|\.)embeddings\.position_ids$/, /^cls\./)
  if (task === 'embed') find.ignore(/^(bert\.)?pooler\.dense\.(weight|bias)$/, /^classifier\.(weight|bias)$/)
  const blocks = Array.from(
    { length: checkLayers(spec, source, /^(?:bert\.)?encoder\.layer\.(\d+)\./) },
    (_, i): BlockTensors => {
      const at = `${prefix}encoder.layer.${i}`
      return {
        attnNorm: find.norm(`${at}.attention.output.LayerNorm`, width, true),
        q: find.linear(`${at}.attention.self.query`, width, width, true),
        k: find.linear(`${at}.attention.self.key`, width, width, true),
        v: find.linear(`${at}.attention.self.value`, width, width, true),
        o: find.linear(`${at}.attention.output.dense`, width, width, true),
        qNorm: null,
        kNorm: null,
        mlpNorm: find.norm(`${at}.output.LayerNorm`, width, true),
        gate: null,
        up: find.linear(`${at}.intermediate.dense`, ff, width, true),
        down: find.linear(`${at}.output.dense`, width, ff, true),
      }
    },
  )
  const word = `${prefix}embeddings.word_embeddings.weight`
  const position = `${prefix}embeddings.position_embeddings.weight`
  const type = `${prefix}embeddings.token_type_embeddings.weight`
  // The context may be shorter than the table (sentence-transformers' max_seq_length), and token types may be any number.
  find.expect(position, Math.max(context, source.info(position).shape[0] ?? 0), width)
  find.expect(type, Math.max(1, source.info(type).shape[0] ?? 0), width)
  const positionRows = async (from: number, to: number): Promise<Float32Array> => {
    if (to > context) throw noRows(position, from, to, context)
    const rows = await source.readRows(position, from, to)
    const first = await source.readRows(type, 0, 1)
    for (let i = 0; i < rows.length; i++) rows[i] = rows[i]! + first[i % width]!
    return rows
  }
  return {
    embedding: find.weight(word, vocab, width),
    positions: {
      name: `${position} + ${type}`,
      shape: [context, width],
      read: () => positionRows(0, context),
      readRows: positionRows,
    },
    embeddingNorm: find.norm(`${prefix}embeddings.LayerNorm`, width, true),
    blockTensors: blockOf(blocks),
    finalNorm: null,
    head: null,
    pooler: task === 'classify' ? find.linear(`${prefix}pooler.dense`, width, width, true) : null,
    classifier: task === 'classify' ? find.linear('classifier', labels!.length, width, true) : null,
  }
}

/** `spec.layers`, after a look at the file: a config that lies about it must not make us allocate first. */
function checkLayers(spec: ModelSpec, source: TensorSource, pattern: RegExp): number {
  const there = new Set(
    source
      .names()
      .map((name) => pattern.exec(name)?.[1])
      .filter((i) => i !== undefined),
  )
  if (there.size === spec.layers) return spec.layers
  throw new ModelError('tensor-missing', {
    what: `the config says ${spec.layers} layers, the weights have ${there.size}`,
    todo: 'Get config and weights from one place, and all shards',
  })
}

function blockOf(blocks: BlockTensors[]): (i: number) => BlockTensors {
  return (i) => {
    const block = blocks[i]
    if (!block) throw new RangeError(`blockTensors: there is no block ${i} in ${blocks.length}`)
    return block
  }
}

/** Columns `from` … `from + out` of a stored [inner, of], turned to [out, inner]. */
function columns(
  source: TensorSource,
  name: string,
  inner: number,
  of: number,
  from: number,
  out: number,
): Weight {
  return computed(name, [out, inner], async () => {
    const stored = await source.read(name)
    const turned = new Float32Array(out * inner)
    for (let j = 0; j < out; j++) {
      for (let i = 0; i < inner; i++) turned[j * inner + i] = stored[i * of + from + j]!
    }
    return turned
  })
}

/** A weight that only exists as a whole: rows are cut from it. */
function computed(name: string, shape: readonly number[], read: () => Promise<Float32Array>): Weight {
  const width = shape.slice(1).reduce((a, b) => a * b, 1)
  const readRows = async (from: number, to: number): Promise<Float32Array> => {
    if (!(from >= 0 && from <= to && to <= shape[0]!)) throw noRows(name, from, to, shape[0]!)
    return (await read()).slice(from * width, to * width)
  }
  return { name, shape, read, readRows }
}

function noRows(tensor: string, from: number, to: number, rows: number): ModelError {
  return new ModelError('range-invalid', {
    tensor,
    what: `there are no rows ${quote(`${from}..${to}`)} in its ${rows}`,
    todo: 'Ask for rows it has',
  })
}
