/** /v1/batches: thousands of rows asked at once and answered whenever somebody helps. Running them: coordinator/batches/. */
import { createHash, randomBytes } from 'node:crypto'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import * as v from 'valibot'
import type { Trust } from '../../protocol/index.ts'
import type { Credit, Credits } from '../books/credits.ts'
import { FINAL } from '../store/store.ts'
import type { BatchRecord, Counts, Store } from '../store/store.ts'
import { accessOf } from './access.ts'
import { ENDPOINTS } from './asks.ts'
import { parseBody } from './bodies.ts'
import { unixNow } from './context.ts'
import { ApiError } from './errors.ts'
import { claimOf } from './idempotency.ts'
import { listOf, pageOf, parseQuery } from './lists.ts'
import { errorIdOf, outputIdOf } from './outputs.ts'
import { EventStream } from './sse.ts'
import { newSecret } from './webhooks.ts'
import type { Webhooks } from './webhooks.ts'

/** Rows of one tenant that are not finished, where its key says nothing else. */
const TENANT_ROWS_MAX = 1_000_000
const WINDOW_HOURS_MAX = 168
const HOUR_S = 3_600
/** Progress is told at most this often. */
const EVENT_MS = 500

export interface Progress {
  /** Of the last minute or so. */
  rowsPerS: number
  /** Until the last row is finished, as things go; null when nothing does. */
  etaMs: number | null
  /** Who computed rows of it. */
  volunteers: number
}

/** What runs batches: coordinator/batches/. */
export interface Runner {
  /** A batch was created, durably. */
  start: (batch: string) => void
  /** Finished rows stay; null if it is over or there is none. */
  cancel: (batch: string) => Promise<BatchRecord | null>
  progress: (batch: string) => Progress
  /** Calls back after every durable change of its status or its counts, until the returned function is called. */
  watch: (batch: string, onChange: () => void) => () => void
}

export interface BatchesOptions {
  store: Store
  runner: Runner
  /** What a batch gets that names no trust. */
  trust: Trust
  webhooks: Webhooks
  credits: Credits
}

const createBody = v.strictObject({
  input_file_id: v.pipe(v.string(), v.minLength(1), v.maxLength(200)),
  endpoint: v.picklist(ENDPOINTS),
  completion_window: v.pipe(v.string(), v.regex(/^\d{1,3}h$/, 'hours are due, like "24h"')),
  metadata: v.nullish(
    v.pipe(
      v.record(v.pipe(v.string(), v.maxLength(64)), v.pipe(v.string(), v.maxLength(512))),
      v.check((pairs) => Object.keys(pairs).length <= 16, 'at most 16 pairs are kept'),
    ),
  ),
  output_expires_after: v.nullish(
    v.strictObject({
      anchor: v.literal('created_at'),
      seconds: v.pipe(v.number(), v.integer(), v.minValue(3_600), v.maxValue(2_592_000)),
    }),
  ),
  volunteer: v.nullish(
    v.strictObject({
      trust: v.nullish(v.picklist(['fast', 'checked', 'exact'])),
      webhook: v.nullish(v.pipe(v.string(), v.maxLength(2_000))),
    }),
  ),
})

type ById = { Params: { id: string } }

