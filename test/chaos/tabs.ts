/**
 * A batch over real browser tabs that come, go, freeze and crash, on a coordinator that is killed: asked, watched and read
 * with the stock `openai` client, and compared with the same batch on a coordinator that nobody disturbs.
 */
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import OpenAI from 'openai'
import type { Browser } from 'puppeteer-core'
import { launchBrowser } from '../../tools/browser.ts'
import { HELPING, openVolunteerTab } from '../../tools/tab.ts'
import type { VolunteerTab } from '../../tools/tab.ts'
import { Random } from '../harness/random.ts'
import { audit } from './auditor.ts'
import type { Audit } from './auditor.ts'
import { customIdOf } from './load.ts'
import { CoordinatorProcess, freePort } from './processes.ts'

export interface TabsOptions {
  seed: number
  rows: number
  kills: number
  /** Open at the beginning; never fewer than one for long. */
  tabs: number
  /** The coordinator's own engine too, as a referee and where nobody else is there; else tabs alone, unchecked. */
  withHouse?: boolean
  /** A folder to make and to remove. */
  folder: string
  say: (line: string) => void
}

export interface TabsOutcome {
  seed: number
  rows: number
  undisturbed: { seconds: number; rowsBy: Record<string, number> }
  disturbed: { seconds: number; rowsBy: Record<string, number> }
  /** Rows that were done at each kill. */
  killedAt: number[]
  /** From each start again to the first answer, milliseconds. */
  servingAgainMs: number[]
  /** What was done to tabs, and how often. */
  tabs: Record<string, number>
  faults: string[]
  audit: Audit
  ok: boolean
}

const ENDPOINT = '/v1/embeddings'
const LIMIT_MS = 540_000

const WORDS = 'play book what how much is left of my account the song table weather flight tomorrow in Paris by somebody'.split(' ') // prettier-ignore
const textOf = (random: Random, i: number): string =>
  `${Array.from({ length: random.int(1, 40) }, () => random.pick(WORDS)).join(' ')} ${i}`

export async function tabs(options: TabsOptions): Promise<TabsOutcome> {
  const { seed, say } = options
  const random = new Random(seed, 'texts')
  const texts = Array.from({ length: options.rows }, (_, i) => textOf(random, i))
  const browser = await launchBrowser({ webgpu: false })
  try {
    say(`undisturbed: ${options.rows} rows, ${options.tabs} tabs`)
    const calm = await new Run(options, browser, texts, 'undisturbed').run(0)
    say(`disturbed: ${options.kills} kills, and tabs that come and go`)
    const disturbed = new Run(options, browser, texts, 'disturbed')
    const wild = await disturbed.run(options.kills)
    const faults = [...calm.faults, ...wild.faults, ...differences(calm.lines, wild.lines)]
    const asked = new Map(texts.map((text, i) => [nameOf(i), text]))
    const read = new Map(wild.lines.map((line) => [customIdOf(line), line]))
    const found = audit(wild.data, [
      { id: wild.id, endpoint: ENDPOINT, asked, read, status: 'completed', isComplete: true },
    ])
    const { lost, doubleCredits, ledgerFaults, differing } = found
    return {
      seed,
      rows: options.rows,
      undisturbed: { seconds: calm.seconds, rowsBy: whoOf(calm.lines) },
      disturbed: { seconds: wild.seconds, rowsBy: whoOf(wild.lines) },
      killedAt: wild.killedAt,
      servingAgainMs: wild.servingAgainMs,
      tabs: wild.tabs,
      faults,
      audit: found,
      ok: [faults, lost, doubleCredits, ledgerFaults, differing].every((list) => list.length === 0),
    }
  } finally {
    await soon(browser.close())
    browser.process()?.kill('SIGKILL')
  }
}

interface Ran {
  id: string
  data: string
  lines: string[]
  seconds: number
  killedAt: number[]
  servingAgainMs: number[]
  tabs: Record<string, number>
  faults: string[]
}

/** One coordinator, its tabs and one batch, from the first start to the end. */
class Run {
  readonly #options: TabsOptions
  readonly #browser: Browser
  readonly #texts: readonly string[]
  readonly #data: string
  readonly #random: Random
  readonly #tabs = new Set<VolunteerTab>()
  readonly #done: Record<string, number> = {}
  readonly #faults: string[] = []
  #coordinator!: CoordinatorProcess
  #isOver = false

