/** The tab's worker: engine and socket live here, where no page timer is throttled; the page only controls and looks. */
import { expose } from 'comlink'
import { get, set } from 'idb-keyval'
import type { Remember } from '../engine/index.ts'
import { Driver } from './driver.ts'
import type { DriverOptions } from './driver.ts'
import { browserIdentity } from './identity.ts'
import { dataMeter } from './meter.ts'
import { OneEngine } from './one.ts'
import type { Controls, Picture, Rules, Surroundings } from './picture.ts'
import { opfsStore } from './weights/opfs.ts'
import { Shelf } from './weights/shelf.ts'
import { memoryStore } from './weights/store.ts'

/** Of what the browser says it would give, leave most to others. */
const diskShare = 0.2

let driver: Driver | undefined
let shelf: Shelf | undefined
let rules: Rules
let surroundings: Surroundings
let adversaryName: string | undefined
let tell: (picture: Picture) => void = () => undefined

/** What was found out about this device's kernels. A browser that keeps nothing is asked again next time. */
const remember: Remember = {
  get: (key) => get<string>(`engine ${key}`).catch(() => undefined),
  set: (key, value) => set(`engine ${key}`, value).catch(() => undefined),
}

const one = new OneEngine(() => driver?.submit({ type: 'other-tab-found' }))

async function openShelf(): Promise<Shelf> {
  if (shelf) return shelf
  const store = await opfsStore().catch(() => memoryStore())
  const { quota } = await navigator.storage.estimate().catch(() => ({ quota: undefined }))
  const bytesMax = Math.min(rules.diskBytesMax, (quota ?? Infinity) * diskShare)
  return (shelf = new Shelf(store, { bytesMax, now: () => Date.now() }))
}

async function begin(hasEngine: boolean): Promise<void> {
  driver = new Driver({
    base: self.location.origin,
    client: `chorale tab; ${navigator.userAgent}`.slice(0, 200),
    identity: browserIdentity,
    // Without the engine the files are another tab's.
    shelf: hasEngine ? await openShelf() : new Shelf(memoryStore(), { now: () => Date.now() }),
    meter: await dataMeter(),
    engine: { remember },
    rules,
    surroundings,
    onPicture: (picture) => tell(picture),
    adversary: adversaryName === undefined ? undefined : await adversaryOf(adversaryName),
    onEnd: () => one.release(),
  })
  if (hasEngine) driver.start()
  else driver.submit({ type: 'other-tab-found' })
}

/** A chunk of its own, which no honest tab loads. */
async function adversaryOf(name: string): Promise<DriverOptions['adversary']> {
  const { Adversary, planOf } = await import('./adversary.ts')
  const plan = planOf(name)
  return (leave) => new Adversary(plan, crypto.getRandomValues(new Uint32Array(1))[0]!, leave)
}

const controls: Controls = {
  async start(givenRules, givenSurroundings, isAgain, listener, adversary) {
    adversaryName = adversary
    rules = givenRules
    surroundings = givenSurroundings
    tell = listener
    await begin(await (isAgain ? one.acquireAgain() : one.acquire()))
  },
  async setRules(given) {
    rules = given
    driver?.setRules(given)
  },
  async setSurroundings(given) {
    surroundings = given
    driver?.setSurroundings(given)
  },
  pause: async (finish) => driver?.submit({ type: 'paused', finish }),
  resume: async () => driver?.submit({ type: 'resumed' }),
  retryNow: async () => {
    driver?.submit({ type: 'retry-now' })
    driver?.submit({ type: 'time-passed' })
  },
  async moveHere() {
    await one.moveHere()
    await begin(true)
  },
  freeze: async () => driver?.freeze(),
  wake: async () => driver?.submit({ type: 'woken' }),
  seen: async () => driver?.seen(),
  stop: async () => driver?.stop(),
  async clear() {
    await driver?.stop()
    await (await openShelf()).clear()
  },
}

expose(controls)
