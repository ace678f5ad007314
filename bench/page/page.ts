/** The one door of the benchmark page: bench/main.ts calls `bench.*` from outside and gets plain data back. */

import { ours } from '../contestants/ours.ts'
import { ourCommitting, ourModels } from '../contestants/our-model.ts'
import type { KernelRow } from '../suites/kernels.ts'
import { runKernelRow } from './kernels.ts'
import type { KernelOutcome } from './kernels.ts'
import { runModelTask } from './models.ts'
import type { ModelOutcome } from './models.ts'
import { transformersJs } from '../contestants/transformers.ts'
import { wllama } from '../contestants/wllama.ts'
import { ourDispatchesPerLayer, perToken } from './dispatches.ts'
import type { PerToken } from './dispatches.ts'
import type { DecoderTask, ModelContestant, ModelTask } from '../contestants/model.ts'
import type { Effort } from './timing.ts'

export interface AdapterInfo {
  vendor: string
  architecture: string
  device: string
  description: string
}

export interface BenchPage {
  adapter(): Promise<AdapterInfo | null>
  kernel(row: KernelRow, effort: Effort): Promise<KernelOutcome>
  /** `only`: just the contestants of that backend, on both sides. */
  model(task: ModelTask, effort: Effort, only: 'webgpu' | null): Promise<ModelOutcome>
  /** What the commitment costs: ours with it, and as the peers ours without, on one backend. */
  commitment(task: ModelTask, effort: Effort, backend: string): Promise<ModelOutcome>
  /** What a token costs the GPU's queue, ours and the peer's. */
  dispatches(task: DecoderTask): Promise<{ ours: PerToken; perLayer: number; peer: PerToken }>
}

const bench: BenchPage = {
  async adapter() {
    const adapter = await navigator.gpu?.requestAdapter()
    if (adapter == null) return null
    const { vendor, architecture, device, description } = adapter.info
    return { vendor, architecture, device, description }
  },
  kernel: (row, effort) => runKernelRow(row, ours.get(row.backend) ?? null, effort),
  model(task, effort, only) {
    const peers = [...transformersJs, ...(task.kind === 'decoder' ? wllama : [])]
    return runModelTask(task, ourModels, peers, effort, only)
  },
  commitment: (task, effort, backend) => runModelTask(task, ourCommitting, ourModels, effort, backend),
  async dispatches(task) {
    const onGpu = (list: readonly ModelContestant[]) => list.find(({ name }) => name.includes('webgpu'))!
    const ours = await perToken(onGpu(ourModels), task)
    const peer = await perToken(onGpu(transformersJs), task)
    return { ours, peer, perLayer: await ourDispatchesPerLayer(task.model) }
  },
}

Object.assign(globalThis, { bench })
