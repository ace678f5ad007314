/** /v1/files: inputs of batches come in, their outputs are read, while they grow or after. */
import { randomBytes } from 'node:crypto'
import { Readable } from 'node:stream'
import multipart from '@fastify/multipart'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import * as v from 'valibot'
import { StoreError } from '../store/store.ts'
import type { BlobWriter, FileRecord, Store, Tenant } from '../store/store.ts'
import { accessOf } from './access.ts'
import { unixNow } from './context.ts'
import { ApiError } from './errors.ts'
import { outputIdOf, outputNamed, readOutput } from './outputs.ts'
import type { OutputName } from './outputs.ts'
import { listOf, pageOf, parseQuery } from './lists.ts'
import { FILE_BYTES_MAX } from './validation.ts'

/** Of one tenant's files, where its key says nothing else. */
const TENANT_BYTES_MAX = 100 * 1024 ** 3
const EXPIRES_S = [3_600, 2_592_000] as const

export async function addFiles(app: FastifyInstance, store: Store): Promise<void> {
  // In a scope of its own: elsewhere multipart stays a media type nobody understands.
  await app.register(async (scope) => {
    await scope.register(multipart, {
      limits: { fileSize: FILE_BYTES_MAX, files: 1, fields: 8, parts: 9, fieldSize: 1_000, fieldNameSize: 100, headerPairs: 20 },
    }) // prettier-ignore
    scope.post('/v1/files', async (request, reply) => reply.send(shownFile(await upload(store, request))))
  })

  app.get('/v1/files', async (request, reply) => {
    const access = accessOf(request)
    access.need('batches')
    const query = parseQuery(listQuery, request.query)
    const page = pageOf(query, 10_000)
    const found = await store.files(access.tenant, { ...page, limit: page.limit + 1, purpose: query.purpose })
    const data = found.slice(0, page.limit).map(shownFile)
    return reply.send(listOf(found, page, data))
  })

  app.get<ById>('/v1/files/:id', async (request, reply) =>
    reply.send(shownFile((await find(store, request)).file)),
  )
  app.get<ById>('/v1/files/:id/content', async (request, reply) => content(store, request, reply))
  app.delete<ById>('/v1/files/:id', async (request, reply) => {
    const { file, output } = await find(store, request)
    if (output) {
      const message = `${file.id} is an output of ${output.batch}: it goes with its batch.`
      throw new ApiError('conflict', message)
    }
    await store.deleteFile(file.id)
    return reply.send({ id: file.id, object: 'file', deleted: true })
  })
}

type ById = { Params: { id: string } }

const listQuery = {
  purpose: v.optional(v.picklist(['batch', 'batch_output'])),
}

function shownFile(file: FileRecord): object {
  return {
    id: file.id,
    object: 'file',
    bytes: file.bytes,
    created_at: file.createdAt,
    expires_at: file.expiresAt ?? undefined,
    filename: file.filename,
    purpose: file.purpose,
    status: 'processed',
    status_details: null,
  }
}

