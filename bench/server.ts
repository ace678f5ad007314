/**
 * Serves the benchmark page to the one browser of this run: cross-origin isolated (so that timers are fine and threads
 * exist); our modules through Vite as the product's are, peers from bench/peers/node_modules untouched, and files made in
 * memory.
 */

import { createReadStream } from 'node:fs'
import { stat } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import path from 'node:path'
import { createServer as createVite } from 'vite'
import type { ViteDevServer } from 'vite'
import viteConfig, { isolation } from '../vite.config.ts'

const TYPES: Record<string, string> = {
  '.js': 'text/javascript',
  '.mjs': 'text/javascript',
  '.html': 'text/html',
  '.json': 'application/json',
  '.wasm': 'application/wasm',
}

// Vite rewrites computed imports to go through its client, which would open a socket for hot updates.
const VITE_CLIENT = 'export const injectQuery = (url) => url'

export interface Server {
  origin: string
  /** Shows `bytes` at `/made/<name>`. */
  make(name: string, bytes: Uint8Array): void
  close(): Promise<void>
}

interface House {
  vite: ViteDevServer
  peers: string
  made: Map<string, Uint8Array>
  html: string
}

async function answer(house: House, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const address = decodeURIComponent(new URL(request.url ?? '/', 'http://localhost').pathname)
  for (const [name, value] of Object.entries(isolation)) response.setHeader(name, value)
  const head = (status: number, extension: string, length: number) =>
    response.writeHead(status, {
      'content-type': TYPES[extension] ?? 'application/octet-stream',
      'content-length': length,
      // One run, one server: what was fetched once may be kept, as a returning visitor's browser would.
      'cache-control': 'max-age=86400, immutable',
    })
  const send = (status: number, extension: string, body: string | Uint8Array) => {
    head(status, extension, Buffer.byteLength(body))
    response.end(body)
  }
  if (address === '/') return send(200, '.html', house.html)
  if (address === '/@vite/client') return send(200, '.js', VITE_CLIENT)
  const [, first = '', ...rest] = address.split('/')
  if (first === 'made') {
    const bytes = house.made.get(rest.join('/'))
    return bytes === undefined ? send(404, '.txt', 'not made') : send(200, path.extname(address), bytes)
  }
  if (first === 'peers') {
    const file = path.join(house.peers, ...rest)
    const about = file.startsWith(house.peers + path.sep) ? await stat(file).catch(() => null) : null
    if (about === null || !about.isFile()) return send(404, '.txt', 'no such file')
    head(200, path.extname(file), about.size)
    return void createReadStream(file).pipe(response)
  }
  house.vite.middlewares(request, response, () => send(404, '.txt', `no ${address}`))
}

/** `peers`: the folder shown at /peers. */
export async function serve(peers: string, html: string): Promise<Server> {
  const made = new Map<string, Uint8Array>()
  const vite = await createVite({
    ...viteConfig,
    configFile: false,
    logLevel: 'warn',
    clearScreen: false,
    server: { ...viteConfig.server, middlewareMode: true, hmr: false, ws: false, watch: null },
  })
  const house: House = { vite, peers, made, html }
  const server = createServer((request, response) => {
    answer(house, request, response).catch((error: unknown) => {
      response.destroy(error instanceof Error ? error : undefined)
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  return {
    origin: `http://127.0.0.1:${port}`,
    make: (name, bytes) => void made.set(name, bytes),
    async close() {
      await vite.close()
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}
