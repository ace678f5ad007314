/** The pages of the volunteer, as Vite built them, with the headers that isolate them. */
import { createHash } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { extname, join } from 'node:path'
import { promisify } from 'node:util'
import { brotliCompress, constants, gzip } from 'node:zlib'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'

export type Pages =
  | { folder: string }
  /** A handler for everything that is not the API's, e.g. Vite's middlewares. */
  | { handler: (request: IncomingMessage, response: ServerResponse, next: (error?: unknown) => void) => void }

/** Cross-origin isolation gives pages SharedArrayBuffer, so WASM can use threads. */
export const ISOLATION = {
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-embedder-policy': 'require-corp',
  'cross-origin-resource-policy': 'same-origin',
}

/** Nothing from anywhere else, no inline scripts; WASM may be compiled, workers may come from a blob. */
export const POLICY = {
  'content-security-policy': [
    "default-src 'self'",
    "script-src 'self' 'wasm-unsafe-eval'",
    "worker-src 'self' blob:",
    "connect-src 'self' data:",
    "img-src 'self' data:",
    "style-src 'self' 'unsafe-inline'",
    "object-src 'none'",
    "base-uri 'none'",
    "form-action 'self'",
    "frame-ancestors 'none'",
  ].join('; '),
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
  'permissions-policy': 'camera=(), microphone=(), geolocation=()',
}

const TYPES: Record<string, string> = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.json': 'application/json',
  '.wasm': 'application/wasm',
  '.svg': 'image/svg+xml',
  '.png': 'image/png',
  '.ico': 'image/x-icon',
  '.webmanifest': 'application/manifest+json',
  '.txt': 'text/plain; charset=utf-8',
  '.woff2': 'font/woff2',
}

interface Page {
  type: string
  etag: string
  /** Names with a hash in them never change. */
  isImmutable: boolean
  bytes: Buffer
  packed: Partial<Record<'br' | 'gzip', Buffer>>
}

export async function addPages(app: FastifyInstance, pages: Pages): Promise<void> {
  const methods = ['GET', 'HEAD'] as const
  if ('handler' in pages) {
    app.route({
      method: [...methods],
      url: '/*',
      exposeHeadRoute: false,
      handler: (request, reply) => {
        reply.hijack()
        for (const [name, value] of Object.entries(ISOLATION)) reply.raw.setHeader(name, value)
        pages.handler(request.raw, reply.raw, () => {
          reply.raw.statusCode = 404
          reply.raw.end('not found\n')
        })
      },
    })
    return
  }
  // All of it is some hundred kilobytes: held in memory, packed when first asked for.
  const files = await readPages(pages.folder)
  app.route<{ Params: { '*': string } }>({
    method: [...methods],
    url: '/*',
    exposeHeadRoute: false,
    handler: async (request, reply) => {
      const name = request.params['*'] || 'index'
      const page = files.get(name) ?? files.get(`${name}.html`)
      if (!page) return reply.callNotFound()
      return send(page, request, reply)
    },
  })
}

async function readPages(folder: string): Promise<Map<string, Page>> {
  const files = new Map<string, Page>()
  const entries = await readdir(folder, { recursive: true, withFileTypes: true })
  for (const entry of entries) {
    if (!entry.isFile()) continue
    const path = join(entry.parentPath, entry.name)
    const bytes = await readFile(path)
    const name = path.slice(folder.length + 1).replaceAll('\\', '/')
    files.set(name, {
      type: TYPES[extname(name)] ?? 'application/octet-stream',
      etag: `"${createHash('sha256').update(bytes).digest('base64url').slice(0, 22)}"`,
      isImmutable: name.startsWith('assets/'),
      bytes,
      packed: {},
    })
  }
  return files
}

async function send(page: Page, request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply> {
  reply.headers({
    ...ISOLATION,
    ...POLICY,
    'content-type': page.type,
    etag: page.etag,
    vary: 'accept-encoding',
    'cache-control': page.isImmutable ? 'public, max-age=31536000, immutable' : 'no-cache',
  })
  if (request.headers['if-none-match'] === page.etag) return reply.code(304).send()
  const accepted = String(request.headers['accept-encoding'] ?? '')
  const encoding = /\bbr\b/.test(accepted) ? 'br' : /\bgzip\b/.test(accepted) ? 'gzip' : undefined
  const bytes = encoding ? (page.packed[encoding] ??= await pack(page.bytes, encoding)) : page.bytes
  if (encoding) reply.header('content-encoding', encoding)
  reply.header('content-length', bytes.length)
  return request.method === 'HEAD' ? reply.send() : reply.send(bytes)
}

const pack = (bytes: Buffer, encoding: 'br' | 'gzip'): Promise<Buffer> =>
  encoding === 'br'
    ? promisify(brotliCompress)(bytes, { params: { [constants.BROTLI_PARAM_QUALITY]: 9 } })
    : promisify(gzip)(bytes, { level: 9 })
