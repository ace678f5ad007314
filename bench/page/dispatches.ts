/** Counts what engines ask of the GPU per token: everything in a page goes through these methods, whoever calls. */

import { ourBackend } from '../contestants/backends.ts'
import type { DecoderTask, ModelContestant } from '../contestants/model.ts'
import { Model } from '../../engine/model.ts'
import { openPack } from '../../engine/pack/reader.ts'
import type { Program } from '../../engine/backends/backend.ts'
import { packAt } from './pack-at.ts'

export interface PerToken {
  name: string
  dispatches: number
  passes: number
}

const seen = { dispatches: 0, passes: 0 }
let watching = false

function watch(): void {
  if (watching) return
  watching = true
  const pass = GPUComputePassEncoder.prototype
  for (const method of ['dispatchWorkgroups', 'dispatchWorkgroupsIndirect'] as const) {
    const plain = pass[method] as (...args: unknown[]) => undefined
    pass[method] = function (this: GPUComputePassEncoder, ...args: unknown[]) {
      seen.dispatches++
      return plain.apply(this, args)
    }
  }
  const encoder = GPUCommandEncoder.prototype
  const begin = encoder.beginComputePass
  encoder.beginComputePass = function (...args) {
    seen.passes++
    return begin.apply(this, args)
  }
}

/** The difference between a longer and a shorter answer, so that prompt and set-up fall out. */
export async function perToken(contestant: ModelContestant, task: DecoderTask): Promise<PerToken> {
  watch()
  const [few, many] = [4, 12]
  const ask = async (newTokens: number) => {
    const prepared = await contestant.prepare({ ...task, newTokens })
    const before = { ...seen }
    await prepared.run(1)
    const wrong = prepared.wrong()
    await prepared.dispose()
    if (wrong !== null) throw new Error(`${contestant.name}: ${wrong}`)
    return { dispatches: seen.dispatches - before.dispatches, passes: seen.passes - before.passes }
  }
  const [short, long] = [await ask(few), await ask(many)]
  return {
    name: contestant.name,
    dispatches: (long.dispatches - short.dispatches) / (many - few),
    passes: (long.passes - short.passes) / (many - few),
  }
}

/** What one more block costs us: the body of the whole model less that of all blocks but the last, one row each. */
export async function ourDispatchesPerLayer(model: string): Promise<number> {
  const pack = await openPack(packAt(model))
  const { layers } = pack.manifest.spec
  const body = async (end: number): Promise<number> => {
    const loaded = await Model.open(pack, await ourBackend('webgpu'), { blocks: [0, end] })
    const program = loaded.program as Program & { dispatches(section: string, counts: object): number }
    const count = program.dispatches('body', { rows: 1, picks: 1, segments: 0 })
    loaded.free()
    return count
  }
  return (await body(layers)) - (await body(layers - 1))
}
