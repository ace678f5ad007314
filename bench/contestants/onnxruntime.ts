/** onnxruntime-web: its WASM and its WebGPU build, on graphs of `copies` products written by hand. */

import { MICROSOFT, OnnxGraph } from '../formats/onnx.ts'
import { CORNER, transpose } from '../page/problem.ts'
import type { Problem } from '../page/problem.ts'
import type { Contestant, Prepared } from './contestant.ts'
import { PEERS, peerModule, threads } from './load.ts'

type OrtData = Float32Array | Uint8Array | Int8Array | Int32Array

interface OrtTensor {
  data: OrtData
  getData(): Promise<OrtData>
  dispose(): void
}

interface OrtSession {
  run(feeds: Record<string, OrtTensor>): Promise<Record<string, OrtTensor>>
  release(): Promise<void>
}

interface Ort {
  env: {
    wasm: { numThreads: number; wasmPaths: string }
    webgpu: { device: GPUDevice | Promise<GPUDevice> }
    logLevel: string
  }
  InferenceSession: { create(model: Uint8Array, options: Record<string, unknown>): Promise<OrtSession> }
  Tensor: {
    new (type: string, data: OrtData, dims: readonly number[]): OrtTensor
    fromGpuBuffer(buffer: GPUBuffer, options: { dataType: string; dims: readonly number[] }): OrtTensor
  }
}

const loaded = new Map<string, Promise<Ort>>()

function ort(build: 'wasm' | 'webgpu'): Promise<Ort> {
  let module = loaded.get(build)
  if (module === undefined) {
    module = peerModule<Ort>(`onnxruntime-web/dist/ort.${build}.bundle.min.mjs`).then((it) => {
      it.env.wasm.numThreads = threads()
      it.env.wasm.wasmPaths = `${location.origin}${PEERS}/onnxruntime-web/dist/`
      it.env.logLevel = 'error'
      return it
    })
    loaded.set(build, module)
  }
  return module
}

/** One way to multiply: how activations and weights are written, and what turns its products back into ours. */
interface Recipe {
  name: string
  arithmetic: Contestant['arithmetic']
  tolerance: number
  input: { type: 'float32' | 'uint8' | 'int8'; dtype: 'f32' | 'u8' | 'i8'; of(problem: Problem): OrtData }
  /** Adds one product to the graph. */
  product(graph: OnnxGraph, problem: Problem, weights: Int8Array): string
  output: 'f32' | 'i32'
  /** Added to the product of `channel`. */
  correction?(problem: Problem, weights: Int8Array, channel: number): number
}

/** The graph's one output: the corner of every copy. All products are computed, almost nothing is copied out. */
function graphOf(recipe: Recipe, problem: Problem): Uint8Array {
  const { m, k, n, copies } = problem
  const graph = new OnnxGraph()
  graph.input('x', recipe.input.dtype, [m, k])
  const starts = graph.i64([m - 1, n - CORNER])
  const ends = graph.i64([m, n])
  const corners = problem.weights.map((w) =>
    graph.node('Slice', [recipe.product(graph, problem, w), starts, ends]),
  )
  graph.node('Concat', corners, { axis: 0 }, '', 'corner')
  graph.output('corner', recipe.output, [copies, CORNER])
  return graph.bytes()
}

function corrected(recipe: Recipe, problem: Problem, raw: OrtData): Float64Array {
  return Float64Array.from(raw, (value, i) => {
    const weights = problem.weights[Math.floor(i / CORNER)]!
    return value + (recipe.correction?.(problem, weights, problem.n - CORNER + (i % CORNER)) ?? 0)
  })
}

function onWasm(recipe: Recipe): Contestant {
  return {
    name: recipe.name,
    arithmetic: recipe.arithmetic,
    tolerance: recipe.tolerance,
    async prepare(problem): Promise<Prepared> {
      const it = await ort('wasm')
      const session = await it.InferenceSession.create(graphOf(recipe, problem), {
        executionProviders: ['wasm'],
        graphOptimizationLevel: 'all',
      })
      const feeds = { x: new it.Tensor(recipe.input.type, recipe.input.of(problem), [problem.m, problem.k]) }
      let last: OrtData | null = null
      return {
        async run(n) {
          const start = performance.now()
          for (let i = 0; i < n; i++) last = (await session.run(feeds))['corner']!.data
          return performance.now() - start
        },
        corner: async () => corrected(recipe, problem, last ?? new Float32Array()),
        dispose: () => void session.release(),
      }
    },
  }
}

