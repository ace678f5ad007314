/**
 * Watching the float model on real text to choose what the quantiser may choose: how far outlier channels of a normalised input
 * are moved into the weights (SmoothQuant, arXiv 2211.10438), where 8-bit inputs are too coarse (A15), and the binary point
 * of the residual stream.
 */
import type { ModelSpec } from '../../engine/models/spec.ts'
import { ModelError } from '../../engine/weights/errors.ts'
import type { BlockTensors, ModelTensors, Weight } from '../../engine/weights/logical.ts'
import { HeadWatch, WORTH } from './equalise.ts'
import type { HeadScales } from './equalise.ts'
import { FloatModel } from '../float/model.ts'
import type { LinearInput, ValueName } from '../float/model.ts'

export interface Choice {
  /** Input channel j is divided by migrate[j] in the norm before, and multiplied back in the weights. */
  migrate: Float32Array | null
  a15: boolean
  /** Relative output error on the calibration rows before and after the choice, for the curious. */
  errorBefore: number
  errorAfter: number
}

export interface Calibration {
  residualBits: number
  /** By `${layer}.${input}`. */
  choices: Map<string, Choice>
  tokens: number
  /** Of each block's attention. */
  heads: HeadScales[]
  /** The largest magnitudes seen, by what they are of. */
  largest: Record<string, number>
}

/** What the kernels hold in Q16, in 32 bits: ±32768. A quarter of it is for texts that calibration did not see. */
const Q16_MAX = 32768 / 4

type Largest = Map<ValueName, { value: number; layer: number }>

function checkSaturation(largest: Largest): void {
  for (const [name, { value, layer }] of largest) {
    if (name === 'residual' || value < Q16_MAX) continue
    throw new ModelError('saturation', {
      what: `${name} of block ${layer} reaches ${value.toPrecision(4)}, and xn1 has room for ${Q16_MAX} with a margin of 4`,
      todo: 'This model cannot be packed in xn1; use another checkpoint',
    })
  }
}

/** Rows of each linear input that are kept to measure errors on, and output channels they are measured at. */
const ROWS_KEPT = 48
const OUTPUTS_TRIED = 192
/** Share of an output's energy that rounding its inputs to 8 bits may cost before 15 bits are used. */
const INPUT_ERROR_MAX = 2.5e-4
const MIGRATION_STRENGTHS = [0.5, 0.65, 0.8]

interface Watched {
  channelMax: Float32Array
  rows: Float32Array[]
  seen: number
}

