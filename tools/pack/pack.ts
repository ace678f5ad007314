/** A float model folder becomes a pack: every tensor of xn1 computed, written and hashed, a few megabytes at a time. */
import { readFile } from 'node:fs/promises'
import { basename } from 'node:path'
import type { BlockExact, Exact, ModelSpec, Scale } from '../../engine/models/spec.ts'
import { NUMERICS } from '../../engine/pack/manifest.ts'
import type { Manifest } from '../../engine/pack/manifest.ts'
import { expectedTensors } from '../../engine/pack/tensors.ts'
import type { ModelFolder } from '../../engine/weights/huggingface.ts'
import type { Linear, Norm, Weight } from '../../engine/weights/logical.ts'
import type { Calibration, Choice } from './calibrate.ts'
import type { HeadScales } from './equalise.ts'
import { quantiseGain, quantiseRows, toEpsilon, toFixed, toScale } from './quantise.ts'
import { exp2Table, functionTable, ropeTable } from './tables.ts'
import { PackWriter } from './writer.ts'

export interface PackOptions {
  out: string
  name: string
  license?: string | null
  owners?: Manifest['owners']
  calibration: Calibration
  /** Model parts done, of how many. */
  onProgress?: (done: number, of: number) => void
}

/** Values of float rows handled at a time. */
const PIECE = 4_000_000
/** P·V leaves its value scale's 127 and seven bits of the probabilities behind (shaders/attention.ts). */
const ATTENTION_OUT = 128 / 127

export async function writePack(
  folder: ModelFolder,
  options: PackOptions,
): Promise<{ manifest: Manifest; digest: string; bytes: number }> {
  const writer = await PackWriter.create(options.out)
  try {
    const exact = await new Packing(folder, options.calibration, writer, options.onProgress).run()
    for (const [name, path] of Object.entries({
      'config.json': folder.files.config,
      'generation_config.json': folder.files.generationConfig,
      'tokenizer.json': folder.files.tokenizer,
      'tokenizer_config.json': folder.files.tokenizerConfig,
      'chat_template.jinja': folder.files.chatTemplate,
    }))
      if (path) await writer.file(name, await readFile(path))
    return await writer.finish({
      format: 'chorale-pack', version: 1, numerics: NUMERICS, name: options.name, license: options.license ?? null,
      ...(options.owners && { owners: options.owners }), spec: folder.spec, exact,
    }) // prettier-ignore
  } catch (error) {
    await writer.abandon()
    throw error
  }
}

export const packName = (path: string): string => basename(path.replace(/\/+$/, ''))

class Packing {
  readonly #spec: ModelSpec
  readonly #folder: ModelFolder
  readonly #calibration: Calibration
  readonly #writer: PackWriter
  readonly #onProgress: PackOptions['onProgress']
  readonly #files: Map<string, string>

  constructor(
    folder: ModelFolder,
    calibration: Calibration,
    writer: PackWriter,
    onProgress: PackOptions['onProgress'],
  ) {
    this.#spec = folder.spec
    this.#folder = folder
    this.#calibration = calibration
    this.#writer = writer
    this.#onProgress = onProgress
    this.#files = new Map(Array.from(expectedTensors(folder.spec), ([name, t]) => [name, t.file]))
  }

