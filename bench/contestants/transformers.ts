/** transformers.js on our own weights, exported to ONNX by bench/exports. */

import type { EncoderTask, DecoderTask, ModelContestant, PreparedModel } from './model.ts'
import { batches, classes, wrongAnswer } from './model.ts'
import { PEERS, peerModule, threads } from './load.ts'

interface HfTensor {
  data: Float32Array | BigInt64Array
  dims: number[]
}

interface HfModel {
  config: { id2label: Record<number, string> }
  (inputs: Record<string, HfTensor>): Promise<{ logits: HfTensor }>
  generate(options: Record<string, unknown>): Promise<HfTensor>
  dispose(): Promise<unknown>
}

interface LoadOptions {
  device: string
  dtype: string
  session_options?: { executionProviders: string[] }
}

interface Loadable {
  from_pretrained(model: string, options: LoadOptions): Promise<HfModel>
}

interface HfTokenizer {
  (text: string): Record<string, HfTensor>
  decode(ids: number[]): string
}

export interface Transformers {
  env: {
    remoteHost: string
    remotePathTemplate: string
    allowLocalModels: boolean
    allowRemoteModels: boolean
    useBrowserCache: boolean
    useWasmCache: boolean
    backends: { onnx: { wasm: { numThreads: number; wasmPaths: string } } }
  }
  Tensor: new (type: string, data: BigInt64Array, dims: readonly number[]) => HfTensor
  AutoTokenizer: { from_pretrained(model: string): Promise<HfTokenizer> }
  AutoModelForCausalLM: Loadable
  AutoModelForSequenceClassification: Loadable
}

const NESTED_ORT = '@huggingface/transformers/node_modules/onnxruntime-web/dist'

/**
 * `stock`: as published, on the WebGPU-and-WASM build of ONNX Runtime. `lean`: the same with the smaller WASM-only build put in
 * its place through its own switch, because that build runs faster on the CPU. Two modules, since one holds one runtime.
 */
export type Runtime = 'stock' | 'lean'
const loaded = new Map<Runtime, Promise<Transformers>>()

/** `cached`: let it keep weights in the browser's cache storage, as it does by default; the runtime is in the HTTP cache anyway. */
export function transformers(runtime: Runtime, cached = false): Promise<Transformers> {
  let module = loaded.get(runtime)
  if (module === undefined) {
    module = (async () => {
      const key = Symbol.for('onnxruntime')
      const slots = globalThis as unknown as Record<symbol, unknown>
      if (runtime === 'lean') slots[key] = await peerModule(`${NESTED_ORT}/ort.wasm.bundle.min.mjs`)
      const it = await peerModule<Transformers>(
        `@huggingface/transformers/dist/transformers.web.min.js?${runtime}`,
      )
      delete slots[key]
      it.env.remoteHost = `${location.origin}/made/`
      it.env.remotePathTemplate = 'models/{model}/'
      it.env.allowLocalModels = false
      it.env.allowRemoteModels = true
      it.env.useBrowserCache = cached
      it.env.useWasmCache = false
      it.env.backends.onnx.wasm.numThreads = threads()
      it.env.backends.onnx.wasm.wasmPaths = `${location.origin}${PEERS}/${NESTED_ORT}/`
      return it
    })()
    loaded.set(runtime, module)
  }
  return module
}

export function loadOptions(runtime: Runtime, device: 'wasm' | 'webgpu', dtype: 'fp32' | 'q8'): LoadOptions {
  if (runtime === 'stock') return { device, dtype }
  // A module with another runtime in place knows no devices; it takes what the session options say.
  return { device: 'auto', dtype, session_options: { executionProviders: [device] } }
}

async function decoder(
  it: Transformers,
  model: HfModel,
  task: DecoderTask,
  exact: boolean,
): Promise<PreparedModel> {
  const ids = BigInt64Array.from(task.prompt, BigInt)
  const dims = [1, ids.length]
  let answer: number[] = []
  return {
    async run(n) {
      const start = performance.now()
      for (let i = 0; i < n; i++) {
        const out = await model.generate({
          inputs: new it.Tensor('int64', ids, dims),
          attention_mask: new it.Tensor('int64', new BigInt64Array(ids.length).fill(1n), dims),
          max_new_tokens: task.newTokens,
          do_sample: false,
        })
        answer = Array.from(out.data, Number).slice(ids.length)
      }
      return performance.now() - start
    },
    work: () => answer.length,
    wrong: () => wrongAnswer(task, answer, exact),
    dispose: async () => void (await model.dispose()),
  }
}

async function encoder(
  it: Transformers,
  model: HfModel,
  task: EncoderTask,
  exact: boolean,
): Promise<PreparedModel> {
  const calls = batches(task)
  let answer: number[] = []
  return {
    async run(n) {
      const logits: HfTensor[] = []
      const start = performance.now()
      for (let i = 0; i < n; i++) {
        logits.length = 0
        for (const { ids, mask, dims } of calls) {
          const inputs = {
            input_ids: new it.Tensor('int64', ids, dims),
            attention_mask: new it.Tensor('int64', mask, dims),
          }
          logits.push((await model(inputs)).logits)
        }
      }
      const ms = performance.now() - start
      answer = logits.flatMap(({ data, dims }) => classes(data as Float32Array, dims[0]!))
      return ms
    },
    work: () => answer.length,
    wrong: () => wrongAnswer(task, answer, exact),
    dispose: async () => void (await model.dispose()),
  }
}

function contestant(runtime: Runtime, device: 'wasm' | 'webgpu', dtype: 'fp32' | 'q8'): ModelContestant {
  const build = runtime === 'lean' ? ', WASM-only runtime' : ''
  return {
    name: `transformers.js ${device} ${dtype}${build}`,
    async prepare(task) {
      const it = await transformers(runtime)
      const loader = task.kind === 'decoder' ? it.AutoModelForCausalLM : it.AutoModelForSequenceClassification
      const model = await loader.from_pretrained(task.model, loadOptions(runtime, device, dtype))
      const exact = dtype === 'fp32'
      return task.kind === 'decoder' ? decoder(it, model, task, exact) : encoder(it, model, task, exact)
    },
  }
}

/** In the order they are tried: the stock module first, while nothing stands in for its runtime. */
export const transformersJs: readonly ModelContestant[] = [
  contestant('stock', 'wasm', 'fp32'),
  contestant('stock', 'wasm', 'q8'),
  contestant('stock', 'webgpu', 'fp32'),
  contestant('lean', 'wasm', 'fp32'),
  contestant('lean', 'wasm', 'q8'),
]
