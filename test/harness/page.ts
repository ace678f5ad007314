/**
 * A page in the run's headless browser, in which a test calls functions of browser-side modules.
 *
 *   const page = await openPage()
 *   const side = page.module<typeof import('./page-side-of-this-test.ts')>('test/shaders/page-side-of-this-test.ts')
 *   const out = await side.run(new Int8Array(16))
 *
 * Modules load as the product's do: Vite serves TypeScript, `.wgsl`, `.wasm` and workers, on a cross-origin isolated
 * page. An error on the console, an uncaught one, or a crash fails the call during which it happened.
 */
import { connect, type Browser, type Page } from 'puppeteer-core'
import { inject } from 'vitest'
import { decode, encode } from './message.ts'

/** The functions of module `M`, called in the page: each argument and result is copied, each answer a promise. */
export type Remote<M> = {
  [K in keyof M as M[K] extends (...args: never[]) => unknown ? K : never]: M[K] extends (
    ...args: infer A
  ) => infer R
    ? (...args: A) => Promise<Awaited<R>>
    : never
}

export interface TestPage {
  /** @param path of the module, from the repository's root */
  module<M>(path: string): Remote<M>
  /** Name of the page's WebGPU adapter; undefined when it has none. */
  readonly adapter: string | undefined
  /** Rejects with what went wrong since the last call, if anything did. */
  close(): Promise<void>
}

/**
 * @param options.webgpu false: a browser without the switch that gives a machine without a GPU its software adapter,
 *   which is how such a machine really meets us
 */
export async function openPage(options: { webgpu?: boolean } = {}): Promise<TestPage> {
  const origin = inject('origin')
  const kind = (options.webgpu ?? true) ? 'webgpu' : 'plain'
  const started = await fetch(`${origin}/__test/browser/${kind}`)
  if (!started.ok) throw new Error(await started.text())
  const { endpoint, adapter } = (await started.json()) as { endpoint: string; adapter: string | null }
  const browser = await connect({
    browserWSEndpoint: endpoint,
    protocolTimeout: 600_000,
    // Otherwise each body the page sends comes along the protocol too, as text: 100 times slower.
    networkEnabled: false,
  })
  const page = await browser.newPage()
  const faults = watch(page, browser)
  await page.goto(`${origin}/__test/page`)
  await page.waitForFunction('globalThis.answerCall !== undefined')

  const call = async (module: string, name: string, args: unknown[]): Promise<unknown> => {
    const id = crypto.randomUUID()
    await fetch(`${origin}/__test/${id}/args`, { method: 'POST', body: encode({ module, name, args }) })
    await Promise.race([page.evaluate((it) => globalThis.answerCall(it), id), faults.fatal])
    faults.check()
    const answer = decode(await (await fetch(`${origin}/__test/${id}/result`)).bytes()) as
      { value: unknown } | { error: { name: string; message: string; stack: string; code?: string } }
    if ('value' in answer) return answer.value
    const { stack, ...rest } = answer.error
    const error = Object.assign(new Error(rest.message), rest)
    error.stack = `${stack}\n    (in the page, called as ${module}: ${name})`
    throw error
  }

  return {
    adapter: adapter ?? undefined,
    module<M>(path: string): Remote<M> {
      const get = (_: object, name: string | symbol) =>
        typeof name === 'symbol' || name === 'then'
          ? undefined
          : (...args: unknown[]) => call(path, name, args)
      return new Proxy({}, { get }) as Remote<M>
    },
    async close() {
      await page.close()
      await browser.disconnect()
      faults.check()
    },
  }
}

/** WebGPU reports invalid use as console warnings, after the call that caused it; other warnings are not ours. */
const gpuFault = /\[Invalid |While (calling|validating|initializing|parsing)|Error while parsing WGSL/

function watch(page: Page, browser: Browser): { fatal: Promise<never>; check: () => void } {
  const seen: string[] = []
  let die: (reason: Error) => void = () => undefined
  const fatal = new Promise<never>((_resolve, reject) => (die = reject))
  fatal.catch(() => undefined)
  page.on('pageerror', (error) =>
    seen.push(`uncaught: ${error instanceof Error ? error.message : String(error)}`),
  )
  page.on('console', (message) => {
    const text = message.text()
    const { url = '', lineNumber } = message.location()
    if (message.type() === 'error' || gpuFault.test(text)) {
      seen.push(
        `console ${message.type()}: ${text} (${url}${lineNumber === undefined ? '' : `:${lineNumber + 1}`})`,
      )
    }
  })
  page.on('error', (error) => die(new Error(`the page crashed: ${error.message}`)))
  browser.on('disconnected', () => die(new Error('the browser went away')))
  return {
    fatal,
    check() {
      if (seen.length > 0) throw new Error(`in the page: ${seen.splice(0).join('\n')}`)
    },
  }
}
