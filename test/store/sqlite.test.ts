/** The store in SQLite: the laws of every store, and what is its own: files, locks, versions, damage, full disks. */
import { createHash } from 'node:crypto'
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { afterAll, expect, inject, test } from 'vitest'
import { BLOBS, Database, DATABASE, INLINE_MAX } from '../../coordinator/store/database.ts'
import type { Call } from '../../coordinator/store/database.ts'
import { openStore } from '../../coordinator/store/sqlite.ts'
import { StoreError } from '../../coordinator/store/store.ts'
import type { Store } from '../../coordinator/store/store.ts'
import { Random } from '../harness/random.ts'
import { laws } from './laws.ts'
import type { Subject } from './laws.ts'

const root = mkdtempSync(join(tmpdir(), 'chorale-store-'))
afterAll(() => rmSync(root, { recursive: true, force: true }))
let counter = 0
const fresh = (): string => join(root, String(counter++))

async function subject(folder = fresh()): Promise<Subject> {
  const store = await openStore(folder)
  return {
    store,
    // The files as they lie on the disk now are what a killed process leaves: no close, no checkpoint.
    crash: async () => {
      const copy = fresh()
      cpSync(folder, copy, { recursive: true })
      await store.close()
      return subject(copy)
    },
    end: () => store.close(),
  }
}

laws('SQLite', subject)

test('a second coordinator on the same data is told who has it', async () => {
  const folder = fresh()
  const store = await openStore(folder)
  await expect(openStore(folder)).rejects.toThrow(
    `Another coordinator (process ${process.pid}) has ${folder} open. Stop it first, or choose another data folder.`,
  )
  await store.close()
  await (await openStore(folder)).close()
})

const raw = (folder: string, ...statements: string[]): void => {
  const db = new DatabaseSync(join(folder, DATABASE))
  for (const sql of statements) db.exec(sql)
  db.close()
}
async function written(): Promise<string> {
  const folder = fresh()
  const store = await openStore(folder)
  await store.settle({ documents: [{ kind: 'receipt', id: 'r', json: '{}', at: 0 }] })
  await store.close()
  return folder
}

test('data of a newer version is left alone, and a sentence says so', async () => {
  const folder = await written()
  raw(folder, 'PRAGMA user_version = 99')
  await expect(openStore(folder)).rejects.toThrow(
    /written by a newer Chorale \(data version 99; this one knows \d+\)/,
  )
})

