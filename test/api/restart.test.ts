/**
 * Trust over a kill: real sockets, a real data folder. What was given out in one life of the coordinator is put right in the next,
 * when its author is convicted there, and becomes final, and its credit vested, where nobody was wrong.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { verifyLedger } from '../../cli/ledger.ts'
import type { LedgerReport } from '../../cli/ledger.ts'
import { localCompute, verify } from '../../cli/verify.ts'
import { startNodeVolunteer } from '../../client/node.ts'
import type { NodeVolunteer } from '../../client/node.ts'
import { parseDocument } from '../../coordinator/books/documents.ts'
import type { EvidenceBundle, Receipt } from '../../coordinator/books/documents.ts'
import type { LedgerLine } from '../../coordinator/books/audit.ts'
import { CoordinatorProcess, freePort } from '../chaos/processes.ts'
import { eventually, serve } from './serve.ts'
import type { Served } from './serve.ts'

const folder = await mkdtemp(join(tmpdir(), 'chorale-restart-'))
const port = await freePort()
const url = `http://127.0.0.1:${port}`
const dataFolder = join(folder, 'data')
const { compute, close } = await localCompute({ backend: 'wasm', threads: 1 })
const volunteers: NodeVolunteer[] = []
let killed: CoordinatorProcess | undefined
let served: Served | undefined
afterAll(async () => {
  await Promise.all(volunteers.map((one) => one.stop()))
  await killed?.end('SIGKILL')
  await served?.close(0)
  await close()
  await rm(folder, { recursive: true, force: true })
})

const json = async <T>(path: string): Promise<T> => (await (await fetch(url + path)).json()) as T
const receipt = async (id: string): Promise<Receipt> =>
  parseDocument(await json(`/v1/receipts/${id}`)) as Receipt

/** A text, or two rows; returns the receipt's id. */
async function ask(turn: number): Promise<string> {
  const [path, body] =
    turn % 2
      ? ['completions', { model: 'tales-3m', prompt: 'Once upon a time', max_tokens: 6, seed: turn, temperature: 0.8 }]
      : ['classify', { model: 'intents-3m', input: [`play song ${turn}`, `call ${turn}`] }] // prettier-ignore
  const answer = await fetch(`${url}/v1/${path}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ ...body, volunteer: { trust: 'fast' } }),
  })
  const said = (await answer.json()) as { volunteer?: { receipt: string }; error?: unknown }
  expect(said.error).toBeUndefined()
  return said.volunteer!.receipt
}

/** Several at once: of one alone the faster would be asked each time. */
const askAll = (from: number): Promise<string[]> => Promise.all([0, 1, 2, 3].map((i) => ask(from + i)))

async function ledger(
  receipts: readonly Receipt[],
): Promise<LedgerReport & { of: (account: string) => number }> {
  const lines = (await (await fetch(`${url}/v1/ledger`)).text()).trimEnd().split('\n').map((line) => JSON.parse(line) as LedgerLine) // prettier-ignore
  const report = await verifyLedger({ lines, receipts })
  expect(report.flaw).toBeNull()
  const of = (account: string): number =>
    lines
      .flatMap((line) => line.entry.lines)
      .reduce((n, one) => n + (one.account === account ? one.amount : 0), 0)
  return { ...report, of }
}

test('a lie outlives a kill no longer than its author: it is corrected, and its credit taken back; honest work becomes final', async () => {
  // Nobody is here to check anybody: what is asked for fast is given out as it comes.
  killed = new CoordinatorProcess(port, dataFolder, ['--no-house', '--trust', 'fast'])
  await killed.start()
  for (const [name, adversary] of [['honest', undefined], ['liar', 'flipper']] as const)
    volunteers.push(await startNodeVolunteer(url, { folder: join(folder, name), engine: 'wasm', threads: 1, adversary })) // prettier-ignore
  const ready = async (): Promise<boolean> =>
    (await json<{ models: { volunteers: number }[] }>('/v1/status')).models.every((m) => m.volunteers === 2)
  await eventually(ready, 'both are ready')
  const [honest, liar] = volunteers.map((one) => one.picture().publicKey!) as [string, string]
  const receipts: Receipt[] = []
  const of = (key: string): Receipt[] =>
    receipts.filter(({ units }) => units.every((one) => one.volunteer === key))
  for (let turn = 0; turn < 100 && (of(honest).length < 4 || of(liar).length < 4); turn += 4)
    receipts.push(...(await Promise.all((await askAll(turn)).map(receipt))))
  const [right, wrong] = [of(honest), of(liar)]
  expect([right.length > 3, wrong.length > 3]).toEqual([true, true])
  const unitsOf = (some: readonly Receipt[]): Receipt['units'] => some.flatMap(({ units }) => units)
  for (const one of unitsOf(receipts)) expect(one).toMatchObject({ status: 'provisional', check: { kind: 'none', by: [] } }) // prettier-ignore
  const earned = (await ledger(receipts)).of(`escrow:${liar}`)
  expect(earned).toBe(
    unitsOf(receipts).reduce((n, { macs, volunteer }) => n + (volunteer === liar ? macs : 0), 0),
  )
  await killed.end('SIGKILL')

  served = await serve({ port, dataFolder, house: true, policy: { discloseMs: 500 } })
  await eventually(async () => (await fetch(`${url}/readyz`)).ok && (await ready()), 'all are back')
  const evidence = async (): Promise<{ id: string; volunteer: string }[]> => (await json<{ data: { id: string; volunteer: string }[] }>('/v1/evidence')).data // prettier-ignore
  for (let turn = 200; turn < 400 && (await evidence()).length === 0; turn += 4) await askAll(turn)
  expect(await evidence()).toMatchObject([{ volunteer: liar }])
  const bundle = parseDocument(await json(`/v1/evidence/${(await evidence())[0]!.id}`)) as EvidenceBundle
  expect(await verify(bundle, { compute })).toMatchObject({ ok: true, proven: true })

  const corrected = async (): Promise<Receipt[]> => Promise.all(wrong.map(({ id }) => receipt(id)))
  await eventually(
    async () => (await corrected()).every(({ units }) => units.every((one) => one.status === 'corrected')),
    'every earlier lie is corrected',
  )
  for (const [i, now] of (await corrected()).entries()) {
    for (const [k, unit] of now.units.entries())
      expect(unit).toMatchObject({ volunteer: 'house', replaced: { volunteer: liar, output: wrong[i]!.units[k]!.output } }) // prettier-ignore
    expect(await verify(now, { compute })).toMatchObject({ ok: true, flaw: null })
  }
  const after = await ledger([...right, ...(await corrected())])
  expect([after.of(`escrow:${liar}`), after.of(`volunteer:${liar}`)]).toEqual([0, 0])
  for (const { id } of right)
    for (const { status } of (await receipt(id)).units) expect(status).toBe('provisional')
  const pending = after.of(`escrow:${honest}`)
  expect(pending).toBeGreaterThan(0)
  await Promise.all(volunteers.splice(0).map((one) => one.stop()))
  await served.close(0)

  // A day later, as far as anybody can tell.
  served = await serve({ port, dataFolder, house: true, policy: { windowMs: 1 } })
  await eventually(async () => (await ledger([])).of(`escrow:${honest}`) === 0, 'its credit vests')
  const final = await ledger(await Promise.all(right.map(({ id }) => receipt(id))))
  expect(final.of(`volunteer:${honest}`)).toBeGreaterThanOrEqual(pending)
  for (const { id } of right) {
    const now = await receipt(id)
    for (const unit of now.units) expect(unit).toMatchObject({ status: 'final', volunteer: honest })
    expect(await verify(now, { compute })).toMatchObject({ ok: true, verification: 'unverified' })
  }
})
