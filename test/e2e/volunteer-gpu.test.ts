/** WebGPU on a software adapter and no adapter at all, in one network: the same answers, and a GPU that goes away costs nobody one. */
import type { Browser } from 'puppeteer-core'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { launchBrowser } from '../../tools/browser.ts'
import { HELPING, openVolunteerTab } from '../../tools/tab.ts'
import type { VolunteerTab } from '../../tools/tab.ts'
import { openWorld, story, until } from './world.ts'
import type { World } from './world.ts'

let world: World
let gpu: Browser
let plain: Browser

beforeAll(async () => {
  ;[world, gpu, plain] = await Promise.all([
    openWorld(),
    launchBrowser({ webgpu: true }),
    launchBrowser({ webgpu: false }),
  ])
})
afterAll(async () => {
  await Promise.all([gpu.close(), plain.close()])
  await world.close()
})

/** Nobody but the volunteers is there, and newcomers check nobody. */
const unchecked = { trust: 'fast' }

const writers = (): number => world.status().models.find((m) => m.name === 'tales-3m')!.volunteers
const backends = (): string[] => world.status().volunteers.list.map((v) => v.backend)

const ask = (): ReturnType<typeof story> =>
  story(world.direct, 'One windy day', { max_tokens: 40, temperature: 0.9, seed: 5, volunteer: unchecked })
let text = ''
/** One tab on the software GPU, whose shaders take long to compile, for all that follows. */
let slow: VolunteerTab
const states: string[] = []

test('a browser without an adapter, and one whose adapter is emulated, choose the CPU and say why', async () => {
  const seen: string[] = []
  for (const [browser, why] of [
    [plain, 'no WebGPU here'],
    [gpu, 'GPU is emulated'],
  ] as const) {
    const tab = await openVolunteerTab(world.url, { browser, onState: (state) => seen.push(state) })
    await tab.until(HELPING)
    expect(await tab.page.$eval('main', (main) => main.textContent)).toContain(why)
    expect(backends()).toEqual(['wasm'])
    await until(() => writers() === 1, 'the CPU is ready')
    const answer = await ask()
    expect(answer.volunteer.computed_by.map((c) => c.class)).toEqual(['wasm'])
    expect(answer.text).toBe((text ||= answer.text))
    await tab.close()
    await until(() => world.status().volunteers.connected === 0, 'it left')
  }
  expect(seen).toEqual(expect.arrayContaining(['checking', 'downloading', 'standby', 'stopped']))
})

test('a GPU whose process dies is noticed, said, and replaced; the caller gets the whole story', async () => {
  slow = await openVolunteerTab(world.url, {
    browser: gpu,
    engine: 'webgpu',
    onState: (state) => states.push(state),
  })
  await until(() => writers() === 1 && backends()[0] === 'webgpu', 'the GPU is ready', 120_000)
  expect(await slow.page.$eval('main', (main) => main.textContent)).toContain('WebGPU')
  const asked = story(world.direct, 'A small fish', { max_tokens: 200, volunteer: unchecked })
  await until(() => world.status().volunteers.list.some(({ held }) => held > 0), 'it has the unit')
  const cdp = await gpu.target().createCDPSession()
  await cdp.send('Browser.crashGpuProcess')
  // Whether it still computes or the story is over: a device that has gone is seen between units too.
  await until(() => states.includes('device-lost'), 'the page says so')
  expect((await asked).text.length).toBeGreaterThan(20)
  await slow.until(HELPING, 120_000)
  expect(states.filter((state) => /failed|unsupported/.test(state))).toEqual([])
})

test('WebGPU and WASM tabs give the same story, taking over from each other', async () => {
  await until(() => writers() === 1 && backends()[0] === 'webgpu', 'the GPU is ready again', 120_000)
  const answer = ask()
  const drawn = (): boolean => world.status().volunteers.list.some(({ held }) => held > 0)
  await until(drawn, 'the GPU has the unit')
  const next = await openVolunteerTab(world.url, { browser: plain })
  await until(() => writers() === 2, 'the CPU is ready too')
  await slow.page.close()
  expect((await answer).text).toBe(text)
  await next.close()
  await slow.close()
})
