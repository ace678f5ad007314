/** The page's half of the WebGPU tests: opens the backend there and runs the suite. */
import { openWebgpu, type WebgpuOptions } from '../../engine/backends/webgpu.ts'
import { admit, type KitReport } from '../../engine/kit/kit.ts'
import { layerShapes } from '../../engine/kit/layer.ts'
import { conform, type Choice, type Report } from './conformance.ts'
import { conformLayers } from './layer.ts'

export async function conformInPage(
  choice: Omit<Choice, 'onCase'>,
  variant: WebgpuOptions['variant'] = {},
): Promise<Report> {
  const backend = await openWebgpu({ variant })
  try {
    return await conform(backend, choice)
  } finally {
    await backend.close()
  }
}

/** What a volunteer's GPU is asked, and layers. */
export async function kitInPage(): Promise<KitReport> {
  const backend = await openWebgpu()
  try {
    return await admit(backend)
  } finally {
    await backend.close()
  }
}

/** One of the layers; the seed says which. */
export async function layerInPage(seed: number): Promise<string[]> {
  const backend = await openWebgpu()
  try {
    return await conformLayers(backend, seed, [layerShapes[seed % layerShapes.length]!])
  } finally {
    await backend.close()
  }
}
