/**
 * API keys: 256 random bits, shown once, kept as their SHA-256. The store is opened by one coordinator at a time, so its keys
 * are held here whole, and a look-up costs one hash.
 *
 *   POST /v1/keys · GET /v1/keys · DELETE /v1/keys/{id} · POST /v1/keys/{id}/credit      with a key of scope `admin`
 *   GET /v1/credits                                                                      with any
 */
import { createHash, randomBytes } from 'node:crypto'
import type { FastifyInstance } from 'fastify'
import * as v from 'valibot'
import type { RequesterId } from '../../protocol/index.ts'
import { payerOf } from '../books/credits.ts'
import type { Credits } from '../books/credits.ts'
import type { ApiKeyRecord, Store } from '../store/store.ts'
import { accessOf } from './access.ts'
import { parseBody } from './bodies.ts'
import { unixNow } from './context.ts'
import { ApiError } from './errors.ts'

/** What a key may do: `inference` asks models, `batches` files and batches, `admin` keys. */
export const SCOPES = ['inference', 'batches', 'admin'] as const
export type Scope = (typeof SCOPES)[number]

/** What one key may use; absent: as the coordinator's own limits say. */
export interface Quotas {
  requestsPerMinute?: number
  tokensPerMinute?: number
  /** Rows of its batches that are not finished. */
  batchRows?: number
  /** Bytes of its files. */
  fileBytes?: number
}

export interface KeyOptions {
  name: string
  /** Keys of one tenant share files, batches and quotas; default: a tenant of its own. */
  tenant?: string
  scopes?: readonly Scope[]
  /** Unix seconds. */
  expiresAt?: number | null
  /** Share relative to other requesters; default 1. */
  weight?: number
  quotas?: Quotas
  /** Standard units that its tenant may spend, and more once they are granted; default no limit, or that of its tenant's keys. */
  credit?: number
}

const PREFIX = 'chr_'
/** The letters shown in lists: enough to tell keys apart, far from enough to guess one. */
const SHOWN = PREFIX.length + 6

export const hashOf = (key: string): string => createHash('sha256').update(key).digest('hex')

/** A new key and its record. The key is nowhere else. */
export function newKey(options: KeyOptions, now: number): { key: string; record: ApiKeyRecord } {
  const key = `${PREFIX}${randomBytes(32).toString('base64url')}`
  const id = `key_${randomBytes(9).toString('hex')}`
  const { weight, quotas, credit } = options
  const record = {
    id,
    tenant: options.tenant ?? id,
    name: options.name,
    hash: hashOf(key),
    prefix: key.slice(0, SHOWN),
    scopes: options.scopes ?? ['inference', 'batches'],
    createdAt: now,
    expiresAt: options.expiresAt ?? null,
    revokedAt: null,
    extra: {
      ...(weight === undefined ? {} : { weight }),
      ...(quotas ? { quotas } : {}),
      ...(credit === undefined ? {} : { isLimited: true }),
    },
  }
  return { key, record }
}

export class Keys {
  readonly #store: Store
  readonly #credits: Credits
  readonly #byHash = new Map<string, ApiKeyRecord>()
  /** Keys of this run that are in no store: the operator's own (see data.ts). */
  readonly #passing = new Map<string, ApiKeyRecord>()

  private constructor(store: Store, credits: Credits, records: readonly ApiKeyRecord[]) {
    this.#store = store
    this.#credits = credits
    for (const record of records) this.#byHash.set(record.hash, record)
  }

  /** Rejects with StoreError. */
  static async open(store: Store, credits: Credits): Promise<Keys> {
    return new Keys(store, credits, await store.keys())
  }

