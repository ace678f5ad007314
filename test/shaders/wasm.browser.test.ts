/** The same bytes in Chromium: on a page's own thread, which may not block, and with threads inside a worker. */
import { afterAll, beforeAll, expect, inject, test } from 'vitest'
import type { TestPage } from '../harness/page.ts'
import { openPage } from '../harness/page.ts'

let page: TestPage
beforeAll(async () => {
  page = await openPage({ webgpu: false })
}, 60_000)
afterAll(() => page?.close())

const side = () => page.module<typeof import('./wasm-side.ts')>('test/shaders/wasm-side.ts')
const seed = inject('seed')

test.each(['best', 'dot_i16x8'] as const)(
  'on the page, one thread, %s products',
  async (products) => {
    const { threads, cases, failures } = await side().conformHere({ threads: 2, products }, seed)
    expect(failures, `SEED=${seed} repeats this`).toEqual([])
    expect(cases).toBeGreaterThan(250)
    expect(threads, 'a page may not block, so it plays alone').toBe(1)
  },
  60_000,
)

test.each([1, 2, 3])(
  'in a worker, %i threads',
  async (wanted) => {
    const { threads, cases, failures } = await side().conformInWorker({ threads: wanted }, seed)
    expect(failures, `SEED=${seed} repeats this`).toEqual([])
    expect(cases).toBeGreaterThan(250)
    expect(threads).toBe(wanted)
  },
  60_000,
)
