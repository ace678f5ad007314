/** The requesters' side alone, without models that compute: a real server, a real store, and a runner that only validates. */
import { mkdtemp, rm } from 'node:fs/promises'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { FastifyInstance } from 'fastify'
import OpenAI from 'openai'
import type { Runner } from '../../coordinator/api/batches.ts'
import type { ApiContext } from '../../coordinator/api/context.ts'
import { Keys } from '../../coordinator/api/keys.ts'
import { addRequesters } from '../../coordinator/api/requesters.ts'
import type { RequesterOptions } from '../../coordinator/api/requesters.ts'
import { validate } from '../../coordinator/api/validation.ts'
import { Credits } from '../../coordinator/books/credits.ts'
import { openHttp } from '../../coordinator/http.ts'
import { Ledger } from '../../coordinator/books/ledger.ts'
import { openLog } from '../../coordinator/log.ts'
import type { Served } from '../../coordinator/models.ts'
import { Recorder } from '../../coordinator/books/records.ts'
import { openStore } from '../../coordinator/store/sqlite.ts'
import { FINAL } from '../../coordinator/store/store.ts'
import type { BatchRecord, Store, StoreError } from '../../coordinator/store/store.ts'

/** Models by name and task: enough to judge bodies, nothing to run. */
const MODELS = ['small generate', 'other generate', 'labels classify'].map((both) => {
  const [id, task] = both.split(' ') as [string, string]
  return { id, digest: id, core: { task } } as unknown as Served
})
export const deskContext = {
  catalog: { all: MODELS, get: (name: string) => MODELS.find(({ id }) => id === name) },
} as unknown as ApiContext

export interface Desk {
  url: string
  store: Store
  keys: Keys
  openai: OpenAI
  /** Batches as the runner left them. */
  settled: (id: string) => Promise<BatchRecord>
  /** Tells watchers of a batch. */
  changed: (id: string) => void
  upload: (content: string | Uint8Array, name?: string) => Promise<string>
  post: (path: string, body: unknown, headers?: Record<string, string>) => Promise<Response>
  close: () => Promise<void>
}

export interface DeskOptions extends RequesterOptions {
  folder?: string
  /** As if it listened there. */
  host?: string
  routes?: (app: FastifyInstance) => void
}

export async function openDesk({
  folder,
  host = '127.0.0.1',
  routes,
  ...options
}: DeskOptions = {}): Promise<Desk> {
  const data = folder ?? (await mkdtemp(join(tmpdir(), 'chorale-desk-')))
  const forget = async (): Promise<void> => {
    await store.close()
    if (folder === undefined) await rm(data, { recursive: true, force: true })
  }
  const store = await openStore(data)
  const log = openLog('silent')
  const app = openHttp(log)
  const watchers = new Map<string, Set<() => void>>()
  const changed = (id: string): void => watchers.get(id)?.forEach((tell) => tell())
  const runner: Runner = {
    start: (id) => {
      void store
        .batch(id)
        .then((batch) => validate(deskContext, store, batch!))
        .then(() => changed(id))
        .catch((error: StoreError) => {
          // The desk was closed in the middle.
          if (error.code !== 'closed') throw error
        })
    },
    cancel: async (id) => {
      const at = { cancelled: Math.floor(Date.now() / 1000) }
      const batch = await store.changeBatch(id, { status: 'cancelled', at }, ['validating', 'in_progress'])
      changed(id)
      return batch
    },
    progress: () => ({ rowsPerS: 12.345, etaMs: 1000.4, volunteers: 2 }),
    watch: (id, tell) => {
      watchers.set(id, (watchers.get(id) ?? new Set()).add(tell))
      return () => watchers.get(id)!.delete(tell)
    },
  }
  let keys: Keys
  try {
    const recorder = new Recorder(store, (error) => {
      throw error
    })
    const credits = Credits.beside(await Ledger.open(store, recorder, 'pepper'), recorder)
    keys = await Keys.open(store, credits)
    await addRequesters({ app, store, keys, credits, runner, host, trust: 'fast', log }, options)
    routes?.(app)
    await app.listen({ host: '127.0.0.1', port: 0 })
  } catch (error) {
    await app.close()
    await forget()
    throw error
  }
  const url = `http://127.0.0.1:${(app.server.address() as AddressInfo).port}`
  const openai = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'none', maxRetries: 0 })
  return {
    url,
    store,
    keys,
    openai,
    changed,
    settled: async (id) => {
      for (;;) {
        const batch = (await store.batch(id))!
        if (batch.status !== 'validating' || FINAL.includes(batch.status)) return batch
        await new Promise((resolve) => setTimeout(resolve, 5))
      }
    },
    upload: async (content, name = 'rows.jsonl') => {
      const file = new File([content as BlobPart], name)
      return (await openai.files.create({ file, purpose: 'batch' })).id
    },
    post: (path, body, headers) =>
      fetch(`${url}${path}`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', ...headers },
        body: typeof body === 'string' ? body : JSON.stringify(body),
      }),
    close: async () => {
      await app.close()
      await forget()
    },
  }
}

export const errorOf = async (
  answer: Response,
): Promise<{ status: number; code: string; message: string; param: string | null }> => {
  const { error } = (await answer.json()) as {
    error: { code: string; message: string; param: string | null }
  }
  return { status: answer.status, ...error }
}
