/** Batches over the network: every row once, as if it had been asked alone, whatever ends in between. */
import { cpSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { openStore } from '../../coordinator/store/sqlite.ts'
import { eventually, serve } from '../api/serve.ts'
import type { Served } from '../api/serve.ts'

const root = mkdtempSync(join(tmpdir(), 'chorale-batches-'))
let counter = 0
const fresh = (): string => join(root, String(counter++))

let served: Served
let folder: string
beforeAll(async () => {
  folder = fresh()
  served = await serve({ house: true, dataFolder: folder })
})
afterAll(async () => {
  await served?.close(0)
  rmSync(root, { recursive: true, force: true })
})

type Line = {
  custom_id: string
  response: { status_code: number; body: Body } | null
  error: { code: string } | null
}
interface Body {
  data?: { embedding: number[] }[]
  choices?: { text: string }[]
  error?: { code: string }
}

const line = (custom_id: string, url: string, body: object): string =>
  JSON.stringify({ custom_id, method: 'POST', url, body })
const embed = (i: number): string =>
  line(`r${i}`, '/v1/embeddings', {
    model: 'intents-3m',
    input: `please book a table for ${i}`,
    encoding_format: 'base64',
  })

async function submit(
  { openai }: Served,
  endpoint: '/v1/embeddings' | '/v1/completions',
  rows: readonly string[],
): Promise<string> {
  const file = new File([rows.join('\n')], 'rows.jsonl')
  const { id: input_file_id } = await openai.files.create({ file, purpose: 'batch' })
  const { id } = await openai.batches.create({ input_file_id, endpoint, completion_window: '24h' })
  return id
}
const over = async ({ openai }: Served, id: string): Promise<string> => {
  await eventually(
    async () =>
      ['completed', 'failed', 'cancelled', 'expired'].includes((await openai.batches.retrieve(id)).status),
    `${id} is over`,
  )
  return (await openai.batches.retrieve(id)).status
}
async function linesOf({ openai }: Served, file: string | null | undefined): Promise<Line[]> {
  if (!file) return []
  const text = await (await openai.files.content(file)).text()
  return text.split('\n').filter(Boolean).map((one) => JSON.parse(one) as Line) // prettier-ignore
}

test('rows are answered as requests are, and one that cannot be is told why', async () => {
  const bad = line('bad', '/v1/embeddings', { model: 'intents-3m', input: 'far '.repeat(2_000) })
  const several = line('several', '/v1/embeddings', {
    model: 'intents-3m',
    input: ['one', 'two'],
    encoding_format: 'base64',
  })
  const id = await submit(served, '/v1/embeddings', [embed(1), bad, several, '', embed(2)])
  expect(await over(served, id)).toBe('completed')
  const batch = await served.openai.batches.retrieve(id)
  expect(batch.request_counts).toEqual({ total: 4, completed: 3, failed: 1 })
  const done = await linesOf(served, batch.output_file_id)
  expect(done.map(({ custom_id }) => custom_id).sort()).toEqual(['r1', 'r2', 'several'])
  for (const { custom_id, response } of done) {
    const input = custom_id === 'several' ? ['one', 'two'] : `please book a table for ${custom_id.slice(1)}`
    const alone = await served.openai.embeddings.create({
      model: 'intents-3m',
      input,
      encoding_format: 'base64',
    })
    expect(response!.body.data).toEqual(alone.data)
  }
  const [failed] = await linesOf(served, batch.error_file_id)
  expect(failed).toMatchObject({
    custom_id: 'bad',
    response: { status_code: 400, body: { error: { code: 'context_length_exceeded' } } },
  })
})

test('texts too, each with its own seed', async () => {
  const rows = [1, 2, 3].map((seed) =>
    line(`t${seed}`, '/v1/completions', {
      model: 'tales-3m',
      prompt: 'Once',
      max_tokens: 6,
      temperature: 1,
      seed,
    }),
  )
  const id = await submit(served, '/v1/completions', rows)
  expect(await over(served, id)).toBe('completed')
  const done = await linesOf(served, (await served.openai.batches.retrieve(id)).output_file_id)
  for (const { custom_id, response } of done) {
    const seed = Number(custom_id.slice(1))
    const alone = await served.openai.completions.create({
      model: 'tales-3m',
      prompt: 'Once',
      max_tokens: 6,
      temperature: 1,
      seed,
    })
    expect(response!.body.choices![0]!.text).toBe(alone.choices[0]!.text)
  }
  expect(done).toHaveLength(3)
})

test('a coordinator that is killed goes on with the rows that were open, and keeps the others as they are', async () => {
  const rows = Array.from({ length: 300 }, (_, i) => embed(i))
  const id = await submit(served, '/v1/embeddings', rows)
  await eventually(
    async () => (await served.openai.batches.retrieve(id)).request_counts!.completed > 0,
    'some rows are done',
  )
  // What lies on the disk now is what a killed process leaves.
  const image = fresh()
  cpSync(folder, image, { recursive: true })
  const store = await openStore(image)
  const before = (await store.rows(id, { limit: 300, state: 'done' })).map(({ index, line }) => [index, line])
  expect((await store.openBatches()).map((batch) => batch.id)).toEqual([id])
  await store.close()

  const second = await serve({ house: true, dataFolder: image })
  try {
    expect(await over(second, id)).toBe('completed')
    const { request_counts, output_file_id } = await second.openai.batches.retrieve(id)
    expect(request_counts).toEqual({ total: 300, completed: 300, failed: 0 })
    const done = await linesOf(second, output_file_id)
    expect(new Set(done.map(({ custom_id }) => custom_id)).size).toBe(300)
    expect(await over(served, id)).toBe('completed')
    const undisturbed = await linesOf(served, (await served.openai.batches.retrieve(id)).output_file_id)
    const vectors = (lines: Line[]): Map<string, unknown> =>
      new Map(lines.map(({ custom_id, response }) => [custom_id, response!.body.data]))
    expect(vectors(done)).toEqual(vectors(undisturbed))
  } finally {
    await second.close(0)
  }
  const after = await openStore(image)
  const kept = new Map((await after.rows(id, { limit: 300 })).map(({ index, line }) => [index, line]))
  for (const [index, text] of before) expect(kept.get(index as number)).toBe(text)
  await after.close()
})

test('cancelled: finished rows stay, the others are listed', async () => {
  const id = await submit(
    served,
    '/v1/embeddings',
    Array.from({ length: 2_000 }, (_, i) => embed(i)),
  )
  await eventually(
    async () => (await served.openai.batches.retrieve(id)).request_counts!.completed > 0,
    'some rows are done',
  )
  await served.openai.batches.cancel(id)
  expect(await over(served, id)).toBe('cancelled')
  const { request_counts, output_file_id, error_file_id } = await served.openai.batches.retrieve(id)
  const done = await linesOf(served, output_file_id)
  const undone = await linesOf(served, error_file_id)
  expect(done.length).toBe(request_counts!.completed)
  expect(done.length + undone.length).toBe(2_000)
  expect(undone.every(({ error }) => error!.code === 'batch_cancelled')).toBe(true)
})