export function addBatches(app: FastifyInstance, options: BatchesOptions): void {
  const { store, runner } = options
  const shown = async (batch: BatchRecord, isCreator = false): Promise<object> =>
    shownBatch(batch, await store.counts(batch.id), runner.progress(batch.id), isCreator)

  app.post('/v1/batches', async (request, reply) => {
    const { batch, isNew } = await create(options, request)
    if (isNew) runner.start(batch.id)
    return reply.send(await shown(batch, true))
  })

  app.get('/v1/batches', async (request, reply) => {
    const { tenant, need } = accessOf(request)
    need('batches')
    const page = pageOf(parseQuery({}, request.query), 100, 20)
    const found = await store.batches(tenant, { ...page, limit: page.limit + 1 })
    const data = await Promise.all(found.slice(0, page.limit).map((batch) => shown(batch)))
    return reply.send(listOf(found, page, data))
  })

  app.get<ById>('/v1/batches/:id', async (request, reply) =>
    reply.send(await shown(await find(store, request))),
  )

  app.post<ById>('/v1/batches/:id/cancel', async (request, reply) => {
    const batch = await find(store, request)
    // Asked twice is asked once.
    if (batch.status === 'cancelling' || batch.status === 'cancelled') return reply.send(await shown(batch))
    const cancelled = await runner.cancel(batch.id)
    if (cancelled) return reply.send(await shown(cancelled))
    const { status } = (await store.batch(batch.id)) ?? batch
    throw new ApiError('conflict', `${batch.id} is ${status}: there is nothing left to cancel.`)
  })

  app.get<ById>('/v1/batches/:id/events', async (request, reply) => {
    const batch = await find(store, request)
    follow(batch.id, reply, store, runner, shown)
    return reply
  })
}

/** Its state now, whenever it changes, and at its end. */
function follow(
  id: string,
  reply: FastifyReply,
  store: Store,
  runner: Runner,
  shown: (batch: BatchRecord) => Promise<object>,
): void {
  const stream = new EventStream(reply)
  let timer: NodeJS.Timeout | undefined
  let isAsked = false
  let isBusy = false
  const stop = (): void => {
    unwatch()
    clearTimeout(timer)
    isAsked = true
  }
  const tell = async (): Promise<void> => {
    isBusy = true
    isAsked = false
    const batch = await store.batch(id)
    if (batch) stream.send(await shown(batch))
    if (!batch || FINAL.includes(batch.status)) {
      stop()
      return stream.end()
    }
    timer = setTimeout(() => {
      isBusy = false
      if (isAsked) run()
    }, EVENT_MS)
  }
  const run = (): void => {
    tell().catch(() => {
      stop()
      stream.fail(new ApiError('internal', 'The batch could not be read; the operator has the log.'), '')
    })
  }
  const unwatch = runner.watch(id, () => {
    if (!isBusy) run()
    else isAsked = true
  })
  reply.raw.once('close', stop)
  run()
}

async function create(
  { store, trust, webhooks, credits }: BatchesOptions,
  request: FastifyRequest,
): Promise<{ batch: BatchRecord; isNew: boolean }> {
  const { tenant, requester, weight, need, quotas } = accessOf(request)
  need('batches')
  const body = parseBody(createBody, request.body)
  const hours = Number(body.completion_window.slice(0, -1))
  if (hours < 1 || hours > WINDOW_HOURS_MAX)
    throw new ApiError('invalid_value', `'completion_window' must be from "1h" to "${WINDOW_HOURS_MAX}h".`, { param: 'completion_window' })
  const input = await store.file(body.input_file_id)
  const now = unixNow()
  if (!input || input.tenant !== tenant || (input.expiresAt !== null && input.expiresAt <= now)) {
    const message = `There is no file ${JSON.stringify(body.input_file_id.slice(0, 100))}.`
    throw new ApiError('file_not_found', message, { param: 'input_file_id' })
  }
  const url = body.volunteer?.webhook
  if (url != null) webhooks.check(url)
  // A request repeated under one Idempotency-Key finds the batch it created, even if the first answer was never kept.
  const claim = claimOf(request)
  const id = `batch_${claim ? createHash('sha256').update(claim).digest('hex').slice(0, 24) : randomBytes(12).toString('hex')}`
  const before = claim ? await store.batch(id) : null
  if (before) return { batch: before, isNew: false }
  checkCredit(credits.of(requester))
  await checkQuota(store, tenant, quotas.batchRows ?? TENANT_ROWS_MAX)
  const batch: BatchRecord = {
    id,
    tenant,
    endpoint: body.endpoint,
    model: null,
    trust: body.volunteer?.trust ?? trust,
    inputFile: input.id,
    input: input.digest,
    status: 'validating',
    total: 0,
    createdAt: now,
    expiresAt: now + hours * HOUR_S,
    at: { validating: now },
    errors: [],
    metadata: body.metadata ?? null,
    outputFile: outputIdOf(id),
    errorFile: errorIdOf(id),
    extra: {
      window: body.completion_window,
      requester,
      weight,
      ...(body.output_expires_after ? { outputExpiresS: body.output_expires_after.seconds } : {}),
      ...(url == null ? {} : { webhook: { url, secret: newSecret() } }),
    },
  }
  await store.createBatch(batch)
  return { batch, isNew: true }
} // prettier-ignore