async function upload(store: Store, request: FastifyRequest): Promise<FileRecord> {
  const { tenant, need, quotas } = accessOf(request)
  need('batches')
  if (!request.isMultipart())
    throw new ApiError('unsupported_media_type', 'Send multipart/form-data with `purpose` and `file`.')
  const room = (quotas.fileBytes ?? TENANT_BYTES_MAX) - (await bytesOf(store, tenant))
  let writer: BlobWriter | undefined
  let filename = ''
  const fields = new Map<string, string>()
  try {
    for await (const part of request.parts()) {
      if (part.type === 'field') {
        fields.set(part.fieldname, String(part.value))
        continue
      }
      // A part may come without any name.
      const field = String((part as { fieldname?: string }).fieldname ?? '').slice(0, 100)
      if (field !== 'file')
        throw new ApiError('unsupported_parameter', `'${field}' is no file this takes.`, { param: field })
      filename = nameOf(part.filename)
      writer = await store.blobs.create()
      let bytes = 0
      for await (const chunk of part.file) {
        bytes += (chunk as Buffer).length
        if (bytes > room) throw overQuota(quotas.fileBytes ?? TENANT_BYTES_MAX)
        await writer.write(chunk as Buffer)
      }
      if (part.file.truncated) throw tooLarge()
    } // prettier-ignore
    const { expiresS } = fieldsOf(fields)
    if (!writer) throw new ApiError('missing_field', `'file' is missing.`, { param: 'file' })
    const { digest, bytes } = await writer.finish()
    if (bytes === 0) throw new ApiError('invalid_value', `'file' is empty.`, { param: 'file' })
    const createdAt = unixNow()
    const file: FileRecord = {
      id: `file-${randomBytes(12).toString('hex')}`,
      tenant,
      filename,
      purpose: 'batch',
      bytes,
      digest,
      createdAt,
      expiresAt: expiresS === null ? null : createdAt + expiresS,
    }
    await store.createFile(file)
    return file
  } catch (error) {
    throw uploadError(error)
  } finally {
    // After finish() this does nothing.
    await writer?.abort().catch(() => undefined)
  }
}

/** The form's other fields; they may come after the file. Throws ApiError. */
function fieldsOf(fields: ReadonlyMap<string, string>): { expiresS: number | null } {
  const known = ['purpose', 'expires_after[anchor]', 'expires_after[seconds]']
  for (const name of fields.keys())
    if (!known.includes(name))
      throw new ApiError('unsupported_parameter', `'${name}' is not supported here.`, { param: name })
  const purpose = fields.get('purpose')
  if (purpose === undefined) throw new ApiError('missing_field', `'purpose' is missing.`, { param: 'purpose' })
  if (purpose !== 'batch')
    throw new ApiError('unsupported_parameter', `'purpose' must be "batch".`, { param: 'purpose' })
  const anchor = fields.get('expires_after[anchor]')
  const seconds = fields.get('expires_after[seconds]')
  if (anchor === undefined && seconds === undefined) return { expiresS: null }
  if (anchor !== 'created_at')
    throw new ApiError('invalid_value', `'expires_after.anchor' must be "created_at".`, { param: 'expires_after.anchor' })
  const expiresS = /^\d{1,8}$/.test(seconds ?? '') ? Number(seconds) : NaN
  if (!(expiresS >= EXPIRES_S[0] && expiresS <= EXPIRES_S[1]))
    throw new ApiError('invalid_value', `'expires_after.seconds' must be from ${EXPIRES_S[0]} to ${EXPIRES_S[1]}.`, { param: 'expires_after.seconds' })
  return { expiresS }
} // prettier-ignore

/** A name and nothing else: no folder, no control character, not too long. */
const nameOf = (given: string | undefined): string =>
  (given ?? '')
    .split(/[/\\]/)
    .at(-1)!
    .replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, '')
    .slice(0, 255) || 'file.jsonl'

const tooLarge = (): ApiError =>
  new ApiError('file_too_large', `The file has more than ${FILE_BYTES_MAX} bytes (200 MB). Split it.`, {
    param: 'file',
  })
const overQuota = (bytes: number): ApiError =>
  new ApiError('file_too_large', `All files together may have ${bytes} bytes. Delete some.`, {
    param: 'file',
  })

/** The multipart parser's refusals in our words. Its errors have no class of their own, so all that is not ours is its. */
function uploadError(error: unknown): unknown {
  const isOurs = [ApiError, StoreError, TypeError, RangeError].some((kind) => error instanceof kind)
  const { code, syscall, message } = error as NodeJS.ErrnoException
  if (isOurs || syscall !== undefined) return error
  if (code === 'FST_REQ_FILE_TOO_LARGE') return tooLarge()
  return new ApiError('invalid_request', `The upload could not be read: ${message.slice(0, 200)}.`)
}

