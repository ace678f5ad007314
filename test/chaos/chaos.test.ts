/** The short version of `npm run chaos`: real processes, a few kills, and the auditor over the database. */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import OpenAI from 'openai'
import { expect, inject, test } from 'vitest'
import { eventually } from '../api/serve.ts'
import { CoordinatorProcess, freePort } from './processes.ts'
import { chaos } from './world.ts'

/** One file may grow to this, bytes; what is written beyond fails, as on a full disk. False where a system can't be told. */
function limitFiles({ pid }: CoordinatorProcess, bytes: number | 'unlimited'): boolean {
  return spawnSync('prlimit', ['--pid', String(pid), `--fsize=${bytes}:`]).status === 0
}

test('a coordinator killed under load loses nothing it acknowledged, pays nothing twice, and its ledger adds up', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'chorale-chaos-'))
  try {
    const { faults, audit, kills } = await chaos({
      seed: inject('seed'),
      kills: 5,
      volunteers: 1,
      requesters: 2,
      rows: 100,
      calmMs: 1_000,
      folder,
      say: () => {},
    })
    const { lost, doubleCredits, ledgerFaults, differing, rows, entries } = audit
    expect({ faults, lost, doubleCredits, ledgerFaults, differing }).toEqual({
      faults: [], lost: [], doubleCredits: [], ledgerFaults: [], differing: [],
    }) // prettier-ignore
    // It would be easy to lose nothing of nothing.
    expect(rows).toBeGreaterThan(0)
    expect(entries).toBeGreaterThan(0)
    expect(Object.values(kills).reduce((n, one) => n + one, 0)).toBe(5)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
})

test('a disk that takes no more is said in words; what was accepted is finished when there is room, with no restart', async (context) => {
  const folder = mkdtempSync(join(tmpdir(), 'chorale-full-'))
  const coordinator = new CoordinatorProcess(await freePort(), folder, ['--models', 'intents-3m'])
  const { url } = coordinator
  try {
    await coordinator.start()
    if (!limitFiles(coordinator, 'unlimited')) return context.skip('no prlimit here')
    const n = 1_000
    const openai = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'none', maxRetries: 0 })
    const rows = Array.from({ length: n }, (_, i) =>
      JSON.stringify({ custom_id: `r${i}`, method: 'POST', url: '/v1/embeddings', body: { model: 'intents-3m', input: `song ${i}` } }),
    ) // prettier-ignore
    const upload = (): Promise<{ id: string }> =>
      openai.files.create({ file: new File([rows.join('\n')], 'rows.jsonl'), purpose: 'batch' })
    const input_file_id = (await upload()).id
    const { id } = await openai.batches.create({ input_file_id, endpoint: '/v1/embeddings', completion_window: '24h' }) // prettier-ignore
    const counts = async (): Promise<{ completed: number }> => (await openai.batches.retrieve(id)).request_counts! // prettier-ignore
    await eventually(async () => (await counts()).completed > 0, 'rows are done')
    limitFiles(coordinator, 64 * 1024)
    const ready = async (): Promise<unknown> => (await fetch(`${url}/readyz`)).json()
    const full = { status: 'unavailable', reason: 'the disk takes no writes' }
    await eventually(async () => JSON.stringify(await ready()) === JSON.stringify(full), 'it says so')
    await expect(upload()).rejects.toMatchObject({ status: 503, code: 'storage_full', error: { message: expect.stringContaining('what was accepted is safe') } }) // prettier-ignore
    const { completed } = await counts()
    expect(completed).toBeLessThan(n)
    limitFiles(coordinator, 'unlimited')
    await eventually(async () => (await counts()).completed === n, 'every row is done')
    await upload()
    expect(await ready()).toEqual({ status: 'ready', reason: null })
    expect(coordinator.deaths).toEqual([])
  } finally {
    await coordinator.end('SIGKILL')
    rmSync(folder, { recursive: true, force: true })
  }
})