  async run(): Promise<Exact> {
    const spec = this.#spec
    const weights = this.#folder.weights
    const bits = this.#calibration.residualBits
    const post = spec.family === 'bert'
    const parts = spec.layers + 2

    // What reaches a linear layer is in Q16 as the kernels see it; a post-norm model's is in the residual's binary point.
    const streamUnit = post ? 2 ** (16 - bits) : 1
    await this.#rows('embed', 'table', weights.embedding, 2 ** bits * 127)
    if (weights.positions)
      await this.#put(
        'embed.positions',
        'i32',
        [spec.context, spec.width],
        toFixed(await weights.positions.read(), bits),
      )
    const embedNorm = weights.embeddingNorm
      ? (await this.#norm('embed.norm', weights.embeddingNorm, null, bits)).out
      : null
    this.#onProgress?.(1, parts)

    const blocks: BlockExact[] = []
    for (let i = 0; i < spec.layers; i++) {
      const b = weights.blockTensors(i)
      const choice = (name: string): Choice | undefined => this.#calibration.choices.get(`${i}.${name}`)
      const norm1 = await this.#norm(`${i}.norm1`, b.attnNorm, post ? null : choice('qkv'), post ? bits : 16)
      const by = this.#calibration.heads[i]!
      // Where q and k are normed, what their rows are multiplied by is lost, and the gains behind the norm take it.
      const [q, k] = spec.qkNorm ? [b.q, b.k] : [scaleRows(b.q, by.q), scaleRows(b.k, by.k)]
      const qkv = [q, k, scaleRows(b.v, by.v)]
      await this.#linears(`${i}.qkv`, qkv, post ? streamUnit : norm1.unit, 16, choice('qkv'))
      const headUnit = b.qNorm && b.kNorm ? await this.#headNorms(i, b.qNorm.gain, b.kNorm.gain, by) : 1
      await this.#linears(`${i}.o`, [b.o], ATTENTION_OUT, bits, choice('o'))
      const norm2 = await this.#norm(`${i}.norm2`, b.mlpNorm, post ? null : choice('up'), post ? bits : 16)
      const upUnit = post ? streamUnit : norm2.unit
      if (b.gate) await this.#gated(`${i}.up`, b.gate, b.up, upUnit, choice('up'))
      else await this.#linears(`${i}.up`, [b.up], upUnit, 16, choice('up'))
      await this.#linears(`${i}.down`, [b.down], 1, bits)
      blocks.push({
        score: toScale(((Math.LOG2E / Math.sqrt(spec.headDim)) * 65536 * headUnit) / 127 / 127),
        norm1: norm1.out,
        norm2: norm2.out,
        a15: {
          qkv: choice('qkv')?.a15 ?? false, o: choice('o')?.a15 ?? false, up: choice('up')?.a15 ?? false, down: choice('down')?.a15 ?? false,
        }, // prettier-ignore
      })
      this.#onProgress?.(i + 2, parts)
    }

    const after = (name: string): Choice | undefined =>
      this.#calibration.choices.get(`${spec.layers}.${name}`)
    let finalNorm: Scale | null = null
    if (spec.task === 'generate') {
      const { out, unit } = await this.#norm('final', weights.finalNorm!, after('head'), 16)
      finalNorm = out
      if (weights.head) await this.#linears('head', [weights.head], unit, 16, after('head'))
      else await this.#tiedHead(unit)
    }
    if (spec.task === 'classify') {
      await this.#linears('pooler', [weights.pooler!], streamUnit, 16)
      await this.#linears('classifier', [weights.classifier!], 1, 16)
      await this.#put('tanh', 'i32', [2049], functionTable('tanh'))
    }
    await this.#put('exp2', 'i32', [257], exp2Table())
    await this.#put('act', 'i32', [2049], functionTable(spec.act))
    if (spec.rope) await this.#put('rope', 'u32', [spec.context, spec.headDim / 2], ropeTable(spec))
    this.#onProgress?.(parts, parts)
    return {
      residualBits: bits,
      eps: toEpsilon(spec.width * spec.eps * 2 ** (2 * bits)),
      headEps: spec.qkNorm ? toEpsilon(spec.headDim * spec.eps * 2 ** 32) : null,
      embedNorm,
      finalNorm,
      blocks,
      a15: {
        head: after('head')?.a15 ?? false,
        pooler: after('pooler')?.a15 ?? false,
        classifier: after('classifier')?.a15 ?? false,
      },
    }
  }

