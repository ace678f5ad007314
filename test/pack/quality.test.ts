/** The quality table sees what it is for: a good pack is good, a spoiled one is not. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { packFolder as packSource } from '../../engine/pack/folder.ts'
import { openPack } from '../../engine/pack/reader.ts'
import { openModelFolder } from '../../engine/weights/huggingface.ts'
import { openFastestOnCpu } from '../../tools/backends.ts'
import { calibrate } from '../../tools/pack/calibrate.ts'
import { folderTokenizer, packFolder } from '../../tools/pack/folder.ts'
import { writePack } from '../../tools/pack/pack.ts'
import { measureQuality, readLabels } from '../../tools/pack/quality.ts'
import type { Quality } from '../../tools/pack/quality.ts'
import { sampleTexts } from '../../tools/pack/text.ts'
import { refusal } from '../weights/build.ts'
import { sharedModel } from '../weights/shared.ts'
import { root, scratch } from './packing.ts'

let folder: ReturnType<typeof scratch>
beforeEach(() => (folder = scratch()))
afterEach(() => folder.remove())
const at = (name: string): string => join(folder.path, name)

test('tales-3m loses at most half a percent of its loss, on text it was not calibrated on', async () => {
  const { quality } = await packFolder(join(root, 'models/tales-3m'), { out: at('pack'), quality: true })
  expect(quality!.loss!.relative).toBeLessThan(0.005)
  expect(quality!.loss!.exact).toBeGreaterThan(0)
})

test('intents-3m keeps its embeddings and its labels', async () => {
  const labels = at('labels.tsv')
  writeFileSync(
    labels,
    'play some jazz\tplay_music\nwhat is the weather in paris\tweather\nhow do you say hello in french\ttranslate\n',
  )
  const { quality } = await packFolder(join(root, 'models/intents-3m'), {
    out: at('pack'),
    quality: true,
    labels,
  })
  expect(quality!.cosine!.min).toBeGreaterThan(0.999)
  expect(quality!.accuracy).toEqual({ float: 1, exact: 1, count: 3 })
  expect(quality!.misses).toEqual([])
})

test('stories260K loses at most half a percent of its loss', async () => {
  const path = sharedModel('test-only/stories260K')
  if (!path) return
  const { quality } = await packFolder(path, { out: at('pack'), quality: true })
  expect(quality!.loss!.relative).toBeLessThan(0.005)
})

test('a pack of badly chosen scales misses the bars', async () => {
  const model = await openModelFolder(join(root, 'models/tales-3m'))
  const backend = await openFastestOnCpu()
  try {
    const tokenizer = await folderTokenizer(model)
    const sample = await sampleTexts(model.spec, tokenizer, { tokens: 256, heldOutTokens: 256 })
    const calibration = await calibrate(model, sample.calibration)
    const measured = async (residualBits: number): Promise<Quality> => {
      const { digest } = await writePack(model, {
        out: at(`pack-${residualBits}`),
        name: 'x',
        calibration: { ...calibration, residualBits },
      })
      return measureQuality(model, await openPack(packSource(at(`pack-${residualBits}`)), digest), backend, {
        heldOut: sample.heldOut,
        tokenizer,
      })
    }
    const [good, bad] = [await measured(calibration.residualBits), await measured(3)]
    expect(good.loss!.relative).toBeLessThan(0.005)
    expect(good.top1!).toBeGreaterThan(0.9)
    expect(bad.misses.join()).toContain('top-1 agreement')
    expect(bad.top1!).toBeLessThan(0.9)
    expect(bad.loss!.float).toBe(good.loss!.float)
  } finally {
    await backend.close()
    await model.close()
  }
})

test('labels are read as JSON lines or tab-separated, and a bad line is named', async () => {
  const file = at('labels')
  writeFileSync(file, '{"text": "a b", "label": "x"}\n\nc d\ty\r\n')
  expect(await readLabels(file)).toEqual([
    { text: 'a b', label: 'x' },
    { text: 'c d', label: 'y' },
  ])
  for (const bad of ['{"text": 1, "label": "x"}', '{"text": "a"', 'no tab here', '{"label": "x"}']) {
    writeFileSync(file, `fine\tx\n${bad}\n`)
    expect((await refusal('input-invalid', () => readLabels(file))).message).toContain('line 2')
  }
  writeFileSync(file, '\n')
  await refusal('input-invalid', () => readLabels(file))
  writeFileSync(file, new Uint8Array([0xff, 0xfe]))
  await refusal('text-invalid', () => readLabels(file))
  await refusal('file-unreadable', () => readLabels(at('nothing')))
})
