/** A ledger without its beginning: what is left adds up from a signed checkpoint on, and what went is in files that prove it. */
import { existsSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { verifyLedger } from '../../cli/ledger.ts'
import type { CheckpointDocument } from '../../cli/ledger.ts'
import { compactLedger, lastCheckpoint } from '../../coordinator/books/compaction.ts'
import type { Posting } from '../../coordinator/core/events.ts'
import { openKey } from '../../coordinator/identity.ts'
import { Ledger, pepperOf } from '../../coordinator/books/ledger.ts'
import type { LedgerLine } from '../../coordinator/books/audit.ts'
import { Recorder } from '../../coordinator/books/records.ts'
import { sealed } from '../../coordinator/books/seal.ts'
import { openStore } from '../../coordinator/store/sqlite.ts'
import type { SqliteStore } from '../../coordinator/store/sqlite.ts'
import { chorale } from '../cli/chorale.ts'
import type { Chorale } from '../cli/chorale.ts'
import { serve } from './serve.ts'

const DAY_S = 86_400
let command: Chorale
let data: string
beforeAll(() => {
  command = chorale()
  data = mkdtempSync(join(command.folder, 'data-'))
})
afterAll(() => command.remove())

interface Life {
  store: SqliteStore
  ledger: Ledger
  /** `n` jobs of one unit each, from `first` on. */
  work: (first: number, n: number) => Promise<void>
  tidy: (day: number) => Promise<number>
  lines: () => Promise<LedgerLine[]>
}

async function life(): Promise<Life> {
  const store = await openStore(data)
  const recorder = new Recorder(store, (error) => {
    throw error
  })
  const ledger = await Ledger.open(store, recorder, pepperOf(openKey(data)))
  const move = (kind: Posting['kind'], i: number, from: string, to: string, amount: number): void =>
    ledger.post({
      kind, job: `j${i}`, unit: `u${i}`, identity: `k${i % 3}`, lines: [{ account: from, amount: -amount }, { account: to, amount }],
    } as unknown as Posting) // prettier-ignore
  return {
    store,
    ledger,
    work: async (first, n) => {
      for (let i = first; i < first + n; i++) {
        move('reserve', i, 'requester:tenant:a', `reserved:j${i}`, 5)
        move('earn', i, `reserved:j${i}`, `escrow:k${i % 3}`, 4)
        move('release', i, `reserved:j${i}`, 'requester:tenant:a', 1)
        if (i % 2) move('vest', i, `escrow:k${i % 3}`, `volunteer:k${i % 3}`, 4)
      }
      await recorder.flush()
    },
    tidy: (day) => compactLedger({ ledger, records: store, recorder, folder: data, ageS: 30 * DAY_S, now: () => day * DAY_S }),
    lines: () => ledger.lines(0, 1e6),
  } // prettier-ignore
}
const archives = (): string[] =>
  readdirSync(data)
    .filter((name) => name.startsWith('ledger-'))
    .sort((a, b) => Number(a.split('-')[1]) - Number(b.split('-')[1]))
    .map((name) => join(data, name))
const archived = (): LedgerLine[] =>
  archives().flatMap((file) => readFileSync(file, 'utf8').trim().split('\n').map((line) => JSON.parse(line) as LedgerLine)) // prettier-ignore

test('is kept for its time, then written to a file and forgotten; what is left begins with the checkpoint', async () => {
  const key = openKey(data)
  let { store, ledger, work, tidy, lines } = await life()
  expect(await tidy(0)).toBe(0)
  await work(0, 10)
  const whole = await lines()
  expect(await tidy(1)).toBe(0)
  await work(10, 10)
  expect([await tidy(30), await tidy(31)]).toEqual([0, whole.length])
  expect(await tidy(32)).toBe(0)
  expect(archived()).toEqual(whole)
  const left = await lines()
  expect(left[0]).toMatchObject({ seq: whole.length + 1, prev: whole.at(-1)!.hash })
  // Another life needs none of what went.
  await store.close()
  ;({ store, ledger, work, tidy, lines } = await life())
  await work(20, 10)
  expect(await tidy(61)).toBe(left.length)
  await work(30, 10)
  const checkpoint = (await lastCheckpoint(store))!
  const signed: CheckpointDocument = sealed({ format: 'chorale ledger checkpoint 1', ...checkpoint }, key)
  const rest = await lines()
  expect(rest.length).toBeGreaterThan(0)
  const report = await verifyLedger({ lines: rest, checkpoint: signed })
  expect(report).toMatchObject({ ok: true, entries: ledger.head.seq, from: checkpoint.seq })
  // With what went, nobody's word is needed, and the checkpoint is proven.
  const all = [...archived(), ...rest]
  const proven = await verifyLedger({ lines: all, checkpoint: signed })
  expect(proven).toEqual({ ...report, from: 0, earned: 40 })
  await store.close()
})

test('a checkpoint that is not what went before it is found out by whoever has that; one that can’t be, by anybody', async () => {
  const key = openKey(data)
  const { store, lines } = await life()
  const checkpoint = (await lastCheckpoint(store))!
  const [rest, all] = [await lines(), [...archived(), ...(await lines())]]
  await store.close()
  const signing = (change: object): CheckpointDocument =>
    sealed({ format: 'chorale ledger checkpoint 1', ...checkpoint, ...change }, key)
  const of = (account: string): number => checkpoint.balances.find(([name]) => name === account)![1]
  const moved = checkpoint.balances.map(([name, n]) => [name, name === 'volunteer:k0' ? n + 1 : name === 'volunteer:k1' ? n - 1 : n] as const) // prettier-ignore
  expect(of('volunteer:k1')).toBeGreaterThan(0)
  const why = async (changed: CheckpointDocument, given = rest): Promise<string | undefined> =>
    (await verifyLedger({ lines: given, checkpoint: changed })).flaw?.why
  expect(await why(signing({ balances: moved }))).toBeUndefined()
  expect(await why(signing({ balances: moved }), all)).toMatch(/balances of the signed checkpoint are not/)
  expect(await why(signing({ balances: moved.slice(1) }))).toMatch(/sum to/)
  expect(await why(signing({ balances: undefined }))).toMatch(/without balances/)
  expect(await why(signing({ balances: [['escrow:x', -1], ['granted:x', 1]] }))).toMatch(/escrow:x would have -1/) // prettier-ignore
  expect(await why(signing({ hash: 'ab'.repeat(32) }))).toMatch(/it follows/)
  expect(await why(signing({ seq: checkpoint.seq - 1 }))).toMatch(/numbered/)
  expect(await why({ ...signing({}), balances: moved })).toMatch(/checkpoint: balances/)
  expect((await verifyLedger({ lines: rest })).flaw?.why).toMatch(/numbered/)
}) // prettier-ignore

test('a stop in the middle of it is made up for', async () => {
  const { store, ledger, work, tidy, lines } = await life()
  await work(40, 5)
  const before = await lines()
  // As if it had ended before anything was forgotten, and before the file was whole.
  const drop = store.dropLedger
  store.dropLedger = () => Promise.reject(new Error('killed'))
  await expect(tidy(92)).rejects.toThrow('killed')
  store.dropLedger = drop
  writeFileSync(join(data, 'ledger-1-2.jsonl.part'), 'half')
  expect(await tidy(92)).toBeGreaterThan(0)
  const { seq } = (await lastCheckpoint(store))!
  expect(await lines()).toEqual(before.filter((line) => line.seq > seq))
  expect(ledger.head.seq).toBe(before.at(-1)!.seq)
  await store.close()
})

test('chorale ledger verify goes on from the checkpoint and says so; with the files, from the beginning', async () => {
  const served = await serve({ dataFolder: data })
  try {
    const { status, body } = await fetch(`${served.url}/v1/ledger/checkpoint`).then(async (answer) => ({
      status: answer.status,
      body: (await answer.json()) as CheckpointDocument,
    }))
    expect([status, body.coordinator]).toEqual([200, served.publicKey])
    const told = await command.run(['ledger', 'verify', served.url])
    expect([told.code, told.stdout]).toEqual([0, expect.stringMatching(`entries up to ${body.seq} are not here`)])
    const files = archives().filter((file) => !file.endsWith('.part'))
    expect(files.every(existsSync)).toBe(true)
    const proven = await command.run(['ledger', 'verify', served.url, '--json', '--archive', ...files])
    expect(JSON.parse(proven.stdout)).toMatchObject({ ok: true, from: 0, flaw: null })
  } finally {
    await served.close(0)
  }
}) // prettier-ignore
