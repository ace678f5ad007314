/** A pack is there whole or not at all, and is the same whenever it is made. */
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { parseManifest } from '../../engine/pack/manifest.ts'
import { openPack } from '../../engine/pack/reader.ts'
import { packFolder as packSource } from '../../engine/pack/folder.ts'
import { packFolder } from '../../tools/pack/folder.ts'
import { unfinished } from '../../tools/pack/writer.ts'
import { makeRandomModel, recipeOf } from '../../scripts/make-random-model.ts'
import { refusal } from '../weights/build.ts'
import { copyModel, filesOf, fixture, scratch } from './packing.ts'

let folder: ReturnType<typeof scratch>
beforeEach(() => (folder = scratch()))
afterEach(() => {
  folder.remove()
  expect([...unfinished]).toEqual([])
})
const at = (name: string): string => join(folder.path, name)

describe('the same model gives the same pack', () => {
  for (const name of ['gpt2-nano', 'bert-nano', 'llama-mha-untied'])
    test(name, async () => {
      const options = { name: 'specimen', tokens: 64 }
      const first = await packFolder(fixture(name), { ...options, out: at('a') })
      const second = await packFolder(fixture(name), { ...options, out: at('b') })
      expect(second.digest).toBe(first.digest)
      expect(filesOf(at('b'))).toEqual(filesOf(at('a')))
    })
})

test('packing the same model twice at once ends well both times, and nothing is left beside the pack', async () => {
  const once = () => packFolder(fixture('gpt2-nano'), { out: at('pack'), tokens: 64 })
  const done = await Promise.all([once(), once(), once()])
  expect(new Set(done.map((d) => d.digest)).size).toBe(1)
  expect(readdirSync(folder.path)).toEqual(['pack'])
  await expectWhole(at('pack'))
})

test('a pack replaces an older one', async () => {
  await packFolder(fixture('gpt2-nano'), { out: at('pack'), tokens: 64 })
  const { digest } = await packFolder(fixture('bert-nano'), { out: at('pack'), tokens: 64 })
  expect((await openPack(packSource(at('pack')))).digest).toBe(digest)
  expect(readdirSync(folder.path)).toEqual(['pack'])
  await expectWhole(at('pack'))
})

test('a folder that is no pack is left alone', async () => {
  mkdirSync(at('precious'))
  writeFileSync(join(at('precious'), 'letters.txt'), 'dear')
  const error = await refusal('path-unsafe', () =>
    packFolder(fixture('gpt2-nano'), { out: at('precious'), tokens: 64 }),
  )
  expect(error.message).toContain(at('precious'))
  expect(readdirSync(at('precious'))).toEqual(['letters.txt'])
})

test('an output that cannot be made is said so', async () => {
  writeFileSync(at('file'), '')
  const error = await refusal('file-unreadable', () =>
    packFolder(fixture('gpt2-nano'), { out: join(at('file'), 'pack'), tokens: 64 }),
  )
  expect(error.message).toContain('-o')
})

test('a pack says who made the model, and refuses shares that are none', async () => {
  const owners = [
    { name: 'Ada Lovelace', share: 0.05 },
    { name: 'org/lab', share: 0.95 },
  ]
  const { manifest } = await packFolder(fixture('gpt2-nano'), { out: at('owned'), tokens: 64, owners })
  expect(manifest.owners).toEqual(owners)
  const bytes = readFileSync(join(at('owned'), 'manifest.json'), 'utf8')
  expect(parseManifest(Buffer.from(bytes)).owners).toEqual(owners)
  for (const wrong of ['"share": 0.06', '"share": -0.05', '"share": "all"'])
    expect(() => parseManifest(Buffer.from(bytes.replace(/"share": ?0\.05/, wrong)))).toThrow(/owners/)
})

describe('a pack that is interrupted leaves nothing', () => {
  for (const stage of ['calibrating', 'quantising'] as const)
    test(`while ${stage}`, async () => {
      const stop = new AbortController()
      let steps = 0
      const attempt = packFolder(fixture('llama-mha-untied'), {
        out: at('pack'),
        tokens: 64,
        signal: stop.signal,
        onProgress: (p) => {
          if (p.stage === stage && ++steps === 2) stop.abort(new Error('stopped by the test'))
        },
      })
      await expect(attempt).rejects.toThrow('stopped by the test')
      expect(readdirSync(folder.path)).toEqual([])
    })

  test('and leaves an older pack as it was', async () => {
    await packFolder(fixture('gpt2-nano'), { out: at('pack'), tokens: 64 })
    const before = filesOf(at('pack'))
    const stop = new AbortController()
    const attempt = packFolder(fixture('bert-nano'), {
      out: at('pack'), tokens: 64, signal: stop.signal, onProgress: (p) => p.stage === 'quantising' && stop.abort(),
    }) // prettier-ignore
    await expect(attempt).rejects.toThrow()
    expect(filesOf(at('pack'))).toEqual(before)
    expect(readdirSync(folder.path)).toEqual(['pack'])
  })
})

describe('weights that are no numbers are refused by name, and leave nothing', () => {
  for (const [what, bits] of [
    ['NaN', 0x7fc00000],
    ['Infinity', 0x7f800000],
  ] as const)
    test(what, async () => {
      // F32, so that a value of the file is four bytes of ours.
      makeRandomModel(
        at('model'),
        recipeOf(
          { family: 'llama', layers: 2, width: 16, heads: 2, headDim: 8, ff: 24, vocab: 270, context: 32 },
          'F32',
          3,
        ),
      )
      const path = join(at('model'), 'model.safetensors')
      const bytes = new Uint8Array(readFileSync(path))
      const view = new DataView(bytes.buffer)
      const headerBytes = Number(view.getBigUint64(0, true))
      const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + headerBytes))) as Record<
        string,
        { data_offsets: [number, number] }
      >
      view.setUint32(
        8 + headerBytes + header['model.layers.1.mlp.down_proj.weight']!.data_offsets[0] + 40,
        bits,
        true,
      )
      writeFileSync(path, bytes)
      const error = await refusal('not-finite', () =>
        packFolder(at('model'), { out: at('pack'), tokens: 32 }),
      )
      expect(error.tensor).toBe('model.layers.1.mlp.down_proj.weight')
      expect(readdirSync(folder.path)).toEqual(['model'])
    })
})

test('a model whose values would leave 32 bits is refused', async () => {
  const path = join(copyModel(fixture('llama-mha-untied'), at('model')), 'model.safetensors')
  const bytes = new Uint8Array(readFileSync(path))
  const view = new DataView(bytes.buffer)
  const headerBytes = Number(view.getBigUint64(0, true))
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + headerBytes))) as Record<
    string,
    { dtype: string; data_offsets: [number, number] }
  >
  const { dtype, data_offsets } = header['model.layers.0.self_attn.q_proj.weight']!
  expect(dtype).toBe('F32')
  for (let i = data_offsets[0]; i < data_offsets[1]; i += 4) view.setFloat32(8 + headerBytes + i, 1e6, true)
  writeFileSync(path, bytes)
  const error = await refusal('saturation', () => packFolder(at('model'), { out: at('pack'), tokens: 64 }))
  expect(error.message).toContain('qkv of block 0')
  expect(existsSync(at('pack'))).toBe(false)
})

async function expectWhole(path: string): Promise<void> {
  const pack = await openPack(packSource(path))
  for (const file of Object.keys(pack.manifest.files)) for await (const _ of pack.chunks(file)) void _
}
