/** The WGSL kernels are the twins, byte for byte: in a browser and under Dawn in Node. */
import { expect, inject, test } from 'vitest'
import { openWebgpu } from '../../engine/backends/webgpu.ts'
import { dawn } from '../../engine/backends/webgpu/dawn.ts'
import { openPage } from '../harness/page.ts'
import { conform } from './conformance.ts'

test('every kernel gives its twin’s bytes under Dawn in Node', async () => {
  const { adapter } = await dawn()
  const backend = await openWebgpu({ adapter })
  expect(await conform(backend, { seed: inject('seed') })).toMatchObject({ failures: [] })
  await backend.close()
})

test('every kernel gives its twin’s bytes in a browser', async () => {
  const page = await openPage()
  const side = page.module<typeof import('./webgpu-side.ts')>('test/shaders/webgpu-side.ts')
  expect(await side.conformInPage({ seed: inject('seed') })).toMatchObject({ failures: [] })
  await page.close()
})
