/** The engine alone in a tab's worker, to hold the network's rows per second against. */
import { openBackend } from '../../engine/index.ts'
import { embed } from '../../engine/encoder.ts'
import { Model } from '../../engine/model.ts'
import { openRemotePack } from '../../client/weights/source.ts'
import { Shelf } from '../../client/weights/shelf.ts'
import { memoryStore } from '../../client/weights/store.ts'

export interface BareTask {
  digest: string
  path: string
  threads: number
  rows: number[][]
  /** Rows per call of the engine. */
  batch: number
}

let opened: { digest: string; model: Model } | undefined

self.onmessage = async ({ data }: MessageEvent<BareTask>) => {
  try {
    self.postMessage(await run(data))
  } catch (error) {
    self.postMessage({ error: String(error) })
  }
}

/** Milliseconds for all rows, and what they came to, so that nobody times a wrong answer. */
async function run({ digest, path, threads, rows, batch }: BareTask): Promise<{ ms: number; sum: number }> {
  if (opened?.digest !== digest) {
    const shelf = new Shelf(memoryStore(), { now: () => 0 })
    const pack = await openRemotePack({ digest, path, name: digest }, { base: self.location.origin, shelf })
    opened = { digest, model: await Model.open(pack, await openBackend('wasm', { threads })) }
  }
  const start = performance.now()
  let sum = 0
  for (let at = 0; at < rows.length; at += batch)
    for (const vector of await embed(opened.model, rows.slice(at, at + batch)))
      for (const value of vector) sum = (sum + value) | 0
  return { ms: performance.now() - start, sum }
}
