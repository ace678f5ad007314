/** What a unit costs is what its Recording multiplies, counted here from the very steps that a backend plays. */
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { openPack, packInMemory } from '../../engine/index.ts'
import { macsOf } from '../../engine/macs.ts'
import { record } from '../../engine/models/record.ts'
import type { Recording } from '../../engine/recording.ts'
import { cleanUp, packedFiles } from '../models/zoo.ts'

afterAll(cleanUp)
const root = join(import.meta.dirname, '../..')

/** Multiply-adds of a section's matrices per row of its own, and of its attention per pair. */
function counted(recording: Recording, section: string): { matrices: number; pairs: number } {
  let matrices = 0
  let pairs = 0
  for (const { kernel, params } of recording.sections[section] ?? []) {
    if (kernel === 'linear') matrices += params.k! * params.n!
    if (kernel === 'attention') pairs += 2 * params.heads! * params.headDim!
  }
  return { matrices, pairs }
}

test.each(['models/tales-3m', 'models/intents-3m', 'test/fixtures/bert-nano', 'test/fixtures/gpt2-nano', 'test/fixtures/llama-mha-untied'])(
  '%s: the formula is what the recording multiplies, however its matrices are split',
  async (folder) => {
    const { manifest } = await openPack(packInMemory(folder, await packedFiles(join(root, folder), folder)))
    const { spec, exact } = manifest
    const max = { rows: 8, picks: 1, segments: 8 }
    const blocks = [0, spec.layers] as const
    for (const bindingBytesMax of [2 ** 31, 4096]) {
      const options = { blocks, max, kvRows: 8, capacity: 1, bindingBytesMax, commit: true }
      const recording = record(spec, exact, new Map(Object.entries(manifest.tensors)), options)
      const body = counted(recording, 'body')
      expect(macsOf(spec)).toEqual({
        perToken: body.matrices,
        perPair: body.pairs,
        perDraw: counted(recording, 'logits').matrices,
        perRow: counted(recording, 'classify').matrices,
      })
      expect(body.matrices).toBeGreaterThan(0)
    }
  },
) // prettier-ignore
