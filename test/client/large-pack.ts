/** A real pack of several chunks: an encoder that says nothing sensible, with a large vocabulary. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { recipeOf, makeRandomModel } from '../../scripts/make-random-model.ts'
import { packFolder } from '../../tools/pack/folder.ts'

export interface LargePack {
  folder: string
  digest: string
  bytes: number
  remove(): Promise<void>
}

export async function largePack(seed = 1): Promise<LargePack> {
  const home = await mkdtemp(join(tmpdir(), 'chorale-large-'))
  const model = join(home, 'model')
  makeRandomModel(model, recipeOf({ family: 'bert', pooling: 'mean', layers: 1, width: 64, heads: 4, ff: 64, vocab: 160_000, context: 32 }, 'F32', seed)) // prettier-ignore
  const { digest, bytes } = await packFolder(model, { out: join(home, 'pack'), name: 'large', tokens: 16, quality: false }) // prettier-ignore
  return {
    folder: join(home, 'pack'),
    digest,
    bytes,
    remove: () => rm(home, { recursive: true, force: true }),
  }
}
