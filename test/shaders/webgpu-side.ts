/** The page's half of the WebGPU tests: opens the backend there and runs the suite. */
import { openWebgpu, type WebgpuOptions } from '../../engine/backends/webgpu.ts'
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

export async function layersInPage(seed: number): Promise<string[]> {
  const backend = await openWebgpu()
  try {
    return await conformLayers(backend, seed)
  } finally {
    await backend.close()
  }
}
