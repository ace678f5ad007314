/** The admission kit: its answers are those of the definitions, right backends know them, and what is wrong is named. */
import { describe, expect, test, vi } from 'vitest'
import { Engine } from '../../client/engine.ts'
import type { Backend } from '../../engine/backends/backend.ts'
import { openJs } from '../../engine/backends/js.ts'
import { openWasm } from '../../engine/backends/wasm.ts'
import { dawn } from '../../engine/backends/webgpu/dawn.ts'
import { openBackend } from '../../engine/index.ts'
import { admit, digestOf, KIT_VERSION, questions } from '../../engine/kit/kit.ts'
import known from '../../engine/kit/known.json' with { type: 'json' }
import { openAdmitted } from '../../engine/kit/open.ts'
import type { Recording, Step } from '../../engine/recording.ts'
import { Shelf } from '../../client/weights/shelf.ts'
import { memoryStore } from '../../client/weights/store.ts'
import type { KernelName } from '../../shaders/kernels.ts'
import { kernels } from '../../shaders/kernels.ts'

/** What is broken at the moment: a shader's text, or what WASM is told to compute. */
const faults = vi.hoisted(() => ({
  shader: undefined as undefined | { name: string; from: RegExp; to: string },
  wasm: undefined as undefined | ((products: string) => boolean),
}))
vi.mock('../../shaders/source.ts', async (original) => {
  const real = await original<typeof import('../../shaders/source.ts')>()
  return {
    ...real,
    shaderSource(name: string) {
      const text = real.shaderSource(name)
      if (faults.shader?.name !== name) return text
      const broken = text.replace(faults.shader.from, faults.shader.to)
      if (broken === text) throw new Error(`nothing to break in ${name}`)
      return broken
    },
  }
})
vi.mock('../../engine/backends/wasm.ts', async (original) => {
  const real = await original<typeof import('../../engine/backends/wasm.ts')>()
  return {
    async openWasm(options: Parameters<typeof real.openWasm>[0]) {
      const backend = await real.openWasm(options)
      return faults.wasm?.(backend.info.variants.linear!) ? breaking(backend, 'linear') : backend
    },
  }
})

/** One constant wrong per kernel. */
const wrong: Record<KernelName, (params: Step['params']) => Step['params']> = {
  embed: (p) => ({ ...p, from: p.from! + 1 }),
  digest: (p) => ({ ...p, layer: (p.layer! + 1) % p.layers! }),
  gather: (p) => ({ ...p, d: p.d! - 1 }),
  pool: (p) => ({ ...p, mean: 1 - p.mean! }),
  quant: (p) => ({ ...p, d: p.d! - 1 }),
  rmsnorm_quant: (p) => ({ ...p, epsK: p.epsK! + 1, epsM: p.epsM! | 1 }),
  layernorm_quant: (p) => ({ ...p, cM: p.cM! ^ 1 }),
  linear: (p) => ({ ...p, act: p.act ? 0 : p.act!, k: p.k! - 1 }),
  heads: (p) => ({ ...p, epsM: p.epsM! ^ 1024 }),
  attention: (p) => ({ ...p, scoreM: p.scoreM! ^ 512 }),
  sample: (p) => ({ ...p, vocab: p.vocab! - 1 }),
}

/** The backend with that constant wrong. */
function breaking(backend: Backend, kernel: KernelName): Backend {
  const spoil = (step: Step): Step =>
    step.kernel === kernel ? { ...step, params: wrong[kernel](step.params) } : step
  const load = (recording: Recording): ReturnType<Backend['load']> => {
    const sections = Object.entries(recording.sections).map(([name, steps]) => [name, steps.map(spoil)])
    return backend.load({ ...recording, sections: Object.fromEntries(sections) as Recording['sections'] })
  }
  return { info: backend.info, lost: backend.lost, bindingBytesMax: backend.bindingBytesMax, load, close: () => backend.close() } // prettier-ignore
}

const names = Object.keys(kernels) as KernelName[]

test('the known answers are the definitions’ (else: node engine/kit/make.ts), and every kernel has some', async () => {
  const answers: Record<string, string> = known.answers
  const asked = new Set<string>()
  const now: Record<string, string> = {}
  for (const { kernel, name, ask } of questions()) {
    if (!(name in answers)) continue
    asked.add(kernel)
    now[name] = await digestOf(await ask(openJs()))
  }
  expect(now).toEqual(answers)
  expect([...asked]).toEqual(expect.arrayContaining(names))
})

