/**
 * What must hold of any store: after any history of calls, bursts and crashes it answers as the model does.
 * A second implementation passes by calling `laws` with its own way of opening.
 */
import { createHash } from 'node:crypto'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { StoreError } from '../../coordinator/store/store.ts'
import type {
  BatchRecord,
  LedgerHead,
  LedgerRecord,
  NewRow,
  RowOutcome,
  Settlement,
  Store,
} from '../../coordinator/store/store.ts'
import { ModelStore } from './model.ts'

export interface Subject {
  store: Store
  /** Ends it as a power cut would, right now, and opens what is left. */
  crash: () => Promise<Subject>
  end: () => Promise<void>
}

type Step = { name: string; run: (store: Store) => Promise<unknown> }

const sha = (text: string): string => createHash('sha256').update(text).digest('hex')
const pick = (...names: string[]): fc.Arbitrary<string> => fc.constantFrom(...names)
const batchId = pick('batch_a', 'batch_a', 'batch_a', 'batch_a', 'batch_b', 'batch_c')
const fileId = pick('file-a', 'file-b', 'file-c')
const tenant = pick('public', 'Zoë')
const index = fc.nat({ max: 5 })
const rowOf = (i: number): NewRow => ({ index: i, customId: `r${i}`, offset: i * 10, bytes: 9 })
const at = fc.nat({ max: 9 })
/** Short, of several bytes a letter, and too long for a row. */
const line = fc.oneof(
  { weight: 8, arbitrary: fc.string({ unit: 'grapheme', maxLength: 12 }) },
  { weight: 1, arbitrary: fc.integer({ min: 21_000, max: 70_000 }).map((n) => 'é'.repeat(n)) },
)
const page = fc.record(
  {
    after: fc.oneof(batchId, fileId),
    limit: fc.nat({ max: 4 }),
    order: fc.constantFrom('asc' as const, 'desc' as const),
  },
  { requiredKeys: ['limit'] },
)
const status = fc.constantFrom(
  'validating' as const,
  'in_progress' as const,
  'completed' as const,
  'cancelled' as const,
)
const outcome: fc.Arbitrary<RowOutcome> = fc.record({
  batch: batchId, index, state: fc.constantFrom('done' as const, 'failed' as const), line, receipt: fc.option(pick('rcpt_1', 'rcpt_2')),
}) // prettier-ignore
const answer = fc.option(
  fc.record({ status: fc.constantFrom(200, 400), headers: fc.constant({ a: 'b' }), body: line }),
)
const kind = fc.constantFrom('receipt' as const, 'identity' as const)

const batchOf = (id: string, owner: string): BatchRecord => ({
  id, tenant: owner, endpoint: '/v1/embeddings', model: null, trust: 'checked', inputFile: 'file-a', input: sha('input'),
  status: 'validating', total: 0, createdAt: 0, expiresAt: 100, at: { validating: 0 }, errors: [], metadata: { 'ü': '1' },
  outputFile: null, errorFile: null, extra: {},
}) // prettier-ignore

const call = (name: string, run: (store: Store) => Promise<unknown>): Step => ({ name, run })

/** Reads what a history has left behind, in full. */
async function everything(store: Store): Promise<unknown> {
  const batches = ['batch_a', 'batch_b', 'batch_c']
  return {
    files: await Promise.all(['public', 'Zoë'].map((t) => store.files(t, { limit: 100 }))),
    batches: await Promise.all(['public', 'Zoë'].map((t) => store.batches(t, { limit: 100 }))),
    open: await store.openBatches(),
    rows: await Promise.all(batches.map((b) => store.rows(b, { limit: 100 }))),
    done: await Promise.all(batches.map((b) => store.place(b, 'done', 0))),
    failed: await Promise.all(batches.map((b) => store.place(b, 'failed', 0))),
    counts: await Promise.all(batches.map((b) => store.counts(b))),
    receipts: await Promise.all(['rcpt_1', 'rcpt_2'].map((r) => store.rowsOf(r))),
    ledger: await store.ledger(0, 1000),
    head: await store.ledgerHead(),
    documents: [await store.documents('receipt', '', 100), await store.documents('identity', '', 100)],
    keys: await store.keys(),
  }
}