/** Throws ModelError `saturation` where a value comes nearer than a factor of 4 to the end of its 32 bits. */
export async function calibrate(
  folder: { spec: ModelSpec; weights: ModelTensors },
  texts: readonly ArrayLike<number>[],
  onProgress: (done: number, of: number) => void = () => {},
): Promise<Calibration> {
  // prettier-ignore
  const { spec, weights: tensors } = folder
  const watched = new Map<string, Watched>()
  const largest: Largest = new Map()
  const headWatches = Array.from({ length: spec.layers }, () => new HeadWatch(spec))
  await FloatModel.streamed(folder, texts, {
    logits: 'all',
    onLinearInput: (layer, name, x, rows) => watch(watched, `${layer}.${name}`, x, rows),
    onHeads: (layer, q, k, v, rows) => headWatches[layer]!.see(q, k, v, rows),
    onValues: (layer, name, values) => {
      const seen = largest.get(name)
      const value = values.reduce((m, v) => Math.max(m, Math.abs(v)), 0)
      if (!seen || value > seen.value) largest.set(name, { value, layer })
    },
    onLayer: (done, of) => onProgress(done, of + spec.layers),
  })
  checkSaturation(largest)
  const residualMax = largest.get('residual')!.value

  const choices = new Map<string, Choice>()
  const choose = async (
    layer: number,
    name: LinearInput,
    weights: Weight[],
    mayMigrate: boolean,
  ): Promise<void> => {
    const seen = watched.get(`${layer}.${name}`)
    if (seen) choices.set(`${layer}.${name}`, chooseFor(seen, await sampleRows(weights), mayMigrate))
  }
  const heads: HeadScales[] = []
  const migrates = spec.family !== 'bert'
  for (let layer = 0; layer < spec.layers; layer++) {
    const b: BlockTensors = tensors.blockTensors(layer)
    await choose(layer, 'qkv', [b.q.weight, b.k.weight, b.v.weight], migrates)
    heads.push(await chooseHeads(headWatches[layer]!, watched.get(`${layer}.o`)!, b.o.weight, choices, layer))
    await choose(layer, 'up', b.gate ? [b.gate.weight, b.up.weight] : [b.up.weight], migrates)
    await choose(layer, 'down', [b.down.weight], false)
    onProgress(spec.layers + 2 + layer, 2 * spec.layers + 1)
  }
  if (tensors.head) await choose(spec.layers, 'head', [tensors.head.weight], migrates)
  if (tensors.pooler) await choose(spec.layers, 'pooler', [tensors.pooler.weight], false)
  if (tensors.classifier) await choose(spec.layers, 'classifier', [tensors.classifier.weight], false)
  const tokens = texts.reduce((sum, ids) => sum + ids.length, 0)
  return {
    residualBits: residualBitsFor(residualMax),
    choices,
    heads,
    tokens,
    largest: Object.fromEntries(Array.from(largest, ([k, v]) => [k, v.value])),
  }
}

/** The most fraction bits, 16 at most, that leave four times the largest value seen inside 32 bits. */
export function residualBitsFor(residualMax: number): number {
  const bits = Math.min(16, Math.floor(31 - Math.log2(4 * Math.max(residualMax, 2 ** -20))))
  if (bits < 4) {
    throw new ModelError('saturation', {
      what: `the residual stream reaches ${residualMax.toPrecision(4)}, which leaves ${bits} fraction bits`,
      todo: 'This model cannot be packed in xn1 without losing precision; use another checkpoint',
    })
  }
  return bits
}

function watch(all: Map<string, Watched>, key: string, x: Float32Array, rows: number): void {
  const k = x.length / rows
  const w = all.get(key) ?? { channelMax: new Float32Array(k), rows: [], seen: 0 }
  all.set(key, w)
  for (let r = 0; r < rows; r++) {
    const row = x.subarray(r * k, (r + 1) * k)
    for (let i = 0; i < k; i++) w.channelMax[i] = Math.max(w.channelMax[i]!, Math.abs(row[i]!))
    // Reservoir over a fixed stride: the same rows whenever the same text is packed.
    if (w.rows.length < ROWS_KEPT) w.rows.push(row.slice())
    else if (w.seen % 7 === 0) w.rows[Math.floor(w.seen / 7) % ROWS_KEPT] = row.slice()
    w.seen++
  }
}

async function sampleRows(weights: Weight[]): Promise<Float32Array[]> {
  const rows: Float32Array[] = []
  for (const weight of weights) {
    const [n, k] = weight.shape as [number, number]
    const take = Math.min(n, Math.ceil(OUTPUTS_TRIED / weights.length))
    const step = Math.floor(n / take)
    if (n * k <= 4_000_000) {
      const all = await weight.read()
      for (let i = 0; i < take; i++) rows.push(all.slice(i * step * k, (i * step + 1) * k))
    } else {
      for (let i = 0; i < take; i++) rows.push(await weight.readRows(i * step, i * step + 1))
    }
  }
  return rows
}

