/**
 * Once per run: finds the browser, says which adapters there are, sets the run's seed, and serves pages.
 *
 * Vite and the browsers start when the first test asks for a page, so a run without one costs nothing.
 */
import { randomInt } from 'node:crypto'
import { createServer, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Browser } from 'puppeteer-core'
import type { ViteDevServer } from 'vite'
import type { TestProject } from 'vitest/node'
import { dawn } from '../../engine/backends/webgpu/dawn.ts'
import { findBrowser, launchBrowser } from '../../tools/browser.ts'
import viteConfig, { isolation } from '../../vite.config.ts'

declare module 'vitest' {
  interface ProvidedContext {
    /** Where `openPage` finds its server. */
    origin: string
    /** Seeds every random choice of the run; from the environment variable SEED when it is set, else always the same. */
    seed: number
  }
}

interface Started {
  browser: Browser
  adapter: string | null
}

const pageHtml =
  '<!doctype html><meta charset="utf-8"><title>test</title><link rel="icon" href="data:,">' +
  '<script type="module" src="/test/harness/page-side.ts"></script>'

// Vite rewrites computed imports to go through its client, which would open a socket for hot updates.
const viteClient = 'export const injectQuery = (url) => url'

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const seed = runSeed()
  say(`SEED=${seed} repeats this run's random choices; SEED=random draws others`)
  // Workers inherit it: tests and dawn() then look no further.
  process.env.CHORALE_BROWSER = await findBrowser()
  say(`browser: ${process.env.CHORALE_BROWSER}`)
  await dawn().then(
    ({ name, software }) => say(`adapter in Node (Dawn): ${name}${software ? ', software' : ''}`),
    (error: unknown) => say(`adapter in Node (Dawn): MISSING. ${String(error)}`),
  )

  const browsers = new Map<string, Promise<Started>>()
  const parcels = new Map<string, Uint8Array>()
  let vite: Promise<ViteDevServer> | undefined
  const startVite = async (): Promise<ViteDevServer> => {
    const { createServer: createVite } = await import('vite')
    const server = { ...viteConfig.server, middlewareMode: true, hmr: false, ws: false, watch: null } as const
    return createVite({ ...viteConfig, configFile: false, logLevel: 'warn', clearScreen: false, server })
  }

  const server = createServer((request, response) => {
    for (const [name, value] of Object.entries(isolation)) response.setHeader(name, value)
    const path = request.url ?? '/'
    const reply = async (): Promise<void> => {
      const kind = /^\/__test\/browser\/(webgpu|plain)$/.exec(path)?.[1]
      if (kind) {
        if (!browsers.has(kind)) browsers.set(kind, startBrowser(kind, origin))
        const { browser, adapter } = await browsers.get(kind)!
        response.setHeader('Content-Type', 'application/json')
        response.end(JSON.stringify({ endpoint: browser.wsEndpoint(), adapter }))
      } else if (path === '/__test/page' || path === '/__test/blank') {
        response.setHeader('Content-Type', 'text/html')
        response.end(path === '/__test/page' ? pageHtml : '<!doctype html><title>blank</title>')
      } else if (path === '/@vite/client') {
        response.setHeader('Content-Type', 'text/javascript')
        response.end(viteClient)
      } else if (path.startsWith('/__test/')) {
        if (request.method === 'POST') {
          parcels.set(path, await body(request))
          response.end()
        } else {
          const parcel = parcels.get(path)
          parcels.delete(path)
          if (!parcel) response.statusCode = 404
          response.end(parcel)
        }
      } else {
        const { middlewares } = await (vite ??= startVite())
        middlewares(request, response, () => {
          response.statusCode = 404
          response.end(`no ${path}`)
        })
      }
    }
    reply().catch((error: unknown) => {
      response.statusCode = 500
      response.end(error instanceof Error ? (error.stack ?? error.message) : String(error))
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  project.provide('origin', origin)
  project.provide('seed', seed)

  return async () => {
    for (const started of browsers.values()) {
      await started.then(({ browser }) => browser.close()).catch(() => undefined)
    }
    await (await vite)?.close()
    server.closeAllConnections()
    server.close()
  }
}

async function startBrowser(kind: string, origin: string): Promise<Started> {
  const browser = await launchBrowser({ webgpu: kind === 'webgpu' })
  const page = await browser.newPage()
  await page.goto(`${origin}/__test/blank`)
  const adapter = await page.evaluate(async () => {
    const info = (await navigator.gpu?.requestAdapter())?.info
    return info ? `${info.vendor} ${info.architecture || info.device} (${info.description})` : null
  })
  await page.close()
  const switches = kind === 'webgpu' ? '--enable-unsafe-webgpu' : 'no switches'
  say(`adapter in ${await browser.version()}, ${switches}: ${adapter ?? 'none'}`)
  return { browser, adapter }
}

const DEFAULT_SEED = 20_261_121

/** A change is judged by the same cases as the one before it; to look for new ones is a run of its own. */
function runSeed(): number {
  const given = process.env.SEED
  if (!given) return DEFAULT_SEED
  if (given === 'random') return randomInt(2 ** 31)
  const seed = Number(given)
  if (!Number.isInteger(seed) || seed < 0 || seed >= 2 ** 31) {
    throw new Error(`SEED=${given} is neither a whole number from 0 to ${2 ** 31 - 1} nor "random"`)
  }
  return seed
}

async function body(request: IncomingMessage): Promise<Uint8Array> {
  const chunks: Buffer[] = []
  for await (const chunk of request) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks)
}

function say(line: string): void {
  process.stdout.write(` ${line}\n`)
}
