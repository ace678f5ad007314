/** What must hold of the float reference for any weights, where no figures from elsewhere are at hand. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import type { ModelSpec } from '../../engine/models/spec.ts'
import { openModelFolder } from '../../engine/weights/huggingface.ts'
import { mapTensors } from '../../engine/weights/logical.ts'
import { ropeFrequencies } from '../../engine/weights/rope.ts'
import { openSafetensors } from '../../engine/weights/safetensors.ts'
import { makeRandomModel, recipeOf } from '../../scripts/make-random-model.ts'
import type { Dims } from '../../scripts/make-random-model.ts'
import { loadFloatModel, lossOf } from '../../tools/float/model.ts'
import type { FloatModel, LinearInput } from '../../tools/float/model.ts'
import { law } from '../harness/random.ts'
import type { Random } from '../harness/random.ts'
import { f32, memory, sound } from './build.ts'
import type { Piece } from './build.ts'

const root = mkdtempSync(join(tmpdir(), 'chorale-float-'))
afterAll(() => rmSync(root, { recursive: true }))
let made = 0

interface Tensor {
  shape: number[]
  values: Float32Array
}

/** A random model, with its config and tensors changed on the way. */
async function build(
  dims: Dims,
  seed: number,
  change: { spec?: Partial<ModelSpec>; bias?: boolean; tensors?: (all: Map<string, Tensor>) => void } = {},
): Promise<FloatModel> {
  const path = join(root, String(made++))
  makeRandomModel(path, recipeOf(dims, 'F32', seed))
  const folder = await openModelFolder(path)
  const all = new Map<string, Tensor>()
  for (const name of folder.tensors.names())
    all.set(name, { shape: [...folder.tensors.info(name).shape], values: await folder.tensors.read(name) })
  await folder.close()
  change.tensors?.(all)
  const spec = { ...folder.spec, ...change.spec }
  const qkv = change.bias ?? (dims.family === 'qwen2' || dims.bias === true)
  const pieces: Record<string, Piece> = {}
  for (const [name, { shape, values }] of all) pieces[name] = f32(shape, values)
  const source = await openSafetensors(memory(sound(pieces)))
  return loadFloatModel({
    spec,
    weights: mapTensors(spec, { qkv, o: dims.bias === true, mlp: dims.bias === true }, source),
  })
}

function ids(random: Random, model: FloatModel, length = random.int(2, 24)): number[] {
  return Array.from({ length }, () => random.int(0, model.spec.vocab - 1))
}

function largest(values: ArrayLike<number>): number {
  let most = 0
  for (let i = 0; i < values.length; i++) most = Math.max(most, Math.abs(values[i]!))
  return most
}

function difference(a: Float32Array, b: Float32Array): number {
  expect(a.length).toBe(b.length)
  return largest(a.map((v, i) => v - b[i]!))
}

const decoders: [string, Dims][] = [
  ['llama', { family: 'llama', kvHeads: 1, headDim: 10, rope: 'llama3', tied: false }],
  ['qwen2', { family: 'qwen2', width: 36, heads: 6, kvHeads: 3 }],
  ['qwen3', { family: 'qwen3', width: 34, heads: 3, kvHeads: 1, headDim: 14 }],
  ['gpt2', { family: 'gpt2', width: 35, heads: 7 }],
]

