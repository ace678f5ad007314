/**
 * Idempotency-Key: a request that is sent again is answered again, and done once. The same key with another body is a 409;
 * so is one whose first request is still under way, and that one may be retried. Kept for a day, also across restarts.
 */
import { createHash } from 'node:crypto'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import type { IdempotencyRecord, Store } from '../store/store.ts'
import { accessOf } from './access.ts'
import { unixNow } from './context.ts'
import { ApiError } from './errors.ts'

const KEPT_S = 86_400
/** Larger answers are not kept: their request may be sent again and is then done again. */
const ANSWER_CHARS_MAX = 32 * 1024 * 1024
/** These say nothing about the request itself. */
const PASSING = new Set([401, 403, 408, 409, 429])

interface Claim {
  tenant: string
  key: string
  /** When it was first claimed: with tenant and key it names one request, for ever. */
  createdAt: number
  isAnswered: boolean
}
const claims = new WeakMap<FastifyRequest, Claim>()

/** A name for what this request creates, the same when it is sent again; null without an Idempotency-Key. */
export function claimOf(request: FastifyRequest): string | null {
  const claim = claims.get(request)
  return claim ? JSON.stringify([claim.tenant, claim.key, claim.createdAt]) : null
}

/** Must be added after addAccess, before the routes. */
export function addIdempotency(app: FastifyInstance, store: Store): void {
  /** Being answered here; a claim that is in the store but not here died with an earlier process. */
  const underWay = new Set<string>()
  const nameOf = ({ tenant, key }: { tenant: string; key: string }): string => JSON.stringify([tenant, key])

  app.addHook('preHandler', async (request, reply) => {
    const key = request.headers['idempotency-key']
    const route = request.routeOptions.url ?? ''
    if (key === undefined || request.method !== 'POST' || !route.startsWith('/v1/')) return
    if (typeof key !== 'string' || !/^[\x21-\x7e]{1,255}$/.test(key))
      throw new ApiError('invalid_value', `'Idempotency-Key' must be 1 to 255 visible ASCII characters.`)
    if (route === '/v1/files')
      throw new ApiError(
        'unsupported_parameter',
        `'Idempotency-Key' is not for uploads: one sent twice is two files.`,
      )
    if ((request.body as { stream?: unknown } | null)?.stream === true)
      throw new ApiError('unsupported_parameter', `'Idempotency-Key' is not for streams.`, {
        param: 'stream',
      })
    const { tenant } = accessOf(request)
    const now = unixNow()
    const record: IdempotencyRecord = {
      tenant,
      key,
      request: digestOf(request),
      createdAt: now,
      answer: null,
    }
    const name = nameOf(record)
    const isHere = underWay.has(name)
    if (!isHere) underWay.add(name)
    let before: IdempotencyRecord | null
    try {
      before = await store.claim(record, now - KEPT_S)
    } catch (error) {
      if (!isHere) underWay.delete(name)
      throw error
    }
    if (before && before.request !== record.request) {
      if (!isHere) underWay.delete(name)
      const message = 'This Idempotency-Key belongs to another request. Choose a new one for each.'
      throw new ApiError('idempotency_mismatch', message)
    }
    if (before?.answer) {
      if (!isHere) underWay.delete(name)
      const { status, headers, body } = before.answer
      return reply.code(status).headers(headers).header('idempotent-replayed', 'true').send(body)
    }
    if (isHere) {
      const message = 'The first request with this Idempotency-Key is still being answered.'
      throw new ApiError('idempotency_in_progress', message, { retryMs: 1_000 })
    }
    const claim = { tenant, key, createdAt: before?.createdAt ?? now, isAnswered: false }
    claims.set(request, claim)
    // A caller that hung up gets no answer, so there is none to keep.
    reply.raw.once('close', () => {
      if (claim.isAnswered) return
      void store
        .answered(tenant, key, null)
        .catch(() => undefined)
        .finally(() => underWay.delete(name))
    })
  })

  app.addHook('onSend', async (request, reply, payload) => {
    const claim = claims.get(request)
    if (!claim || claim.isAnswered) return payload
    claim.isAnswered = true
    const { tenant, key } = claim
    const { statusCode: status } = reply
    const isKept =
      status < 500 &&
      !PASSING.has(status) &&
      typeof payload === 'string' &&
      payload.length <= ANSWER_CHARS_MAX
    const type = reply.getHeader('content-type')
    const headers = { 'content-type': typeof type === 'string' ? type : 'application/json; charset=utf-8' }
    try {
      if (isKept) await store.answered(tenant, key, { status, headers, body: payload })
      // A disk that refused the request refuses this as well; a claim that stays, unanswered, is free for the next one.
      else await store.answered(tenant, key, null).catch(() => undefined)
    } finally {
      underWay.delete(nameOf(claim))
    }
    return payload
  })
}

const digestOf = ({ method, url, body }: FastifyRequest): string =>
  createHash('sha256')
    .update(`${method} ${url}\n${JSON.stringify(body ?? null)}`)
    .digest('hex')
