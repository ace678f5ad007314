/**
 * Every way to lie that client/adversary.ts knows, against a real coordinator: no wrong answer stays, each liar is convicted by
 * evidence that anybody can compute again, and nobody who was honest is.
 */
import { afterEach, expect, test } from 'vitest'
import type { Picture } from '../../client/picture.ts'
import type { Policy } from '../../coordinator/core/policy.ts'
import { launchBrowser } from '../../tools/browser.ts'
import { HELPING, openVolunteerTab } from '../../tools/tab.ts'
import type { VolunteerTab } from '../../tools/tab.ts'
import { Town } from './town.ts'
import { until } from './world.ts'

/** ADVERSARY_ANSWERS=5000 goes on asking after the last conviction. */
const ANSWERS = Number(process.env.ADVERSARY_ANSWERS ?? 0)

let town: Town | undefined
afterEach(async () => {
  await town?.close()
  town = undefined
})

/** Asks, some at once, until each liar is caught; then looks at everything that was answered. */
async function live(given: Town, liars: readonly string[], honest: readonly string[]): Promise<void> {
  const isIn = (): boolean => given.citizens.every(({ key, picture }) => key() && picture().models.some((m) => m.state === 'ready')) // prettier-ignore
  await until(isIn, 'everybody is ready', 60_000).catch((error: unknown) => {
    const states = given.citizens.map(({ name, picture }) => `${name}: ${picture().state} ${picture().reason ?? ''}`) // prettier-ignore
    throw new Error(states.join('; '), { cause: error })
  })
  const keys = new Map(given.citizens.map(({ name, key }) => [key(), name]))
  let turn = 0
  const over = new AbortController()
  const requester = async (): Promise<void> => {
    while (!over.signal.aborted)
      await given.ask(turn++, turn % 7 === 0 ? 'fast' : turn % 11 === 0 ? 'exact' : 'checked')
  }
  const requesters = Promise.all(Array.from({ length: 6 }, requester))
  const caught = async (): Promise<string[]> => [...(await given.convicted()).keys()].map((key) => keys.get(key) ?? key) // prettier-ignore
  let names: string[] = []
  const free = (): readonly string[] => liars.filter((name) => !names.includes(name))
  const start = performance.now()
  const isDue = (): boolean => free().length > 0 || given.receipts.length < ANSWERS
  while (isDue() && performance.now() - start < 120_000 + 100 * ANSWERS) {
    await new Promise((done) => setTimeout(done, 200))
    names = await caught()
  }
  over.abort()
  await requesters
  expect(free(), `still free after ${turn} requests`).toEqual([])
  expect(given.failures).toEqual([])
  expect([...names].sort()).toEqual([...liars].sort())
  for (const name of honest) expect(names).not.toContain(name)

  // Each conviction holds before anybody who computes.
  for (const [key, id] of await given.convicted()) {
    const report = await given.verify(`/v1/evidence/${id}`)
    expect(report.flaw, `the evidence against ${keys.get(key)}`).toBeNull()
    expect(report.units[0]?.volunteer).toBe(key)
  }
  // Corrections are behind the convictions, for a moment.
  const wrong = async (): Promise<string[]> => {
    const flaws: string[] = []
    for (const id of given.receipts) {
      const report = await given.verify(`/v1/receipts/${id}`)
      if (report.flaw) flaws.push(`${id}: ${report.flaw.field}: ${report.flaw.why}`)
    }
    return flaws
  }
  await until(async () => (await wrong()).length === 0, 'every answer that was wrong is corrected').catch(
    async (error: unknown) => {
      expect(await wrong()).toEqual([])
      throw error
    },
  )
  let corrected = 0
  for (const id of given.receipts) {
    const receipt = await given.document(`/v1/receipts/${id}`)
    if ('units' in receipt) corrected += receipt.units.filter(({ status }) => status === 'corrected').length
  }
  const { totals } = given.world.status()
  console.log(
    `${given.receipts.length} answers in ${((performance.now() - start) / 1000).toFixed(1)} s, ${corrected} of their units corrected; ` +
      `${totals.checks} checks, ${totals.convicted} convicted`,
  )
}

const HASTE: Partial<Policy> = { discloseMs: 1_000 }