function chooseFor(seen: Watched, weights: Float32Array[], mayMigrate: boolean): Choice {
  const none = errors(seen.rows, weights, null)
  let best: { migrate: Float32Array | null; total: number; input: number } = { migrate: null, ...none }
  if (mayMigrate && none.input > INPUT_ERROR_MAX / 4) {
    for (const strength of MIGRATION_STRENGTHS) {
      const migrate = migration(seen.channelMax, weights, strength)
      const tried = errors(seen.rows, weights, migrate)
      if (tried.total < best.total * 0.9) best = { migrate, ...tried }
    }
  }
  const a15 = best.input > INPUT_ERROR_MAX
  return {
    migrate: best.migrate,
    a15,
    errorBefore: none.total,
    errorAfter: a15 ? best.total - best.input : best.total,
  }
}

/** The factors of a block's attention, and with them the choice for o: what leaves v divided reaches o divided. */
async function chooseHeads(
  watch: HeadWatch,
  seen: Watched,
  o: Weight,
  choices: Map<string, Choice>,
  layer: number,
): Promise<HeadScales> {
  // prettier-ignore
  const rows = await sampleRows([o])
  const columns = rows[0]!.map((_, c) => rows.reduce((sum, row) => sum + row[c]! ** 2, 0))
  const scales = watch.choose(columns)
  const [plain, scaled] = [errors(seen.rows, rows, null), errors(seen.rows, rows, scales.o)]
  // What the values gain must not be lost in rounding o.
  const pays = scales.valueError[1] + scaled.total < WORTH * (scales.valueError[0] + plain.total)
  const chosen = pays ? scaled : plain
  if (!pays) {
    scales.v.fill(1)
    scales.o.fill(1)
    scales.valueError[1] = scales.valueError[0]
  }
  const a15 = chosen.input > INPUT_ERROR_MAX
  choices.set(`${layer}.o`, {
    migrate: pays ? scales.o : null, a15, errorBefore: plain.total, errorAfter: a15 ? chosen.total - chosen.input : chosen.total,
  }) // prettier-ignore
  return scales
}

/** s_j = max|x_j|^α / max|w_j|^(1-α), scaled to a geometric mean of 1. */
function migration(channelMax: Float32Array, weights: Float32Array[], strength: number): Float32Array {
  const s = channelMax.map((x, j) => {
    const w = weights.reduce((m, row) => Math.max(m, Math.abs(row[j]!)), 0)
    return x > 0 && w > 0 ? Math.exp(strength * Math.log(x) - (1 - strength) * Math.log(w)) : 1
  })
  const mean = Math.exp(s.reduce((sum, v) => sum + Math.log(v), 0) / s.length)
  // Gains are i16 against their largest: keep the spread where small ones still have ten bits.
  return s.map((v) => Math.max(1 / 32, Math.min(32, v / mean)))
}

/** Error energy over output energy with int8 inputs alone, and with int8 weights too. */
function errors(
  rows: Float32Array[],
  weights: Float32Array[],
  migrate: Float32Array | null,
): { input: number; total: number } {
  const rounded = (row: Float32Array): Float32Array => {
    const max = row.reduce((m, v) => Math.max(m, Math.abs(v)), 0)
    return max === 0 ? row : row.map((v) => (Math.round((v * 127) / max) * max) / 127)
  }
  const xs = migrate ? rows.map((row) => row.map((v, j) => v / migrate[j]!)) : rows
  const xq = xs.map(rounded)
  let energy = 0
  let input = 0
  let total = 0
  for (const original of weights) {
    const w = migrate ? original.map((v, j) => v * migrate[j]!) : original
    const wq = rounded(w)
    for (let r = 0; r < xs.length; r++) {
      const x = xs[r]!
      const q = xq[r]!
      let exact = 0
      let a = 0
      let b = 0
      for (let j = 0; j < x.length; j++) {
        exact += x[j]! * w[j]!
        a += q[j]! * w[j]!
        b += q[j]! * wq[j]!
      }
      energy += exact * exact
      input += (a - exact) ** 2
      total += (b - exact) ** 2
    }
  }
  return energy === 0 ? { input: 0, total: 0 } : { input: input / energy, total: total / energy }
}
