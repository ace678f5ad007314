/** The HTTP side: one Fastify, every answer with an id, every failure in one shape, bounded memory whatever comes. */
import { randomUUID } from 'node:crypto'
import { STATUS_CODES } from 'node:http'
import type { Socket } from 'node:net'
import Fastify from 'fastify'
import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { ApiError } from './api/errors.ts'
import type { ErrorCode } from './api/errors.ts'
import type { Log } from './log.ts'
import { StoreError } from './store/store.ts'

export const BODY_BYTES_MAX = 4 * 1024 * 1024
/** Requests at once, and bytes of bodies announced but not answered: 10,000 small ones pass, 64 of the largest do. */
export const REQUESTS_MAX = 16_384
export const BODIES_BYTES_MAX = 256 * 1024 * 1024

/** Time to send a request: its headers, its JSON; and a body of any size may not stand still. */
const TIMES = { headersMs: 10_000, jsonMs: 60_000, checkMs: 15_000, bytesPerCheck: 15 * 1024 }

export interface HttpOptions {
  trustProxy?: boolean
  times?: Partial<typeof TIMES>
}

export function openHttp(log: Log, options: HttpOptions = {}): FastifyInstance {
  const times = { ...TIMES, ...options.times }
  const app = Fastify({
    bodyLimit: BODY_BYTES_MAX,
    // One hop: what the proxy itself saw. Further ones are the caller's word.
    trustProxy: options.trustProxy ? (_, hop) => hop === 0 : false,
    onProtoPoisoning: 'error',
    onConstructorPoisoning: 'error',
    genReqId: newRequestId,
    logger: false,
    // Answers may take as long as they need, and so may uploads that go on: see watchBody.
    requestTimeout: 0,
    http: { headersTimeout: times.headersMs, connectionsCheckingInterval: Math.min(5_000, times.headersMs) },
    forceCloseConnections: 'idle',
    routerOptions: { ignoreTrailingSlash: true, maxParamLength: 400 },
    clientErrorHandler: (error, socket) => refuseBytes(error, socket),
    frameworkErrors: (error, request, reply) => {
      void errorOf(error).send(reply, request.id)
    },
  })
  // Only JSON is understood: a page on another site can't send that without our leave.
  app.removeContentTypeParser('text/plain')

  // What a request expects besides `100-continue` may be ignored (RFC 9110 §10.1.1); Node would answer without a body.
  app.server.on('checkExpectation', (request, response) => app.server.emit('request', request, response))

  let requests = 0
  let bytes = 0
  app.addHook('onRequest', (request, reply, next) => {
    const announced = request.headers['transfer-encoding']
      ? BODY_BYTES_MAX
      : Number(request.headers['content-length'] ?? 0)
    const size = Math.min(announced, BODY_BYTES_MAX)
    requests++
    bytes += size
    reply.raw.once('close', () => {
      requests--
      bytes -= size
    })
    void reply.header('x-request-id', request.id)
    if (requests > REQUESTS_MAX || bytes > BODIES_BYTES_MAX) {
      void reply.header('connection', 'close')
      return next(
        new ApiError('overloaded', 'Too many requests at once. Try again in a few seconds.', {
          retryMs: 5_000,
        }),
      )
    }
    const encoding = request.headers['content-encoding']
    if (encoding !== undefined && encoding !== 'identity')
      // A few kilobytes can unpack to gigabytes.
      return next(new ApiError('unsupported_media_type', 'Send the body as it is, without content-encoding.'))
    if (announced) watchBody(request, reply, times)
    next()
  })
  app.addHook('onSend', async (request, reply) => {
    if (request.url.startsWith('/v1/'))
      void reply.header('openai-processing-ms', Math.round(reply.elapsedTime))
  })
  app.addHook('onResponse', async (request, reply) => {
    if (!request.url.startsWith('/v1/')) return
    const { method, id } = request
    log.info(
      {
        req: id,
        method,
        // Not the path as it came: it may carry anything.
        url: request.routeOptions.url,
        status: reply.statusCode,
        dur_ms: Math.round(reply.elapsedTime),
      },
      'answered',
    )
  })
  app.setErrorHandler((error: FastifyError | ApiError, request, reply) => {
    const known = errorOf(error)
    if (known.code === 'internal' || known.code === 'storage_full')
      log.error({ req: request.id, err: error }, 'a request failed')
    void known.send(reply, request.id)
  })
  app.setNotFoundHandler((request, reply) => {
    const { method } = request
    const path = request.url.split('?')[0]!.slice(0, 200)
    // A base URL without /v1, or with it twice, a slash too many, a newer dialect.
    const meant = `/v1/${path.replace(/^(\/v1)*\/+|\/+$/g, '').replace(/^responses$/, 'chat/completions')}`
    // What looks like a pattern of routes is none of them.
    const isPlain = /^[\w/]+$/.test(meant)
    const hint =
      isPlain && meant !== path && app.hasRoute({ method, url: meant }) ? ` ${method} ${meant} is.` : ''
    void new ApiError('not_found', `There is no ${method} ${path} here.${hint}`).send(reply, request.id)
  })
  return app
}

