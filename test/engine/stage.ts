/** What tests of units start from: a runner with both embedded models, and units that tell a story. */
import { openBackend } from '../../engine/index.ts'
import type { Backend, Pack } from '../../engine/index.ts'
import { UnitRunner } from '../../engine/units.ts'
import type { Unit, UnitOutput } from '../../engine/units.ts'
import { resolveModel } from '../../tools/models.ts'

export type Generated = Extract<UnitOutput, { kind: 'generate' }>

export interface Stage {
  backend: Backend
  runner: UnitRunner
  packs: Map<string, Pack>
  /** Digests. */
  tales: string
  intents: string
  close(): Promise<void>
}

export async function openStage(): Promise<Stage> {
  const backend = await openBackend('wasm', { threads: 1 })
  const packs = new Map<string, Pack>()
  for (const name of ['tales-3m', 'intents-3m']) {
    const pack = await resolveModel(name)
    packs.set(pack.digest, pack)
  }
  const [tales, intents] = [...packs.keys()] as [string, string]
  const runner = new UnitRunner(backend, async (digest) => packs.get(digest)!, { concurrency: 3 })
  await runner.load(tales)
  await runner.load(intents)
  const close = async (): Promise<void> => {
    await runner.close()
    await backend.close()
  }
  return { backend, runner, packs, tales, intents, close }
}

/** @param extra more options of the unit  @param sampling in place of temperature 0.9 and seed 42 */
export const storyOf = (
  model: string,
  prompt: readonly number[],
  maxTokens: number,
  extra: object = {},
  sampling: object = {},
): Unit => ({
  kind: 'generate',
  model,
  inputs: [Uint32Array.from(prompt)],
  generate: {
    maxTokens,
    sampling: { temperature: 0.9, topK: 0, topP: 1, seed: '42', stream: 0, ...sampling },
    ...extra,
  },
})
