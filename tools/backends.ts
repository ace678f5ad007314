/** Choosing what computes, in Node. All backends give the same bytes; this is about speed and what is there. */
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import type { Backend, BackendName } from '../engine/backends/backend.ts'
import { openBackend as openEngine } from '../engine/index.ts'
import type { Remember } from '../engine/index.ts'
import { cacheFolder } from './folders.ts'

export interface BackendChoice {
  /** `auto`: a GPU if there is a real one, else wasm, else js. */
  name: BackendName | 'auto'
  /** For wasm; by default the backend's own choice. */
  threads?: number
  /** Variants not to be chosen: they were seen to compute wrongly here. */
  avoid?: readonly string[]
}

/** A backend that was asked for by name and is not to be had here. */
export class BackendError extends Error {
  override name = 'BackendError'
}

export async function openBackend({ name, threads, avoid }: BackendChoice): Promise<Backend> {
  if (name !== 'auto') {
    try {
      return await (name === 'webgpu' ? openWebgpuHere(avoid) : openEngine(name, { threads, avoid }))
    } catch (cause) {
      throw new BackendError(`the ${name} backend is not available (${(cause as Error).message})`, { cause })
    }
  }
  const gpu = await openWebgpuHere().catch(() => null)
  // An emulated GPU is the same processor with a detour.
  if (gpu && !gpu.info.software) return gpu
  await gpu?.close()
  return openFastestOnCpu(threads)
}

/** wasm, or js where wasm cannot be had: for measuring quality, where any backend's answer is the answer. */
export async function openFastestOnCpu(threads?: number): Promise<Backend> {
  return openEngine('wasm', { threads }).catch(() => openEngine('js'))
}

/** @param avoid variants not to be chosen */
export async function openWebgpuHere(avoid?: readonly string[]): Promise<Backend> {
  const { dawn } = await import('../engine/backends/webgpu/dawn.ts')
  const { adapter } = await dawn()
  return openEngine('webgpu', {
    adapter,
    avoid,
    remember: rememberInFile(join(cacheFolder(), 'webgpu.json')),
  })
}

/** Kernel variants by device, in a JSON file; one that cannot be read or written is done without. */
function rememberInFile(path: string): Remember {
  const read = async (): Promise<Record<string, string>> => {
    const kept: unknown = await readFile(path, 'utf8')
      .then(JSON.parse)
      .catch(() => null)
    return kept && typeof kept === 'object' ? (kept as Record<string, string>) : {}
  }
  return {
    get: async (key) => (await read())[key],
    async set(key, value) {
      try {
        const text = JSON.stringify({ ...(await read()), [key]: value }, null, 1)
        await mkdir(dirname(path), { recursive: true })
        await writeFile(path, text)
      } catch {
        // Timed again next time.
      }
    },
  }
}
