/** Credit: a tenant with a limit spends what it was granted and no more, whoever asks at once and however often all is restarted. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import OpenAI from 'openai'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { verifyLedger } from '../../cli/ledger.ts'
import { canonicalJson } from '../../coordinator/books/canonical.ts'
import type { Credit } from '../../coordinator/books/credits.ts'
import { runningIn } from '../../coordinator/data.ts'
import type { Receipt } from '../../coordinator/books/documents.ts'
import { Audit, hashOf } from '../../coordinator/books/audit.ts'
import type { LedgerLine } from '../../coordinator/books/audit.ts'
import { errorOf } from './desk.ts'
import { eventually, serve } from './serve.ts'
import type { Served } from './serve.ts'

const folder = mkdtempSync(join(tmpdir(), 'chorale-credit-'))
let served: Served
let admin: string
async function open(): Promise<Served> {
  const opened = await serve({ house: true, dataFolder: folder })
  await eventually(() => opened.status().models.every(({ houses }) => houses > 0), 'the house is ready')
  return opened
}
beforeAll(async () => {
  served = await open()
  admin = (await made({ name: 'admin', scopes: ['admin'] }, '')).key
})
afterAll(async () => {
  await served?.close(0)
  rmSync(folder, { recursive: true, force: true, maxRetries: 3 })
})

const bearer = (key: string): Record<string, string> => ({ authorization: `Bearer ${key}` })
const client = (apiKey: string): OpenAI => new OpenAI({ baseURL: `${served.url}/v1`, apiKey, maxRetries: 0 })
const get = async <T>(path: string, key: string): Promise<T> =>
  (await (await fetch(`${served.url}${path}`, { headers: bearer(key) })).json()) as T
const creditOf = (key: string): Promise<Credit> => get('/v1/credits', key)

/** The first key is made before there is one to ask with: by whoever has the data folder. */
async function made(options: object, by = admin): Promise<{ id: string; key: string }> {
  const key = by || runningIn(folder)!.key
  const answer = await served.post('/v1/keys', options, bearer(key))
  expect(answer.status, JSON.stringify(options)).toBe(200)
  return (await answer.json()) as { id: string; key: string }
}
const grant = (id: string, amount: number): Promise<Response> =>
  served.post(`/v1/keys/${id}/credit`, { amount }, bearer(admin))

const tale = { model: 'tales-3m', prompt: 'Once upon a time', max_tokens: 16, temperature: 0 }
/** What a request is worth, and how much more is reserved for it. */
async function worthOf(body: object): Promise<number> {
  const { key } = await made({ name: 'rich', credit: 1e9 })
  const answer = await client(key).completions.create(body as OpenAI.CompletionCreateParamsNonStreaming)
  const { receipt } = (answer as unknown as { volunteer: { receipt: string } }).volunteer
  const { units } = await get<Receipt>(`/v1/receipts/${receipt}`, key)
  const worth = units.reduce((sum, { macs }) => sum + macs, 0)
  expect(await creditOf(key)).toEqual({ object: 'credits', granted: 1e9, used: worth, left: 1e9 - worth })
  return worth
}

async function ledger(): Promise<LedgerLine[]> {
  const lines: LedgerLine[] = []
  for (;;) {
    const text = await (await fetch(`${served.url}/v1/ledger?after=${lines.length}&limit=1000`)).text()
    const page = text.split('\n').filter(Boolean)
    if (page.length === 0) return lines
    lines.push(...page.map((line) => JSON.parse(line) as LedgerLine))
  }
}