const single: fc.Arbitrary<Step> = fc.oneof(
  fc.tuple(fileId, tenant, fc.option(at)).map(([id, owner, expiresAt]) =>
    call('createFile', (s) =>
      s.createFile({ id, tenant: owner, filename: 'rows.jsonl', purpose: 'batch', bytes: 1, digest: sha(id), createdAt: 0, expiresAt }),
    ),
  ),
  fileId.map((id) => call('file', (s) => s.file(id))),
  fileId.map((id) => call('deleteFile', (s) => s.deleteFile(id))),
  fc.tuple(tenant, page).map(([owner, p]) => call('files', (s) => s.files(owner, p))),
  fc.tuple(batchId, tenant).map(([id, owner]) => call('createBatch', (s) => s.createBatch(batchOf(id, owner)))),
  fc.tuple(batchId, status, at, fc.option(fc.constant(['validating', 'in_progress'] as const), { nil: undefined })).map(
    ([id, to, t, from]) => call(`changeBatch ${to}`, (s) => s.changeBatch(id, { status: to, at: { [to]: t }, total: 3 }, from)),
  ),
  fc.tuple(tenant, page).map(([owner, p]) => call('batches', (s) => s.batches(owner, { ...p, after: undefined }))),
  fc.tuple(batchId, fc.array(fc.tuple(index, fc.nat({ max: 7 })), { maxLength: 6 })).map(([id, rows]) =>
    call('addRows', (s) =>
      s.addRows(id, rows.map(([i, name]) => ({ index: i, customId: `r${name}`, offset: i * 10, bytes: 9 }))),
    ),
  ),
  batchId.map((id) => call('clearRows', (s) => s.clearRows(id))),
  fc.tuple(batchId, index, fc.option(fc.constantFrom('open' as const, 'done' as const, 'failed' as const), { nil: undefined })).map(
    ([id, from, state]) => call('rows', (s) => s.rows(id, { from, limit: 3, state })),
  ),
  fc.tuple(batchId, fc.nat({ max: 40 })).map(([id, from]) => call('place', (s) => s.place(id, 'done', from))),
  fc.tuple(kind, pick('x', 'y'), fc.option(line, { freq: 3 }), at).map(([k, id, json, t]) =>
    call('settle documents', (s) => s.settle({ documents: [{ kind: k, id, json, at: t }] })),
  ),
  fc.tuple(kind, pick('x', 'y')).map(([k, id]) => call('document', (s) => s.document(k, id))),
  fc.nat({ max: 8 }).map((to) => call('dropLedger', (s) => s.dropLedger(to))),
  fc.tuple(fc.nat({ max: 8 }), fc.nat({ max: 3 })).map(([after, limit]) => call('ledger', (s) => s.ledger(after, limit))),
  fc.tuple(pick('key_1', 'key_2'), pick('h1', 'h2')).map(([id, hash]) =>
    call('createKey', (s) =>
      s.createKey({ id, tenant: 'public', name: 'k', hash, prefix: 'ck', scopes: [], createdAt: 0, expiresAt: null, revokedAt: null, extra: {} }),
    ),
  ),
  pick('h1', 'h2').map((hash) => call('keyByHash', (s) => s.keyByHash(hash))),
  fc.tuple(pick('key_1', 'key_2'), at).map(([id, t]) => call('revokeKey', (s) => s.revokeKey(id, t))),
  fc.tuple(tenant, pick('i1', 'i2'), at, at).map(([owner, key, t, fresh]) =>
    call('claim', (s) => s.claim({ tenant: owner, key, request: sha(String(t)), createdAt: t, answer: null }, fresh)),
  ),
  fc.tuple(tenant, pick('i1', 'i2'), answer).map(([owner, key, a]) => call('answered', (s) => s.answered(owner, key, a))),
  at.map((now) => call('compact', (s) => s.compact({ now, batchesS: 2, receiptsS: 3, idempotencyS: 4 }))),
) // prettier-ignore

const settle: fc.Arbitrary<Step> = fc
  .tuple(fc.array(outcome, { maxLength: 5 }), fc.nat({ max: 3 }), fc.nat({ max: 9 }))
  .map(([rows, n, chance]) =>
    call('settle', async (s) => s.settle({ rows, entries: entriesAfter(heads.get(s)!, n, chance === 0, s) })),
  )
const step = fc.oneof(
  { weight: 6, arbitrary: single },
  { weight: 3, arbitrary: settle },
  { weight: 1, arbitrary: outcome.map((one) => call('correctRow', (s) => s.correctRow(one))) },
)
/** Most histories begin with a batch that is being worked on: by chance alone hardly any would get there. */
const beginning: fc.Arbitrary<Step[]> = fc
  .tuple(tenant, fc.array(index, { minLength: 4, maxLength: 12 }))
  .map(([owner, indices]) => [
    call('createBatch', (s) => s.createBatch(batchOf('batch_a', owner))),
    call('addRows', (s) => s.addRows('batch_a', [...new Set(indices)].map(rowOf))),
  ])

/** The head each store should have reached: settlements of one burst are made before the first of them is stored. */
const heads = new WeakMap<Store, LedgerHead>()

function entriesAfter(head: LedgerHead, n: number, isBroken: boolean, store: Store): LedgerRecord[] {
  const entries: LedgerRecord[] = []
  let { seq, hash: prev } = head
  for (let i = 0; i < n; i++) {
    seq++
    const json = `{"seq":${seq}}`
    const hash = sha(prev + json)
    entries.push({ seq, prev: isBroken && i === n - 1 ? sha('elsewhere') : prev, hash, json })
    prev = hash
  }
  if (!isBroken) heads.set(store, { seq, hash: prev })
  return entries
}

