/** A batch from the file to its answers, as the stock client, curl and the command line meet it; computed by real engines. */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import OpenAI from 'openai'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { chorale } from '../cli/chorale.ts'
import type { Chorale } from '../cli/chorale.ts'
import { serve } from './serve.ts'
import type { Served } from './serve.ts'

let served: Served
let command: Chorale
const hooks: { headers: Record<string, string>; body: string }[] = []
const hooked = createServer((request, answer) => {
  let body = ''
  request.on('data', (piece) => (body += String(piece)))
  request.on('end', () => {
    hooks.push({ headers: request.headers as Record<string, string>, body })
    answer.end()
  })
})
let hookUrl: string
beforeAll(async () => {
  command = chorale()
  await new Promise<void>((resolve) => hooked.listen(0, '127.0.0.1', resolve))
  hookUrl = `http://127.0.0.1:${(hooked.address() as AddressInfo).port}`
  served = await serve({
    house: true,
    dataFolder: join(command.folder, 'data'),
    requesters: { webhookOrigins: [hookUrl] },
  })
})
afterAll(async () => {
  await served?.close(0)
  hooked.close()
  command?.remove()
})

const words = ['play', 'some', 'jazz', 'what', 'is', 'the', 'weather', 'in', 'Paris', 'my', 'account', 'song']
const textOf = (i: number): string =>
  Array.from({ length: 1 + (i % 7) }, (_, k) => words[(i * 5 + k * 3) % words.length]).join(' ')
const row = (i: number, url: string, body: object): string =>
  JSON.stringify({ custom_id: `row ${i}`, method: 'POST', url, body })

interface Line {
  id: string
  custom_id: string
  response: { status_code: number; request_id: string; body: Record<string, unknown> } | null
  error: { code: string } | null
}
const linesOf = (text: string): Line[] =>
  text
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Line)

