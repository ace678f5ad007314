/**
 * Serves the benchmark page to the one browser of this run: cross-origin isolated (so that timers are fine and threads
 * exist), TypeScript with its types stripped, peers from bench/peers/node_modules, and files made in memory.
 */

import { createReadStream } from 'node:fs'
import { readFile, stat } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { stripTypeScriptTypes } from 'node:module'
import path from 'node:path'

const TYPES: Record<string, string> = {
  '.ts': 'text/javascript',
  '.js': 'text/javascript',
  '.mjs': 'text/javascript',
  '.html': 'text/html',
  '.json': 'application/json',
  '.wasm': 'application/wasm',
  '.wgsl': 'text/plain',
}

/** Address prefix, without the slashes → folder it shows. */
export type Mounts = Record<string, string>

export interface Server {
  origin: string
  /** Shows `bytes` at `/made/<name>`. */
  make(name: string, bytes: Uint8Array): void
  close(): Promise<void>
}

async function answer(
  mounts: Mounts,
  made: Map<string, Uint8Array>,
  html: string,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const address = decodeURIComponent(new URL(request.url ?? '/', 'http://localhost').pathname)
  const head = (status: number, extension: string, length?: number) =>
    response.writeHead(status, {
      'content-type': TYPES[extension] ?? 'application/octet-stream',
      'cross-origin-opener-policy': 'same-origin',
      'cross-origin-embedder-policy': 'require-corp',
      'cross-origin-resource-policy': 'same-origin',
      'cache-control': 'no-store',
      ...(length === undefined ? {} : { 'content-length': length }),
    })
  const send = (status: number, extension: string, body: string | Uint8Array) => {
    head(status, extension, Buffer.byteLength(body))
    response.end(body)
  }
  if (address === '/') return send(200, '.html', html)
  const [, first = '', ...rest] = address.split('/')
  if (first === 'made') {
    const bytes = made.get(rest.join('/'))
    return bytes === undefined ? send(404, '.txt', 'not made') : send(200, path.extname(address), bytes)
  }
  const folder = mounts[first]
  const file = folder === undefined ? '' : path.join(folder, ...rest)
  if (folder === undefined || !file.startsWith(folder + path.sep)) return send(404, '.txt', 'not here')
  const extension = path.extname(file)
  const about = await stat(file).catch(() => null)
  if (about === null || !about.isFile()) return send(404, '.txt', 'no such file')
  if (extension === '.ts') return send(200, '.ts', stripTypeScriptTypes(await readFile(file, 'utf8')))
  head(200, extension, about.size)
  createReadStream(file).pipe(response)
}

export async function serve(mounts: Mounts, html: string): Promise<Server> {
  const made = new Map<string, Uint8Array>()
  const server = createServer((request, response) => {
    answer(mounts, made, html, request, response).catch((error: unknown) => {
      response.destroy(error instanceof Error ? error : undefined)
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  return {
    origin: `http://127.0.0.1:${port}`,
    make: (name, bytes) => void made.set(name, bytes),
    close: () =>
      new Promise((resolve) => {
        server.closeAllConnections()
        server.close(() => resolve())
      }),
  }
}
