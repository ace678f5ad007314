/**
 * The engine's public door.
 *
 *   const pack = await openPack(source)                       // a model, every byte checked against its digest
 *   const backend = await openBackend('auto')                 // webgpu, wasm or js: same bytes, other speed
 *   const model = await Model.open(pack, backend, { context: 512 })
 *   for await (const { id } of generate(model, [{ prompt, maxTokens: 64, sampling: { temperature: 0.8, seed: 1 } }])) …
 *   const [vector] = await embed(encoder, [ids])
 *
 * Text is openTokenizer()'s business; a range of blocks is Model.open(…, { blocks }) and runStage().
 */
import type { Backend, BackendName } from './backends/backend.ts'
import type { Remember } from './backends/webgpu/tune.ts'

export type { Backend, BackendInfo, BackendName, Program } from './backends/backend.ts'
export type { Remember } from './backends/webgpu/tune.ts'
export { Decoder, generate, score } from './decoder.ts'
export type { Drawn, Generation, Sequence } from './decoder.ts'
export { classify, embed, embeddingBits, LOGIT_BITS } from './encoder.ts'
export { Model } from './model.ts'
export type { ModelOptions, Row } from './model.ts'
export type { ModelSpec } from './models/spec.ts'
export { NUMERICS } from './pack/manifest.ts'
export type { Manifest } from './pack/manifest.ts'
export { packInMemory } from './pack/memory.ts'
export { openPack } from './pack/reader.ts'
export type { Pack, PackSource } from './pack/reader.ts'
export type { Sampling } from './sampling.ts'
export { finishStage, runStage } from './stage.ts'
export { openTokenizer } from './tokenizer.ts'
export type { Tokenizer } from './tokenizer.ts'
export { chunkOf, leafCount, leafPlace, leavesOf, rootOf } from './trace.ts'
export type { LeafPlace, TraceShape } from './trace.ts'
export { ModelError } from './weights/errors.ts'

export interface BackendOptions {
  /** For `wasm`: how many threads; default what the machine and the page's isolation allow. */
  threads?: number
  /** For `webgpu`: an adapter to use instead of asking the browser. In Node, engine/backends/webgpu/dawn.ts gives one. */
  adapter?: GPUAdapter
  /** For `webgpu`: where the variants found fastest for a device are kept, so that it is timed only once. */
  remember?: Remember
  /** Variants not to be chosen (Failure.variant of the admission kit): they were seen to compute wrongly here. */
  avoid?: readonly string[]
}

/**
 * Opens a backend; each is loaded only when asked for. `auto` is a GPU where there is a real one, else WASM: an emulated
 * GPU is slower than the CPU that emulates it. Throws ModelError `backend-unavailable` or the backend's own error.
 */
export async function openBackend(
  name: BackendName | 'auto',
  options: BackendOptions = {},
): Promise<Backend> {
  switch (name) {
    case 'js':
      return (await import('./backends/js.ts')).openJs()
    case 'wasm':
      return (await import('./backends/wasm.ts')).openWasm({
        threads: options.threads,
        products: options.avoid?.length ? 'dot_i16x8' : 'best',
      })
    case 'webgpu':
      return (await import('./backends/webgpu.ts')).openWebgpu({
        adapter: options.adapter,
        remember: options.remember,
        avoid: options.avoid,
      })
    case 'auto': {
      if (options.adapter || globalThis.navigator?.gpu) {
        const gpu = await openBackend('webgpu', options).catch(() => null)
        if (gpu && !gpu.info.software) return gpu
        await gpu?.close()
      }
      return openBackend('wasm', options)
    }
    default:
      throw new TypeError(`no backend is called ${JSON.stringify(name satisfies never)}`)
  }
}