async function run(
  rows: string[],
  endpoint: '/v1/embeddings' | '/v1/completions',
  extra: object = {},
): Promise<OpenAI.Batch> {
  const file = await served.openai.files.create({
    file: new File([rows.join('\n')], 'rows.jsonl'),
    purpose: 'batch',
  })
  const { id } = await served.openai.batches.create({
    input_file_id: file.id,
    endpoint,
    completion_window: '24h',
    ...extra,
  })
  return over(id)
}
async function over(id: string): Promise<OpenAI.Batch> {
  for (;;) {
    const batch = await served.openai.batches.retrieve(id)
    if (batch.completed_at ?? batch.failed_at ?? batch.cancelled_at ?? batch.expired_at) return batch
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}
const contentOf = async (file: string): Promise<string> => (await served.openai.files.content(file)).text()

describe('the stock client', () => {
  test('embeddings: every row once, each what the same request alone gives', async () => {
    const n = 400
    const rows = Array.from({ length: n }, (_, i) => row(i, '/v1/embeddings', { model: 'intents-3m', input: textOf(i) }))
    const batch = await run(rows, '/v1/embeddings')
    expect(batch).toMatchObject({ status: 'completed', request_counts: { total: n, completed: n, failed: 0 }, error_file_id: null })
    const lines = linesOf(await contentOf(batch.output_file_id!))
    expect(new Set(lines.map(({ custom_id }) => custom_id)).size).toBe(n)
    expect(new Set(lines.map(({ id }) => id)).size).toBe(n)
    const alone = await served.openai.embeddings.create({ model: 'intents-3m', input: Array.from({ length: n }, (_, i) => textOf(i)), encoding_format: 'float' })
    for (const { custom_id, response, error } of lines) {
      expect([response!.status_code, error]).toEqual([200, null])
      const { data } = response!.body as unknown as OpenAI.CreateEmbeddingResponse
      expect(data).toEqual([{ ...alone.data[Number(custom_id.slice(4))], index: 0 }])
    }
    const times = [batch.created_at, batch.in_progress_at!, batch.finalizing_at ?? batch.completed_at!, batch.completed_at!]
    expect(times).toEqual(times.toSorted((a, b) => a - b))
  }) // prettier-ignore

  test('texts: rows that cannot be are in the error file, as a request would have been told; the others are answered', async () => {
    const body = { model: 'tales-3m', max_tokens: 8, temperature: 0 }
    const rows = [
      row(0, '/v1/completions', { ...body, prompt: 'Once upon a time' }),
      row(1, '/v1/completions', { ...body, prompt: 'once '.repeat(5_000) }),
      row(2, '/v1/completions', { ...body, prompt: 'The dog', max_tokens: 100_000 }),
      row(3, '/v1/completions', { ...body, prompt: 'The cat', n: 2, seed: 7, temperature: 1 }),
    ]
    const batch = await run(rows, '/v1/completions')
    expect(batch).toMatchObject({ status: 'completed', request_counts: { total: 4, completed: 2, failed: 2 } })
    const good = linesOf(await contentOf(batch.output_file_id!)).toSorted((a, b) => a.custom_id.localeCompare(b.custom_id))
    expect(good.map(({ custom_id }) => custom_id)).toEqual(['row 0', 'row 3'])
    for (const [i, prompt] of [[0, { prompt: 'Once upon a time' }], [1, { prompt: 'The cat', n: 2, seed: 7, temperature: 1 }]] as const) {
      const alone = await served.openai.completions.create({ ...body, ...prompt })
      expect(good[i]!.response!.body.choices).toEqual(alone.choices)
    }
    const bad = linesOf(await contentOf(batch.error_file_id!))
    expect(bad.map(({ custom_id }) => custom_id).toSorted()).toEqual(['row 1', 'row 2'])
    for (const { response, error } of bad) {
      expect([response!.status_code, error]).toEqual([400, null])
      expect(response!.body.error).toMatchObject({ code: 'context_length_exceeded' })
    }
  }) // prettier-ignore

  test('a webhook tells of its end, signed so that the stock client believes it', async () => {
    const rows = [row(0, '/v1/embeddings', { model: 'intents-3m', input: 'jazz' })]
    const file = await served.openai.files.create({ file: new File(rows, 'one'), purpose: 'batch' })
    const made = await (
      await served.post('/v1/batches', {
        input_file_id: file.id,
        endpoint: '/v1/embeddings',
        completion_window: '24h',
        volunteer: { webhook: `${hookUrl}/done` },
      })
    ).json()
    await over(made.id)
    for (let i = 0; i < 200 && !hooks.length; i++) await new Promise((resolve) => setTimeout(resolve, 20))
    const { headers, body } = hooks[0]!
    const event = await served.openai.webhooks.unwrap(body, headers, made.volunteer.webhook_secret)
    expect(event).toMatchObject({ object: 'event', type: 'batch.completed', data: { id: made.id } })
    await expect(served.openai.webhooks.unwrap(body.replace('completed', 'failed'), headers, made.volunteer.webhook_secret)).rejects.toThrow()
  }) // prettier-ignore
})

describe('chorale batch', () => {
  const json = (text: string): Record<string, unknown> => JSON.parse(text.trim().split('\n').at(-1)!)
  const run = (...args: string[]): ReturnType<Chorale['run']> =>
    command.run(['batch', ...args, '--url', served.url])

  test('submit, watch, status, ls, results; results go on where they ended', async () => {
    const file = join(command.folder, 'rows.jsonl')
    const rows = Array.from({ length: 50 }, (_, i) =>
      row(i, '/v1/classify', { model: 'intents-3m', input: textOf(i) }),
    )
    writeFileSync(file, rows.join('\n'))
    const submitted = await run('submit', file, '--watch', '--json', '--metadata', 'a=b=c')
    expect(submitted.code, submitted.stderr).toBe(0)
    const batch = json(submitted.stdout)
    expect(batch).toMatchObject({
      status: 'completed',
      metadata: { a: 'b=c' },
      request_counts: { completed: 50 },
    })
    const id = String(batch.id)
    expect((await run('status', id)).stdout).toBe(`${id}  completed  50 of 50 rows\n`)
    expect((await run('ls')).stdout).toContain(`${id}  completed  50/50`)
    const whole = (await run('results', id)).stdout
    expect(linesOf(whole)).toHaveLength(50)
    const out = join(command.folder, 'out.jsonl')
    expect((await run('results', id, '-o', out)).code).toBe(0)
    truncateSync(out, 1_000)
    await run('results', id, '-o', out)
    await run('results', id, '-o', out)
    expect(readFileSync(out, 'utf8')).toBe(whole)
    expect((await run('results', id, '--errors')).stderr).toContain('No row failed')
  })

  test('a wrong file: exit 1 and the line; failed rows: exit 6; nothing there: exit 3', async () => {
    const wrong = join(command.folder, 'wrong.jsonl')
    writeFileSync(wrong, `${row(0, '/v1/embeddings', { model: 'intents-3m', input: 'x' })}\n{"no"`)
    const refused = await run('submit', wrong, '--watch')
    expect([refused.code, refused.stderr]).toEqual([1, expect.stringContaining('Line 2: it is not JSON')])
    const long = join(command.folder, 'long.jsonl')
    writeFileSync(long, row(0, '/v1/embeddings', { model: 'intents-3m', input: 'x '.repeat(5_000) }))
    expect((await run('submit', long, '--watch')).code).toBe(6)
    expect((await run('status', 'batch_none')).code).toBe(3)
    expect((await run('submit', join(command.folder, 'none'))).code).toBe(2)
    const none = join(command.folder, 'none.txt')
    writeFileSync(none, 'hello\n')
    expect((await run('submit', none)).stderr).toContain('--endpoint')
  })
})

describe('files of thousands of lines', () => {
  test('embed and classify go on where they ended, and come to the same bytes', async () => {
    const file = join(command.folder, 'lines.txt')
    const n = 2_500
    writeFileSync(file, Array.from({ length: n }, (_, i) => textOf(i)).join('\n'))
    const out = join(command.folder, 'lines.jsonl')
    const embed = (...args: string[]): ReturnType<Chorale['run']> =>
      command.run(['embed', 'intents-3m', file, '--json', '--url', served.url, '-o', out, ...args])
    const first = await embed()
    expect([first.code, first.stdout], first.stderr).toEqual([0, ''])
    expect(first.stderr).toMatch(/Computing/)
    const whole = readFileSync(out, 'utf8')
    expect(whole.trim().split('\n')).toHaveLength(n)
    expect((await embed()).stderr).toContain('--resume')
    // As a kill in the middle of a row leaves it.
    truncateSync(out, Math.floor(Buffer.byteLength(whole) * 0.7))
    const second = await embed('--resume')
    expect(second.stderr).toMatch(/has 17\d\d of 2500 rows; going on/)
    expect(readFileSync(out, 'utf8')).toBe(whole)
    writeFileSync(file, Array.from({ length: n }, (_, i) => `other ${i}`).join('\n'))
    const other = await embed('--resume')
    expect([other.code, other.stderr]).toEqual([2, expect.stringContaining('another text')])
    const labels = join(command.folder, 'labels.tsv')
    expect(
      (await command.run(['classify', 'intents-3m', file, '-o', labels, '--url', served.url])).code,
    ).toBe(0)
    expect(readFileSync(labels, 'utf8').trim().split('\n')).toHaveLength(n)
  })
})

describe('chorale keys', () => {
  test('asks the coordinator that runs on the data; without one, the data itself', async () => {
    const made = await command.run(['keys', 'create', 'team', '--weight', '2'])
    expect(made.code, made.stderr).toBe(0)
    expect(made.stdout).toMatch(/^chr_[\w-]{43}\n$/)
    const key = made.stdout.trim()
    const models = (apiKey: string): Promise<unknown> =>
      new OpenAI({ baseURL: `${served.url}/v1`, apiKey, maxRetries: 0 }).batches.list()
    await expect(models('none')).rejects.toMatchObject({ status: 401 })
    await models(key)
    const refused = await command.run(['batch', 'ls', '--url', served.url, '--api-key', 'chr_wrong'])
    expect(refused.code).toBe(5)
    const listed = JSON.parse((await command.run(['keys', 'ls', '--json'])).stdout) as {
      id: string
      name: string
    }[]
    expect(listed).toMatchObject([{ name: 'team', weight: 2 }])
    expect((await command.run(['keys', 'revoke', listed[0]!.id])).code).toBe(0)
    await models('none')
    await served.close(0)
    const offline = await command.run(['keys', 'create', 'second', '--json'])
    expect(JSON.parse(offline.stdout)).toMatchObject({ name: 'second', scopes: ['inference', 'batches'] })
    expect((await command.run(['keys', 'ls'])).stdout).toMatch(/team.*revoked[\s\S]*second.*works/)
    const credit = async (...args: string[]): Promise<unknown> => {
      const { code, stdout, stderr } = await command.run(['keys', ...args, '--json'])
      return code === 0 ? (JSON.parse(stdout) as { credit: unknown }).credit : [code, stderr.trim()]
    }
    expect(await credit('create', 'third', '--credit', '100')).toEqual({ granted: 100, used: 0, left: 100 })
    expect(await credit('credit', 'third', '+50')).toMatchObject({ left: 150 })
    expect(await credit('credit', 'third', '-150')).toEqual({ granted: 0, used: 0, left: 0 })
    expect(await credit('credit', 'third', '-1')).toEqual([1, 'chorale: Only 0 of its credits are left.'])
    expect(await credit('credit', 'second', '1')).toEqual([1, expect.stringMatching(/second|no limit/)])
    expect(await credit('credit', 'fourth', '1')).toEqual([
      2,
      expect.stringMatching(/no key fourth.*keys ls/),
    ])
  })
})
