/** Layers of a decoder on a backend and on the twins, run after run. */
import type { Backend } from '../../engine/backends/backend.ts'
import { openJs } from '../../engine/backends/js.ts'
import type { LayerShape } from '../../engine/kit/layer.ts'
import { layerShapes, playLayer } from '../../engine/kit/layer.ts'

/** A line for each buffer that differs. */
export async function conformLayers(
  backend: Backend,
  seed: number,
  shapes: readonly LayerShape[] = layerShapes,
): Promise<string[]> {
  const problems: string[] = []
  for (const shape of shapes) {
    const expected = await playLayer(openJs(), shape, seed)
    const got = await playLayer(backend, shape, seed)
    for (const [name, bytes] of expected) {
      const first = bytes.findIndex((value, i) => value !== got.get(name)![i])
      if (first >= 0) problems.push(`${JSON.stringify(shape)}: ${name} differs from byte ${first} on`)
    }
  }
  return problems
}
