/** A person at `/`: what the page may do before and after the click, and that nobody is left waiting whatever the tab does. */
import type { Browser, Page } from 'puppeteer-core'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { launchBrowser } from '../../tools/browser.ts'
import { HELPING, openVolunteerTab } from '../../tools/tab.ts'
import type { TabOptions, VolunteerTab } from '../../tools/tab.ts'
import { openWorld, story, until } from './world.ts'
import type { World } from './world.ts'

let world: World
let browser: Browser
const open: VolunteerTab[] = []
/** A network of its own whose one tab is hidden from the first test to the last. */
let attic: World
let attended: Promise<Attended>

beforeAll(async () => {
  ;[world, attic, browser] = await Promise.all([openWorld(), openWorld(), launchBrowser({ webgpu: false })])
  attended = hiddenFor(60_000)
  attended.catch(() => undefined)
})
afterAll(async () => {
  await Promise.all(open.map((tab) => tab.close()))
  await browser.close()
  await attic.close()
  await world.close()
})

interface Attended {
  asked: number
  redispatched: number
  shown: number
  wasHidden: boolean
}

/** A tab that nobody looks at, asked something small every second. */
async function hiddenFor(ms: number): Promise<Attended> {
  const tab = await openVolunteerTab(attic.url, { browser })
  await until(() => attic.status().models.every((m) => m.volunteers === 1), 'the tab in the attic is ready')
  await (await tab.page.browserContext().newPage()).bringToFront()
  await tab.until(['hidden'])
  const end = performance.now() + ms
  let wasHidden = true
  let [asked, redispatched] = [0, 0]
  while (performance.now() < end) {
    const { volunteer } = await story(attic.direct, 'The moon', { max_tokens: 8, seed: asked++ })
    redispatched += volunteer.redispatched
    wasHidden &&= await tab.page.evaluate(() => document.hidden)
    await new Promise((done) => setTimeout(done, 1000))
  }
  const shown = await units(tab.page)
  await tab.page.bringToFront()
  await tab.close()
  return { asked, redispatched, shown, wasHidden }
}

async function volunteer(options: TabOptions = {}): Promise<VolunteerTab> {
  const tab = await openVolunteerTab(world.url, { browser, ...options })
  open.push(tab)
  return tab
}

/** Helping, with both models, and known to the coordinator as such. */
async function ready(options: TabOptions = {}): Promise<VolunteerTab> {
  const before = new Set(world.status().volunteers.list.map(({ id }) => id))
  const tab = await volunteer(options)
  const isReady = (): boolean =>
    world.status().volunteers.list.some(({ id, models }) => !before.has(id) && models.length === 2)
  await until(isReady, 'a new volunteer with both models')
  await tab.until(HELPING)
  return tab
}

async function leave(tab: VolunteerTab): Promise<void> {
  await tab.close()
  open.splice(open.indexOf(tab), 1)
  await until(() => world.status().volunteers.connected === open.length, 'the coordinator notices who left')
}

const figure = (page: Page, name: string): Promise<string> =>
  page.$eval(`[data-figure="${name}"]`, (element) => element.textContent ?? '')
const units = async (page: Page): Promise<number> => Number(await figure(page, 'units'))
const click = (page: Page, action: string): Promise<void> => page.click(`.row button[data-action=${action}]`)

test('before consent: less than 60 kB, no worker, no socket, no adapter, no storage', async () => {
  const context = await browser.createBrowserContext()
  const page = await context.newPage()
  await page.evaluateOnNewDocument(() => {
    const asked: string[] = []
    Object.assign(globalThis, { asked })
    const watch = (name: string, on: object, method: string): void => {
      const original = (on as Record<string, (...args: unknown[]) => unknown>)[method]!
      Object.assign(on, { [method](this: object, ...args: unknown[]) { asked.push(name); return original.apply(this, args) } }) // prettier-ignore
    }
    if (navigator.gpu) watch('adapter', Object.getPrototypeOf(navigator.gpu) as object, 'requestAdapter')
    watch('OPFS', Object.getPrototypeOf(navigator.storage) as object, 'getDirectory')
    watch('indexedDB', IDBFactory.prototype, 'open')
    watch('localStorage', Storage.prototype, 'setItem')
    watch('lock', LockManager.prototype, 'request')
    const { WebSocket, Worker } = globalThis
    Object.assign(globalThis, {
      WebSocket: class extends WebSocket { constructor(...args: ConstructorParameters<typeof WebSocket>) { asked.push('WebSocket'); super(...args) } },
      Worker: class extends Worker { constructor(...args: ConstructorParameters<typeof Worker>) { asked.push('Worker'); super(...args) } },
    }) // prettier-ignore
  })
  const before = world.wire.bytes
  await page.goto(world.url, { waitUntil: 'networkidle0' })
  await page.waitForSelector('button[data-action=start]')
  const text = await page.$eval('main', (main) => main.textContent ?? '')
  expect(text).toContain('the test')
  expect(text).toContain('60 %')
  expect(text).toContain('pauses on battery')
  expect(text).toMatch(/Downloads up to \d/)
  expect(await page.evaluate('asked')).toEqual([])
  expect(page.workers()).toEqual([])
  const bytes = world.wire.bytes - before
  console.log(`before consent: ${bytes} bytes, headers included`)
  expect(bytes).toBeLessThan(60_000)
  expect(world.status().volunteers.connected).toBe(0)
  await context.close()
})

