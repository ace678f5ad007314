/** The WebGPU backend: in a browser through navigator.gpu, in Node through an adapter of Dawn (webgpu/dawn.ts). */
import type { Backend } from './backend.ts'
import { openDevice } from './webgpu/device.ts'
import { loadProgram, type WebgpuProgram } from './webgpu/program.ts'
import type { Choice } from './webgpu/variants.ts'

export * from './webgpu/errors.ts'

export interface WebgpuOptions {
  /** An adapter to use instead of asking navigator.gpu. */
  adapter?: GPUAdapter
  /** Forces what would be chosen for the device: for tests and benchmarks. */
  variant?: Partial<Choice>
}

export interface WebgpuBackend extends Backend {
  load(...args: Parameters<Backend['load']>): Promise<WebgpuProgram>
}

/** @throws WebgpuUnavailable */
export async function openWebgpu(options: WebgpuOptions = {}): Promise<WebgpuBackend> {
  const device = await openDevice(options.adapter)
  device.choice = { ...device.choice, ...options.variant }
  return {
    info: {
      name: 'webgpu',
      description: device.description,
      software: device.software,
      threads: 1,
      variants: {},
    },
    bindingBytesMax: device.bindingBytesMax,
    load: (recording) => loadProgram(device, recording),
    close: async () => device.destroy(),
  }
}
