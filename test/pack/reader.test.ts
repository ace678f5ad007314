/** Nobody vouches for a pack: whatever is wrong with it is a ModelError that says where, and no byte of it is used. */
import fc from 'fast-check'
import { beforeAll, describe, expect, inject, test } from 'vitest'
import { openJs } from '../../engine/backends/js.ts'
import { generate } from '../../engine/decoder.ts'
import { classify, embed } from '../../engine/encoder.ts'
import { Model } from '../../engine/model.ts'
import { packInMemory } from '../../engine/pack/memory.ts'
import { openPack } from '../../engine/pack/reader.ts'
import { ModelError } from '../../engine/weights/errors.ts'
import { makeRandomModel, recipeOf } from '../../scripts/make-random-model.ts'
import type { Dims } from '../../scripts/make-random-model.ts'
import { refusal } from '../weights/build.ts'
import { packed, scratch } from './packing.ts'

type Files = Record<string, Uint8Array>

const dims: Dims[] = [
  {
    family: 'qwen3',
    layers: 2,
    width: 16,
    heads: 2,
    kvHeads: 1,
    headDim: 8,
    ff: 20,
    vocab: 270,
    context: 24,
    tied: false,
  },
  { family: 'gpt2', layers: 1, width: 12, heads: 2, headDim: 6, ff: 20, vocab: 270, context: 24 },
  { family: 'bert-classify', layers: 1, width: 12, heads: 2, headDim: 6, ff: 20, vocab: 270, context: 24 },
]
const specimens: Files[] = []
beforeAll(async () => {
  const { path, remove } = scratch()
  for (const [i, d] of dims.entries()) {
    makeRandomModel(`${path}/${i}`, recipeOf(d, 'F32', inject('seed')))
    specimens.push(await packed(`${path}/${i}`, 32))
  }
  remove()
})

const seeded = (numRuns: number): fc.Parameters<unknown> => ({ seed: inject('seed') | 0, numRuns })
const specimen = fc.nat(dims.length - 1)

/** Opens, loads and runs a pack. What it computes is of no interest here. */
async function use(files: Files, digest?: string): Promise<void> {
  const pack = await openPack(packInMemory('specimen', files), digest)
  const model = await Model.open(pack, openJs(), {
    context: Math.min(8, pack.manifest.spec.context),
    rows: 8,
  })
  if (model.spec.task === 'classify') await classify(model, [[1, 2, 3]])
  else if (model.spec.task === 'embed') await embed(model, [[1, 2, 3]])
  else
    for await (const _ of generate(model, [
      { prompt: [1, 2, 3], maxTokens: 3, sampling: { temperature: 1 } },
    ]))
      void _
  model.free()
}

async function whole(files: Files): Promise<void> {
  const pack = await openPack(packInMemory('specimen', files))
  for (const file of Object.keys(pack.manifest.files)) await pack.file(file)
}

const payload = (files: Files): string[] => Object.keys(files).filter((f) => f !== 'manifest.json')

test('sound packs open and run', async () => {
  for (const files of specimens) {
    await whole(files)
    await use(files)
  }
})

test('a changed bit anywhere in any file is found, and the file is named', () =>
  fc.assert(
    fc.asyncProperty(specimen, fc.nat(), fc.nat(), fc.nat(7), async (s, f, at, bit) => {
      const files = { ...specimens[s]! }
      const name = payload(files)[f % payload(files).length]!
      const bytes = (files[name] = files[name]!.slice())
      bytes[at % bytes.length]! ^= 1 << bit
      const error = await refusal('chunk-mismatch', () => whole(files))
      expect(error.file).toContain(name)
    }),
    seeded(200),
  ))

test('a file cut short is found, and the file is named', () =>
  fc.assert(
    fc.asyncProperty(specimen, fc.nat(), fc.nat(), async (s, f, at) => {
      const files = { ...specimens[s]! }
      const name = payload(files)[f % payload(files).length]!
      files[name] = files[name]!.subarray(0, at % files[name]!.length)
      const error = await refusal('file-truncated', () => whole(files))
      expect(error.file).toContain(name)
    }),
    seeded(100),
  ))

