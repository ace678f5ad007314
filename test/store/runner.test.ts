/** Running batches over a network that answers as each test says: busy, failing, silent, or wrong. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import type { ApiContext } from '../../coordinator/api/context.ts'
import { readOutput } from '../../coordinator/api/outputs.ts'
import { BatchRunner } from '../../coordinator/batches/batches.ts'
import type { Event, JobError, JobSpec, JobSummary } from '../../coordinator/core/events.ts'
import { Jobs } from '../../coordinator/jobs.ts'
import { Catalog, openServed } from '../../coordinator/models.ts'
import { Pace } from '../../coordinator/batches/pace.ts'
import { openStore } from '../../coordinator/store/sqlite.ts'
import type { SqliteStore } from '../../coordinator/store/sqlite.ts'
import { FINAL } from '../../coordinator/store/store.ts'
import type { BatchRecord } from '../../coordinator/store/store.ts'
import { Tokens } from '../../coordinator/tokens.ts'
import { packedFolder } from '../../tools/models.ts'
import { eventually } from '../api/serve.ts'

const root = mkdtempSync(join(tmpdir(), 'chorale-runner-'))
let catalog: Catalog
let store: SqliteStore
let counter = 0
beforeAll(async () => {
  catalog = new Catalog([await openServed(await packedFolder('intents-3m'))])
  store = await openStore(root)
})
afterAll(async () => {
  await store?.close()
  rmSync(root, { recursive: true, force: true })
})

type Encode = Extract<JobSpec, { kind: 'classify' | 'embed' }>
/** What the network does with a job: an error, nothing at all, or the first logit of every row. */
type Reply = JobError | 'silence' | number
let reply: (job: Encode, nth: number) => Reply
let seen: Encode[]
let cancelled: number
let time: number

beforeEach(() => {
  seen = []
  cancelled = 0
  time = 1_000
  reply = () => 1
})

function network(): Jobs {
  const jobs = new Jobs((event: Event) => {
    if (event.type === 'job-cancelled') cancelled++
    if (event.type !== 'job-submitted') return
    const job = event.job as Encode
    seen.push(job)
    const answer = reply(job, seen.length)
    setImmediate(() => {
      if (answer === 'silence') return
      const about = { job: job.id }
      if (typeof answer === 'object')
        return jobs.perform({ type: 'refuse-job', ...about, error: answer }, null)
      const { width, bits } = catalog.all[0]!.core
      const values = new Int32Array(job.rows.length * width)
      for (let i = 0; i < values.length; i += width) values[i] = answer * 2 ** bits
      jobs.perform(
        { type: 'deliver-rows', ...about, first: 0, rows: job.rows.length, width, bits, values },
        null,
      )
      const summary = {
        units: 1,
        redispatched: 0,
        hedged: 0,
        queuedMs: 0,
        totalMs: 1,
        volunteers: [],
        verification: 'unverified',
      } as JobSummary
      jobs.perform(
        { type: 'finish-job', ...about, summary },
        { receipt: `rcpt_${job.id}`, status: 'provisional' },
      )
    })
  })
  return jobs
}

function runner(): BatchRunner & { faults: unknown[] } {
  const context = {
    catalog,
    jobs: network(),
    tokens: new Tokens(),
    trust: 'fast',
    classOf: () => 'js',
  } as unknown as ApiContext
  const faults: unknown[] = []
  const made = new BatchRunner({
    context,
    store,
    record: async (rows) => void (await store.settle({ rows })),
    now: () => time,
    onFault: (error) => void faults.push(error),
  })
  return Object.assign(made, { faults })
}

const row = (i: number, extra: object = {}): string =>
  JSON.stringify({
    custom_id: `r${i}`,
    method: 'POST',
    url: '/v1/classify',
    body: { model: 'intents-3m', input: [5, 6, 7 + i], ...extra },
  })

async function batchOf(rows: readonly string[]): Promise<string> {
  const writer = await store.blobs.create()
  await writer.write(Buffer.from(rows.join('\n')))
  const { digest: input } = await writer.finish()
  const id = `batch_${counter++}`
  const record: BatchRecord = {
    id, tenant: 'public', endpoint: '/v1/classify', model: null, trust: 'fast', inputFile: 'file', input, status: 'validating', total: 0,
    createdAt: time, expiresAt: time + 1_000, at: {}, errors: [], metadata: null, outputFile: null, errorFile: null, extra: {},
  } // prettier-ignore
  await store.createBatch(record)
  return id
}
const over = async (id: string): Promise<BatchRecord> => {
  await eventually(async () => FINAL.includes((await store.batch(id))!.status), `${id} is over`)
  return (await store.batch(id))!
}
const N = 100
const rows = Array.from({ length: N }, (_, i) => row(i))

test('rows share jobs as batch work; every row is answered once', async () => {
  const id = await batchOf(rows)
  runner().start(id)
  expect((await over(id)).status).toBe('completed')
  expect(await store.counts(id)).toMatchObject({ total: N, done: N, failed: 0 })
  expect(seen.length).toBeLessThan(N / 4)
  expect(seen.reduce((n, job) => n + job.rows.length, 0)).toBe(N)
  for (const job of seen)
    expect(job).toMatchObject({ priority: 'batch', mayWait: true, trust: 'fast', requester: 'tenant:public' })
})

test('a network that is busy is asked again, and nothing fails for it', async () => {
  reply = (_, nth) => (nth % 2 ? { code: 'overloaded', message: 'busy', retryMs: 5 } : 1)
  const id = await batchOf(rows)
  runner().start(id)
  await over(id)
  expect(await store.counts(id)).toMatchObject({ done: N, failed: 0 })
})