/** Steps that are called without waiting for each other, or a crash right behind them. */
const bursts = fc.array(
  fc.oneof(
    { weight: 9, arbitrary: fc.array(step, { minLength: 1, maxLength: 6 }) },
    { weight: 1, arbitrary: fc.constant('crash' as const) },
  ),
  { maxLength: 14 },
)
const history = fc.oneof(
  { weight: 1, arbitrary: bursts },
  { weight: 4, arbitrary: fc.tuple(beginning, bursts).map(([first, rest]) => [first, ...rest]) },
)

const settled = (promise: Promise<unknown>): Promise<unknown> =>
  promise.catch((error: unknown) => {
    if (error instanceof StoreError) return `refused: ${error.code}`
    throw error
  })

export function laws(name: string, open: () => Promise<Subject>, runs = 25): void {
  test(`${name}: any history of calls, bursts and crashes reads as the model's`, async () => {
    await fc.assert(
      fc.asyncProperty(history, async (all) => {
        const model = new ModelStore()
        let subject = await open()
        try {
          for (const burst of all) {
            if (burst === 'crash') subject = await subject.crash()
            else {
              for (const s of [model, subject.store]) heads.set(s, await s.ledgerHead())
              const expected: unknown[] = []
              for (const step of burst) {
                expected.push(await settled(step.run(model)))
                heads.set(model, await model.ledgerHead())
              }
              // A settlement that is refused leaves the head behind where it was: then the burst goes one by one.
              const isPlain = !expected.some(
                (value, i) => burst[i]!.name === 'settle' && typeof value === 'string',
              )
              const found: unknown[] = []
              if (isPlain)
                found.push(...(await Promise.all(burst.map((step) => settled(step.run(subject.store))))))
              else
                for (const step of burst) {
                  found.push(await settled(step.run(subject.store)))
                  heads.set(subject.store, await subject.store.ledgerHead())
                }
              burst.forEach((step, i) =>
                expect({ [step.name]: found[i] }).toEqual({ [step.name]: expected[i] }),
              )
            }
            expect(await everything(subject.store)).toEqual(await everything(model))
          }
        } finally {
          await subject.end()
        }
      }),
      { numRuns: runs },
    )
  })

  test(`${name}: an outcome, its credit and its receipt are kept together or not at all`, async () => {
    let { store, crash, end } = await open()
    await store.createBatch(batchOf('batch_a', 'public'))
    await store.addRows('batch_a', [{ index: 0, customId: 'r0', offset: 0, bytes: 9 }])
    const head = await store.ledgerHead()
    const rows: RowOutcome[] = [{ batch: 'batch_a', index: 0, state: 'done', line: '{}', receipt: 'rcpt_1' }]
    const documents: Settlement['documents'] = [{ kind: 'receipt', id: 'rcpt_1', json: '{}', at: 1 }]
    const wrong = { seq: 2, prev: head.hash, hash: sha('1'), json: '{}' }
    await expect(store.settle({ rows, documents, entries: [wrong] })).rejects.toMatchObject({
      code: 'conflict',
    })
    expect(await store.counts('batch_a')).toMatchObject({ done: 0 })
    expect(await store.document('receipt', 'rcpt_1')).toBeNull()
    expect(await store.settle({ rows, documents, entries: [{ ...wrong, seq: 1 }] })).toEqual({ stored: 1 })
    ;({ store, crash, end } = await crash())
    expect(await store.counts('batch_a')).toMatchObject({ done: 1 })
    expect(await store.ledgerHead()).toEqual({ seq: 1, hash: sha('1') })
    // What is settled stays as it was, whoever comes later.
    expect(await store.settle({ rows: [{ ...rows[0]!, line: 'another' }] })).toEqual({ stored: 0 })
    expect((await store.rows('batch_a', { limit: 1 }))[0]!.line).toBe('{}')
    void crash
    await end()
  })

  test(`${name}: blobs are found by their digest, in any range, and nothing of an aborted one`, async () => {
    const { store, end } = await open()
    const bytes = Buffer.from(Array.from({ length: 700_000 }, (_, i) => i * 7))
    const writer = await store.blobs.create()
    for (let i = 0; i < bytes.length; i += 99_999) await writer.write(bytes.subarray(i, i + 99_999))
    const { digest } = await writer.finish()
    expect(digest).toBe(createHash('sha256').update(bytes).digest('hex'))
    const read = async (from?: number, to?: number, of = digest): Promise<Buffer> => {
      const parts: Uint8Array[] = []
      for await (const part of store.blobs.read(of, from, to)) parts.push(part)
      return Buffer.concat(parts)
    }
    expect((await read()).equals(bytes)).toBe(true)
    for (const [from, to] of [
      [0, 0],
      [5, 5],
      [1, 2],
      [262_143, 262_145],
      [699_999, 900_000],
      [800_000, 900_000],
    ] as const)
      // prettier-ignore
      expect((await read(from, to)).equals(bytes.subarray(from, to))).toBe(true)
    const other = await store.blobs.create()
    await other.write(Buffer.from('half'))
    await other.abort()
    expect(await store.blobs.has(sha('half'))).toBe(false)
    await expect(read(0, 1, sha('half'))).rejects.toMatchObject({ code: 'io' })
    await end()
  })
}