test("another program's database is not taken for ours", async () => {
  const folder = fresh()
  mkdirSync(folder)
  raw(folder, 'CREATE TABLE theirs(x)')
  await expect(openStore(folder)).rejects.toThrow(/is no database of Chorale's. Choose another data folder/)
})

test('damage is found when it is opened: the file is named, and what to do', async () => {
  const folder = await written()
  const file = join(folder, DATABASE)
  const random = new Random(inject('seed'), 'damage')
  const good = readFileSync(file)
  for (let i = 0; i < 20; i++) {
    const bytes = Buffer.from(good)
    // A page of noise somewhere, or a file cut short.
    if (i % 2)
      for (let at = random.int(0, bytes.length / 8192 - 1) * 8192, end = at + 8192; at < end; at++)
        bytes[at] = random.int(0, 255)
    writeFileSync(file, i % 2 ? bytes : bytes.subarray(0, random.int(1, bytes.length - 8192)))
    const error = await openStore(folder).then(
      (store) => store.close(),
      (thrown: StoreError) => thrown,
    )
    expect(error).toBeInstanceOf(StoreError)
    expect(error!.code).toMatch(/corrupt|newer/)
    expect(error!.message).toContain(file)
  }
  writeFileSync(file, good)
  await (await openStore(folder)).close()
})

test('a text of any size comes back, the large ones from files of their own; unused files are swept', async () => {
  const folder = fresh()
  const store = await openStore(folder)
  const sizes = [0, 1, INLINE_MAX - 1, INLINE_MAX, INLINE_MAX + 1, 1_000_000]
  await store.settle({
    documents: sizes.map((n) => ({ kind: 'receipt', id: `r${n}`, json: 'x'.repeat(n), at: n })),
  })
  for (const n of sizes) expect((await store.document('receipt', `r${n}`))!.json.length).toBe(n)
  const blobs = (): number =>
    readdirSync(join(folder, BLOBS))
      .filter((name) => name.length === 2)
      .reduce((n, name) => n + readdirSync(join(folder, BLOBS, name)).length, 0)
  expect(blobs()).toBe(2)
  await store.compact({ now: 1e7, batchesS: 0, receiptsS: 0, idempotencyS: 0 })
  // Young ones are left: a row may be about to name them.
  expect(blobs()).toBe(2)
  expect(await store.blobs.sweep(() => false, 0)).toBe(2)
  expect(blobs()).toBe(0)
  await store.close()
})

test('trouble with the disk undoes the whole group: the patient wait, others are told, and readers still read', () => {
  const db = new Database(fresh())
  const insert = (id: string): void =>
    void db.run(`INSERT INTO keys(id, hash, json) VALUES (?, ?, '{}')`, id, id)
  const count = (): unknown => db.get('SELECT count(*) AS n FROM keys')!.n
  let isFull = true
  const run = ({ method, args }: Call): unknown => {
    if (method === 'read') return count()
    insert(args[0] as string)
    if (isFull && args[0] === 'c') throw Object.assign(new Error('no space'), { code: 'ENOSPC' })
    return 'written'
  }
  const calls: Call[] = [
    { method: 'write', args: ['a'], isPatient: false },
    { method: 'write', args: ['b'], isPatient: true },
    { method: 'write', args: ['c'], isPatient: true },
    { method: 'read', args: [], isPatient: false },
  ]
  expect(db.runGroup(calls, run)).toMatchObject([
    { code: 'disk_full' },
    { again: true },
    { again: true },
    { value: 0 },
  ])
  expect(count()).toBe(0)
  isFull = false
  // A call that fails by itself takes nobody along.
  expect(db.runGroup([...calls, calls[0]!], run)).toMatchObject([
    { value: 'written' }, { value: 'written' }, { value: 'written' }, { value: 3 }, { code: 'conflict' },
  ]) // prettier-ignore
  expect(count()).toBe(3)
  db.close()
})

test('a backup of a store at work is one moment of it, and opens as data', async () => {
  const folder = fresh()
  const store = await openStore(folder)
  writeFileSync(join(folder, 'coordinator.key'), 'a key')
  await store.createBatch({
    id: 'batch_1', tenant: 'public', endpoint: '/v1/embeddings', model: null, trust: 'fast', inputFile: 'f', status: 'validating', total: 0,
    input: await blobOf(store, 'the input'), createdAt: 0, expiresAt: 1, at: {}, errors: [], metadata: null, outputFile: null, errorFile: null, extra: {},
  }) // prettier-ignore
  const n = 400
  await store.addRows(
    'batch_1',
    Array.from({ length: n }, (_, index) => ({ index, customId: `r${index}`, offset: 0, bytes: 1 })),
  )
  let prev = (await store.ledgerHead()).hash
  const writing = Array.from({ length: n }, (_, index) => {
    const entry = {
      seq: index + 1,
      prev,
      hash: createHash('sha256').update(`${index}`).digest('hex'),
      json: '{}',
    }
    prev = entry.hash
    const line = index % 50 === 0 ? 'y'.repeat(100_000) : `{"i":${index}}`
    return store.settle({
      rows: [{ batch: 'batch_1', index, state: 'done', line, receipt: null }],
      entries: [entry],
    })
  })
  const copy = fresh()
  await store.backup(copy)
  await Promise.all(writing)
  await expect(store.backup(copy)).rejects.toMatchObject({ code: 'conflict' })
  await store.close()

  const restored = await openStore(copy)
  const { done } = await restored.counts('batch_1')
  // One settlement, one row, one entry: whatever moment it was, they agree.
  expect((await restored.ledgerHead()).seq).toBe(done)
  const rows = await restored.rows('batch_1', { limit: n, state: 'done' })
  for (const { index, line } of rows)
    expect(line!.length).toBe(index % 50 === 0 ? 100_000 : `{"i":${index}}`.length)
  const { input } = (await restored.batch('batch_1'))!
  const parts: Uint8Array[] = []
  for await (const part of restored.blobs.read(input)) parts.push(part)
  expect(Buffer.concat(parts).toString()).toBe('the input')
  expect(readFileSync(join(copy, 'coordinator.key'), 'utf8')).toBe('a key')
  await restored.close()
})

async function blobOf(store: Store, text: string): Promise<string> {
  const writer = await store.blobs.create()
  await writer.write(Buffer.from(text))
  return (await writer.finish()).digest
}
