/** The models that whole-model laws are tried on: ours, the fixtures, and seeded random ones with awkward dimensions. */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { makeRandomModel, recipeOf } from '../../scripts/make-random-model.ts'
import type { Dims } from '../../scripts/make-random-model.ts'
import { packFolder } from '../../tools/pack/folder.ts'

const root = fileURLToPath(new URL('../../', import.meta.url))

/** What a seeded model of odd shape has that others have not is its name. */
const ODD: Record<string, Dims> = {
  'llama-mqa-untied-llama3-rope': {
    family: 'llama', layers: 3, width: 50, heads: 5, kvHeads: 1, headDim: 10, ff: 131, vocab: 257, context: 96, tied: false, rope: 'llama3',
  }, // prettier-ignore
  'llama-one-of-everything': {
    family: 'llama', layers: 1, width: 2, heads: 1, kvHeads: 1, headDim: 2, ff: 1, vocab: 259, context: 64, tied: true, rope: 'linear',
  }, // prettier-ignore
  'qwen2-biases': { family: 'qwen2', layers: 2, width: 36, heads: 6, kvHeads: 2, headDim: 6, ff: 77, vocab: 301, context: 80, tied: true },
  'qwen3-head-norms': { family: 'qwen3', layers: 2, width: 48, heads: 4, kvHeads: 2, headDim: 24, ff: 101, vocab: 263, context: 80, tied: true },
  'gpt2-odd': { family: 'gpt2', layers: 2, width: 39, heads: 3, headDim: 13, ff: 61, vocab: 258, context: 70 },
  'bert-odd': { family: 'bert', layers: 3, width: 45, heads: 5, headDim: 9, ff: 33, vocab: 271, context: 64 },
  'bert-classify-odd': { family: 'bert-classify', layers: 2, width: 34, heads: 2, headDim: 17, ff: 67, vocab: 269, context: 64 },
}

export interface Specimen {
  name: string
  /** The Hugging Face folder, or null where this checkout has none. */
  folder: string | null
}

const scratch = mkdtempSync(join(tmpdir(), 'chorale-zoo-'))
export const cleanUp = (): void => rmSync(scratch, { recursive: true, force: true })

export function zoo(seed: number): Specimen[] {
  const shared = join(root, '../shared/models/test-only/stories260K')
  const odd = Object.entries(ODD).map(([name, dims]) => {
    const folder = join(scratch, name)
    makeRandomModel(folder, recipeOf(dims, 'F32', seed))
    return { name: `${name} (seed ${seed})`, folder }
  })
  return [
    ...['tales-3m', 'intents-3m'].map((name) => ({ name, folder: join(root, 'models', name) })),
    ...['bert-nano', 'gpt2-nano', 'llama-mha-untied'].map((name) => ({ name, folder: join(root, 'test/fixtures', name) })),
    { name: 'stories260K', folder: existsSync(shared) ? shared : null },
    ...odd,
  ]
}

/** Packs a folder and returns the pack's files, as a page can be handed them. */
export async function packedFiles(folder: string, name: string): Promise<Record<string, Uint8Array>> {
  const out = join(scratch, `${name.replaceAll(/\W+/g, '-')}.pack`)
  await packFolder(folder, { out, tokens: 256 })
  return Object.fromEntries(readdirSync(out).map((file) => [file, new Uint8Array(readFileSync(join(out, file)))]))
}
