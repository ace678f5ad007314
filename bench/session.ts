/** One run's server, browser and page. */

import { launchBrowser } from '../tools/browser.ts'
import type { ColdResult } from './page/cold.ts'
import type { AdapterInfo, BenchPage } from './page/page.ts'
import { serve } from './server.ts'

/** What a page needs before it imports peers: their own bare imports, told where to go. */
export const IMPORT_MAP = `<script type="importmap">{ "imports": {
  "onnxruntime-web/webgpu": "/peers/@huggingface/transformers/node_modules/onnxruntime-web/dist/ort.webgpu.bundle.min.mjs",
  "@litertjs/wasm-utils": "/peers/@litertjs/wasm-utils/dist/bundle.js",
  "onnxruntime-common": "/peers/onnxruntime-common/dist/esm/index.js"
} }</script>`

const PAGE = `<!doctype html><meta charset="utf-8"><title>Chorale bench</title><link rel="icon" href="data:,">
${IMPORT_MAP}
<script type="module" src="/bench/page/page.ts"></script>`

export interface Session {
  browser: string
  adapter: AdapterInfo | null
  /** Calls a method of the page's `bench`. */
  call<K extends keyof BenchPage>(
    method: K,
    ...args: Parameters<BenchPage[K]>
  ): Promise<Awaited<ReturnType<BenchPage[K]>>>
  /** Opens an address of this run's server in a fresh page and waits for its `cold` result. */
  visit(address: string): Promise<ColdResult>
  /** Shows `bytes` to pages at `/made/<name>`. */
  make(name: string, bytes: Uint8Array): void
  close(): Promise<void>
}

/** @param options.peers folder of the installed peers @param options.threads WASM threads of everybody */
export async function openSession(options: {
  peers: string
  threads: number
  /** Told every line of the page's console. */
  onConsole?: (line: string) => void
}): Promise<Session> {
  const server = await serve(options.peers, PAGE)
  const browser = await launchBrowser({ webgpu: true })
  const close = async (): Promise<void> => {
    await browser.close()
    await server.close()
  }
  try {
    const page = await browser.newPage()
    const troubles: string[] = []
    page.on('pageerror', (error) => troubles.push(String(error)))
    page.on('console', (message) => options.onConsole?.(message.text()))
    await page.goto(`${server.origin}/?threads=${options.threads}`)
    await page.waitForFunction('globalThis.bench !== undefined', { timeout: 20_000 }).catch(() => {
      throw new Error(`the benchmark page did not start: ${troubles.join('; ') || 'no error was reported'}`)
    })
    const call: Session['call'] = async (method, ...args) =>
      (await page.evaluate(
        (name, list) => {
          const { bench } = globalThis as unknown as { bench: Record<string, (...a: unknown[]) => unknown> }
          return bench[name]!(...list)
        },
        method,
        args as unknown[],
      )) as never
    return {
      browser: await browser.version(),
      adapter: await call('adapter'),
      call,
      async visit(address) {
        const fresh = await browser.newPage()
        try {
          await fresh.goto(server.origin + address)
          await fresh.waitForFunction('globalThis.cold !== undefined', { timeout: 60_000 })
          return (await fresh.evaluate('globalThis.cold')) as ColdResult
        } catch (error) {
          return { error: error instanceof Error ? error.message : String(error) }
        } finally {
          await fresh.close()
        }
      },
      make: (name, bytes) => server.make(name, bytes),
      close,
    }
  } catch (error) {
    await close()
    throw error
  }
}