describe('WASM', () => {
  test.each(['best', 'dot_i16x8'] as const)('gives them with %s products', async (products) => {
    const backend = await openWasm({ threads: 1, products })
    expect(await admit(backend)).toMatchObject({
      failure: undefined,
      cases: Object.keys(known.answers).length,
    })
    await backend.close()
  })

  test.each(names)('with a constant wrong in %s fails by that name', async (kernel) => {
    const backend = await openWasm({ threads: 1 })
    const { failure } = await admit(breaking(backend, kernel))
    expect(failure?.kernel).toBe(kernel)
    expect(failure?.detail).toMatch(/\[\d+\] is -?\d+, not -?\d+ \(\d+ of \d+ differ\)|another answer/)
    await backend.close()
  })
})

const memory = () => {
  const kept = new Map<string, string>()
  return {
    kept,
    get: (key: string) => kept.get(key),
    set: (key: string, value: string) => void kept.set(key, value),
  }
}
const onGpu = async (avoid: readonly string[]): Promise<Backend> =>
  openBackend('webgpu', { adapter: (await dawn()).adapter, avoid })
const engineOf = (choice: 'auto' | 'webgpu'): Engine =>
  new Engine({
    choice,
    shelf: new Shelf(memoryStore(), { now: () => 0 }),
    base: 'http://127.0.0.1',
    threads: 1,
    adapter: async () => (await dawn()).adapter,
  })

describe('a variant or a device that computes wrongly', () => {
  test('fast products that are wrong are dropped for exact ones; a pass is remembered, until the program changes', async () => {
    const remember = memory()
    const open = (avoid: readonly string[]) => openBackend('wasm', { threads: 1, avoid })
    faults.wasm = (products) => products !== 'dot_i16x8'
    try {
      const { backend, dropped } = await openAdmitted(open, { remember, where: 'browser 1' })
      expect(backend.info.variants.linear).toBe('dot_i16x8')
      // On a machine without relaxed products there was nothing to drop.
      if ((await openWasm({ threads: 1 })).info.variants.linear !== 'dot_i16x8')
        expect(dropped.map(({ kernel }) => kernel)).toEqual(['linear'])
    } finally {
      faults.wasm = undefined
    }
    const first = await openAdmitted(open, { remember, where: 'browser 2' })
    expect(first.ms).toBeGreaterThan(0)
    expect([...remember.kept.values()]).toEqual([KIT_VERSION, KIT_VERSION])
    expect((await openAdmitted(open, { remember, where: 'browser 2' })).ms).toBe(0)
  })

  test('WASM that is wrong altogether does not start, and says what', async () => {
    faults.wasm = () => true
    const engine = new Engine({
      choice: 'wasm',
      shelf: new Shelf(memoryStore(), { now: () => 0 }),
      base: 'http://127.0.0.1',
    })
    await expect(engine.open()).rejects.toMatchObject({
      name: 'Unsupported',
      message: expect.stringMatching(/^wasm-is-wrong: linear: /) as string,
    })
    faults.wasm = undefined
  })

  test('a GPU’s variant that a driver spoils is dropped for another', async () => {
    const tried: string[] = []
    // Long rows alone: the check before variants are timed does not see that.
    faults.shader = {
      name: 'linear_f32',
      from: /start \+ 64u\)/,
      to: 'start + select(64u, 63u, chunks > 100u))',
    }
    try {
      const { backend, dropped } = await openAdmitted(async (avoid) => {
        const gpu = await onGpu(avoid)
        tried.push(gpu.info.variants.many!)
        // All questions again, and a software GPU compiles for a minute: the next variant is enough to know.
        return avoid.length ? openJs() : gpu
      })
      expect(dropped).toMatchObject([{ kernel: 'linear' }])
      expect(tried).toEqual(['f32-narrow', 'dot-narrow'])
      await backend.close()
    } finally {
      faults.shader = undefined
    }
  })

  test('a GPU that is wrong is left for the CPU, saying why and in what', async () => {
    faults.shader = { name: 'pool', from: /most = max.*/, to: '' }
    const engine = engineOf('webgpu')
    try {
      const info = await engine.open()
      expect(info).toMatchObject({ backend: 'wasm', why: 'gpu-is-wrong' })
      expect(info.wrong).toMatch(/^pool: 7 segments x31/)
    } finally {
      faults.shader = undefined
      await engine.close()
    }
  })
})
