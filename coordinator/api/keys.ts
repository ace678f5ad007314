/**
 * API keys: 256 random bits, shown once, kept as their SHA-256. The store is opened by one coordinator at a time, so its keys
 * are held here whole, and a look-up costs one hash.
 *
 *   POST /v1/keys · GET /v1/keys · DELETE /v1/keys/{id}      with a key of scope `admin`
 */
import { createHash, randomBytes } from 'node:crypto'
import type { FastifyInstance } from 'fastify'
import * as v from 'valibot'
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
}

const PREFIX = 'chr_'
/** The letters shown in lists: enough to tell keys apart, far from enough to guess one. */
const SHOWN = PREFIX.length + 6

export const hashOf = (key: string): string => createHash('sha256').update(key).digest('hex')

/** A new key and its record. The key is nowhere else. */
export function newKey(options: KeyOptions, now: number): { key: string; record: ApiKeyRecord } {
  const key = `${PREFIX}${randomBytes(32).toString('base64url')}`
  const id = `key_${randomBytes(9).toString('hex')}`
  const { weight, quotas } = options
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
    extra: { ...(weight === undefined ? {} : { weight }), ...(quotas ? { quotas } : {}) },
  }
  return { key, record }
}

export class Keys {
  readonly #store: Store
  readonly #byHash = new Map<string, ApiKeyRecord>()
  /** Keys of this run that are in no store: the operator's own (see data.ts). */
  readonly #passing = new Map<string, ApiKeyRecord>()

  private constructor(store: Store, records: readonly ApiKeyRecord[]) {
    this.#store = store
    for (const record of records) this.#byHash.set(record.hash, record)
  }

  /** Rejects with StoreError. */
  static async open(store: Store): Promise<Keys> {
    return new Keys(store, await store.keys())
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

  async create(options: KeyOptions): Promise<{ key: string; record: ApiKeyRecord }> {
    const made = newKey(options, unixNow())
    await this.#store.createKey(made.record)
    this.#byHash.set(made.record.hash, made.record)
    return made
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

/** A record for people: everything but the hash. */
export function shownKey(record: ApiKeyRecord): object {
  const { id, tenant, name, prefix, scopes, createdAt, expiresAt, revokedAt, extra } = record
  const times = { created_at: createdAt, expires_at: expiresAt, revoked_at: revokedAt }
  return { id, object: 'key', tenant, name, prefix, scopes, ...times, ...extra }
}

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
})

export function addKeys(app: FastifyInstance, keys: Keys): void {
  app.post('/v1/keys', async (request, reply) => {
    accessOf(request).need('admin')
    const { expires_at, ...options } = parseBody(keyBody, request.body)
    const { key, record } = await keys.create({ ...options, expiresAt: expires_at })
    return reply.header('cache-control', 'no-store').send({ ...shownKey(record), key })
  })
  app.get('/v1/keys', (request, reply) => {
    accessOf(request).need('admin')
    return reply.send({ object: 'list', data: keys.list().map(shownKey), has_more: false })
  })
  app.delete<{ Params: { id: string } }>('/v1/keys/:id', async (request, reply) => {
    accessOf(request).need('admin')
    const { id } = request.params
    if (!(await keys.revoke(id)))
      throw new ApiError('key_not_found', `There is no key ${JSON.stringify(id.slice(0, 100))} that works.`)
    return reply.send({ id, object: 'key', revoked: true })
  })
}
