/** The page's half of the whole-model laws. */
import { openBackend, openPack, packInMemory } from '../../engine/index.ts'
import type { BackendName } from '../../engine/index.ts'
import { exercise } from './exercise.ts'
import type { Digests, Exercise } from './exercise.ts'

export async function exerciseInPage(
  name: BackendName, files: Record<string, Uint8Array>, work: Exercise,
): Promise<{ digests: Digests; description: string }> { // prettier-ignore
  const backend = await openBackend(name)
  try {
    const digests = await exercise(backend, await openPack(packInMemory('page', files)), work)
    return { digests, description: backend.info.description }
  } finally {
    await backend.close()
  }
}
