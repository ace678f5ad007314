/** Everything about requesters that outlives a request: their keys and limits, what they may repeat, their files and batches. */
import type { FastifyInstance } from 'fastify'
import type { Trust } from '../../protocol/index.ts'
import type { Credits } from '../books/credits.ts'
import type { Log } from '../log.ts'
import { FINAL } from '../store/store.ts'
import type { BatchRecord, Store } from '../store/store.ts'
import { addAccess, isForThisMachine } from './access.ts'
import { addBatches } from './batches.ts'
import type { Runner } from './batches.ts'
import { unixNow } from './context.ts'
import { addCors } from './cors.ts'
import { addFiles } from './files.ts'
import { addIdempotency } from './idempotency.ts'
import { addKeys } from './keys.ts'
import type { Keys } from './keys.ts'
import type { Rates } from './limits.ts'
import { Webhooks } from './webhooks.ts'

export interface RequesterOptions {
  /** Answer anybody, whatever the address listened on and the keys there are. */
  open?: boolean
  /** Per minute and requester, where a key says nothing else; default unlimited. */
  rates?: Partial<Rates>
  /** Origins whose pages may read answers, besides this one's own; `*` for all. */
  corsOrigins?: readonly string[]
  /** Origins of requesters' servers that are told when a batch is over; default none. */
  webhookOrigins?: readonly string[]
}

export interface RequesterParts {
  app: FastifyInstance
  store: Store
  keys: Keys
  credits: Credits
  runner: Runner
  /** What is listened on. */
  host: string
  /** What a batch gets that names no trust. */
  trust: Trust
  log: Log
}

export interface Requesters {
  /** A batch reached its last status, durably. */
  onOver: (batch: BatchRecord) => void
  close: () => void
}

/** The API would be open to the world by an oversight. */
export class AccessError extends Error {
  override name = 'AccessError'
}

/**
 * Must be added before the routes. Without keys the API is open on this machine's own addresses; elsewhere, and as soon as
 * there is a key, one is needed. Rejects with AccessError, StoreError; TypeError for an origin that is none.
 */
export async function addRequesters(
  { app, store, keys, credits, runner, host, trust, log }: RequesterParts,
  { open = false, rates, corsOrigins = [], webhookOrigins = [] }: RequesterOptions,
): Promise<Requesters> {
  const isLocal = /^(127\.|localhost$|::1$|\[::1\]$)/.test(host)
  if (!isLocal && !open && keys.isEmpty)
    throw new AccessError(
      `${host} can be reached by others, and there is no API key yet: everybody could use this network. Create one with \`chorale keys create NAME\`, or say --open.`,
    )
  addCors(app, corsOrigins)
  addAccess(app, {
    keys,
    rates,
    isOpen: (request) => open || (isLocal && keys.isEmpty && isForThisMachine(request)),
  })
  addIdempotency(app, store)
  const webhooks = new Webhooks({ allowed: webhookOrigins, log })
  addKeys(app, keys, credits)
  await addFiles(app, store)
  addBatches(app, { store, runner, trust, webhooks, credits })
  const tell = notifier(store, webhooks, log)
  // Those an earlier life did not get to tell.
  for (const tenant of new Set(['public', ...keys.list().map((key) => key.tenant)]))
    for (const batch of await store.batches(tenant, { limit: TOLD_AGAIN })) tell(batch)
  return { onOver: tell, close: () => webhooks.close() }
}

/** Batches per tenant looked at after a restart, the youngest first. */
const TOLD_AGAIN = 100
/** A webhook for a batch that ended longer ago helps nobody. */
const TOLD_WITHIN_S = 86_400

/** Tells a batch's webhook that it is over, once it is, and remembers that it was told. */
function notifier(store: Store, webhooks: Webhooks, log: Log): (batch: BatchRecord) => void {
  return (batch) => {
    const { id, status, at, extra } = batch
    const hook = extra.webhook as { url: string; secret: string; isOver?: boolean } | undefined
    const endedAt = at[status] ?? 0
    if (!hook || hook.isOver || !FINAL.includes(status) || endedAt < unixNow() - TOLD_WITHIN_S) return
    // As OpenAI's clients read them: client.webhooks.unwrap().
    const event = { id: `evt_${id.slice('batch_'.length)}`, object: 'event', created_at: endedAt, type: `batch.${status}`, data: { id } }
    webhooks.send(hook.url, hook.secret, event.id, event, () => {
      store
        .changeBatch(id, { extra: { ...extra, webhook: { ...hook, isOver: true } } })
        .catch((err: unknown) => log.warn({ err, batch: id }, 'it is not remembered that a webhook was told'))
    })
  }
} // prettier-ignore