  /** There is a key that works, so that somebody could be let in. */
  get isEmpty(): boolean {
    const now = unixNow()
    return ![...this.#byHash.values()].some((record) => isValid(record, now))
  }

  /** The record of a key that works now. */
  find(key: string): ApiKeyRecord | null {
    const hash = hashOf(key)
    const record = this.#byHash.get(hash) ?? this.#passing.get(hash)
    return record && isValid(record, unixNow()) ? record : null
  }

  /** Accepts a key for this run only. */
  admit(key: string, name: string): void {
    const { record } = newKey({ name, scopes: SCOPES, tenant: 'public' }, unixNow())
    this.#passing.set(hashOf(key), { ...record, hash: hashOf(key) })
  }

  /** Rejects with ApiError `invalid_value` for credit where its tenant has none: what was spent without a limit can't be under one. */
  async create(options: KeyOptions): Promise<{ key: string; record: ApiKeyRecord }> {
    const { tenant, credit = 0 } = options
    const others = this.list().filter((one) => one.tenant === tenant)
    const isLimited = others.some(({ extra }) => extra.isLimited)
    if (others.length > 0 && !isLimited && options.credit !== undefined) {
      const message = `The keys of ${tenant} have no limit, so this one can have none: name another tenant.`
      throw new ApiError('invalid_value', message, { param: 'credit' })
    }
    const made = newKey(isLimited ? { ...options, credit } : options, unixNow())
    await this.#store.createKey(made.record)
    this.#byHash.set(made.record.hash, made.record)
    // Behind it, though it be nothing: nobody knows the key yet.
    if (made.record.extra.isLimited) await this.grant(made.record, credit)
    return made
  }

  /** What its tenant may spend. @param amount below 0: taken back. Rejects with ApiError `invalid_value`, and nothing is done. */
  async grant(record: ApiKeyRecord, amount: number): Promise<void> {
    const payer = payerOf(record)
    if (await this.#credits.grant(payer, amount)) return
    const { left } = this.#credits.of(payer)
    const message =
      left === null
        ? `The keys of ${record.tenant} have no limit: only a key that is created with credit has one.`
        : amount > 0
          ? 'That is more than can be counted.'
          : `Only ${left} of its credits are left.`
    throw new ApiError('invalid_value', message, { param: 'amount' })
  }

  /** What there is to know of a key: everything but the hash. */
  shown(record: ApiKeyRecord): object {
    const { id, tenant, name, prefix, scopes, createdAt, expiresAt, revokedAt, extra } = record
    const { isLimited, ...rest } = extra
    const times = { created_at: createdAt, expires_at: expiresAt, revoked_at: revokedAt }
    const credit = isLimited ? this.#credits.of(payerOf(record)) : null
    return { id, object: 'key', tenant, name, prefix, scopes, ...times, ...rest, credit }
  }

  /** What is left to everybody who has a limit. */
  get credit(): [payer: RequesterId, left: number][] {
    const payers = new Set(this.list().flatMap((one) => (one.extra.isLimited ? [payerOf(one)] : [])))
    return [...payers].map((payer) => [payer, this.#credits.of(payer).left!])
  }

  list(): ApiKeyRecord[] {
    return [...this.#byHash.values()].sort((a, b) => a.createdAt - b.createdAt || (a.id < b.id ? -1 : 1))
  }

  /** At once, also for requests under way from here on. False if there is none, or it was revoked before. */
  async revoke(id: string): Promise<boolean> {
    const record = this.list().find((one) => one.id === id)
    if (!record || record.revokedAt !== null) return false
    const at = unixNow()
    // Before it is durable: a key that leaked must not work while the disk is busy.
    this.#byHash.set(record.hash, { ...record, revokedAt: at })
    return this.#store.revokeKey(id, at)
  }
}

const isValid = ({ revokedAt, expiresAt }: ApiKeyRecord, now: number): boolean =>
  revokedAt === null && (expiresAt === null || expiresAt > now)

const count = v.pipe(v.number(), v.safeInteger(), v.minValue(0))
const rate = v.pipe(v.number(), v.safeInteger(), v.minValue(1))
const keyBody = v.strictObject({
  name: v.pipe(v.string(), v.minLength(1), v.maxLength(100)),
  tenant: v.optional(v.pipe(v.string(), v.regex(/^[\w.-]{1,64}$/))),
  scopes: v.optional(v.pipe(v.array(v.picklist(SCOPES)), v.minLength(1))),
  expires_at: v.nullish(count),
  weight: v.optional(v.pipe(v.number(), v.minValue(0.01), v.maxValue(100))),
  quotas: v.optional(
    v.strictObject({
      requestsPerMinute: v.optional(rate),
      tokensPerMinute: v.optional(rate),
      batchRows: v.optional(count),
      fileBytes: v.optional(count),
    }),
  ),
  credit: v.optional(count),
})
const grantBody = v.strictObject({ amount: v.pipe(v.number(), v.safeInteger()) })

export function addKeys(app: FastifyInstance, keys: Keys, credits: Credits): void {
  app.post('/v1/keys', async (request, reply) => {
    accessOf(request).need('admin')
    const { expires_at, ...options } = parseBody(keyBody, request.body)
    const { key, record } = await keys.create({ ...options, expiresAt: expires_at })
    return reply.header('cache-control', 'no-store').send({ ...keys.shown(record), key })
  })
  app.get('/v1/keys', (request, reply) => {
    accessOf(request).need('admin')
    return reply.send({ object: 'list', data: keys.list().map((one) => keys.shown(one)), has_more: false })
  })
  app.delete<{ Params: { id: string } }>('/v1/keys/:id', async (request, reply) => {
    accessOf(request).need('admin')
    const { id } = request.params
    if (!(await keys.revoke(id))) throw noKey(id)
    return reply.send({ id, object: 'key', revoked: true })
  })
  app.post<{ Params: { id: string } }>('/v1/keys/:id/credit', async (request, reply) => {
    accessOf(request).need('admin')
    const { amount } = parseBody(grantBody, request.body)
    const { id } = request.params
    const record = keys.list().find((one) => one.id === id && one.revokedAt === null)
    if (!record) throw noKey(id)
    await keys.grant(record, amount)
    return reply.send(keys.shown(record))
  })
  app.get('/v1/credits', (request, reply) =>
    reply
      .header('cache-control', 'no-store')
      .send({ object: 'credits', ...credits.of(accessOf(request).requester) }),
  )
}

const noKey = (id: string): ApiError =>
  new ApiError('key_not_found', `There is no key ${JSON.stringify(id.slice(0, 100))} that works.`)
