import { readdirSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { dawn } from '../../engine/backends/webgpu/dawn.ts'
import { shaderSource } from '../../shaders/source.ts'
import { addOneOn } from './add-one.ts'
import { sameBytes } from './bytes.ts'
import { openPage, type Remote, type TestPage } from './page.ts'
import { law } from './random.ts'

type Sample = typeof import('./sample.ts')
const path = 'test/harness/sample.ts'

describe('a page', () => {
  let page: TestPage
  let sample: Remote<Sample>
  beforeAll(async () => {
    page = await openPage()
    sample = page.module<Sample>(path)
  })
  afterAll(() => page.close())

  law('gives back what it is given, to the byte', async (random) => {
    const large = random.int8(1 << 20)
    sameBytes(((await sample.echo(large)) as Int8Array[])[0]!, large, 'a large array')
    const sent = [
      random.bytes(random.int(0, 99)),
      random.int32(random.int(0, 99)),
      { text: 'né\u0000🦊', nothing: undefined, none: null, deep: [[1.5, -0, Number.NaN, -Infinity]] },
      new Map([['k', new Float32Array([1, -0, 3e38])]]),
      2n ** 63n,
      { $: 'Int8Array' },
    ]
    expect(await sample.echo(...sent)).toEqual(sent)
  })

  test('is cross-origin isolated and has WebGPU', async () => {
    expect(await sample.surroundings()).toEqual({ isolated: true, shared: true, workers: true, gpu: true })
    expect(page.adapter).toBeTypeOf('string')
  })

  test('rethrows what a function throws, with its name, code and place', async () => {
    const error = await sample.fail().then(
      () => undefined,
      (caught: unknown) => caught,
    )
    expect(error).toMatchObject({ name: 'RangeError', message: 'as asked', code: 'asked' })
    expect((error as Error).stack).toContain('sample.ts')
    await expect(page.module<{ nope(): void }>(path).nope()).rejects.toThrow('exports no function nope')
  })

  test('fails the call during which something was said on the console as an error', async () => {
    await expect(sample.complain()).rejects.toThrow('said on the console')
    await expect(sample.brokenShader()).rejects.toThrow(/WGSL|unexpected token/)
    expect(await sample.echo(1)).toEqual([1])
  })

  law('computes on its GPU what Dawn in Node computes', async (random) => {
    const values = random.int32(random.int(1, 300), -(2 ** 31), 2 ** 31 - 2)
    const { adapter } = await dawn()
    const expected = values.map((v) => v + 1)
    expect(await addOneOn(await adapter.requestDevice(), values)).toEqual(expected)
    expect(await sample.addOne(values)).toEqual(expected)
  })

  test('runs module workers, with shared memory and a GPU of their own', async () => {
    expect(await sample.inWorker()).toEqual({ shared: 2, gpu: new Int32Array([42]) })
  })

  test('loads each kernel text as Node does', async () => {
    const here = readdirSync(new URL('../../shaders', import.meta.url)).filter((file) =>
      file.endsWith('.wgsl'),
    )
    for (const file of here) {
      const name = file.replace('.wgsl', '')
      expect(await sample.source(name)).toBe(shaderSource(name))
    }
    await expect(sample.source('no-such-kernel')).rejects.toThrow('shaders/no-such-kernel.wgsl')
  })
})

test('a browser without the WebGPU switch can be had too', async () => {
  const page = await openPage({ webgpu: false })
  const { isolated } = await page.module<Sample>(path).surroundings()
  await page.close()
  expect(isolated).toBe(true)
})