test('newcomers that lie: every strategy is convicted, and nobody else', async () => {
  town = await Town.open({ policy: { ...HASTE, probation: 20, beta: 1_000, floor: 1 } })
  const liars = [
    'lazy-random', 'lazy-cache', 'wrong-weights', 'layer-skipper', 'flipper', 'sleeper:5', 'liar:0.2', 'exit:5', 'first',
    'copycat', 'equivocator', 'withholder', 'bit-flip:0.3',
  ] // prettier-ignore
  await Promise.all(liars.map((name) => town!.settle(name, name)))
  const honest = ['honest 1', 'honest 2']
  await Promise.all(honest.map((name) => town!.settle(name)))
  await live(town, liars, honest)
})

test('the established that lie: as auditors, now and then, or with an accomplice', async () => {
  town = await Town.open({ policy: { ...HASTE, probation: 5, beta: 5, floor: 0.1, textShare: 2 } })
  // The copycats are honest until they may check each other.
  const known = { thief: 'copycat:60', accomplice: 'copycat:60' }
  const alone = ['rubber-stamper', 'false-accuser', 'sleeper:30', 'liar:0.3']
  const liars = [...alone, ...Object.keys(known)]
  await Promise.all(alone.map((name) => town!.settle(name, name)))
  await Promise.all(Object.entries(known).map(([name, strategy]) => town!.settle(name, strategy)))
  const honest = ['honest 1', 'honest 2', 'honest 3']
  await Promise.all(honest.map((name) => town!.settle(name)))
  await live(town, liars, honest)
})

test('in a browser, with WebGPU and without: the lie is found, the page says what happened, and its evidence holds', async () => {
  const browser = await launchBrowser({ webgpu: true })
  try {
    town = await Town.open({ policy: { ...HASTE, beta: 1_000, floor: 1 } })
    const open = async (
      name: string,
      engine: 'webgpu' | 'wasm',
      adversary?: string,
    ): Promise<VolunteerTab> => {
      const tab = await openVolunteerTab(await town!.wire(), { browser, engine, adversary })
      await tab.until(HELPING, 120_000)
      const picture = await pictureOf(tab)
      town!.add({ name, key: () => picture.publicKey!, picture: () => picture })
      return tab
    }
    const liars = { 'layer-skipper on a GPU': 'layer-skipper', 'flipper on a CPU': 'flipper' }
    const [gpu, cpu, honest] = await Promise.all([
      open('layer-skipper on a GPU', 'webgpu', 'layer-skipper'),
      open('flipper on a CPU', 'wasm', 'flipper'),
      open('honest in a tab', 'wasm'),
    ])
    expect((await pictureOf(gpu!)).engine?.backend).toBe('webgpu')
    await live(town, Object.keys(liars), ['honest in a tab'])
    for (const tab of [gpu!, cpu!]) {
      await tab.until(['convicted'])
      const text = await tab.page.$eval('main', (main) => main.textContent ?? '')
      expect(text).toContain('Stopped for good')
      expect(text).toContain('final for this key')
      expect(text).toContain('chorale doctor')
      const href = await tab.page.$eval('main a[href*="/v1/evidence/"]', (a) => a.getAttribute('href'))
      const report = await town.verify(href!)
      expect(report.flaw).toBeNull()
      expect(report.units[0]!.volunteer).toBe((await pictureOf(tab)).publicKey)
    }
    // A reload changes nothing about what was proven.
    await cpu!.page.reload()
    await (await cpu!.page.waitForSelector('button[data-action=start]'))!.click()
    await cpu!.until(['convicted'])
    // Nor does anything but a new key, which begins with nothing.
    const before = (await pictureOf(cpu!)).publicKey
    for (let i = 0; i < 2; i++) await cpu!.page.click('.row button[data-action=clear]')
    await (await cpu!.page.waitForSelector('button[data-action=start]'))!.click()
    await cpu!.until(HELPING)
    const after = await pictureOf(cpu!)
    expect(after.publicKey).not.toBe(before)
    expect(after.standing?.accepted ?? 0).toBe(0)
    await honest!.until(HELPING)
    // The liars may have been found before it was asked anything; and a key hears of its standing every few seconds.
    const accepted = async (): Promise<number> => (await pictureOf(honest!)).standing?.accepted ?? 0
    for (let turn = 0; turn < 600 && !(await accepted()); turn++) {
      await Promise.all([0, 1, 2].map((i) => town!.ask(3 * turn + i)))
      await new Promise((done) => setTimeout(done, 50))
    }
    expect(await accepted()).toBeGreaterThan(0)
  } finally {
    await browser.close()
  }
})

const pictureOf = (tab: VolunteerTab): Promise<Picture> =>
  tab.page.evaluate(() => (document.querySelector('chorale-volunteer') as unknown as { picture: Picture }).picture) // prettier-ignore
