/** wllama (llama.cpp in WASM and WebGPU) on our own weights as GGUF, q8_0. Text in, text out: that is its only door. */

import type { ModelContestant } from './model.ts'
import { PEERS, peerModule, threads } from './load.ts'

interface Completion {
  choices: { text: string }[]
  usage: { completion_tokens: number }
}

interface WllamaInstance {
  loadModel(blobs: Blob[], options: Record<string, unknown>): Promise<void>
  createCompletion(options: Record<string, unknown>): Promise<Completion>
  exit(): Promise<void>
}

interface WllamaModule {
  Wllama: new (paths: { default: string }, options: Record<string, unknown>) => WllamaInstance
}

const silent = () => undefined
const logger = { debug: silent, log: silent, warn: silent, error: silent }

function contestant(device: 'wasm' | 'webgpu'): ModelContestant {
  return {
    name: `wllama ${device} q8_0`,
    async prepare(task) {
      if (task.kind !== 'decoder') throw new Error('it runs decoders only')
      // Without f16 in shaders llama.cpp falls back to the CPU without a word.
      if (device === 'webgpu' && !(await navigator.gpu?.requestAdapter())?.features.has('shader-f16')) {
        throw new Error('its WebGPU needs shader-f16, which this adapter has not')
      }
      const { Wllama } = await peerModule<WllamaModule>('@wllama/wllama/esm/index.js')
      const wasm = `${location.origin}${PEERS}/@wllama/wllama/esm/wasm/wllama.wasm`
      const engine = new Wllama({ default: wasm }, { logger, suppressNativeLog: true })
      const file = await (await fetch(`/made/models/${task.model}/model.gguf`)).blob()
      await engine.loadModel([file], {
        n_ctx: 384,
        n_threads: threads(),
        n_gpu_layers: device === 'webgpu' ? 999 : 0,
        n_parallel: 1,
      })
      const ask = {
        prompt: task.promptText,
        max_tokens: task.newTokens,
        temperature: 0,
        top_k: 1,
        stream: false,
      }
      let last: Completion | null = null
      return {
        async run(n) {
          const start = performance.now()
          for (let i = 0; i < n; i++) last = await engine.createCompletion(ask)
          return performance.now() - start
        },
        work: () => last?.usage.completion_tokens ?? 0,
        wrong() {
          const text = last?.choices[0]?.text ?? ''
          // Its weights are rounded once more: the beginning must be the same, the rest may go its own way.
          const start = task.wantText.slice(0, 30)
          return text.startsWith(start)
            ? null
            : `it says ${JSON.stringify(text.slice(0, 60))}, not ${JSON.stringify(start)}`
        },
        dispose: () => engine.exit(),
      }
    },
  }
}

export const wllama: readonly ModelContestant[] = [contestant('wasm'), contestant('webgpu')]