/** Bytes that are no HTTP, or no more than we read of it. */
function refuseBytes({ code, message }: NodeJS.ErrnoException, socket: Socket): void {
  if (code === 'ECONNRESET' || !socket.writable) return void socket.destroy()
  const error =
    code === 'HPE_HEADER_OVERFLOW'
      ? new ApiError('headers_too_large', 'The headers have more than 16 KiB.')
      : code === 'ERR_HTTP_REQUEST_TIMEOUT'
        ? new ApiError('request_timeout', 'The headers come too slowly.')
        : new ApiError('invalid_request', `This is no HTTP: ${message.replace(/^Parse Error: /, '')}.`)
  const body = JSON.stringify(error.body(newRequestId()))
  socket.end(
    `HTTP/1.1 ${error.status} ${STATUS_CODES[error.status]}\r\nConnection: close\r\nContent-Type: application/json\r\n` +
      `Content-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
  )
}

const newRequestId = (): string => `req_${randomUUID().replaceAll('-', '')}`

/** Answers 408 to a body that comes too slowly, and ends its connection. */
function watchBody({ raw, id, headers }: FastifyRequest, reply: FastifyReply, times: typeof TIMES): void {
  const isUpload = headers['content-type']?.startsWith('multipart/') ?? false
  const begun = performance.now()
  let seen = raw.socket.bytesRead
  const timer = setInterval(() => {
    const { bytesRead } = raw.socket
    const isSlow = bytesRead - seen < times.bytesPerCheck
    seen = bytesRead
    if (!isSlow && (isUpload || performance.now() - begun < times.jsonMs)) return
    clearInterval(timer)
    if (reply.sent) return
    void reply.header('connection', 'close')
    void new ApiError('request_timeout', 'The body comes too slowly.').send(reply, id)
    // The answer first; what still comes is nobody's.
    setTimeout(() => raw.socket.destroy(), 1_000).unref()
  }, Math.min(times.checkMs, times.jsonMs)) // prettier-ignore
  const stop = (): void => clearInterval(timer)
  raw.once('end', stop)
  raw.once('close', stop)
}

/** Fastify's own refusals in our words. */
function errorOf(error: unknown): ApiError {
  if (error instanceof ApiError) return error
  if (error instanceof StoreError && ['disk_full', 'io'].includes(error.code))
    return new ApiError('storage_full', 'The coordinator’s disk takes no more; what was accepted is safe.', {
      retryMs: 10_000,
    })
  if (error instanceof StoreError && error.code === 'closed')
    return new ApiError('draining', 'This coordinator is shutting down.', { retryMs: 5_000 })
  const { statusCode, code } = error as FastifyError
  const known: [ErrorCode, string] | undefined =
    code === 'FST_ERR_CTP_BODY_TOO_LARGE'
      ? ['request_too_large', `The body has more than ${BODY_BYTES_MAX} bytes.`]
      : code === 'FST_ERR_CTP_INVALID_MEDIA_TYPE'
        ? ['unsupported_media_type', 'Send application/json.']
        : code === 'FST_ERR_CTP_EMPTY_JSON_BODY'
          ? ['invalid_json', 'The body is empty.']
          : code === 'FST_ERR_CTP_INVALID_JSON_BODY' || error instanceof SyntaxError
            ? ['invalid_json', `The body is not JSON.`]
            : statusCode !== undefined && statusCode < 500
              ? ['invalid_request', (error as Error).message]
              : undefined
  return known
    ? new ApiError(...known)
    : new ApiError('internal', 'Something went wrong here; the operator has its log.')
}
