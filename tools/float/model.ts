/**
 * The original model in plain float: what the exact engine's quality is measured against, and what the packer watches to
 * calibrate. Never used in serving. Sums are float64 and stored values float32, so two machines may differ in the last bits.
 */
import type { ModelSpec } from '../../engine/models/spec.ts'
import { activationOf } from '../../engine/weights/activations.ts'
import type { BlockTensors, Linear, ModelTensors, Norm } from '../../engine/weights/logical.ts'
import { ropeFrequencies } from '../../engine/weights/rope.ts'
import { attend, rotate } from './attention.ts'
import { layerNorm, linear, rmsNorm } from './linear.ts'
import type { NormWeights } from './linear.ts'

/**
 * Linear layers by what goes into them: q, k and v share one input, and so do gate and up.
 * `head`, `pooler` and `classifier` come with layer = spec.layers.
 */
export type LinearInput = 'qkv' | 'o' | 'up' | 'down' | 'head' | 'pooler' | 'classifier'

export interface ForwardOptions {
  /** Which rows get logits (generate): `last` by default. */
  logits?: 'all' | 'last' | 'none'
  /** Keep the residual stream of every layer. */
  hidden?: boolean
  /** Called with the input of each linear layer, [rows, x.length / rows], row-major. Copy what you keep: x is reused. */
  onLinearInput?: (layer: number, name: LinearInput, x: Float32Array, rows: number) => void
  /** Called with what the exact engine holds in fixed point: how large does it become? */
  onValues?: (layer: number, name: ValueName, values: Float32Array) => void
  /** Called with what attention works on, behind norm and RoPE: q [rows, heads·headDim], k and v [rows, kvHeads·headDim]. */
  onHeads?: (layer: number, q: Float32Array, k: Float32Array, v: Float32Array, rows: number) => void
}

/** `residual`: the stream after the embedding and after every sum · `hidden`: after the activation, gated or not. */
export type ValueName = 'residual' | 'qkv' | 'up' | 'hidden' | 'logits'

export interface StreamOptions extends ForwardOptions {
  /** Called when a block is done for all sequences; may throw to stop. */
  onLayer?: (done: number, of: number) => void
}

export interface Forward {
  /** Tokens. */
  rows: number
  /** With `hidden`: layers + 1 arrays [rows, width]: the embedding, then the stream after each block (before any final norm). */
  hidden: Float32Array[] | null
  /** Last hidden state, [rows, width]: after the final norm if the family has one. */
  last: Float32Array
  /** generate: [rows or 1, vocab], else null. */
  logits: Float32Array | null
  /** Encoders: the pooled vector [width] by `spec.pooling`, of unit length if `spec.normalize`; else null. */
  embedding: Float32Array | null
  /** classify: [labels], else null. */
  classLogits: Float32Array | null
}

/** Values of the head's matrix held at a time when it is streamed. */
const headPiece = 16_000_000

interface LinearWeights {
  weight: Float32Array
  bias: Float32Array | null
  out: number
}

interface BlockWeights {
  attnNorm: NormWeights
  q: LinearWeights
  k: LinearWeights
  v: LinearWeights
  o: LinearWeights
  qNorm: NormWeights | null
  kNorm: NormWeights | null
  mlpNorm: NormWeights
  gate: LinearWeights | null
  up: LinearWeights
  down: LinearWeights
}

interface Loaded {
  embedding: Float32Array
  positions: Float32Array | null
  embeddingNorm: NormWeights | null
  blocks: BlockWeights[]
  finalNorm: NormWeights | null
  head: LinearWeights | null
  pooler: LinearWeights | null
  classifier: LinearWeights | null
}

export class FloatModel {
  readonly spec: ModelSpec
  readonly #w: Loaded
  readonly #frequencies: Float64Array | null

  /** Use `loadFloatModel`. */
  constructor(spec: ModelSpec, weights: Loaded) {
    this.spec = spec
    this.#w = weights
    this.#frequencies = spec.rope && ropeFrequencies(spec.rope, spec.headDim)
  }