/** A batch that could not even begin is refused now, and not found failed later. Throws ApiError `insufficient_credits`. */
function checkCredit({ granted, left }: Credit): void {
  if (left === null || left > 0) return
  throw new ApiError('insufficient_credits', `All of your ${granted} credits are used or reserved.`)
}

async function checkQuota(store: Store, tenant: string, rowsMax: number): Promise<void> {
  const open = (await store.openBatches()).filter((batch) => batch.tenant === tenant)
  const counts = await Promise.all(open.map(({ id }) => store.counts(id)))
  const rows = counts.reduce((sum, { total, done, failed }) => sum + total - done - failed, 0)
  if (rows < rowsMax) return
  const message = `${rows} rows of your batches are not finished; ${rowsMax} may be. Try again when some are.`
  throw new ApiError('rate_limited', message, { retryMs: 60_000 })
}

/** A batch of this caller's tenant; somebody else's is none. Rejects with ApiError `batch_not_found`. */
async function find(store: Store, request: FastifyRequest<ById>): Promise<BatchRecord> {
  const { tenant, need } = accessOf(request)
  need('batches')
  const { id } = request.params
  const batch = await store.batch(id)
  if (batch?.tenant === tenant) return batch
  throw new ApiError('batch_not_found', `There is no batch ${JSON.stringify(id.slice(0, 100))}.`)
}

/** As OpenAI's clients know it. Whoever creates it is told its webhook's secret, and nobody else. */
export function shownBatch(
  batch: BatchRecord,
  counts: Counts,
  progress: Progress,
  isCreator = false,
): object {
  const { at } = batch
  const webhook = batch.extra.webhook as { url: string; secret: string } | undefined
  const errors = batch.errors.map((one) => ({ ...one }))
  const isOver = FINAL.includes(batch.status)
  return {
    id: batch.id,
    object: 'batch',
    endpoint: batch.endpoint,
    model: batch.model,
    errors: errors.length ? { object: 'list', data: errors } : null,
    input_file_id: batch.inputFile,
    completion_window: batch.extra.window,
    status: batch.status,
    // Readable from the first row on.
    output_file_id: counts.done > 0 ? outputIdOf(batch.id) : null,
    error_file_id: counts.failed > 0 ? errorIdOf(batch.id) : null,
    created_at: batch.createdAt,
    in_progress_at: at.in_progress ?? null,
    expires_at: batch.expiresAt,
    finalizing_at: at.finalizing ?? null,
    completed_at: at.completed ?? null,
    failed_at: at.failed ?? null,
    expired_at: at.expired ?? null,
    cancelling_at: at.cancelling ?? null,
    cancelled_at: at.cancelled ?? null,
    request_counts: { total: counts.total, completed: counts.done, failed: counts.failed },
    metadata: batch.metadata,
    volunteer: {
      trust: batch.trust,
      eta_ms: isOver || progress.etaMs === null ? null : Math.round(progress.etaMs),
      rows_per_s: isOver ? 0 : Math.round(progress.rowsPerS * 100) / 100,
      volunteers: progress.volunteers,
      ...(webhook && isCreator ? { webhook_secret: webhook.secret } : {}),
    },
  }
}
