/** The worker of wasm-side.ts. */
import type { WasmOptions } from '../../engine/backends/wasm.ts'
import { conformHere } from './wasm-side.ts'

self.onmessage = async ({ data: [options, seed] }: MessageEvent<[WasmOptions, number]>) => {
  try {
    self.postMessage({ value: await conformHere(options, seed) })
  } catch (error) {
    self.postMessage({ error: error instanceof Error ? (error.stack ?? error.message) : String(error) })
  }
}