function onWebgpu(recipe: Recipe): Contestant {
  return {
    name: recipe.name,
    arithmetic: recipe.arithmetic,
    tolerance: recipe.tolerance,
    async prepare(problem): Promise<Prepared> {
      const it = await ort('webgpu')
      const session = await it.InferenceSession.create(graphOf(recipe, problem), {
        executionProviders: ['webgpu'],
        preferredOutputLocation: 'gpu-buffer',
        graphOptimizationLevel: 'all',
      })
      const device = await it.env.webgpu.device
      const data = recipe.input.of(problem)
      const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST
      const buffer = device.createBuffer({ size: data.byteLength, usage })
      device.queue.writeBuffer(buffer, 0, data as Float32Array<ArrayBuffer>)
      const x = it.Tensor.fromGpuBuffer(buffer, { dataType: recipe.input.type, dims: [problem.m, problem.k] })
      return {
        async run(n) {
          const start = performance.now()
          for (let i = 0; i < n; i++) (await session.run({ x }))['corner']!.dispose()
          await device.queue.onSubmittedWorkDone()
          return performance.now() - start
        },
        async corner() {
          const out = (await session.run({ x }))['corner']!
          const values = corrected(recipe, problem, await out.getData())
          out.dispose()
          return values
        },
        dispose() {
          void session.release()
          buffer.destroy()
        },
      }
    },
  }
}

const f32: Recipe['input'] = { type: 'float32', dtype: 'f32', of: (problem) => Float32Array.from(problem.x) }

const matMul: Recipe = {
  name: 'onnxruntime-web MatMul f32',
  arithmetic: 'f32',
  tolerance: 1e-5,
  input: f32,
  product: (graph, { k, n }, w) =>
    graph.node('MatMul', ['x', graph.constant('f32', [k, n], Float32Array.from(transpose(w, n, k)))]),
  output: 'f32',
}

/** Unsigned activations and signed weights, no zero point: the operator's fastest form. Corrected for the shift by 128. */
const matMulIntegerU8: Recipe = {
  name: 'onnxruntime-web MatMulInteger u8i8',
  arithmetic: 'int8',
  tolerance: 0,
  input: { type: 'uint8', dtype: 'u8', of: (problem) => Uint8Array.from(problem.x, (v) => v + 128) },
  product: (graph, { k, n }, w) =>
    graph.node('MatMulInteger', ['x', graph.constant('i8', [k, n], transpose(w, n, k))]),
  output: 'i32',
  correction({ k }, w, channel) {
    let sum = 0
    for (let i = 0; i < k; i++) sum += w[channel * k + i]!
    return -128 * sum
  },
}

const matMulIntegerS8: Recipe = {
  ...matMulIntegerU8,
  name: 'onnxruntime-web MatMulInteger s8i8',
  input: { type: 'int8', dtype: 'i8', of: (problem) => problem.x },
  correction: () => 0,
}

/** The operator of int8 exports: quantises its f32 activations itself, and gives f32. */
const dynamicQuantizeMatMul: Recipe = {
  name: 'onnxruntime-web DynamicQuantizeMatMul',
  arithmetic: 'int8',
  tolerance: 0.02,
  input: f32,
  product: (graph, { k, n }, w) =>
    graph.node(
      'DynamicQuantizeMatMul',
      ['x', graph.constant('i8', [k, n], transpose(w, n, k)), graph.f32([1])],
      {},
      MICROSOFT,
    ),
  output: 'f32',
}

function matMulNBits8(accuracyLevel: number, block: number): Recipe {
  return {
    name: `onnxruntime-web MatMulNBits 8-bit, blocks of ${block}, accuracy level ${accuracyLevel}`,
    arithmetic: 'int8',
    tolerance: 0.02,
    input: f32,
    product: (graph, { k, n }, w) => {
      const blocks = k / block
      const packed = graph.constant(
        'u8',
        [n, blocks, block],
        Uint8Array.from(w, (v) => v + 128),
      )
      const scales = graph.constant('f32', [n * blocks], new Float32Array(n * blocks).fill(1))
      const attributes = { K: k, N: n, bits: 8, block_size: block, accuracy_level: accuracyLevel }
      return graph.node('MatMulNBits', ['x', packed, scales], attributes, MICROSOFT)
    },
    output: 'f32',
  }
}

export const ortWasm = {
  matMul: onWasm(matMul),
  matMulIntegerU8: onWasm(matMulIntegerU8),
  matMulIntegerS8: onWasm(matMulIntegerS8),
  dynamicQuantizeMatMul: onWasm(dynamicQuantizeMatMul),
  matMulNBits8: [onWasm(matMulNBits8(4, 32)), onWasm(matMulNBits8(4, 128)), onWasm(matMulNBits8(0, 32))],
}

export const ortWebgpu = {
  matMul: onWebgpu(matMul),
  matMulNBits8: onWebgpu(matMulNBits8(4, 32)),
}