  constructor(options: TabsOptions, browser: Browser, texts: readonly string[], name: string) {
    this.#options = options
    this.#browser = browser
    this.#texts = texts
    this.#data = join(options.folder, name)
    this.#random = new Random(options.seed, name)
    mkdirSync(this.#data, { recursive: true })
  }

  async run(kills: number): Promise<Ran> {
    const { tabs, withHouse, say } = this.#options
    // Without a house nobody can check newcomers, and all of these are.
    const who = withHouse ? [] : ['--no-house', '--trust', 'fast']
    const models = ['--models', 'intents-3m']
    const coordinator = new CoordinatorProcess(await freePort(), this.#data, [...models, ...who])
    this.#coordinator = coordinator
    await coordinator.start()
    coordinator.starts.length = 0
    const killedAt: number[] = []
    let bustle: Promise<void> | undefined
    try {
      await Promise.all(Array.from({ length: tabs }, () => this.#open()))
      const openai = new OpenAI({ baseURL: `${coordinator.url}/v1`, apiKey: 'none', maxRetries: 10 })
      const begun = performance.now()
      const id = await this.#submit(openai)
      if (kills) bustle = this.#bustle()
      const points = Array.from({ length: kills }, () => this.#random.float() * 0.9 + 0.05).sort()
      let seen = ''
      for (const point of points) {
        const batch = await this.#upTo(openai, id, point * this.#texts.length)
        if (batch.completed_at) this.#faults.push(`it was over before it was to be killed, at ${point}`)
        seen = await this.#readOn(openai, batch, seen)
        killedAt.push(batch.request_counts!.completed)
        await coordinator.end('SIGKILL')
        await coordinator.start()
        say(`killed at row ${killedAt.at(-1)}, serving again after ${Math.round(coordinator.starts.at(-1)!)} ms`) // prettier-ignore
      }
      const batch = await this.#upTo(openai, id, Infinity)
      const seconds = (performance.now() - begun) / 1000
      const counts = JSON.stringify(batch.request_counts)
      if (batch.status !== 'completed' || batch.error_file_id) this.#faults.push(`it is ${batch.status}: ${counts}`)
      const lines = (await this.#readOn(openai, batch, seen)).split('\n').slice(0, -1)
      this.#checkOrder(lines)
      this.#isOver = true
      await bustle
      say(`${lines.length} rows in ${seconds.toFixed(1)} s`)
      const servingAgainMs = coordinator.starts.map(Math.round)
      return {
        id, data: this.#data, lines, seconds, killedAt, servingAgainMs, tabs: this.#done, faults: this.#faults,
      }
    } finally {
      this.#isOver = true
      await bustle?.catch(() => undefined)
      await Promise.all([...this.#tabs].map(({ page }) => soon(page.close())))
      await coordinator.end('SIGTERM')
      this.#faults.push(...coordinator.deaths)
    }
  } // prettier-ignore

  async #submit(openai: OpenAI): Promise<string> {
    const rows = this.#texts.map((input, i) =>
      JSON.stringify({ custom_id: nameOf(i), method: 'POST', url: ENDPOINT, body: { model: 'intents-3m', input } }),
    )
    const file = await openai.files.create({ file: new File([rows.join('\n')], 'rows.jsonl'), purpose: 'batch' })
    const made = await openai.batches.create({ input_file_id: file.id, endpoint: ENDPOINT, completion_window: '24h' })
    return made.id
  } // prettier-ignore

  /** Until so many rows are done, or the batch is over. */
  async #upTo(openai: OpenAI, id: string, rows: number): Promise<OpenAI.Batch> {
    const end = performance.now() + LIMIT_MS
    let told = performance.now()
    for (;;) {
      const batch = await openai.batches.retrieve(id)
      const { completed, total } = batch.request_counts!
      if (completed >= rows || batch.completed_at || batch.failed_at || batch.expired_at) return batch
      if (performance.now() > end) throw new Error(`${completed} of ${total} rows after ${LIMIT_MS} ms`)
      if (performance.now() - told > 5_000) {
        told = performance.now()
        this.#options.say(`${completed} of ${total} rows, ${this.#tabs.size} tabs`)
      }
      await sleep(50)
    }
  }

  /** What can be read now; what could be read before must be its beginning. */
  async #readOn(openai: OpenAI, { output_file_id }: OpenAI.Batch, before: string): Promise<string> {
    if (!output_file_id) return before
    const text = await (await openai.files.content(output_file_id)).text()
    if (!text.startsWith(before))
      this.#faults.push(`of ${before.length} characters read before, some changed`)
    return text
  }

  /** Every row once, in the order of the input. */
  #checkOrder(lines: readonly string[]): void {
    const names = lines.map(customIdOf)
    const wrong = this.#texts.findIndex((_, i) => names[i] !== nameOf(i))
    if (wrong >= 0) this.#faults.push(`line ${wrong + 1} of ${names.length} is of ${names[wrong]}, not of ${nameOf(wrong)}`) // prettier-ignore
    if (names.length > this.#texts.length) this.#faults.push(`${names.length} lines for ${this.#texts.length} rows`) // prettier-ignore
  }

  /** A tab that helps. One that can't open while the coordinator is down is tried again. */
  async #open(): Promise<void> {
    while (!this.#isOver) {
      try {
        const tab = await openVolunteerTab(this.#coordinator.url, { browser: this.#browser, engine: 'wasm' })
        this.#tabs.add(tab)
        await tab.until(HELPING)
        return
      } catch {
        await sleep(200)
      }
    }
  }

  /** Tabs come and go until the batch is over. */
  async #bustle(): Promise<void> {
    const random = this.#random
    while (!this.#isOver) {
      await sleep(random.int(100, 1_000))
      if (this.#isOver) return
      const chance = random.float()
      const tab = [...this.#tabs][random.int(0, this.#tabs.size - 1)]
      if (!tab || (chance < 0.2 && this.#tabs.size <= this.#options.tabs)) {
        await this.#open()
        this.#count('opened')
      } else if (chance < 0.45) {
        await soon(freeze(tab, random.int(200, 1_500)))
        this.#count('frozen for a while')
      } else {
        this.#tabs.delete(tab)
        await soon(chance < 0.6 ? tab.close() : chance < 0.8 ? tab.page.close() : crash(tab))
        this.#count(chance < 0.6 ? 'stopped and closed' : chance < 0.8 ? 'closed' : 'crashed')
        if (this.#tabs.size === 0) await this.#open()
      }
    }
  }

  #count(what: string): void {
    this.#done[what] = (this.#done[what] ?? 0) + 1
  }
}

async function freeze({ page }: VolunteerTab, ms: number): Promise<void> {
  const cdp = await page.createCDPSession()
  await cdp.send('Page.setWebLifecycleState', { state: 'frozen' })
  await sleep(ms)
  await cdp.send('Page.setWebLifecycleState', { state: 'active' })
  await cdp.detach()
}

/** Its process dies in the middle of whatever it does, and has nobody left to answer. */
async function crash({ page }: VolunteerTab): Promise<void> {
  const cdp = await page.createCDPSession()
  void cdp.send('Page.crash').catch(() => undefined)
  await sleep(200)
}

/** What is asked of a tab that may be dying is not waited for longer than this. */
const soon = (asked: Promise<unknown>): Promise<unknown> =>
  Promise.race([asked.catch(() => undefined), sleep(5_000)])

const nameOf = (i: number): string => `row-${i}`

interface Body {
  model: string
  data: unknown
  usage: unknown
  volunteer: { computed_by: { class: string }[] }
}
const bodyOf = (line: string): Body => (JSON.parse(line) as { response: { body: Body } }).response.body

/** Rows by the classes of devices that took part in them. */
function whoOf(lines: readonly string[]): Record<string, number> {
  const rows: Record<string, number> = {}
  for (const line of lines)
    for (const name of new Set(bodyOf(line).volunteer.computed_by.map((one) => one.class)))
      rows[name] = (rows[name] ?? 0) + 1
  return rows
}

/** Where an answer is not, to the byte, that of the undisturbed run. */
function differences(calm: readonly string[], wild: readonly string[]): string[] {
  const answer = (line: string): string => {
    const { model, data, usage } = bodyOf(line)
    return JSON.stringify({ model, data, usage })
  }
  const expected = new Map(calm.map((line) => [customIdOf(line), answer(line)]))
  return wild.flatMap((line) => {
    const name = customIdOf(line)
    return answer(line) === expected.get(name) ? [] : [`${name}: not the bytes of the undisturbed run`]
  })
}
