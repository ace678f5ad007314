/** The WebGPU backend: in a browser through navigator.gpu, in Node through an adapter of Dawn (webgpu/dawn.ts). */
import type { Backend } from './backend.ts'
import { openDevice } from './webgpu/device.ts'
import { loadProgram, type WebgpuProgram } from './webgpu/program.ts'
import { tune, type Remember } from './webgpu/tune.ts'
import type { Choice } from './webgpu/variants.ts'

export * from './webgpu/errors.ts'

export interface WebgpuOptions {
  /** An adapter to use instead of asking navigator.gpu. */
  adapter?: GPUAdapter
  /** Keeps the variants found fastest here from one visit to the next (they are checked and timed when it has none). */
  remember?: Remember
  /** Variants not to be chosen, as `many tile`: they were seen to compute wrongly here. */
  avoid?: readonly string[]
  /** Forces what would be chosen for the device, and tunes nothing: for tests and benchmarks. */
  variant?: Partial<Choice>
}

export interface WebgpuBackend extends Backend {
  load(...args: Parameters<Backend['load']>): Promise<WebgpuProgram>
}

/** @throws WebgpuUnavailable */
export async function openWebgpu(options: WebgpuOptions = {}): Promise<WebgpuBackend> {
  const device = await openDevice(options.adapter)
  let variants: Record<string, string> = {}
  if (options.variant) {
    device.choice = { ...device.choice, ...options.variant }
    variants = { many: device.choice.many, few: device.choice.few }
  } else {
    const tuned = await tune(device, options.remember, options.avoid)
    device.choice = tuned.choice
    variants = tuned.variants
  }
  return {
    info: {
      name: 'webgpu',
      description: device.description,
      software: device.software,
      threads: 1,
      variants,
    },
    lost: device.lost,
    bindingBytesMax: device.bindingBytesMax,
    load: (recording) => loadProgram(device, recording),
    close: async () => device.destroy(),
  }
}
