/** The one door of the benchmark page: bench/main.ts calls `bench.*` from outside and gets plain data back. */

import { ours } from '../contestants/ours.ts'
import { ourModels } from '../contestants/our-model.ts'
import type { KernelRow } from '../suites/kernels.ts'
import { runKernelRow } from './kernels.ts'
import type { KernelOutcome } from './kernels.ts'
import { runModelTask } from './models.ts'
import type { ModelOutcome } from './models.ts'
import type { ModelTask } from '../contestants/model.ts'
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
  model(task: ModelTask, effort: Effort): Promise<ModelOutcome>
}

const bench: BenchPage = {
  async adapter() {
    const adapter = await navigator.gpu?.requestAdapter()
    if (adapter == null) return null
    const { vendor, architecture, device, description } = adapter.info
    return { vendor, architecture, device, description }
  },
  kernel: (row, effort) => runKernelRow(row, ours.get(row.backend) ?? null, effort),
  model: (task, effort) => runModelTask(task, ourModels, effort),
}

Object.assign(globalThis, { bench })