async function bytesOf(store: Store, tenant: Tenant): Promise<number> {
  let sum = 0
  let after: string | undefined
  for (;;) {
    const files = await store.files(tenant, { after, limit: 1_000 })
    for (const { bytes } of files) sum += bytes
    if (files.length < 1_000) return sum
    after = files.at(-1)!.id
  }
}

interface Found {
  file: FileRecord
  /** It is a batch's lines. */
  output: OutputName | null
}

/** A file of this caller's tenant; somebody else's is none. Rejects with ApiError `file_not_found`. */
async function find(store: Store, request: FastifyRequest<ById>): Promise<Found> {
  const { tenant, need } = accessOf(request)
  need('batches')
  const { id } = request.params
  const output = outputNamed(id)
  const file = output ? await outputFile(store, id, output) : await store.file(id)
  if (file && file.tenant === tenant && (file.expiresAt === null || file.expiresAt > unixNow()))
    return { file, output }
  throw new ApiError('file_not_found', `There is no file ${JSON.stringify(id.slice(0, 100))}.`)
}

/** A batch's lines so far as if they were a file; null before the first one. */
async function outputFile(
  store: Store,
  id: string,
  { batch, state }: OutputName,
): Promise<FileRecord | null> {
  const [record, counts, { size }] = await Promise.all([
    store.batch(batch),
    store.counts(batch),
    store.place(batch, state, 0),
  ])
  if (!record || counts[state] === 0) return null
  const seconds = record.extra.outputExpiresS
  return {
    id,
    tenant: record.tenant,
    filename: `${batch}_${id === outputIdOf(batch) ? 'output' : 'error'}.jsonl`,
    purpose: 'batch_output',
    bytes: size,
    digest: '',
    createdAt: record.at.in_progress ?? record.createdAt,
    expiresAt: typeof seconds === 'number' ? record.createdAt + seconds : null,
  }
}

async function content(
  store: Store,
  request: FastifyRequest<ById>,
  reply: FastifyReply,
): Promise<FastifyReply> {
  const { file, output } = await find(store, request)
  const range = rangeOf(request.headers.range, file.bytes)
  void reply
    .header('content-type', 'application/octet-stream')
    // Somebody's bytes on the volunteer page's origin: never shown, only saved.
    .header('content-disposition', `attachment; filename*=UTF-8''${encodeURIComponent(file.filename)}`)
    .header('x-content-type-options', 'nosniff')
    .header('content-security-policy', "sandbox; default-src 'none'")
    .header('cache-control', 'no-store')
    .header('accept-ranges', 'bytes')
  if (range === null) {
    void reply.header('content-range', `bytes */${file.bytes}`)
    throw new ApiError('range_not_satisfiable', `${file.id} has ${file.bytes} bytes so far.`)
  }
  const [start, end] = range ?? [0, file.bytes]
  if (range) void reply.code(206).header('content-range', `bytes ${start}-${end - 1}/${file.bytes}`)
  void reply.header('content-length', end - start)
  const bytes = output ? readOutput(store, output, start, end) : store.blobs.read(file.digest, start, end)
  return reply.send(Readable.from(bytes, { objectMode: false }))
}

/** [start, end) of a Range header; undefined for all of it (also for what RFC 9110 lets be ignored), null for beyond the end. */
export function rangeOf(header: string | undefined, size: number): [number, number] | null | undefined {
  const match = /^bytes=(\d{0,15})-(\d{0,15})$/.exec(header ?? '')
  if (!match || (match[1] === '' && match[2] === '')) return undefined
  const [first, last] = [match[1]!, match[2]!]
  if (first === '') {
    const length = Math.min(size, Number(last))
    return length === 0 ? null : [size - length, size]
  }
  const start = Number(first)
  const end = last === '' ? size : Math.min(size, Number(last) + 1)
  if (last !== '' && Number(last) < start) return undefined
  return start >= size ? null : [start, end]
}
