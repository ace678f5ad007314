/** Everything about requesters that outlives a request: their keys and limits, what they may repeat, their files and batches. */
import type { FastifyInstance } from 'fastify'
import type { Trust } from '../../protocol/index.ts'
import type { Log } from '../log.ts'
import type { Store } from '../store/store.ts'
import { addAccess } from './access.ts'
import { addBatches } from './batches.ts'
import type { Runner } from './batches.ts'
import { addCors } from './cors.ts'
import { addFiles } from './files.ts'
import { addIdempotency } from './idempotency.ts'
import { addKeys, Keys } from './keys.ts'
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
  /** Null until coordinator/batches.ts exists: no /v1/batches. */
  runner: Runner | null
  /** What is listened on. */
  host: string
  /** What a batch gets that names no trust. */
  trust: Trust
  log: Log
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
  { app, store, runner, host, trust, log }: RequesterParts,
  { open = false, rates, corsOrigins = [], webhookOrigins = [] }: RequesterOptions,
): Promise<{ keys: Keys; webhooks: Webhooks }> {
  const keys = await Keys.open(store)
  const isLocal = /^(127\.|localhost$|::1$|\[::1\]$)/.test(host)
  if (!isLocal && !open && keys.isEmpty)
    throw new AccessError(
      `${host} can be reached by others, and there is no API key yet: everybody could use this network. Create one with \`chorale keys create NAME\`, or say --open.`,
    )
  addCors(app, corsOrigins)
  addAccess(app, { keys, rates, isOpen: () => open || (isLocal && keys.isEmpty) })
  addIdempotency(app, store)
  const webhooks = new Webhooks({ allowed: webhookOrigins, log })
  addKeys(app, keys)
  await addFiles(app, store)
  if (runner) addBatches(app, { store, runner, trust, webhooks })
  return { keys, webhooks }
}
