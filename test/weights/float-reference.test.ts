/** The float reference against figures computed elsewhere, in float64, from the same weights. */
import { describe, expect, test } from 'vitest'
import { activationOf, erf } from '../../engine/weights/activations.ts'
import { openModelFolder } from '../../engine/weights/huggingface.ts'
import { linear } from '../../tools/float/linear.ts'
import { loadFloatModel, pool } from '../../tools/float/model.ts'
import type { FloatModel } from '../../tools/float/model.ts'
import { readJson, sharedModel } from './shared.ts'

async function load(path: string): Promise<FloatModel> {
  const folder = await openModelFolder(path)
  try {
    return await loadFloatModel(folder)
  } finally {
    await folder.close()
  }
}

function expectClose(actual: ArrayLike<number>, expected: ArrayLike<number>, tolerance: number): void {
  expect(actual.length).toBe(expected.length)
  let worst = 0
  for (let i = 0; i < expected.length; i++) worst = Math.max(worst, Math.abs(actual[i]! - expected[i]!))
  expect(worst).toBeLessThan(tolerance)
}

function argmax(row: Float32Array): number {
  let best = 0
  for (let i = 1; i < row.length; i++) if (row[i]! > row[best]!) best = i
  return best
}

/**
 * The ids greedy decoding gives. One pass over prompt and expected ids decides it: while every argmax equals the next
 * expected id, that is the very sequence greedy decoding would have fed itself.
 */
function greedyAgrees(model: FloatModel, prompt: number[], expected: number[]): number[] {
  const { vocab } = model.spec
  const ids = [...prompt, ...expected.slice(0, -1)]
  const { logits } = model.forward(ids, { logits: 'all' })
  return expected.map((_, i) =>
    argmax(logits!.subarray((prompt.length - 1 + i) * vocab, (prompt.length + i) * vocab)),
  )
}

describe('parts', () => {
  test('erf matches tabled values (Abramowitz & Stegun 7.1) and is odd', () => {
    for (const [x, y] of [
      [0, 0],
      [0.1, 0.1124629160182849],
      [0.5, 0.5204998778130465],
      [1, 0.8427007929497149],
      [2, 0.9953222650189527],
      [3, 0.9999779095030014],
    ] as const) {
      expect(erf(x)).toBeCloseTo(y, 13)
      expect(erf(-x)).toBeCloseTo(-y, 13)
    }
    expect(erf(7)).toBe(1)
    expect(erf(-Infinity)).toBe(-1)
  })

  test('activations go to x on the right, and to 0 (or -1) on the left', () => {
    for (const act of ['silu', 'gelu', 'gelu_tanh', 'relu'] as const) {
      expect(activationOf(act)(30)).toBeCloseTo(30, 9)
      expect(activationOf(act)(-40)).toBeCloseTo(0, 9)
    }
    expect(activationOf('tanh')(-40)).toBe(-1)
    expect(activationOf('gelu')(1)).toBeCloseTo(0.8413447460685429, 13)
    expect(activationOf('gelu_tanh')(1)).toBeCloseTo(0.8411919906082768, 13)
    expect(activationOf('silu')(1)).toBeCloseTo(0.7310585786300049, 13)
  })

  test('the blocked product equals the plain one at every remainder of the blocks', () => {
    for (const rows of [1, 2, 3, 64, 65, 67]) {
      for (const out of [1, 3, 4, 5, 9]) {
        const inner = 7
        const x = Float32Array.from({ length: rows * inner }, (_, i) => ((i * 37) % 23) - 11)
        const w = Float32Array.from({ length: out * inner }, (_, i) => ((i * 29) % 19) - 9)
        const bias = Float32Array.from({ length: out }, (_, i) => i + 1)
        const y = new Float32Array(rows * out)
        linear(y, x, w, bias, rows, out, inner)
        // Whole numbers this small have exact sums in any order.
        const plain = y.map((_, i) => {
          let sum = bias[i % out]!
          for (let k = 0; k < inner; k++)
            sum += x[Math.floor(i / out) * inner + k]! * w[(i % out) * inner + k]!
          return sum
        })
        expect(y).toEqual(plain)
      }
    }
  })
})

