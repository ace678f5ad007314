/** Packs over HTTP, by content: `/models/{digest}/{file}` never changes, so it may be cached for ever and fetched in pieces. */
import { createReadStream } from 'node:fs'
import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { Catalog } from './models.ts'

type Params = { digest: string; file: string }

export function addModelFiles(app: FastifyInstance, catalog: Catalog): void {
  app.route<{ Params: Params }>({
    method: ['GET', 'HEAD'],
    url: '/models/:digest/:file',
    exposeHeadRoute: false,
    handler: (request, reply) => serve(request, reply, catalog),
  })
}

async function serve(
  request: FastifyRequest<{ Params: Params }>,
  reply: FastifyReply,
  catalog: Catalog,
): Promise<FastifyReply> {
  const { digest, file } = request.params
  const model = catalog.get(digest)
  // By digest alone: names may come to mean another model.
  if (!model || model.digest !== digest) return reply.code(404).send(`no model ${digest}\n`)
  const { files } = model.pack.manifest
  const entry = Object.hasOwn(files, file) ? files[file] : undefined
  if (!entry && file !== 'manifest.json') return reply.code(404).send(`the model has no file ${file}\n`)
  const path = join(model.folder, file)
  const size = entry?.bytes ?? (await stat(path)).size
  const etag = `"${entry?.sha256 ?? digest}"`
  reply.headers({
    etag,
    'cache-control': 'public, max-age=31536000, immutable',
    'accept-ranges': 'bytes',
    'content-type': file.endsWith('.json') ? 'application/json' : 'application/octet-stream',
    // Public bytes named by their hash: a widget on another site may load them too.
    'access-control-allow-origin': '*',
    'cross-origin-resource-policy': 'cross-origin',
  })
  if (
    request.headers['if-none-match']
      ?.split(/\s*,\s*/)
      .some((tag) => tag === '*' || tag.replace(/^W\//, '') === etag)
  )
    return reply.code(304).send()
  const ifRange = request.headers['if-range']
  const range = ifRange === undefined || ifRange === etag ? parseRange(request.headers.range, size) : null
  if (range === 'unsatisfiable') return reply.code(416).header('content-range', `bytes */${size}`).send()
  const [start, end] = range ?? [0, size - 1]
  reply.header('content-length', end - start + 1)
  if (range) reply.code(206).header('content-range', `bytes ${start}-${end}/${size}`)
  if (request.method === 'HEAD') return reply.send()
  return reply.send(createReadStream(path, { start, end }))
}

/** One range of bytes, inclusive; null for the whole: no header, one we don't understand, or several ranges (RFC 9110 §14.2). */
export function parseRange(
  header: string | undefined,
  size: number,
): [number, number] | 'unsatisfiable' | null {
  const match = /^bytes=(\d*)-(\d*)$/.exec(header?.trim() ?? '')
  if (!match || (match[1] === '' && match[2] === '')) return null
  const [, from, to] = match
  if (from === '') {
    const last = Number(to)
    return last === 0 ? 'unsatisfiable' : [Math.max(0, size - last), size - 1]
  }
  const start = Number(from)
  const end = to === '' ? size - 1 : Math.min(Number(to), size - 1)
  if (to !== '' && Number(to) < start) return null
  return start >= size ? 'unsatisfiable' : [start, end]
}
