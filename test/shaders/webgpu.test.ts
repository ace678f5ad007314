/** The WGSL kernels are the twins, byte for byte: in a browser and under Dawn in Node, in every variant, fused or not. */
import { expect, inject, test } from 'vitest'
import { openWebgpu } from '../../engine/backends/webgpu.ts'
import { dawn } from '../../engine/backends/webgpu/dawn.ts'
import { linearFew, linearMany, type LinearVariant } from '../../engine/backends/webgpu/variants.ts'
import { layerOf, layerShapes } from '../../engine/kit/layer.ts'
import { openPage } from '../harness/page.ts'
import { conform } from './conformance.ts'
import { conformLayers } from './layer.ts'

test('every kernel gives its twin’s bytes under Dawn in Node', async () => {
  const { adapter } = await dawn()
  const backend = await openWebgpu({ adapter })
  expect(await conform(backend, { seed: inject('seed') })).toMatchObject({ failures: [] })
  await backend.close()
})

// Dawn compiles for both: the browser is asked the admission kit, and each time another quarter of the cases.
test('every kernel gives its twin’s bytes in a browser, and so does a fused layer', async () => {
  const page = await openPage()
  const side = page.module<typeof import('./webgpu-side.ts')>('test/shaders/webgpu-side.ts')
  expect((await side.kitInPage()).failure).toBeUndefined()
  expect(await side.conformInPage({ seed: inject('seed'), every: 4 })).toMatchObject({ failures: [] })
  expect(await side.layerInPage(inject('seed'))).toEqual([])
  await page.close()
})

const gpuSizes = { rowThreads: 64, headThreads: 32, vocabThreads: 256, queryThreads: 64, f32: 0 }

/** One name for each way to compute: those that differ in workgroup size alone count once. */
const distinct = (table: Record<string, LinearVariant>): string[] => {
  const ways = Object.entries(table).map(([name, { shader, constants }]) => {
    const { WG: _threads, ...rest } = constants
    return [`${shader} ${JSON.stringify(rest)}`, name] as const
  })
  return [...new Map(ways).values()]
}
const variants = [
  ...distinct(linearMany).map((many) => ({ many, fewMax: 0 })),
  ...distinct(linearFew).map((few) => ({ few, fewMax: 1024 })),
]
test.each(variants)('linear gives its twin’s bytes as %o', async (variant) => {
  const { adapter } = await dawn()
  const backend = await openWebgpu({ adapter, variant })
  // Barriers of 256 threads take a software GPU long: there, the cases that run the sums twice, in every mode.
  const match = 'many' in variant && variant.many.startsWith('tile') ? 'a15' : ''
  const report = await conform(backend, { seed: inject('seed'), kernels: ['linear'], match })
  expect(report).toMatchObject({ failures: [] })
  await backend.close()
})

test.each([
  { what: 'as on a software GPU', variant: {} },
  {
    what: 'as on a GPU',
    variant: { few: 'row64', rowThreads: 64, headThreads: 32, vocabThreads: 256, f32: 0 },
  },
])('a layer run after run, $what, fused for few rows, leaves the twins’ bytes', async ({ variant }) => {
  const { adapter } = await dawn()
  const backend = await openWebgpu({ adapter, variant })
  expect(await conformLayers(backend, inject('seed'))).toEqual([])
  await backend.close()
})

test('a decoder layer costs five dispatches per token', async () => {
  const { adapter } = await dawn()
  const backend = await openWebgpu({ adapter })
  const program = await backend.load(layerOf(layerShapes[0]!, 1).recording)
  expect(program.dispatches('body', { rows: 1, picks: 1, segments: 0 })).toBe(5)
  expect(program.dispatches('body', { rows: 4, picks: 1, segments: 0 })).toBe(6)
  await backend.close()
})

test('norms, heads and sampling give their twins’ bytes with a GPU’s workgroup sizes', async () => {
  const { adapter } = await dawn()
  const backend = await openWebgpu({ adapter, variant: gpuSizes })
  const kernels = ['quant', 'rmsnorm_quant', 'layernorm_quant', 'pool', 'heads', 'sample'] as const
  expect(await conform(backend, { seed: inject('seed'), kernels, every: 2 })).toMatchObject({ failures: [] })
  await backend.close()
})

test.each([{ ...gpuSizes, fewMax: 0 }, { ...gpuSizes, fewMax: 1024 }, { fewMax: 0 }, { fewMax: 1024 }])(
  'attention gives its twin’s bytes as %o',
  async (variant) => {
    const { adapter } = await dawn()
    const backend = await openWebgpu({ adapter, variant })
    const report = await conform(backend, { seed: inject('seed'), kernels: ['attention'] })
    expect(report).toMatchObject({ failures: [] })
    await backend.close()
  },
)

test('the variants found for a device are remembered, and what is damaged is found anew', async () => {
  const kept = new Map<string, string>()
  const remember = {
    get: (key: string) => kept.get(key),
    set: (key: string, value: string) => void kept.set(key, value),
  }
  const open = async (): Promise<Record<string, string>> => {
    const { adapter } = await dawn()
    const backend = await openWebgpu({ adapter, remember })
    await backend.close()
    return backend.info.variants
  }
  const found = await open()
  const [key] = kept.keys()
  expect(kept.size).toBe(1)
  expect(await open()).toEqual(
    Object.fromEntries(['many', 'few'].map((name) => [name, `${found[name]!.split(' ')[0]} (remembered)`])),
  )
  for (const damage of ['', '{', '7', '{"many":"gone","few":"row64"}']) {
    kept.set(key!, damage)
    expect((await open()).many).not.toContain('remembered')
    expect(kept.get(key!)).not.toBe(damage)
  }
})

test('a device that is lost fails what waits for it by name', async () => {
  const { adapter } = await dawn()
  const backend = await openWebgpu({ adapter })
  const program = await backend.load(layerOf(layerShapes[0]!, 1).recording)
  await backend.close()
  await expect(program.read('x', 0, 16)).rejects.toMatchObject({ name: 'DeviceLost' })
  await expect(program.done()).rejects.toMatchObject({ name: 'DeviceLost' })
  // Closing it was no accident.
  expect(await Promise.race([backend.lost, 'not lost'])).toBe('not lost')
})