  /** One pass over one sequence of 1 … spec.context token ids. Throws RangeError for an id or a length out of range. */
  forward(ids: ArrayLike<number>, options: ForwardOptions = {}): Forward {
    const { spec } = this
    const { embedding } = this.#w
    const rows = ids.length
    const x = this.#embed(ids, (id) => embedding.subarray(id * spec.width, (id + 1) * spec.width), options)
    const hidden = options.hidden ? [x.slice()] : null
    for (let layer = 0; layer < spec.layers; layer++) {
      this.#block(layer, this.#w.blocks[layer]!, x, rows, options)
      hidden?.push(x.slice())
    }
    const last = this.#w.finalNorm ? this.#norm(x, this.#w.finalNorm) : x
    return {
      rows,
      hidden,
      last,
      logits: this.#logits(last, rows, options),
      ...this.#pool(last, rows, options),
    }
  }

  /**
   * forward() of many sequences with one block's weights in memory at a time, for models that would not fit as floats.
   * Rejects with a ModelError as `TensorSource.read` does.
   */
  static async streamed(
    { spec, weights }: { spec: ModelSpec; weights: ModelTensors },
    sequences: readonly ArrayLike<number>[],
    options: StreamOptions = {},
  ): Promise<Forward[]> {
    const model = new FloatModel(spec, {
      ...(await loadEnds(weights)),
      embedding: new Float32Array(0),
      blocks: [],
      head: null,
    })
    const used = new Map<number, Float32Array>()
    for (const ids of sequences) {
      for (const id of Array.from(ids))
        if (id < spec.vocab && !used.has(id)) used.set(id, await weights.embedding.readRows(id, id + 1))
    }
    const streams = sequences.map((ids) => model.#embed(ids, (id) => used.get(id)!, options))
    const hidden = streams.map((x) => (options.hidden ? [x.slice()] : null))
    for (let layer = 0; layer < spec.layers; layer++) {
      const block = await loadBlock(weights.blockTensors(layer))
      streams.forEach((x, i) => {
        model.#block(layer, block, x, sequences[i]!.length, options)
        hidden[i]?.push(x.slice())
      })
      options.onLayer?.(layer + 1, spec.layers + 1)
      // Lets a signal handler run between blocks.
      await new Promise((resolve) => setImmediate(resolve))
    }
    const lasts = streams.map((x) => (model.#w.finalNorm ? model.#norm(x, model.#w.finalNorm) : x))
    const logits = await model.#streamedLogits(weights, lasts, options)
    options.onLayer?.(spec.layers + 1, spec.layers + 1)
    return lasts.map((last, i) => {
      const rows = sequences[i]!.length
      return {
        rows,
        hidden: hidden[i]!,
        last,
        logits: logits && logits[i]!,
        ...model.#pool(last, rows, options),
      }
    })
  }

  /** Natural-log loss of each token after the first, given those before it: ids.length - 1 values. */
  loss(ids: ArrayLike<number>): Float64Array {
    const { vocab } = this.spec
    const { logits } = this.forward(ids, { logits: 'all' })
    if (!logits) throw new RangeError(`loss: a model for ${this.spec.task} predicts no next token`)
    return Float64Array.from({ length: ids.length - 1 }, (_, t) =>
      lossOf(logits.subarray(t * vocab, (t + 1) * vocab), ids[t + 1]!),
    )
  }

  #embed(
    ids: ArrayLike<number>,
    row: (id: number) => Float32Array,
    { onValues }: ForwardOptions,
  ): Float32Array {
    const { vocab, width, context } = this.spec
    const { positions, embeddingNorm } = this.#w
    if (ids.length < 1 || ids.length > context)
      throw new RangeError(`forward: ${ids.length} tokens, and the model takes 1 to ${context}`)
    const x = new Float32Array(ids.length * width)
    for (let t = 0; t < ids.length; t++) {
      const id = ids[t]!
      if (!Number.isInteger(id) || id < 0 || id >= vocab)
        throw new RangeError(`forward: token ${t} is ${id}, outside the vocabulary of ${vocab}`)
      const embedded = row(id)
      for (let i = 0; i < width; i++)
        x[t * width + i] = embedded[i]! + (positions ? positions[t * width + i]! : 0)
    }
    onValues?.(0, 'residual', x)
    return embeddingNorm ? this.#norm(x, embeddingNorm) : x
  }

  /** One transformer block, in place. */
  #block(
    layer: number,
    b: BlockWeights,
    x: Float32Array,
    rows: number,
    { onLinearInput, onValues, onHeads }: ForwardOptions,
  ): void {
    const { spec } = this
    // bert normalises after each residual sum, the others before each half.
    const post = spec.family === 'bert'

    const h = post ? x : this.#norm(x, b.attnNorm)
    onLinearInput?.(layer, 'qkv', h, rows)
    const [q, k, v] = [apply(b.q, h, rows), apply(b.k, h, rows), apply(b.v, h, rows)]
    for (const values of [q, k, v]) onValues?.(layer, 'qkv', values)
    if (b.qNorm) rmsNorm(q, q, b.qNorm, spec.eps)
    if (b.kNorm) rmsNorm(k, k, b.kNorm, spec.eps)
    if (this.#frequencies) {
      rotate(q, rows, spec.heads, spec.headDim, this.#frequencies)
      rotate(k, rows, spec.kvHeads, spec.headDim, this.#frequencies)
    }
    onHeads?.(layer, q, k, v, rows)
    const mixed = new Float32Array(q.length)
    attend(mixed, q, k, v, rows, spec.heads, spec.kvHeads, spec.headDim, spec.family !== 'bert')
    onLinearInput?.(layer, 'o', mixed, rows)
    add(x, apply(b.o, mixed, rows))
    onValues?.(layer, 'residual', x)
    if (post) this.#norm(x, b.attnNorm, x)

    const g = post ? x : this.#norm(x, b.mlpNorm)
    onLinearInput?.(layer, 'up', g, rows)
    const up = apply(b.up, g, rows)
    onValues?.(layer, 'up', up)
    const act = activationOf(spec.act)
    if (b.gate) {
      const gate = apply(b.gate, g, rows)
      onValues?.(layer, 'up', gate)
      for (let i = 0; i < up.length; i++) up[i] = act(gate[i]!) * up[i]!
    } else {
      for (let i = 0; i < up.length; i++) up[i] = act(up[i]!)
    }
    onValues?.(layer, 'hidden', up)
    onLinearInput?.(layer, 'down', up, rows)
    add(x, apply(b.down, up, rows))
    onValues?.(layer, 'residual', x)
    if (post) this.#norm(x, b.mlpNorm, x)
  }

  #logits(
    last: Float32Array,
    rows: number,
    { logits = 'last', onLinearInput, onValues }: ForwardOptions,
  ): Float32Array | null {
    const { task, width, layers, vocab } = this.spec
    if (task !== 'generate' || logits === 'none') return null
    const input = logits === 'all' ? last : last.subarray((rows - 1) * width)
    onLinearInput?.(layers, 'head', input, input.length / width)
    const values = apply(
      this.#w.head ?? { weight: this.#w.embedding, bias: null, out: vocab },
      input,
      input.length / width,
    )
    onValues?.(layers, 'logits', values)
    return values
  }

  /** The head over all sequences, some rows of its matrix at a time. */
  async #streamedLogits(
    weights: ModelTensors,
    lasts: readonly Float32Array[],
    { logits = 'last', onLinearInput, onValues }: ForwardOptions,
  ): Promise<Float32Array[] | null> {
    const { task, width, layers, vocab } = this.spec
    if (task !== 'generate' || logits === 'none') return null
    const inputs = lasts.map((last) => (logits === 'all' ? last : last.subarray(last.length - width)))
    for (const input of inputs) onLinearInput?.(layers, 'head', input, input.length / width)
    const outputs = inputs.map((input) => new Float32Array((input.length / width) * vocab))
    const { weight, bias } = weights.head ?? { weight: weights.embedding, bias: null }
    const biases = await bias?.read()
    const step = Math.max(4, Math.floor(headPiece / width / 4) * 4)
    for (let from = 0; from < vocab; from += step) {
      const to = Math.min(vocab, from + step)
      const piece = {
        weight: await weight.readRows(from, to),
        bias: biases?.subarray(from, to) ?? null,
        out: to - from,
      }
      inputs.forEach((input, i) => {
        const rows = input.length / width
        const values = apply(piece, input, rows)
        onValues?.(layers, 'logits', values)
        for (let r = 0; r < rows; r++)
          outputs[i]!.set(values.subarray(r * (to - from), (r + 1) * (to - from)), r * vocab + from)
      })
      await new Promise((resolve) => setImmediate(resolve))
    }
    return outputs
  }

  #pool(
    last: Float32Array,
    rows: number,
    { onLinearInput }: ForwardOptions,
  ): Pick<Forward, 'embedding' | 'classLogits'> {
    const { pooling, normalize, width, layers } = this.spec
    const { pooler, classifier } = this.#w
    let classLogits: Float32Array | null = null
    if (pooler && classifier) {
      const first = last.subarray(0, width)
      onLinearInput?.(layers, 'pooler', first, 1)
      const pooled = apply(pooler, first, 1).map(Math.tanh)
      onLinearInput?.(layers, 'classifier', pooled, 1)
      classLogits = apply(classifier, pooled, 1)
    }
    return { embedding: pooling && pool(last, rows, pooling, normalize), classLogits }
  }