describe.each(decoders)('%s', (name, dims) => {
  law(
    `${name}: a later token changes nothing before it, and a prefix alone gives the same numbers`,
    async (random) => {
      const model = await build(dims, random.u32())
      const text = ids(random, model)
      const { vocab } = model.spec
      const whole = model.forward(text, { logits: 'all' }).logits!
      for (const n of [1, random.int(1, text.length), text.length]) {
        expect(model.forward(text.slice(0, n)).logits).toEqual(whole.slice((n - 1) * vocab, n * vocab))
      }
      const other = [...text.slice(0, -1), (text.at(-1)! + 1) % vocab]
      expect(model.forward(other, { logits: 'all' }).logits!.slice(0, (text.length - 1) * vocab)).toEqual(
        whole.slice(0, (text.length - 1) * vocab),
      )
      expect(difference(model.forward(other).logits!, model.forward(text).logits!)).toBeGreaterThan(1e-3)
    },
  )

  law(`${name}: an earlier token matters, and so does its place`, async (random) => {
    const model = await build(dims, random.u32())
    const logits = model.forward([1, 2, 3, 4, 5]).logits!
    expect(difference(model.forward([9, 2, 3, 4, 5]).logits!, logits)).toBeGreaterThan(1e-4)
    expect(difference(model.forward([2, 1, 3, 4, 5]).logits!, logits)).toBeGreaterThan(1e-4)
  })

  law(`${name}: the loss is that of the logits`, async (random) => {
    const model = await build(dims, random.u32())
    const text = ids(random, model)
    const loss = model.loss(text)
    expect(loss.length).toBe(text.length - 1)
    for (let t = 0; t < loss.length; t++) {
      const logits = model.forward(text.slice(0, t + 1)).logits!
      let sum = 0
      for (const v of logits) sum += Math.exp(v)
      expect(loss[t]).toBeCloseTo(Math.log(sum) - logits[text[t + 1]!]!, 6)
      expect(loss[t]).toBeGreaterThan(0)
    }
  })
})

law('one key head for all is the same as its copies for each', async (random) => {
  const dims: Dims = { family: 'llama', heads: 5, kvHeads: 1, headDim: 10 }
  const seed = random.u32()
  const one = await build(dims, seed)
  const copies = await build(dims, seed, {
    spec: { kvHeads: 5 },
    tensors: (all) => {
      for (const [name, t] of all) {
        if (!/[kv]_proj\.weight$/.test(name)) continue
        const values = new Float32Array(5 * t.values.length)
        for (let i = 0; i < 5; i++) values.set(t.values, i * t.values.length)
        all.set(name, { shape: [50, 50], values })
      }
    },
  })
  const text = ids(random, one)
  expect(copies.forward(text).logits).toEqual(one.forward(text).logits)
})

law('biases of zero are no biases, others are not', async (random) => {
  const seed = random.u32()
  const dims: Dims = { family: 'qwen2' }
  const clear =
    (keep: RegExp) =>
    (all: Map<string, Tensor>): void => {
      for (const [name, t] of all) if (name.endsWith('_proj.bias') && !keep.test(name)) t.values.fill(0)
    }
  const drop = (all: Map<string, Tensor>): void => {
    for (const name of all.keys()) if (name.endsWith('_proj.bias')) all.delete(name)
  }
  const none = await build(dims, seed, { bias: false, tensors: drop })
  const zero = await build(dims, seed, { tensors: clear(/^$/) })
  const text = ids(random, none, 12)
  expect(zero.forward(text).logits).toEqual(none.forward(text).logits)
  for (const part of ['q', 'k', 'v']) {
    const some = await build(dims, seed, { tensors: clear(new RegExp(`${part}_proj`)) })
    expect(difference(some.forward(text).logits!, none.forward(text).logits!)).toBeGreaterThan(1e-5)
  }
})

law('Qwen3: query and key norms take away the scale of queries and keys', async (random) => {
  const seed = random.u32()
  const dims: Dims = { family: 'qwen3', headDim: 10 }
  const [plain, scaled] = [
    await build(dims, seed),
    await build(dims, seed, {
      tensors: (all) => {
        for (const [name, t] of all)
          if (/[qk]_proj\.weight$/.test(name)) all.set(name, { ...t, values: t.values.map((v) => v * 8) })
      },
    }),
  ]
  const text = ids(random, plain)
  // Not equal to the bit: the norm's epsilon is not scaled.
  expect(difference(scaled.forward(text).logits!, plain.forward(text).logits!)).toBeLessThan(1e-3)
})

law('an encoder sees both ways, and pools what it says', async (random) => {
  const model = await build({ family: 'bert', vocab: 300, pooling: 'mean' }, random.u32())
  const text = ids(random, model)
  const { last, embedding } = model.forward(text)
  const width = model.spec.width
  const changed = model.forward([...text.slice(0, -1), (text.at(-1)! + 1) % 300]).last
  expect(difference(changed.slice(0, width), last.slice(0, width))).toBeGreaterThan(1e-5)
  expect(Math.hypot(...embedding!)).toBeCloseTo(1, 6)
  const mean = Float64Array.from(
    { length: width },
    (_, i) => text.reduce((sum, _, t) => sum + last[t * width + i]!, 0) / text.length,
  )
  const length = Math.hypot(...mean)
  expect(largest(embedding!.map((v, i) => v - mean[i]! / length))).toBeLessThan(1e-6)
})

