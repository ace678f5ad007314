/** Two tiny models with random weights, end to end: a prompt read and tokens drawn, texts embedded and classified. */
import type { Backend } from '../backends/backend.ts'
import { generate, score } from '../decoder.ts'
import { classify, embed } from '../encoder.ts'
import { Model } from '../model.ts'
import type { ModelOptions } from '../model.ts'
import type { Exact, ModelSpec } from '../models/spec.ts'
import type { Manifest } from '../pack/manifest.ts'
import { CHUNK_BYTES } from '../pack/manifest.ts'
import type { Pack } from '../pack/reader.ts'
import { expectedTensors } from '../pack/tensors.ts'
import type { ExpectedTensor } from '../pack/tensors.ts'
import type { Sampling } from '../sampling.ts'
import type { Bytes } from '../../shaders/kernel.ts'
import { bent, Draw, exp2Table, sigmoidal, tableOf } from './draw.ts'
import { bytesOf } from './play.ts'
import type { Outputs } from './play.ts'

const none = { rope: null, qkNorm: false, tied: false, pooling: null, normalize: false, labels: null, bosId: null } as const // prettier-ignore

const writer: { spec: ModelSpec; exact: Exact } = {
  spec: {
    ...none, family: 'llama', task: 'generate', layers: 1, width: 48, heads: 2, kvHeads: 1, headDim: 24, ff: 48, vocab: 211,
    context: 48, norm: 'rms', eps: 1e-5, act: 'silu', gated: true, rope: { theta: 10000, scaling: null }, qkNorm: true,
    tied: true, eosIds: [],
  }, // prettier-ignore
  exact: {
    residualBits: 16,
    eps: { m: 64425, k: 5 },
    headEps: { m: 64425, k: 4 },
    embedNorm: null,
    finalNorm: null,
    blocks: [true].map((a15) => ({
      score: { m: 42084, e: 40 },
      norm1: null,
      norm2: null,
      a15: { qkv: a15, o: a15, up: a15, down: a15 },
    })),
    a15: { head: false, pooler: false, classifier: false },
  },
}

const reader: { spec: ModelSpec; exact: Exact } = {
  spec: {
    ...none, family: 'bert', task: 'classify', layers: 1, width: 34, heads: 2, kvHeads: 2, headDim: 17, ff: 34, vocab: 131,
    context: 40, norm: 'layer', eps: 1e-12, act: 'gelu', gated: false, pooling: 'mean', normalize: true,
    labels: ['a', 'b', 'c'], eosIds: [],
  }, // prettier-ignore
  exact: {
    residualBits: 16,
    eps: { m: 38281, k: -18 },
    headEps: null,
    embedNorm: { m: 57982, e: 27 },
    finalNorm: null,
    blocks: [false].map((a15) => ({
      score: { m: 46588, e: 15 },
      norm1: { m: 58337, e: 27 },
      norm2: { m: 58531, e: 27 },
      a15: { qkv: a15, o: a15, up: a15, down: a15 },
    })),
    a15: { head: false, pooler: false, classifier: false },
  },
}

const samplings: Record<string, Sampling> = {
  greedy: {},
  drawn: { temperature: 0.9, topP: 0.95, topK: 50, seed: 0x1234567890abcdefn },
}

/** A prompt and a single token read, tokens drawn for both, and the logits of the prompt: bytes by what they are. */
export async function playWriter(backend: Backend, seed: number): Promise<Outputs> {
  const found: Outputs = new Map()
  await using(
    backend,
    packOf(writer, seed),
    { sequences: 2, scoring: true, rows: 16, commit: true },
    async (model) => {
      const draw = new Draw(seed, 'prompts')
      const prompts = [21, 1].map((n) => ids(draw, n, model.spec.vocab))
      for (const [name, sampling] of Object.entries(samplings)) {
        const drawn: number[][] = [[], []]
        const wanted = prompts.map((prompt, i) => ({ prompt, maxTokens: 12 - 6 * i, sampling }))
        for await (const { index, id } of generate(model, wanted)) drawn[index]!.push(id)
        found.set(name, bytesOf(Uint32Array.from(drawn.flat())))
      }
      // All but the last token drawn were computed; both sequences, each from its own KV row on.
      found.set('trace', bytesOf(await model.readTrace(0, prompts[0]!.length + 11)))
      found.set('second trace', bytesOf(await model.readTrace(model.context, 6)))
      found.set('logits', bytesOf(await score(model, prompts[0]!)))
    },
  )
  return found
}