test('a click makes it a volunteer: model downloaded with a known total, a unit answered', async () => {
  const seen: { loaded: number; total: number }[] = []
  world.wire.bytesPerSecond = 2_000_000
  const tab = await volunteer()
  await tab.page.exposeFunction('progressSeen', (loaded: number, total: number) =>
    seen.push({ loaded, total }),
  )
  await tab.page.evaluate(() => {
    const look = (): void => {
      const bar = document.querySelector('progress')
      const tell = (globalThis as unknown as { progressSeen: (a: number, b: number) => void }).progressSeen
      if (bar) tell(bar.value, bar.max)
    }
    new MutationObserver(look).observe(document.body, { subtree: true, attributes: true, childList: true })
  })
  await tab.until(HELPING)
  world.wire.bytesPerSecond = Infinity
  // One model after the other: within each the total stands and the loaded only grows.
  expect(seen.length).toBeGreaterThan(0)
  for (const [i, { loaded, total }] of seen.entries()) {
    expect(total).toBeGreaterThan(1_000_000)
    const last = seen[i - 1]
    if (last?.total === total) expect(loaded).toBeGreaterThanOrEqual(last.loaded)
  }
  const { text, volunteer: by } = await story(world.direct, 'Once upon a time')
  expect(text.length).toBeGreaterThan(20)
  expect(by.computed_by).toEqual([expect.objectContaining({ class: 'wasm', units: 1 })])
  await until(async () => (await units(tab.page)) === 1, 'the page counts the unit')
  expect(await tab.page.title()).toMatch(/^[●○] .*Chorale/)
  await leave(tab)
})

test('Light keeps the engine to a fifth of the time', async () => {
  const tab = await ready({ power: 0.2 })
  const computed = (): number => world.status().volunteers.list[0]!.computeMs
  const stop = new AbortController()
  const ask = async (): Promise<void> => {
    while (!stop.signal.aborted) await story(world.direct, 'There was a boat that', { max_tokens: 200 })
  }
  const asking = Promise.all([ask(), ask(), ask()])
  await new Promise((done) => setTimeout(done, 1500))
  const [from, at] = [computed(), performance.now()]
  await new Promise((done) => setTimeout(done, 10_000))
  const share = (computed() - from) / (performance.now() - at)
  const shown = await tab.page.$eval(
    '[role=meter]',
    (meter) => Number(meter.getAttribute('aria-valuenow')) / 100,
  )
  stop.abort()
  await asking
  console.log(
    `Light: ${(100 * share).toFixed(1)} % of the time by the coordinator's count, ${100 * shown} % on the page`,
  )
  expect(share).toBeGreaterThan(0.1)
  expect(share).toBeLessThan(0.25)
  expect(shown).toBeLessThan(0.25)
  await leave(tab)
})

test('a hidden tab goes on; a frozen one gives its work back and explains itself', async () => {
  const tab = await ready()
  const cdp = await tab.page.createCDPSession()
  const other = await tab.page.browserContext().newPage()
  await other.bringToFront()
  await until(() => tab.page.evaluate(() => document.hidden), 'the tab is hidden')
  await tab.until(['hidden'])
  await until(() => world.status().volunteers.hidden === 1, 'the coordinator knows')
  expect((await story(world.direct, 'The cat')).volunteer.redispatched).toBe(0)

  await cdp.send('Page.setWebLifecycleState', { state: 'frozen' })
  await until(() => world.status().volunteers.open === 0, 'a frozen tab takes no work')
  expect(world.status().volunteers.list.every(({ held }) => held === 0)).toBe(true)
  await cdp.send('Page.setWebLifecycleState', { state: 'active' })
  await tab.page.bringToFront()
  await tab.until(HELPING)
  expect(await tab.page.$eval('main', (main) => main.textContent)).toContain('put this tab to sleep')
  await click(tab.page, 'seen').catch(() => tab.page.click('button[data-action=seen]'))
  await until(async () => !(await tab.page.$('button[data-action=seen]')), 'the note goes once it was read')
  expect((await story(world.direct, 'The dog')).text).not.toBe('')
  await leave(tab)
})