test('one row that nobody can compute does not take its neighbours along', async () => {
  const isBad = ({ rows }: Encode): boolean => rows.some((ids) => ids[2] === 7 + 42)
  reply = (job) => (isBad(job) ? { code: 'internal', message: '3 volunteers failed' } : 1)
  const id = await batchOf(rows)
  runner().start(id)
  expect((await over(id)).status).toBe('completed')
  expect(await store.counts(id)).toMatchObject({ done: N - 1, failed: 1 })
  const [failed] = await store.rows(id, { limit: 1, state: 'failed' })
  expect(failed!.customId).toBe('r42')
})

test('what drains is left open, and the next life goes on with those rows alone', async () => {
  reply = (_, nth) => (nth === 1 ? 1 : { code: 'draining', message: 'going' })
  const id = await batchOf(rows)
  const first = runner()
  first.start(id)
  await eventually(async () => (await store.counts(id)).done > 0 && seen.length > 1, 'one job is done')
  await first.stop()
  const { done } = await store.counts(id)
  expect((await store.batch(id))!.status).toBe('in_progress')
  seen = []
  reply = () => 1
  await runner().recover()
  await over(id)
  expect(seen.reduce((n, job) => n + job.rows.length, 0)).toBe(N - done)
  expect(await store.counts(id)).toMatchObject({ done: N, failed: 0 })
})

test('past its time finished rows stay, the others are listed, and the network is told to stop', async () => {
  reply = (_, nth) => (nth === 1 ? 1 : 'silence')
  const id = await batchOf(rows)
  const one = runner()
  one.start(id)
  await eventually(async () => (await store.counts(id)).done > 0 && seen.length > 2, 'jobs are out')
  // The clock jumps, and the run is begun again, as after a restart.
  await one.stop()
  time += 5_000
  await runner().recover()
  expect((await over(id)).status).toBe('expired')
  const { done, failed } = await store.counts(id)
  expect(done + failed).toBe(N)
  expect(cancelled).toBeGreaterThan(0)
  for (const { line } of await store.rows(id, { limit: N, state: 'failed' }))
    expect(line).toContain('batch_expired')
})

test.each([
  ['ahead', 1e9],
  ['back', -1e9],
])('the clock is set far %s while it runs: every row is answered all the same', async (_, by) => {
  reply = ({ deadlineMs }, nth) => {
    if (nth === 1) time += by
    return deadlineMs! < 60_000 ? { code: 'deadline_exceeded', message: 'too late' } : 1
  }
  const id = await batchOf(rows)
  runner().start(id)
  const { status, expiresAt } = await over(id)
  expect(status).toBe('completed')
  expect(await store.counts(id)).toMatchObject({ done: N, failed: 0 })
  // Another life would not have taken it for expired, either.
  expect(expiresAt - time).toBeGreaterThan(900)
  expect(expiresAt - time).toBeLessThanOrEqual(1_000)
})

test('cancelled while it is validated, or twice: over once', async () => {
  const id = await batchOf(rows)
  const one = runner()
  one.start(id)
  expect((await one.cancel(id))?.status).toBe('cancelling')
  expect(await one.cancel(id)).toBeNull()
  expect((await over(id)).status).toBe('cancelled')
  expect(one.faults).toEqual([])
})

test('an answer that proves wrong later is asked for again and put right where it stands', async () => {
  reply = (_, nth) => (nth === 1 ? -1 : 1)
  const id = await batchOf(rows)
  const one = runner()
  one.start(id)
  await over(id)
  const wrong = `rcpt_${seen[0]!.id}`
  const before = await store.rows(id, { limit: N })
  const touched = before.filter(({ receipt }) => receipt === wrong).map(({ index }) => index)
  expect(touched.length).toBe(seen[0]!.rows.length)
  await one.correct(wrong)
  const after = await store.rows(id, { limit: N })
  const right = after.find(({ index }) => !touched.includes(index))!
  const data = (line: string | null): unknown =>
    (JSON.parse(line!) as { response: { body: { data: unknown } } }).response.body.data
  for (const { index, line } of after) {
    expect(data(line)).toEqual(data(right.line))
    if (!touched.includes(index)) expect(line).toBe(before[index]!.line)
  }
  expect(await store.rowsOf(wrong)).toEqual([])
  // Readable as one file still: the lines, one behind the other.
  const { size } = await store.place(id, 'done', 0)
  let text = ''
  for await (const piece of readOutput(store, { batch: id, state: 'done' }, 0, size)) text += String(piece)
  expect(text).toBe(after.map(({ line }) => `${line}\n`).join(''))
})

test('pace: rows of the last minute make the rate, the rest of them the ETA; idle is no ETA', () => {
  let ms = 0
  const pace = new Pace(() => ms)
  expect(pace.progress(10)).toMatchObject({ rowsPerS: 0, etaMs: null })
  for (let second = 0; second < 100; second++, ms += 1_000) pace.count(5)
  expect(pace.progress(50).rowsPerS).toBeCloseTo(5, 0)
  expect(pace.progress(50).etaMs! / 1000).toBeCloseTo(10, 0)
  ms += 30_000
  expect(pace.progress(50).rowsPerS).toBeCloseTo(2.5, 0)
  ms += 3_600_000
  expect(pace.progress(50)).toMatchObject({ rowsPerS: 0, etaMs: null })
})
