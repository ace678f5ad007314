/** TensorFlow.js, WASM (XNNPACK) and WebGPU backends, f32. */

import { CORNER, transpose } from '../page/problem.ts'
import type { Contestant, Prepared } from './contestant.ts'
import { PEERS, peerScript, threads } from './load.ts'

interface TfTensor {
  data(): Promise<Float32Array>
  dispose(): void
}

interface Tf {
  setBackend(name: string): Promise<boolean>
  ready(): Promise<void>
  backend(): { device?: GPUDevice; endComputePassEncoder(): void; submitQueue(): void }
  tensor2d(data: Float32Array, shape: readonly [number, number]): TfTensor
  matMul(a: TfTensor, b: TfTensor): TfTensor
  slice(x: TfTensor, begin: readonly number[], size: readonly number[]): TfTensor
  wasm: { setWasmPaths(prefix: string): void; setThreadsCount(n: number): void }
}

const global = globalThis as unknown as { tf: Tf }
const scripts = new Map<string, Promise<void>>()

async function script(path: string): Promise<void> {
  let done = scripts.get(path)
  if (done === undefined) {
    done = peerScript(`@tensorflow/${path}`)
    scripts.set(path, done)
  }
  return done
}

/** The one global `tf`, switched to `backend`: call again before each use, its kernels go where it points. */
async function tfOn(backend: 'wasm' | 'webgpu'): Promise<Tf> {
  await script('tfjs-core/dist/tf-core.min.js')
  await script(`tfjs-backend-${backend}/dist/tf-backend-${backend}.min.js`)
  const { tf } = global
  if (backend === 'wasm') {
    tf.wasm.setWasmPaths(`${PEERS}/@tensorflow/tfjs-backend-wasm/dist/`)
    tf.wasm.setThreadsCount(threads())
  }
  if (!(await tf.setBackend(backend))) throw new Error(`tfjs has no ${backend} backend here`)
  await tf.ready()
  return tf
}

function matMul(backend: 'wasm' | 'webgpu'): Contestant {
  return {
    name: `tfjs-${backend} matMul f32`,
    arithmetic: 'f32',
    tolerance: 1e-5,
    async prepare({ m, k, n, x, weights }): Promise<Prepared> {
      const tf = await tfOn(backend)
      const a = tf.tensor2d(Float32Array.from(x), [m, k])
      const bs = weights.map((w) => tf.tensor2d(Float32Array.from(transpose(w, n, k)), [k, n]))
      return {
        async run(turns) {
          await tf.setBackend(backend)
          const start = performance.now()
          for (let i = 0; i < turns; i++) for (const b of bs) tf.matMul(a, b).dispose()
          const webgpu = tf.backend()
          if (webgpu.device !== undefined) {
            webgpu.endComputePassEncoder()
            webgpu.submitQueue()
            await webgpu.device.queue.onSubmittedWorkDone()
          }
          return performance.now() - start
        },
        async corner() {
          await tf.setBackend(backend)
          const values = new Float64Array(bs.length * CORNER)
          for (const [copy, b] of bs.entries()) {
            const product = tf.matMul(a, b)
            const corner = tf.slice(product, [m - 1, n - CORNER], [1, CORNER])
            values.set(await corner.data(), copy * CORNER)
            corner.dispose()
            product.dispose()
          }
          return values
        },
        dispose: () => [a, ...bs].forEach((tensor) => tensor.dispose()),
      }
    },
  }
}

export const tfjs = { wasm: matMul('wasm'), webgpu: matMul('webgpu') }
