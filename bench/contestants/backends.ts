/** Our backends, each opened once per page. */

import type { Backend, BackendName } from '../../engine/backends/backend.ts'
import { openWasm } from '../../engine/backends/wasm.ts'
import { openWebgpu } from '../../engine/backends/webgpu.ts'
import { threads } from './load.ts'

const OPEN: Partial<Record<BackendName, () => Promise<Backend>>> = {
  wasm: () => openWasm({ threads: threads() }),
  webgpu: () => openWebgpu(),
}

export const OUR_BACKENDS = Object.keys(OPEN) as BackendName[]

const opened = new Map<BackendName, Promise<Backend>>()

export function ourBackend(name: BackendName): Promise<Backend> {
  let backend = opened.get(name)
  if (backend === undefined) {
    backend = OPEN[name]!()
    opened.set(name, backend)
  }
  return backend
}