describe('hooks and outputs', () => {
  law('each linear layer shows its input once, and the hidden states join up', async (random) => {
    for (const dims of [
      { family: 'qwen3', headDim: 10 },
      { family: 'gpt2' },
      { family: 'bert-classify', vocab: 300 },
    ] as Dims[]) {
      const model = await build(dims, random.u32())
      const { layers, width, heads, headDim, ff, task } = model.spec
      const text = ids(random, model)
      const seen: [number, LinearInput, number, number][] = []
      const onLinearInput = (layer: number, name: LinearInput, x: Float32Array, rows: number): void => {
        expect(largest(x)).toBeGreaterThan(0)
        seen.push([layer, name, x.length / rows, rows])
      }
      const out = model.forward(text, { hidden: true, logits: 'all', onLinearInput })
      const wanted = Array.from({ length: layers }, (_, i): [number, LinearInput, number, number][] => [
        [i, 'qkv', width, text.length],
        [i, 'o', heads * headDim, text.length],
        [i, 'up', width, text.length],
        [i, 'down', ff, text.length],
      ]).flat()
      if (task === 'generate') wanted.push([layers, 'head', width, text.length])
      else wanted.push([layers, 'pooler', width, 1], [layers, 'classifier', width, 1])
      expect(seen).toEqual(wanted)
      expect(out.hidden!.length).toBe(layers + 1)
      if (task === 'classify') expect(out.last).toEqual(out.hidden!.at(-1))
      expect(out.classLogits?.length).toBe(task === 'classify' ? 3 : undefined)
    }
  })

  test('ids and lengths that cannot be are refused', async () => {
    const model = await build({ family: 'gpt2' }, 1)
    for (const bad of [[], Array.from({ length: 65 }, () => 1), [257], [-1], [0.5], [NaN]])
      expect(() => model.forward(bad)).toThrow(RangeError)
    const encoder = await build({ family: 'bert', vocab: 300 }, 1)
    expect(() => encoder.loss([1, 2])).toThrow(RangeError)
    expect(lossOf(Float32Array.of(0, 0, 0, 0), 2)).toBeCloseTo(Math.log(4), 12)
    expect(lossOf(Float32Array.of(1000, -1000), 0)).toBe(0)
  })
})

describe('rotary frequencies', () => {
  const theta = 500_000
  const plain = ropeFrequencies({ theta, scaling: null }, 64)

  test('fall from 1 by a constant factor; linear scaling divides them', () => {
    expect(plain.length).toBe(32)
    expect(plain[0]).toBe(1)
    for (let i = 1; i < 32; i++) expect(plain[i]! / plain[i - 1]!).toBeCloseTo(theta ** (-1 / 32), 12)
    expect(ropeFrequencies({ theta, scaling: { type: 'linear', factor: 4 } }, 64)).toEqual(
      plain.map((f) => f / 4),
    )
  })

  test('Llama 3.2: short waves stay, long ones are 32 times longer, between them neither and in order', () => {
    const scaling = {
      type: 'llama3',
      factor: 32,
      lowFreqFactor: 1,
      highFreqFactor: 4,
      originalContext: 8192,
    } as const
    const scaled = ropeFrequencies({ theta, scaling }, 64)
    for (const [i, f] of plain.entries()) {
      const wave = (2 * Math.PI) / f
      if (wave < 8192 / 4) expect(scaled[i]).toBe(f)
      else if (wave > 8192) expect(scaled[i]).toBe(f / 32)
      else {
        expect(scaled[i]).toBeLessThan(f)
        expect(scaled[i]).toBeGreaterThan(f / 32)
      }
      if (i > 0) expect(scaled[i]).toBeLessThan(scaled[i - 1]!)
    }
    expect(ropeFrequencies({ theta, scaling: { ...scaling, factor: 1 } }, 64)).toEqual(plain)
  })
})