test('a tab closed at any moment of its life costs nobody anything', async () => {
  for (const moment of ['checking', 'connecting', 'downloading', 'compiling', 'standby', 'working']) {
    const context = await browser.createBrowserContext()
    const page = await context.newPage()
    await page.goto(world.url)
    await (await page.waitForSelector('button[data-action=start]'))!.click()
    world.wire.bytesPerSecond = moment === 'downloading' ? 1_000_000 : Infinity
    let answer: Promise<unknown> | undefined
    if (moment === 'working') {
      await until(() => world.status().models.every((m) => m.volunteers === 1), 'somebody to ask')
      answer = story(world.direct, 'A goose', { max_tokens: 200 }).catch(() => undefined)
    }
    // Some moments are shorter than a look: closing a little later is as good.
    await page.waitForSelector(`[data-state=${moment}]`, { timeout: 2_000 }).catch(() => undefined)
    await page.close({ runBeforeUnload: false })
    world.wire.bytesPerSecond = Infinity
    await until(() => world.status().volunteers.connected === 0, `closed while ${moment}: it is gone`)
    if (answer) {
      const next = await ready()
      expect(await answer, 'the next one finishes what it held').toBeDefined()
      await leave(next)
    }
    await context.close()
  }
})

test('a tab that the browser had thrown away says so when it is back', async () => {
  const page = await browser.newPage()
  await page.evaluateOnNewDocument(() =>
    Object.defineProperty(Document.prototype, 'wasDiscarded', { value: true }),
  )
  await page.goto(world.url)
  await page.waitForSelector('button[data-action=start]')
  expect(await page.$eval('main', (main) => main.textContent)).toContain('closed this tab to save memory')
  await page.close()
})

test('a browser without Ed25519 is told so, and nothing is joined', async () => {
  const missing = `crypto.subtle.generateKey = () => Promise.reject(new DOMException('Unrecognized name.', 'NotSupportedError'));`
  const old = await openWorld({ workerPrelude: missing })
  const page = await browser.newPage()
  await page.goto(old.url)
  await (await page.waitForSelector('button[data-action=start]'))!.click()
  await page.waitForSelector('[data-state=unsupported]')
  expect(await page.$eval('.sentence', (p) => p.textContent)).toContain('it has no Ed25519 signatures')
  expect(old.status().volunteers.connected).toBe(0)
  await page.close()
  await old.close()
})

test('one engine per origin: a second tab says so, and takes over when asked', async () => {
  const tab = await ready()
  const second = await tab.page.browserContext().newPage()
  await second.goto(world.url)
  await (await second.waitForSelector('button[data-action=start]'))!.click()
  await second.waitForSelector('[data-state=second-tab]')
  expect(world.status().volunteers.connected).toBe(1)
  await click(second, 'move')
  await second.waitForSelector(HELPING.map((state) => `[data-state=${state}]`).join())
  await tab.page.bringToFront()
  await tab.until(['second-tab'])
  await until(() => world.status().volunteers.connected === 1, 'one volunteer')
  // The files were kept: nothing came over the network but the socket.
  await second.bringToFront()
  expect(await figure(second, 'down')).toMatch(/\d k?B/)
  await second.close()
  await leave(tab)
})

test('a coordinator that goes and comes back finds its volunteer, totals intact', async () => {
  const tab = await ready()
  await story(world.direct, 'A bear')
  await until(async () => (await units(tab.page)) === 1, 'the first unit is counted')
  world.wire.isUp = false
  world.wire.cut()
  await tab.until(['reconnecting'])
  expect(await tab.page.$eval('.sentence', (p) => p.textContent)).toContain('Work in hand is safe')
  await world.restart(500)
  world.wire.isUp = true
  await click(tab.page, 'now').catch(() => undefined)
  await tab.until(HELPING)
  expect(await units(tab.page)).toBe(1)
  await until(() => world.status().models.every((m) => m.volunteers === 1), 'its models are known again')
  await story(world.direct, 'A bee')
  await until(async () => (await units(tab.page)) === 2, 'it goes on counting')
  await leave(tab)
})

