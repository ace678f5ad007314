/** LiteRT.js (XNNPACK with relaxed SIMD), int8 weights per channel. */

import { fullyConnected } from '../formats/tflite.ts'
import type { TensorSpec } from '../formats/tflite.ts'
import { CORNER } from '../page/problem.ts'
import type { Contestant, Prepared } from './contestant.ts'
import { PEERS, peerModule } from './load.ts'

interface LiteTensor {
  toTypedArray(): Float32Array
  delete(): void
}

interface LiteModel {
  run(input: LiteTensor): Promise<LiteTensor[]>
  delete(): void
}

interface Lite {
  loadLiteRt(path: string): Promise<unknown>
  loadAndCompile(
    model: Uint8Array,
    options: { accelerator: 'wasm'; cpuOptions: { numThreads: number } },
  ): Promise<LiteModel>
  Tensor: new (data: Float32Array, shape: number[]) => LiteTensor
}

let loaded: Promise<Lite> | undefined

function lite(): Promise<Lite> {
  loaded ??= peerModule<Lite>('@litertjs/core/dist/index.js').then(async (it) => {
    await it.loadLiteRt(`${location.origin}${PEERS}/@litertjs/core/wasm/`)
    return it
  })
  return loaded
}

/**
 * f32 activations, quantised to int8 by the layer itself (XNNPACK's qd8-f32-qc8w): the one int8 form its JavaScript door takes,
 * which refuses int8 tensors.
 */
export const litertInt8: Contestant = {
  name: 'LiteRT.js int8 weights, f32 in and out',
  arithmetic: 'int8',
  tolerance: 0.02,
  async prepare({ m, k, n, copies, x, weights }): Promise<Prepared> {
    const it = await lite()
    const layers = weights.map((data, i): TensorSpec => ({
      name: `w${i}`,
      type: 'i8',
      shape: [n, k],
      data,
      scales: new Float32Array(n).fill(1),
    }))
    const outputs = weights.map((_, i): TensorSpec => ({ name: `y${i}`, type: 'f32', shape: [m, n] }))
    const file = fullyConnected({ name: 'x', type: 'f32', shape: [m, k] }, layers, outputs)
    const model = await it.loadAndCompile(file, { accelerator: 'wasm', cpuOptions: { numThreads: 1 } })
    const tensor = new it.Tensor(Float32Array.from(x), [m, k])
    return {
      async run(turns) {
        const start = performance.now()
        for (let i = 0; i < turns; i++) for (const out of await model.run(tensor)) out.delete()
        return performance.now() - start
      },
      async corner() {
        const values = new Float64Array(copies * CORNER)
        for (const [copy, out] of (await model.run(tensor)).entries()) {
          values.set(out.toTypedArray().subarray(m * n - CORNER), copy * CORNER)
          out.delete()
        }
        return values
      },
      dispose() {
        tensor.delete()
        model.delete()
      },
    }
  },
}
