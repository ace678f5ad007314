/**
 * A volunteer's tab without a window: a headless browser that opens the coordinator's page, chooses limits and clicks Start,
 * as a person would. The page knows no other way in.
 */
import { setTimeout } from 'node:timers/promises'
import type { Browser, BrowserContext, Page } from 'puppeteer-core'
import { launchBrowser } from './browser.ts'
import type { OpenOptions } from './browser.ts'

export interface TabOptions extends Partial<OpenOptions> {
  /** A browser to open the tab in; default: one of its own, closed with it. */
  browser?: Browser
  /** Light, Medium or Full; default Full: nobody sits before this screen. */
  power?: 0.2 | 0.6 | 1
  /** What computes; default whatever is faster. */
  engine?: 'auto' | 'webgpu' | 'wasm'
  /** Lies, to try a coordinator with: one of client/adversary.ts's strategies. */
  adversary?: string
  /** Told each new state, with the sentence people would read. */
  onState?: (state: string, sentence: string) => void
}

export interface VolunteerTab {
  readonly page: Page
  /** The state the page shows, e.g. `working`, `paused:user`. */
  state(): Promise<string>
  /** Resolves when the page shows one of these states. Rejects after `timeoutMs`, naming the state it is in. */
  until(states: readonly string[], timeoutMs?: number): Promise<string>
  /** Gives work in hand back, then closes the tab. */
  close(): Promise<void>
}

/** States in which the volunteer is of use. */
export const HELPING = ['working', 'standby', 'hidden', 'throttled'] as const

/** Throws BrowserError, or an Error when the page can't be opened or never shows its button. */
export async function openVolunteerTab(url: string, options: TabOptions = {}): Promise<VolunteerTab> {
  const browser = options.browser ?? (await launchBrowser({ ...options, webgpu: options.webgpu ?? true }))
  let context: BrowserContext | undefined
  try {
    // A context of its own: tabs of one profile share an engine.
    context = await browser.createBrowserContext()
    const page = await context.newPage()
    page.on('pageerror', (error) =>
      options.onState?.('failed', error instanceof Error ? error.message : String(error)),
    )
    await page.goto(url, { waitUntil: 'domcontentloaded' })
    await page.waitForSelector('button[data-action=start]', { timeout: 30_000 })
    await choose(page, 'power', String(options.power ?? 1))
    await choose(page, 'engine', options.engine ?? 'auto')
    if (options.onState) await watch(page, options.onState)
    if (options.adversary !== undefined)
      await page.$eval(
        'chorale-volunteer',
        (element, name) => Object.assign(element, { adversary: name }),
        options.adversary,
      )
    await page.click('button[data-action=start]')
    const state = (): Promise<string> => stateOf(page)
    return {
      page,
      state,
      async until(states, timeoutMs = 60_000) {
        await page
          .waitForFunction(
            (wanted: string[]) =>
              wanted.includes(document.querySelector('[data-state]')?.getAttribute('data-state') ?? ''),
            { timeout: timeoutMs, polling: 100 },
            [...states],
          )
          .catch(async (cause: unknown) => {
            throw new Error(
              `the tab is in state ${await state()}, not ${states.join(' or ')}, after ${timeoutMs} ms`,
              { cause },
            )
          })
        return state()
      },
      async close() {
        if (!page.isClosed()) {
          // The button gives work back at once; without it the coordinator learns from the broken socket.
          const stop = async (): Promise<void> => {
            await page.click('button[data-action=stop]')
            await page.waitForSelector('[data-state=stopped]', { timeout: 2_000 })
          }
          // A page that crashed answers nothing, not even with an error.
          await Promise.race([stop().catch(() => undefined), setTimeout(3_000, undefined, { ref: false })])
        }
        await context!.close().catch(() => undefined)
        if (!options.browser) await browser.close()
      },
    }
  } catch (error) {
    await context?.close().catch(() => undefined)
    if (!options.browser) await browser.close()
    throw error
  }
}

/** Without the mouse: the limits are folded away on the first screen. */
async function choose(page: Page, name: string, value: string): Promise<void> {
  await page.$eval(`input[name=${name}][value="${value}"]`, (input) => (input as HTMLInputElement).click())
}

const stateOf = (page: Page): Promise<string> =>
  page.evaluate(() => document.querySelector('[data-state]')?.getAttribute('data-state') ?? 'consent')

async function watch(page: Page, tell: NonNullable<TabOptions['onState']>): Promise<void> {
  await page.exposeFunction('choraleTabState', tell)
  await page.evaluate(() => {
    let last = ''
    const look = (): void => {
      const state = document.querySelector('[data-state]')?.getAttribute('data-state') ?? 'consent'
      if (state === last) return
      last = state
      const say = (globalThis as unknown as { choraleTabState: (s: string, t: string) => void })
        .choraleTabState
      say(state, document.querySelector('.sentence')?.textContent?.trim() ?? '')
    }
    new MutationObserver(look).observe(document.body, { subtree: true, childList: true, attributes: true })
  })
}
