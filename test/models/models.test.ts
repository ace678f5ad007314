/** Whole models give the same bytes everywhere, and the tokens their float originals give. */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest'
import { embed, embeddingBits, Model, openBackend, openPack, packInMemory, score } from '../../engine/index.ts'
import type { Backend, Pack } from '../../engine/index.ts'
import { dawn } from '../../engine/backends/webgpu/dawn.ts'
import { openPage } from '../harness/page.ts'
import type { TestPage } from '../harness/page.ts'
import { Random } from '../harness/random.ts'
import { exercise } from './exercise.ts'
import type { Digests, Exercise } from './exercise.ts'
import { cleanUp, packedFiles, zoo } from './zoo.ts'

const seed = inject('seed')
const specimens = zoo(seed)
/** Chrome's WebGPU is the Dawn that Node has: there the models people meet, and each time another of the rest. */
const others = specimens.filter(({ name, folder }) => folder && !/^(tales|intents)-3m$/.test(name))
const inBrowser = new Set(['tales-3m', 'intents-3m', others[seed % others.length]!.name])
let page: TestPage
afterAll(cleanUp)
beforeAll(async () => {
  page = await openPage()
})
afterAll(() => page?.close())

for (const [index, { name, folder }] of specimens.entries()) {
  if (!folder) {
    test.skip(`${name}: no ../shared beside this checkout`, () => {})
    continue
  }
  describe(name, () => {
    let files: Record<string, Uint8Array>
    let pack: Pack
    let work: Exercise
    let expected: Digests

    beforeAll(async () => {
      files = await packedFiles(folder, name)
      pack = await openPack(packInMemory(name, files))
      const { vocab, context } = pack.manifest.spec
      const random = new Random(seed, name)
      const prompt = (length: number): number[] => Array.from({ length }, () => random.int(0, vocab - 1))
      work = { prompts: [prompt(Math.min(19, context >> 1)), prompt(1), prompt(7)], tokens: 9 }
      expected = await using(await openBackend('js'), (backend) => exercise(backend, pack, work))
    })

    test('WASM gives the bytes of the definitions', async () => {
      expect(await using(await openBackend('wasm', { threads: 1 }), (backend) => exercise(backend, pack, work))).toEqual(expected)
    })
    test('WASM gives them with three threads', async () => {
      expect(await using(await openBackend('wasm', { threads: 3 }), (backend) => exercise(backend, pack, work))).toEqual(expected)
    })
    // Every model’s digests; the laws on a third of them, each time another.
    test('WebGPU under Dawn in Node gives them', async () => {
      const some = { ...work, laws: (index + seed) % 3 === 0 }
      const { adapter } = await dawn()
      expect(await using(await openBackend('webgpu', { adapter }), (backend) => exercise(backend, pack, some))).toEqual(expected)
    })
    test.runIf(inBrowser.has(name))('WebGPU in a browser gives them', async () => {
      expect(page.adapter, 'this browser has no WebGPU adapter').toBeDefined()
      expect((await side().exerciseInPage('webgpu', files, work)).digests).toEqual(expected)
    })
    test('WASM in a browser gives them', async () => {
      expect((await side().exerciseInPage('wasm', files, work)).digests).toEqual(expected)
    })
    if (hasReference(folder)) test('the reference outputs of the float original are met', () => checkReference(folder, pack))
  })
}

const side = () => page.module<typeof import('./page-side.ts')>('test/models/page-side.ts')

async function using<T>(backend: Backend, use: (backend: Backend) => Promise<T>): Promise<T> {
  try {
    return await use(backend)
  } finally {
    await backend.close()
  }
}

// --- references: float64 passes over the original weights, made elsewhere ---

interface Case {
  input_ids?: number[]
  prompt_ids?: number[]
  attention_mask?: number[]
  greedy_ids?: number[]
  mean_pooled?: number[]
  mean_pooled_l2?: number[]
  last_logits?: number[]
}

const referenceFile = (folder: string): string | undefined =>
  ['reference.json', 'reference_greedy.json'].map((f) => join(folder, f)).find((f) => existsSync(f))
const hasReference = (folder: string): boolean => referenceFile(folder) !== undefined

async function checkReference(folder: string, pack: Pack): Promise<void> {
  const json = JSON.parse(readFileSync(referenceFile(folder)!, 'utf8')) as Case & { cases?: Case[] }
  const cases = json.cases ?? [json]
  await using(await openBackend('wasm'), async (backend) => {
    const { spec } = pack.manifest
    const model = await Model.open(pack, backend, { scoring: spec.task === 'generate' })
    let positions = 0
    let agree = 0
    for (const c of cases) {
      const ids = (c.input_ids ?? c.prompt_ids!).filter((_, i) => c.attention_mask?.[i] !== 0)
      if (spec.task !== 'generate') {
        const [vector] = await embed(model, [ids])
        const real = Array.from(vector!, (v) => v / 2 ** embeddingBits(model))
        expect(cosine(real, (c.mean_pooled ?? c.mean_pooled_l2)!)).toBeGreaterThanOrEqual(0.999)
        continue
      }
      const text = [...ids, ...(c.greedy_ids ?? [])]
      const logits = await score(model, text)
      const row = (t: number): Int32Array => logits.subarray(t * spec.vocab, (t + 1) * spec.vocab)
      c.greedy_ids?.forEach((id, i) => {
        positions++
        agree += Number(indexOfMax(row(ids.length + i - 1)) === id)
      })
      if (c.last_logits) {
        // The random fixtures are rougher than trained models: int8 moves their logits a little, not their direction.
        expect(cosine(Array.from(row(ids.length - 1)), c.last_logits)).toBeGreaterThanOrEqual(0.999)
        positions++
        agree += Number(indexOfMax(row(ids.length - 1)) === indexOfMax(c.last_logits))
      }
    }
    // Greedy ids equal the float reference's at 97 % of positions, teacher-forced.
    expect(agree).toBeGreaterThanOrEqual(0.97 * positions)
    model.free()
  })
}

const indexOfMax = (values: ArrayLike<number>): number => Array.from(values).reduce((best, v, i, all) => (v > all[best]! ? i : best), 0)

function cosine(a: number[], b: number[]): number {
  const dot = (x: number[], y: number[]): number => x.reduce((sum, v, i) => sum + v * y[i]!, 0)
  return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b))
}
