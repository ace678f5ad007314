/** A job of many units that a kill cuts off in the middle: it is done again, and paid for once. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import OpenAI from 'openai'
import { afterAll, expect, test } from 'vitest'
import type { LedgerLine } from '../../coordinator/books/audit.ts'
import type { Receipt } from '../../coordinator/books/documents.ts'
import { runningIn } from '../../coordinator/data.ts'
import { verifyLedger } from '../../cli/ledger.ts'
import { packedFolder } from '../../tools/models.ts'
import { eventually, spawnStranger } from '../api/serve.ts'
import type { Spawned } from '../api/serve.ts'
import { audit } from './auditor.ts'
import { CoordinatorProcess, freePort } from './processes.ts'

const folder = mkdtempSync(join(tmpdir(), 'chorale-paid-once-'))
const volunteers: Spawned[] = []
let coordinator: CoordinatorProcess | undefined
afterAll(async () => {
  for (const one of volunteers) one.kill()
  await coordinator?.end('SIGKILL')
  rmSync(folder, { recursive: true, force: true, maxRetries: 3 })
})

const CHOICES = 8
const body = {
  model: 'tales-3m',
  prompt: 'Once upon a time',
  n: CHOICES,
  max_tokens: 24,
  seed: 5,
  temperature: 1,
}

test('SIGKILL after some units of eight: the job ends in the next life, and the sums are those of one job', async () => {
  const models = await packedFolder('tales-3m')
  const data = join(folder, 'data')
  coordinator = new CoordinatorProcess(await freePort(), data, ['--models', models, '--no-house'])
  await coordinator.start()
  const { url } = coordinator
  const json = async <T>(path: string): Promise<T> => (await (await fetch(`${url}${path}`)).json()) as T
  const lines = async (): Promise<LedgerLine[]> =>
    (await (await fetch(`${url}/v1/ledger`)).text()).split('\n').filter(Boolean).map((line) => JSON.parse(line) as LedgerLine)
  // One text after the other, slowly enough to be caught between two of them.
  volunteers.push(await spawnStranger(url, { restMs: 10, concurrency: 1 }))
  // Whoever asks has credit for one such job and no more: were any of it lost or spent twice, the second life could not do it.
  const asAdmin = async <T>(path: string, given: object): Promise<T> => {
    const headers = { 'content-type': 'application/json', authorization: `Bearer ${runningIn(data)!.key}` }
    return (await fetch(`${url}${path}`, { method: 'POST', headers, body: JSON.stringify(given) })).json() as T
  }
  const made = await asAdmin<{ id: string; key: string }>('/v1/keys', { name: 'poor', credit: 0 })
  const openai = new OpenAI({ baseURL: `${url}/v1`, apiKey: made.key, maxRetries: 0 })
  const refusal = await openai.completions.create({ ...body, volunteer: { trust: 'fast' } } as OpenAI.CompletionCreateParamsNonStreaming).catch(String)
  const granted = Number(/up to (\d+) credits/.exec(refusal as string)![1])
  await asAdmin(`/v1/keys/${made.id}/credit`, { amount: granted })
  const row = JSON.stringify({ custom_id: 'tale', method: 'POST', url: '/v1/completions', body })
  const file = await openai.files.create({ file: new File([row], 'rows.jsonl'), purpose: 'batch' })
  const { id } = await openai.batches.create({
    input_file_id: file.id, endpoint: '/v1/completions', completion_window: '24h', volunteer: { trust: 'fast' },
  } as OpenAI.BatchCreateParams)
  const unitsDone = async (): Promise<number> =>
    (await json<{ totals: { unitsDone: number } }>('/v1/status')).totals.unitsDone
  await eventually(async () => (await unitsDone()) >= 3, 'three units were answered')
  await coordinator.end('SIGKILL')
  await coordinator.start()
  const before = await lines()
  expect((await openai.batches.retrieve(id)).request_counts).toEqual({ total: 1, completed: 0, failed: 0 })
  expect(before.filter(({ entry }) => entry.kind === 'earn')).toEqual([])

  volunteers.push(await spawnStranger(url, { concurrency: 2 }))
  await eventually(async () => (await openai.batches.retrieve(id)).status === 'completed', 'the batch is over')
  const { output_file_id } = await openai.batches.retrieve(id)
  const line = (await (await openai.files.content(output_file_id!)).text()).trim()
  const answer = JSON.parse(line).response.body as OpenAI.Completion & { volunteer: { receipt: string } }
  expect(answer.choices).toHaveLength(CHOICES)
  const receipt = await json<Receipt>(`/v1/receipts/${answer.volunteer.receipt}`)
  expect(receipt.units).toHaveLength(CHOICES)
  const worth = receipt.units.reduce((sum, { macs }) => sum + macs, 0)
  const report = await verifyLedger({ lines: await lines(), receipts: [receipt] })
  expect(report).toMatchObject({ ok: true, earned: CHOICES, backed: CHOICES, balances: { granted: -granted, escrow: worth } })
  expect(report.balances.credit ?? 0).toBe(granted - worth)
  expect(report.balances.reserved).toBeUndefined()
  await coordinator.end('SIGKILL')
  const found = audit(data, [])
  expect([...found.ledgerFaults, ...found.lost, ...found.doubleCredits]).toEqual([])
}) // prettier-ignore
