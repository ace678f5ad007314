/** Who asks: by the key of the Authorization header, or anybody where the API is open. */
import { createHash } from 'node:crypto'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import type { RequesterId } from '../../protocol/index.ts'
import { payerOf } from '../books/credits.ts'
import type { ApiKeyRecord, Tenant } from '../store/store.ts'
import { ApiError } from './errors.ts'
import type { Keys, Quotas, Scope } from './keys.ts'
import { Limiter, UNLIMITED } from './limits.ts'
import type { Rates } from './limits.ts'

export interface Access {
  /** Whose files and batches: the key's, or `public` where the API is open. */
  tenant: Tenant
  /** Whose fair share and limits. */
  requester: RequesterId
  weight: number | undefined
  quotas: Quotas
  /** Throws ApiError `permission_denied` where the key lacks it, `invalid_api_key` where it takes a key. */
  need: (scope: Scope) => void
  /** Throws ApiError `rate_limited`. */
  charge: (tokens: number) => void
}

export interface AccessOptions {
  keys: Keys
  /** Without a key, too. */
  isOpen: (request: FastifyRequest) => boolean
  /** Of everybody whose key says nothing else. */
  rates?: Partial<Rates>
}

/** What anybody may read: how the network is, and what proves its answers. */
const PUBLIC = /^\/v1\/(models|status|volunteers?|ledger|lottery|evidence|receipts|events)(\/|$)/

const accesses = new WeakMap<FastifyRequest, Access>()

/** Set for every path under /v1. */
export function accessOf(request: FastifyRequest): Access {
  const access = accesses.get(request)
  if (!access) throw new TypeError(`${request.routeOptions.url} does not ask who calls`)
  return access
}

/** Every request under /v1 is asked for its key before its body is read. */
export function addAccess(app: FastifyInstance, { keys, isOpen, rates }: AccessOptions): void {
  const limiter = new Limiter()
  const common: Rates = { ...UNLIMITED, ...rates }
  app.addHook('onRequest', (request, reply, next) => {
    // Of the route that was found: a URL has many spellings.
    const route = request.routeOptions.url ?? ''
    if (!route.startsWith('/v1/')) return next()
    const given = bearerOf(request)
    const record = given === null ? null : keys.find(given)
    const isPublic = request.method === 'GET' && PUBLIC.test(route)
    if (!record && !isOpen(request) && (given !== null || !isPublic)) {
      void reply.header('www-authenticate', 'Bearer')
      return next(new ApiError('invalid_api_key', given === null ? NO_KEY : BAD_KEY))
    }
    const requester = requesterOf(request, given, record)
    const quotas = (record?.extra.quotas ?? {}) as Quotas
    const limits = { ...common, ...quotas }
    // Where anything passes for a key, keys can't have limits of their own.
    const limited = record ? requester : `ip:${request.ip}`
    accesses.set(request, {
      tenant: record?.tenant ?? 'public',
      requester,
      weight: record?.extra.weight as number | undefined,
      quotas,
      need: (scope) => {
        if (record ? record.scopes.includes(scope) : scope !== 'admin') return
        if (!record) throw new ApiError('invalid_api_key', NO_KEY)
        const message = `This key lacks the scope '${scope}'; it has ${record.scopes.join(', ')}.`
        throw new ApiError('permission_denied', message)
      },
      charge: (tokens) => limiter.take(limited, 'tokens', limits.tokensPerMinute, tokens, reply),
    })
    let refusal: Error | undefined
    try {
      if (!isPublic) limiter.take(limited, 'requests', limits.requestsPerMinute, 1, reply)
    } catch (error) {
      refusal = error as Error
    }
    next(refusal)
  })
}

const LOOPBACK = /^(127\.|::1$|::ffff:127\.)/
/**
 * Meant for this machine: by its name (a page whose own name was made to lead here can ask, but not under ours), and not passed on
 * by a proxy, which may serve the world.
 */
export const isForThisMachine = ({ headers }: FastifyRequest): boolean =>
  /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?$/i.test(headers.host ?? '') &&
  headers['x-forwarded-for'] === undefined &&
  headers['x-forwarded-host'] === undefined &&
  headers.forwarded === undefined

const NO_KEY =
  'An API key is needed: send it as `Authorization: Bearer …`. ' +
  '(While there is none, only this machine is answered: as localhost or 127.0.0.1, and not through a proxy.)'
const BAD_KEY = 'This API key is not known here, was revoked, or is past its time.'

/** The key of the Authorization header; null without one, '' for anything that is no key. */
function bearerOf({ headers: { authorization } }: FastifyRequest): string | null {
  if (authorization === undefined) return null
  return /^Bearer +(\S{1,512}) *$/i.exec(authorization)?.[1] ?? ''
}

/** Keys of one tenant share. Where the API is open the address counts; on this machine, whatever is sent as a key tells programs apart. */
function requesterOf({ ip }: FastifyRequest, given: string | null, record: ApiKeyRecord | null): RequesterId {
  const name = record
    ? payerOf(record)
    : given && LOOPBACK.test(ip)
      ? `key:${createHash('sha256').update(given).digest('base64url').slice(0, 22)}`
      : `ip:${ip}`
  return name as RequesterId
}
