/** In a page: the WASM backend on the page's own thread, and with threads inside a dedicated worker. */
import { openWasm } from '../../engine/backends/wasm.ts'
import type { WasmOptions } from '../../engine/backends/wasm.ts'
import type { Report } from './conformance.ts'
import { conform } from './conformance.ts'

export interface Conformed extends Report {
  threads: number
  products: string
}

export async function conformHere(options: WasmOptions, seed: number): Promise<Conformed> {
  // Cases are small: shared all the same.
  const backend = await openWasm({ shareFrom: 0, ...options })
  const report = await conform(backend, { seed })
  await backend.close()
  return { ...report, threads: backend.info.threads, products: backend.info.variants.linear! }
}

export function conformInWorker(options: WasmOptions, seed: number): Promise<Conformed> {
  const worker = new Worker(new URL('./wasm-side-worker.ts', import.meta.url), { type: 'module' })
  return new Promise<Conformed>((resolve, reject) => {
    worker.onmessage = ({ data }: MessageEvent<{ value: Conformed } | { error: string }>) =>
      'value' in data ? resolve(data.value) : reject(new Error(data.error))
    worker.onerror = (event) => reject(new Error(event.message))
    worker.postMessage([options, seed])
  }).finally(() => worker.terminate())
}