interface LastLogits {
  input_ids: number[]
  last_logits: number[]
  greedy_next_24: number[]
}

for (const name of ['test-only/llama-mha-untied', 'test-only/gpt2-nano']) {
  const path = sharedModel(name)
  test.skipIf(!path)(`${name}: logits within 1e-3, greedy ids equal`, async () => {
    const model = await load(path!)
    const reference = readJson<LastLogits>(path!, 'reference.json')
    expectClose(model.forward(reference.input_ids).logits!, reference.last_logits, 1e-3)
    expect(greedyAgrees(model, reference.input_ids, reference.greedy_next_24)).toEqual(
      reference.greedy_next_24,
    )
  })
}

{
  const path = sharedModel('test-only/bert-nano')
  test.skipIf(!path)('bert-nano: embeddings and first hidden state within 1e-3', async () => {
    const model = await load(path!)
    const { cases } = readJson<{
      cases: {
        input_ids: number[]
        attention_mask: number[]
        mean_pooled_l2: number[]
        cls_hidden: number[]
      }[]
    }>(path!, 'reference.json')
    for (const c of cases) {
      // A masked token is one that is not there: the reference here has no padding.
      const ids = c.input_ids.filter((_, i) => c.attention_mask[i] === 1)
      const { embedding, last } = model.forward(ids)
      expectClose(embedding!, c.mean_pooled_l2, 1e-3)
      expectClose(last.subarray(0, model.spec.width), c.cls_hidden, 1e-3)
    }
  })
}

{
  const path = sharedModel('intents-3m')
  test.skipIf(!path)('intents-3m: class logits and mean state within 1e-3, label equal', async () => {
    const model = await load(path!)
    const { cases } = readJson<{
      cases: { input_ids: number[]; label: string; top5: [string, number][]; mean_pooled: number[] }[]
    }>(path!, 'reference.json')
    for (const c of cases) {
      const { classLogits, last } = model.forward(c.input_ids)
      const order = [...classLogits!.keys()].sort((a, b) => classLogits![b]! - classLogits![a]!)
      expect(model.spec.labels![order[0]!]).toBe(c.label)
      const values = c.top5.map(([label]) => classLogits![model.spec.labels!.indexOf(label)]!)
      expectClose(
        values,
        c.top5.map(([, value]) => value),
        1e-3,
      )
      expectClose(pool(last, c.input_ids.length, 'mean', false), c.mean_pooled, 1e-3)
    }
  })
}

{
  const path = sharedModel('tales-3m')
  test.skipIf(!path)(
    'tales-3m: greedy ids equal, first logits within 1e-3',
    async () => {
      const model = await load(path!)
      const { cases } = readJson<{
        cases: { input_ids: number[]; greedy_ids: number[]; first_step_top5: [number, number][] }[]
      }>(path!, 'reference.json')
      for (const c of cases) {
        expect(greedyAgrees(model, c.input_ids, c.greedy_ids)).toEqual(c.greedy_ids)
        const { logits } = model.forward(c.input_ids)
        expectClose(
          c.first_step_top5.map(([id]) => logits![id]!),
          c.first_step_top5.map(([, value]) => value),
          1e-3,
        )
      }
    },
    60_000,
  )
}

{
  const path = sharedModel('test-only/stories260K')
  test.skipIf(!path)(
    'stories260K: greedy ids equal, first logits within the rounding of f16',
    async () => {
      const model = await load(path!)
      const { cases } = readJson<{
        cases: { prompt_ids: number[]; greedy_ids: number[]; first_logits_top5: [number, number][] }[]
      }>(path!, 'reference_greedy.json')
      for (const c of cases) {
        expect(greedyAgrees(model, c.prompt_ids, c.greedy_ids)).toEqual(c.greedy_ids)
        const { logits } = model.forward(c.prompt_ids)
        // The figures are of the weights before they were rounded to f16, which moves a logit by as much as 0.0054.
        expectClose(
          c.first_logits_top5.map(([id]) => logits![id]!),
          c.first_logits_top5.map(([, value]) => value),
          1e-2,
        )
      }
    },
    60_000,
  )
}