  #norm(x: Float32Array, weights: NormWeights, y: Float32Array = new Float32Array(x.length)): Float32Array {
    const norm = this.spec.norm === 'rms' ? rmsNorm : layerNorm
    norm(y, x, weights, this.spec.eps)
    return y
  }
}

/** Mean of the rows of [rows, width], or the first row; then to unit length. */
export function pool(
  last: Float32Array,
  rows: number,
  pooling: 'mean' | 'cls',
  normalize: boolean,
): Float32Array {
  const width = last.length / rows
  const sum = new Float64Array(width)
  const used = pooling === 'cls' ? 1 : rows
  for (let i = 0; i < used * width; i++) sum[i % width] = sum[i % width]! + last[i]! / used
  const length = normalize ? Math.hypot(...sum) : 1
  return Float32Array.from(sum, (v) => v / length)
}

/** -log softmax(logits)[id] */
export function lossOf(logits: Float32Array, id: number): number {
  let max = -Infinity
  for (let i = 0; i < logits.length; i++) max = Math.max(max, logits[i]!)
  let sum = 0
  for (let i = 0; i < logits.length; i++) sum += Math.exp(logits[i]! - max)
  return Math.log(sum) + max - logits[id]!
}

function apply(l: LinearWeights, x: Float32Array, rows: number): Float32Array {
  const y = new Float32Array(rows * l.out)
  linear(y, x, l.weight, l.bias, rows, l.out, x.length / rows)
  return y
}