test('a file that is not there is named', () =>
  fc.assert(
    fc.asyncProperty(specimen, fc.nat(), async (s, f) => {
      const files = { ...specimens[s]! }
      const name = payload(files)[f % payload(files).length]!
      delete files[name]
      const error = await refusal('file-missing', () => whole(files))
      expect(error.file).toContain(name)
    }),
    seeded(30),
  ))

test('a manifest that is not the one asked for is refused whatever the change', async () => {
  const { digest } = await openPack(packInMemory('specimen', specimens[0]!))
  await use(specimens[0]!, digest)
  const text = new TextDecoder().decode(specimens[0]!['manifest.json'])
  const spaced = new TextEncoder().encode(text.replace('{', '{ '))
  await refusal('digest-mismatch', () => use({ ...specimens[0]!, 'manifest.json': spaced }, digest))
})

test('a manifest cut anywhere is refused', () =>
  fc.assert(
    fc.asyncProperty(specimen, fc.nat(), async (s, at) => {
      const bytes = specimens[s]!['manifest.json']!
      // The last byte is a line feed that JSON does not need.
      const cut = bytes.subarray(0, at % (bytes.length - 1))
      await refusal('manifest-invalid', () => use({ ...specimens[s]!, 'manifest.json': cut }))
    }),
    seeded(100),
  ))

describe('a lying manifest', () => {
  /** Values of every kind, the awkward ones first. */
  const lie = fc.oneof(
    fc.constantFrom<unknown>(
      null, true, '', 'x', [], {}, -1, 0, 1, 2, 3, 16, 255, 32767, 65535, 65536, 2 ** 31 - 1, 2 ** 31, 2 ** 32, 2 ** 53, 1e300, -1e300, 0.5,
      '__proto__', 'constructor', '../../etc/passwd', 'a'.repeat(300), 'embedding.bin', 'llama', 'bert', 'gpt2', 'layer', 'rms', 'classify', 'embed', 'generate',
      [0], ['a', 'b'], '0'.repeat(64),
    ),
    fc.integer(),
    fc.double({ noNaN: true, noDefaultInfinity: true }),
    fc.string(),
    fc.jsonValue(),
  ) // prettier-ignore

  for (const change of ['replaced', 'removed', 'added'] as const)
    test(`with a field ${change} is refused, or a model all the same; never a crash`, () =>
      fc.assert(
        fc.asyncProperty(specimen, fc.nat(), lie, async (s, pick, value) => {
          const manifest = JSON.parse(new TextDecoder().decode(specimens[s]!['manifest.json'])) as Json
          const spots = fields(manifest, change === 'added')
          const { owner, key } = spots[pick % spots.length]!
          if (change === 'removed') {
            if (Array.isArray(owner)) owner.splice(Number(key), 1)
            else delete owner[key]
          } else if (change === 'added') {
            if (Array.isArray(owner)) owner.push(value as Json)
            else Object.defineProperty(owner, 'added', { value, enumerable: true })
          } else {
            Object.defineProperty(owner, key, { value, enumerable: true })
          }
          const text = new TextEncoder().encode(JSON.stringify(manifest))
          try {
            await use({ ...specimens[s]!, 'manifest.json': text })
          } catch (error) {
            if (!(error instanceof ModelError))
              throw new Error(`${key}: ${JSON.stringify(value)} gave ${String(error)}`, { cause: error })
            expect(error.message).toMatch(/manifest\.json|specimen|input|token/)
          }
        }),
        seeded(1500),
      ))
})

type Json = { [key: string]: Json } & Json[]

/** Every place of a JSON value; with `containers` the objects and arrays something could be added to. */
function fields(value: Json, containers: boolean): Array<{ owner: Json; key: string }> {
  const found: Array<{ owner: Json; key: string }> = containers ? [{ owner: value, key: '' }] : []
  for (const [key, inner] of Object.entries(value)) {
    if (!containers) found.push({ owner: value, key })
    if (typeof inner === 'object' && inner !== null) found.push(...fields(inner as Json, containers))
  }
  return found
}