test('pause, finish, resume; Space does the same; on battery it stops by itself', async () => {
  const context = await browser.createBrowserContext()
  const page = await context.newPage()
  await page.evaluateOnNewDocument(() => {
    const battery = Object.assign(new EventTarget(), { charging: true, level: 0.9 })
    Object.assign(globalThis, { battery })
    Object.assign(Navigator.prototype, { getBattery: async () => battery })
  })
  await page.goto(world.url)
  // With the keyboard alone.
  await page.waitForSelector('button[data-action=start]')
  for (
    let i = 0;
    i < 10 && !(await page.evaluate(() => document.activeElement?.getAttribute('data-action') === 'start'));
    i++
  )
    await page.keyboard.press('Tab')
  await page.keyboard.press('Enter')
  const shows = (state: string): Promise<unknown> => page.waitForSelector(`[data-state="${state}"]`)
  await shows('standby')
  await page.evaluate(() => (document.activeElement as HTMLElement | null)?.blur())
  await page.keyboard.press('Space')
  await shows('paused:user')
  expect(await page.title()).toContain('‖')
  await until(() => world.status().volunteers.open === 0, 'the coordinator knows it pauses')
  await page.keyboard.press('Space')
  await shows('standby')
  await page.evaluate(() => {
    const { battery } = globalThis as unknown as { battery: EventTarget & { charging: boolean } }
    battery.charging = false
    battery.dispatchEvent(new Event('chargingchange'))
  })
  await shows('paused:battery')
  expect(await page.$eval('.sentence', (p) => p.textContent)).toContain('running on battery')
  await click(page, 'battery')
  await shows('standby')
  await context.close()
  await until(() => world.status().volunteers.connected === 0, 'a closed tab is gone')
})

test('Clear data leaves nothing behind', async () => {
  const tab = await ready()
  const kept = (): Promise<number> =>
    tab.page.evaluate(async () => {
      const root = await navigator.storage.getDirectory()
      let files = 0
      for await (const folder of (root as FileSystemDirectoryHandle & { values(): AsyncIterable<FileSystemHandle> }).values())
        if (folder.kind === 'directory')
          for await (const name of (folder as FileSystemDirectoryHandle & { keys(): AsyncIterable<string> }).keys()) files += name ? 1 : 0
      return files
    }) // prettier-ignore
  const key = (): Promise<string | undefined> =>
    tab.page.evaluate(() => (document.querySelector('chorale-volunteer') as unknown as { picture: { publicKey?: string } }).picture.publicKey) // prettier-ignore
  expect(await kept()).toBeGreaterThan(4)
  const before = await key()
  expect(before).toMatch(/^[\w-]{43}$/)
  // The same after a reload, until it is cleared.
  await tab.page.reload()
  await (await tab.page.waitForSelector('button[data-action=start]'))!.click()
  await tab.until(HELPING)
  expect(await key()).toBe(before)
  await click(tab.page, 'clear')
  await click(tab.page, 'clear')
  await tab.page.waitForSelector('button[data-action=start]')
  expect(await kept()).toBe(0)
  expect(await tab.page.evaluate(() => localStorage.length)).toBe(0)
  expect(await tab.page.evaluate(async () => (await indexedDB.databases()).length)).toBe(0)
  await until(() => world.status().volunteers.connected === 0, 'it left')
  await tab.page.click('button[data-action=start]')
  await tab.until(HELPING)
  expect(await key()).toMatch(/^[\w-]{43}$/)
  expect(await key(), 'a newcomer').not.toBe(before)
  await leave(tab)
})

test('whatever a tab does in the middle of a story, the story is the same', async () => {
  const slow = { power: 0.2 } as const
  const ask = (): ReturnType<typeof story> =>
    story(world.direct, 'Deep in the forest', { max_tokens: 200, temperature: 0.8, seed: 11 })
  const first = await ready(slow)
  const { text } = await ask()
  const holder = (): boolean => world.status().volunteers.list.some(({ held }) => held > 0)
  for (const [what, strike] of [
    ['closed', (tab: VolunteerTab) => tab.page.close()],
    ['cut', async () => world.wire.cut()],
    ['paused', (tab: VolunteerTab) => tab.page.click('button.dial')],
  ] as const) {
    const victim = open[0]!
    const answer = ask()
    await until(holder, `${what}: somebody has the unit`)
    await strike(victim)
    // Somebody must be there to take over, or the one who was cut comes back.
    if (what !== 'cut') await ready(slow)
    const again = await answer
    expect(again.text, what).toBe(text)
    if (what !== 'cut') await leave(victim)
  }
  expect(first).toBeDefined()
})

test('a tab hidden for a minute answers as ever: nothing expires, nothing is given to others', async () => {
  const { asked, redispatched, shown, wasHidden } = await attended
  expect(wasHidden).toBe(true)
  expect(asked).toBeGreaterThan(15)
  expect(redispatched).toBe(0)
  expect(shown).toBe(asked)
}, 120_000)