function add(x: Float32Array, y: Float32Array): void {
  for (let i = 0; i < x.length; i++) x[i] = x[i]! + y[i]!
}

/** Read every weight into memory as float32 (4 bytes a parameter). Rejects with a ModelError as `TensorSource.read` does. */
export async function loadFloatModel({
  spec,
  weights,
}: {
  spec: ModelSpec
  weights: ModelTensors
}): Promise<FloatModel> {
  const blocks: BlockWeights[] = []
  for (let i = 0; i < spec.layers; i++) blocks.push(await loadBlock(weights.blockTensors(i)))
  return new FloatModel(spec, {
    ...(await loadEnds(weights)),
    embedding: await weights.embedding.read(),
    blocks,
    head: weights.head && (await loadLinear(weights.head)),
  })
}

const loadNorm = async (n: Norm): Promise<NormWeights> => ({
  gain: await n.gain.read(),
  bias: n.bias && (await n.bias.read()),
})
const loadLinear = async (l: Linear): Promise<LinearWeights> => ({
  weight: await l.weight.read(),
  bias: l.bias && (await l.bias.read()),
  out: l.weight.shape[0]!,
})
const loadBlock = async (b: BlockTensors): Promise<BlockWeights> => ({
  attnNorm: await loadNorm(b.attnNorm),
  q: await loadLinear(b.q),
  k: await loadLinear(b.k),
  v: await loadLinear(b.v),
  o: await loadLinear(b.o),
  qNorm: b.qNorm && (await loadNorm(b.qNorm)),
  kNorm: b.kNorm && (await loadNorm(b.kNorm)),
  mlpNorm: await loadNorm(b.mlpNorm),
  gate: b.gate && (await loadLinear(b.gate)),
  up: await loadLinear(b.up),
  down: await loadLinear(b.down),
})

/** What lies around the blocks, but for the two large matrices. */
const loadEnds = async (weights: ModelTensors): Promise<Omit<Loaded, 'embedding' | 'blocks' | 'head'>> => ({
  positions: weights.positions && (await weights.positions.read()),
  embeddingNorm: weights.embeddingNorm && (await loadNorm(weights.embeddingNorm)),
  finalNorm: weights.finalNorm && (await loadNorm(weights.finalNorm)),
  pooler: weights.pooler && (await loadLinear(weights.pooler)),
  classifier: weights.classifier && (await loadLinear(weights.classifier)),
})