describe('credit', () => {
  test('is reserved before it is spent, and what an answer did not need is there again', async () => {
    const worth = await worthOf(tale)
    const { id, key } = await made({ name: 'poor', credit: 0 })
    expect((await served.post('/v1/completions', tale, bearer(key))).status).toBe(429)
    await grant(id, worth - 1)
    const answer = await served.post('/v1/completions', tale, bearer(key))
    expect([answer.headers.get('x-should-retry'), answer.headers.get('retry-after')]).toEqual(['false', null])
    const { status, code, message } = await errorOf(answer)
    expect([status, code]).toEqual([429, 'insufficient_credits'])
    expect(message).toBe(`It may cost up to ${worth} credits, and ${worth - 1} are left. A smaller max_tokens reserves less.`)
    await expect(client(key).completions.create(tale)).rejects.toBeInstanceOf(OpenAI.RateLimitError)
    expect(await creditOf(key)).toMatchObject({ used: 0, left: worth - 1 })
    expect((await grant(id, 1)).status).toBe(200)
    // Each input is reserved for as if it were a unit of its own, rounded up; together they are worth less.
    const many = { model: 'intents-3m', input: Array.from({ length: 100 }, () => 'some jazz') }
    const most = Number(/up to (\d+) credits/.exec((await errorOf(await served.post('/v1/embeddings', many, bearer(key)))).message)![1])
    await grant(id, most - worth)
    expect((await served.post('/v1/embeddings', many, bearer(key))).status).toBe(200)
    const { used, left } = await creditOf(key)
    expect(used).toBeGreaterThan(0)
    expect(used).toBeLessThan(most)
    expect(left).toBe(most - used)
  }) // prettier-ignore

  test('cannot be spent twice by requests that come at once', async () => {
    const worth = await worthOf(tale)
    const { key } = await made({ name: 'crowd', credit: 3 * worth + 1 })
    const answers = await Promise.all(Array.from({ length: 12 }, () => served.post('/v1/completions', tale, bearer(key))))
    const codes = await Promise.all(answers.map(async (one) => (one.ok ? 'ok' : (await errorOf(one)).code)))
    expect(codes.filter((code) => code === 'ok')).toHaveLength(3)
    expect(codes.filter((code) => code === 'insufficient_credits')).toHaveLength(9)
    expect(await creditOf(key)).toMatchObject({ used: 3 * worth, left: 1 })
  }) // prettier-ignore

  test('of a tenant is all its keys’, is granted and taken back by an admin only, and never below nothing', async () => {
    const one = await made({ name: 'one', tenant: 'both', credit: 100 })
    const two = await made({ name: 'two', tenant: 'both' })
    expect(await creditOf(two.key)).toMatchObject({ granted: 100, left: 100 })
    await made({ name: 'three', tenant: 'both', credit: 50 })
    expect(await creditOf(one.key)).toMatchObject({ granted: 150, left: 150 })
    expect((await grant(two.id, -50)).status).toBe(200)
    expect(await errorOf(await grant(two.id, -101))).toMatchObject({ status: 400, code: 'invalid_value', param: 'amount' })
    expect((await served.post(`/v1/keys/${one.id}/credit`, { amount: 5 }, bearer(one.key))).status).toBe(403)
    for (const amount of [1.5, '5', null, 2 ** 53, 2 ** 53 - 1]) expect((await grant(one.id, amount as number)).status).toBe(400)
    expect(await errorOf(await grant('key_nobody', 5))).toMatchObject({ status: 404, code: 'key_not_found' })
    expect(await creditOf(one.key)).toEqual({ object: 'credits', granted: 100, used: 0, left: 100 })
  }) // prettier-ignore

  test('without a limit is counted, and needs none', async () => {
    const { id, key } = await made({ name: 'free', tenant: 'free' })
    await client(key).completions.create(tale)
    const { granted, used, left } = await creditOf(key)
    expect([granted, left]).toEqual([null, null])
    expect(used).toBeGreaterThan(0)
    expect(await errorOf(await grant(id, 5))).toMatchObject({ code: 'invalid_value' })
    const limited = await served.post('/v1/keys', { name: 'x', tenant: 'free', credit: 5 }, bearer(admin))
    expect(await errorOf(limited)).toMatchObject({ status: 400, param: 'credit' })
  })

  test('that ends in the middle of a batch: what could be paid is answered, each other row says why it is not', async () => {
    const input = 'play some jazz'
    const n = 40
    const { key: rich } = await made({ name: 'measure', credit: 1e9 })
    await client(rich).embeddings.create({ model: 'intents-3m', input })
    const each = (await creditOf(rich)).used
    const { key } = await made({ name: 'batches', credit: Math.round(10.5 * each) })
    const openai = client(key)
    const rows = Array.from({ length: n }, (_, i) =>
      JSON.stringify({ custom_id: `${i}`, method: 'POST', url: '/v1/embeddings', body: { model: 'intents-3m', input } }),
    )
    const file = await openai.files.create({ file: new File([rows.join('\n')], 'rows.jsonl'), purpose: 'batch' })
    const create = (): Promise<OpenAI.Batch> =>
      openai.batches.create({ input_file_id: file.id, endpoint: '/v1/embeddings', completion_window: '24h' })
    let batch = await create()
    while (!batch.completed_at) {
      await new Promise((resolve) => setTimeout(resolve, 50))
      batch = await openai.batches.retrieve(batch.id)
    }
    const { used, left } = await creditOf(key)
    expect(left).toBeLessThan(each)
    expect(batch.status).toBe('completed')
    const done = Math.round(used / each)
    expect(batch.request_counts).toEqual({ total: n, completed: done, failed: n - done })
    expect(done).toBe(10)
    const errors = (await (await openai.files.content(batch.error_file_id!)).text()).trim().split('\n')
    for (const line of errors) expect(JSON.parse(line)).toMatchObject({ response: { status_code: 429, body: { error: { code: 'insufficient_credits' } } } })
    // With nothing left, another is refused when it is created.
    expect((await grant((await get<{ data: { id: string; name: string }[] }>('/v1/keys', admin)).data.find(({ name }) => name === 'batches')!.id, -left!)).status).toBe(200)
    await expect(create()).rejects.toMatchObject({ status: 429, code: 'insufficient_credits' })
  }) // prettier-ignore

  test('outlives the process, and the ledger that says so adds up', async () => {
    const worth = await worthOf(tale)
    const { key } = await made({ name: 'lasting', credit: 2 * worth })
    await client(key).completions.create(tale)
    const before = await creditOf(key)
    await served.close(0)
    served = await open()
    expect(await creditOf(key)).toEqual(before)
    await client(key).completions.create(tale)
    expect(await creditOf(key)).toEqual({ object: 'credits', granted: 2 * worth, used: 2 * worth, left: 0 })
    await expect(client(key).completions.create(tale)).rejects.toMatchObject({ code: 'insufficient_credits' })
    const lines = await ledger()
    expect(await verifyLedger({ lines })).toMatchObject({ ok: true })
    // Whoever checks needs nobody's word that nobody overdrew.
    const spent = lines.findLast(({ entry }) => entry.kind === 'reserve' && entry.lines[0]!.account.startsWith('credit:'))!
    const { account } = spent.entry.lines[0]!
    const audit = new Audit()
    for (const line of lines) audit.add(line)
    const entry = { ...spent.entry, seq: lines.length + 1, lines: [{ account, amount: -1 }, { account: 'reserved:more', amount: 1 }] }
    const prev = lines.at(-1)!.hash
    expect(() => audit.add({ seq: entry.seq, prev, hash: hashOf(prev, canonicalJson(entry)), entry })).toThrow(/would have -1/)
  }) // prettier-ignore
})
