/**
 * Outlier channels in keys and values, as the larger llama-type models have them, put into tales-3m without changing what it
 * computes: k is 60 times larger in one rotated pair of channels and q as much smaller, v in one channel and o as much smaller.
 */
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { packFolder as packSource } from '../../engine/pack/folder.ts'
import { openPack } from '../../engine/pack/reader.ts'
import { openModelFolder } from '../../engine/weights/huggingface.ts'
import type { ModelFolder } from '../../engine/weights/huggingface.ts'
import type { BlockTensors, Linear } from '../../engine/weights/logical.ts'
import { openFastestOnCpu } from '../../tools/backends.ts'
import type { Backend } from '../../engine/backends/backend.ts'
import { calibrate } from '../../tools/pack/calibrate.ts'
import type { Calibration } from '../../tools/pack/calibrate.ts'
import { folderTokenizer } from '../../tools/pack/folder.ts'
import { writePack } from '../../tools/pack/pack.ts'
import { measureQuality } from '../../tools/pack/quality.ts'
import type { Quality } from '../../tools/pack/quality.ts'
import { sampleTexts } from '../../tools/pack/text.ts'
import { root, scratch } from './packing.ts'

const FACTOR = 60
const PAIR = 3
const CHANNEL = 5

let plain: ModelFolder
let folder: ModelFolder
let backend: Backend
let remains: ReturnType<typeof scratch>
beforeAll(async () => {
  remains = scratch()
  backend = await openFastestOnCpu()
  plain = await openModelFolder(join(root, 'models/tales-3m'))
  const { headDim } = plain.spec
  const isPair = (row: number): boolean => row % (headDim / 2) === PAIR
  const isChannel = (c: number): boolean => c % headDim === CHANNEL
  const blockTensors = (i: number): BlockTensors => {
    const b = plain.weights.blockTensors(i)
    return {
      ...b,
      q: times(b.q, (row) => (isPair(row) ? 1 / FACTOR : 1)),
      k: times(b.k, (row) => (isPair(row) ? FACTOR : 1)),
      v: times(b.v, (row) => (isChannel(row) ? FACTOR : 1)),
      o: times(b.o, (_, column) => (isChannel(column) ? 1 / FACTOR : 1)),
    }
  }
  folder = { ...plain, weights: { ...plain.weights, blockTensors } }
})
afterAll(async () => {
  await backend.close()
  await plain.close()
  remains.remove()
})

test('the packer balances them, and without that they would cost dearly', async () => {
  const tokenizer = await folderTokenizer(folder)
  const sample = await sampleTexts(folder.spec, tokenizer, { tokens: 256, heldOutTokens: 256 })
  const measured = async (name: string, calibration: Calibration): Promise<Quality> => {
    const out = join(remains.path, name)
    const { digest } = await writePack(folder, { out, name, calibration })
    return measureQuality(folder, await openPack(packSource(out), digest), backend, {
      heldOut: sample.heldOut,
      tokenizer,
    })
  }
  const calibration = await calibrate(folder, sample.calibration)
  const ones = (values: Float32Array): Float32Array => values.map(() => 1)
  const heads = calibration.heads.map((h) => ({
    ...h,
    q: ones(h.q),
    k: ones(h.k),
    v: ones(h.v),
    o: ones(h.o),
  }))
  const choices = new Map(
    Array.from(calibration.choices, ([at, c]) => [at, at.endsWith('.o') ? { ...c, migrate: null } : c]),
  )
  const [balanced, unbalanced] = [
    await measured('balanced', calibration),
    await measured('unbalanced', { ...calibration, heads, choices }),
  ]
  expect(balanced.top1!).toBeGreaterThan(0.94)
  expect(unbalanced.top1!).toBeLessThan(0.9)
  expect(unbalanced.loss!.float).toBe(balanced.loss!.float)
})

function times(l: Linear, by: (row: number, column: number) => number): Linear {
  const width = l.weight.shape[1]!
  const readRows = async (from: number, to: number): Promise<Float32Array> =>
    (await l.weight.readRows(from, to)).map((x, i) => x * by(from + Math.floor(i / width), i % width))
  expect(l.bias).toBe(null)
  return {
    weight: {
      ...l.weight,
      name: l.weight.name,
      shape: l.weight.shape,
      readRows,
      read: () => readRows(0, l.weight.shape[0]!),
    },
    bias: null,
  }
}