  #put(
    name: string,
    dtype: 'i8' | 'i16' | 'i32' | 'u32',
    shape: number[],
    values: Int8Array | Int16Array | Int32Array | Uint32Array,
  ): Promise<void> {
    return this.#writer.tensor(this.#files.get(name)!, name, dtype, shape, values)
  }

  /**
   * A norm's tensors. `out` are its output constants (LayerNorm), `unit` what one unit of its quantised output stands for in the
   * layer behind it.
   */
  async #norm(
    name: string,
    norm: Norm,
    choice: Choice | null | undefined,
    outBits: number,
  ): Promise<{ out: Scale | null; unit: number }> {
    const { width } = this.#spec
    const divide = (values: Float32Array): Float32Array =>
      choice?.migrate ? values.map((v, j) => v / choice.migrate![j]!) : values
    const { gain, step } = quantiseGain(divide(await norm.gain.read()))
    await this.#put(`${name}.gain`, 'i16', [width], gain)
    if (this.#spec.norm === 'rms') return { out: null, unit: step * Math.sqrt(width) }
    const bias = norm.bias ? divide(await norm.bias.read()) : new Float32Array(width)
    await this.#put(`${name}.bias`, 'i32', [width], toFixed(bias, outBits))
    return { out: toScale(step * Math.sqrt(width) * 2 ** (outBits - 15)), unit: 1 }
  }

  /** The gains of the q and k norm; returns what their product stands for in a score. */
  async #headNorms(i: number, q: Weight, k: Weight, by: HeadScales): Promise<number> {
    const times = (gain: Float32Array, s: Float32Array): Float32Array => gain.map((g, c) => g * s[c]!)
    const [a, b] = [quantiseGain(times(await q.read(), by.q)), quantiseGain(times(await k.read(), by.k))]
    const { headDim } = this.#spec
    await this.#put(`${i}.qknorm`, 'i16', [2, headDim], Int16Array.of(...a.gain, ...b.gain))
    return a.step * b.step * headDim
  }

  /** Layers that share an input, one under the other: weight, channel scales (to Q(outBits)), bias. */
  async #linears(
    name: string,
    layers: Linear[],
    unit: number,
    outBits: number,
    choice?: Choice,
  ): Promise<void> {
    const k = layers[0]!.weight.shape[1]!
    const n = layers.reduce((sum, l) => sum + l.weight.shape[0]!, 0)
    const read = async (row: number, count: number): Promise<Float32Array> => {
      for (const { weight } of layers) {
        const rows = weight.shape[0]!
        if (row < rows) return weight.readRows(row, Math.min(rows, row + count))
        row -= rows
      }
      throw new RangeError(`row ${row} of ${name}`)
    }
    await this.#matrix(name, 'weight', n, k, unit * 2 ** outBits, read, choice)
    if (layers.some((l) => l.bias)) {
      const parts = await Promise.all(
        layers.map((l) => l.bias?.read() ?? new Float32Array(l.weight.shape[0]!)),
      )
      await this.#put(
        `${name}.bias`,
        'i32',
        [n],
        Int32Array.from(parts.flatMap((p) => [...toFixed(p, outBits)])),
      )
    }
  }

  /** Gate and up rows in turn, so that one thread sees both. */
  async #gated(name: string, gate: Linear, up: Linear, unit: number, choice?: Choice): Promise<void> {
    const [ff, k] = gate.weight.shape as [number, number]
    const read = async (row: number, count: number): Promise<Float32Array> => {
      const [from, to] = [row >> 1, Math.min(ff, (row >> 1) + (count >> 1))]
      const [g, u] = [await gate.weight.readRows(from, to), await up.weight.readRows(from, to)]
      const both = new Float32Array(2 * g.length)
      for (let r = 0; r < to - from; r++) {
        both.set(g.subarray(r * k, (r + 1) * k), 2 * r * k)
        both.set(u.subarray(r * k, (r + 1) * k), (2 * r + 1) * k)
      }
      return both
    }
    await this.#matrix(name, 'weight', 2 * ff, k, unit * 65536, read, choice)
    if (gate.bias || up.bias) {
      const [g, u] = [await gate.bias?.read(), await up.bias?.read()]
      const both = Float32Array.from({ length: 2 * ff }, (_, i) => (i & 1 ? u : g)?.[i >> 1] ?? 0)
      await this.#put(`${name}.bias`, 'i32', [2 * ff], toFixed(both, 16))
    }
  }

  #rows(prefix: string, tensor: string, weight: Weight, unit: number): Promise<void> {
    const [n, k] = weight.shape as [number, number]
    return this.#matrix(prefix, tensor, n, k, unit, (row, count) =>
      weight.readRows(row, Math.min(n, row + count)),
    )
  }

  /** The head's weight is the embedding table; only its channel scales are its own. */
  async #tiedHead(unit: number): Promise<void> {
    const { embedding } = this.#folder.weights
    const [n, k] = embedding.shape as [number, number]
    const scales = new Uint32Array(n)
    await eachPiece(n, k, async (row, count) => {
      scales.set(quantiseRows(await embedding.readRows(row, row + count), k, (unit * 65536) / 127).scale, row)
    })
    await this.#put('head.scale', 'u32', [n], scales)
  }

  /** int8 rows and their scales; `unit` is what q = 127 in the input times the weight itself amounts to in the output. */
  async #matrix(
    prefix: string,
    tensor: string,
    n: number,
    k: number,
    unit: number,
    read: (row: number, count: number) => Promise<Float32Array>,
    choice?: Choice,
  ): Promise<void> {
    // prettier-ignore
    const name = `${prefix}.${tensor}`
    const scales = new Uint32Array(n)
    await this.#writer.begin(this.#files.get(name)!, name, 'i8', [n, k])
    await eachPiece(n, k, async (row, count) => {
      for (let done = 0; done < count;) {
        const rows = await read(row + done, count - done)
        const { migrate } = choice ?? {}
        if (migrate) for (let i = 0; i < rows.length; i++) rows[i] = rows[i]! * migrate[i % k]!
        const { weight, scale } = quantiseRows(rows, k, unit / 127)
        await this.#writer.append(weight)
        scales.set(scale, row + done)
        done += scale.length
      }
    })
    await this.#put(`${prefix}.scale`, 'u32', [n], scales)
  }
}

/** Each row of a layer times a factor of its own. */
function scaleRows({ weight, bias }: Linear, by: Float32Array): Linear {
  const times = (values: Float32Array, from: number, width: number): Float32Array =>
    values.map((v, i) => v * by[from + Math.floor(i / width)]!)
  const rows = async (from: number, to: number): Promise<Float32Array> =>
    times(await weight.readRows(from, to), from, weight.shape[1]!)
  const biases = async (from: number, to: number): Promise<Float32Array> =>
    times(await bias!.readRows(from, to), from, 1)
  return {
    weight: { name: weight.name, shape: weight.shape, read: () => rows(0, weight.shape[0]!), readRows: rows },
    bias: bias && {
      name: bias.name,
      shape: bias.shape,
      read: () => biases(0, bias.shape[0]!),
      readRows: biases,
    },
  }
}

async function eachPiece(
  n: number,
  k: number,
  piece: (row: number, count: number) => Promise<void>,
): Promise<void> {
  const rows = Math.max(2, Math.floor(PIECE / k / 2) * 2)
  for (let row = 0; row < n; row += rows) await piece(row, Math.min(rows, n - row))
}
