/**
 * Which other sites' pages may use the API from a browser: those the operator lists. Nothing here relies on cookies, but an API
 * that is open on this machine is open to this machine's browser: no page of another site may make it work or read an answer.
 */
import type { FastifyInstance } from 'fastify'
import { ApiError } from './errors.ts'

const METHODS = 'GET, POST, DELETE'
const HEADERS =
  'authorization, content-type, idempotency-key, openai-organization, openai-project, x-stainless-retry-count'
const EXPOSED =
  'x-request-id, openai-processing-ms, retry-after, retry-after-ms, x-should-retry, content-range, idempotent-replayed, ' +
  ['limit', 'remaining', 'reset']
    .map((what) => `x-ratelimit-${what}-requests, x-ratelimit-${what}-tokens`)
    .join(', ')

/** Throws TypeError for what is no origin. @param origins like https://example.org; `*` for all */
export function addCors(app: FastifyInstance, origins: readonly string[]): void {
  for (const one of origins)
    if (one !== '*' && (!URL.canParse(one) || new URL(one).origin !== one))
      throw new TypeError(`${one} is no origin. Give one like https://example.org, without a path`)
  const allowed = new Set(origins)

  app.addHook('onRequest', (request, reply, next) => {
    // A preflight has no route, and a route has many spellings.
    if (![request.url, request.routeOptions.url].some((path) => path?.startsWith('/v1/'))) return next()
    const { origin } = request.headers
    // What is answered depends on who asks, also where nothing is said about it.
    if (allowed.size) void reply.header('vary', 'Origin')
    if (origin === undefined || isOwn(origin, request.headers.host)) return next()
    if (!allowed.has('*') && !allowed.has(origin)) {
      // A browser would send some requests all the same and only hide the answer.
      const message = `Pages of ${origin.slice(0, 200)} may not use this API. Its operator can allow it: --cors-origins.`
      return next(new ApiError('permission_denied', message))
    }
    void reply.header('access-control-allow-origin', origin).header('access-control-expose-headers', EXPOSED)
    if (request.method !== 'OPTIONS' || request.headers['access-control-request-method'] === undefined)
      return next()
    // stainless-* headers say which SDK it is; all of that family are harmless.
    const asked = String(request.headers['access-control-request-headers'] ?? '')
      .split(',')
      .map((name) => name.trim().toLowerCase())
      .filter((name) => /^x-stainless-[a-z-]{1,40}$/.test(name))
    void reply
      .code(204)
      .header('access-control-allow-methods', METHODS)
      .header('access-control-allow-headers', [HEADERS, ...asked].join(', '))
      .header('access-control-max-age', 7_200)
      .send()
  })
}

/** Behind a proxy that speaks TLS this side does not know which scheme the page has. */
const isOwn = (origin: string, host: string | undefined): boolean =>
  host !== undefined && (origin === `http://${host}` || origin === `https://${host}`)