/** Embeddings and classes of a few texts: bytes by what they are. */
export async function playReader(backend: Backend, seed: number): Promise<Outputs> {
  const found: Outputs = new Map()
  await using(backend, packOf(reader, seed), { commit: true }, async (model) => {
    const draw = new Draw(seed, 'texts')
    const texts = [1, 30, 9].map((n) => ids(draw, n, model.spec.vocab))
    const bytes = (rows: Int32Array[]): Uint8Array =>
      bytesOf(Int32Array.from(rows.flatMap((row) => [...row])))
    found.set('embeddings', bytes(await embed(model, texts)))
    found.set('trace', bytesOf(await model.readTrace(0, 40)))
    found.set('classes', bytes(await classify(model, texts)))
  })
  return found
}

const ids = (draw: Draw, length: number, vocab: number): number[] =>
  Array.from({ length }, () => draw.int(0, vocab - 1))

async function using(
  backend: Backend,
  pack: Pack,
  options: ModelOptions,
  use: (model: Model) => Promise<void>,
): Promise<void> {
  const model = await Model.open(pack, backend, options)
  try {
    await use(model)
  } finally {
    model.free()
  }
}

/** A pack whose bytes are drawn when asked for: nothing to hash, since nobody else made them. */
function packOf({ spec, exact }: { spec: ModelSpec; exact: Exact }, seed: number): Pack {
  const tensors: Manifest['tensors'] = {}
  const contents: Record<string, Uint8Array[]> = {}
  const bytesIn = (file: string): number => (contents[file] ?? []).reduce((n, part) => n + part.length, 0)
  for (const [name, tensor] of expectedTensors(spec)) {
    // Families without biases must be playable too.
    if (tensor.optional && spec.norm === 'rms') continue
    const bytes = bytesOf(valuesOf(name, tensor, spec, new Draw(seed, name)))
    tensors[name] = {
      dtype: tensor.dtype,
      shape: tensor.shape,
      file: tensor.file,
      offset: bytesIn(tensor.file),
    }
    const padded = new Uint8Array((bytes.length + 15) & ~15)
    padded.set(bytes)
    ;(contents[tensor.file] ??= []).push(padded)
  }
  const files = Object.fromEntries(
    Object.keys(contents).map((file) => [file, { bytes: bytesIn(file), sha256: '', chunks: [''] }]),
  )
  const file = (name: string): Uint8Array => {
    const whole = new Uint8Array(bytesIn(name))
    let at = 0
    for (const part of contents[name] ?? []) {
      whole.set(part, at)
      at += part.length
    }
    return whole
  }
  return {
    manifest: { format: 'chorale-pack', version: 1, numerics: 'xn1', name: 'kit', license: null, spec, exact, tensors, files },
    digest: 'kit',
    file: async (name) => file(name),
    async *chunks(name) {
      const whole = file(name)
      for (let at = 0; at < whole.length; at += CHUNK_BYTES) yield whole.subarray(at, at + CHUNK_BYTES)
    },
  } // prettier-ignore
}

/** Weights at random, scales such that what comes of them is neither all zero nor all saturated. */
function valuesOf(name: string, { dtype, shape }: ExpectedTensor, spec: ModelSpec, draw: Draw): Bytes {
  const length = shape.reduce((a, b) => a * b, 1)
  if (name === 'exp2') return exp2Table()
  if (name === 'act') return tableOf(bent)
  if (name === 'tanh') return tableOf(sigmoidal)
  if (name === 'rope') return draw.rope(length)
  if (dtype === 'i8') return draw.i8(length)
  if (dtype === 'i16') return draw.i16(length).map((v) => 20000 + (Math.abs(v) % 12000))
  if (dtype === 'i32') return draw.i32(length, 2 ** 14)
  // RMSNorm leaves its constant to the scales of the layer behind it.
  const isBehindNorm = spec.norm === 'rms' && /qkv|up|head/.test(name)
  const exponent = name === 'embed.scale' ? 7 : isBehindNorm ? 27 : 15
  return draw.scales(length, exponent, exponent)
}
