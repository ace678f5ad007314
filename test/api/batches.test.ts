/** Batches as the stock client sees them, and what is said of a file that is none: which line, and what is wrong with it. */
import type { LookupAddress } from 'node:dns'
import { createServer } from 'node:http'
import type { IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { outputLine, readOutput, rowRequestId } from '../../coordinator/api/outputs.ts'
import { EMBEDDINGS_MAX, FAULTS_MAX, LINE_BYTES_MAX, ROWS_MAX } from '../../coordinator/api/validation.ts'
import { isPrivate, newSecret, signatureOf, Webhooks } from '../../coordinator/api/webhooks.ts'
import { openLog } from '../../coordinator/log.ts'
import type { BatchRecord } from '../../coordinator/store/store.ts'
import { errorOf, openDesk } from './desk.ts'
import type { Desk } from './desk.ts'

let desk: Desk
beforeAll(async () => {
  desk = await openDesk({ webhookOrigins: ['https://hooks.example.org'] })
})
afterAll(async () => {
  await desk?.close()
})

const endpoint = '/v1/embeddings'
const row = (i: number, extra: object = {}): object => ({
  custom_id: `r${i}`,
  method: 'POST',
  url: endpoint,
  body: { model: 'labels', input: `text ${i}` },
  ...extra,
})
const jsonl = (rows: readonly (object | string)[]): string =>
  rows.map((one) => (typeof one === 'string' ? one : JSON.stringify(one))).join('\n')

async function submit(
  content: string | Uint8Array,
  to: typeof endpoint | '/v1/completions' = endpoint,
): Promise<BatchRecord> {
  const input_file_id = await desk.upload(content)
  const { id } = await desk.openai.batches.create({ input_file_id, endpoint: to, completion_window: '24h' })
  return desk.settled(id)
}

describe('with the stock client', () => {
  test('a batch is created, described, listed and cancelled', async () => {
    const input_file_id = await desk.upload(jsonl([row(1), row(2), row(3)]))
    const metadata = { team: 'a' }
    const made = await desk.openai.batches.create({
      input_file_id,
      endpoint,
      completion_window: '24h',
      metadata,
    })
    expect(made).toMatchObject({
      object: 'batch', endpoint, input_file_id, completion_window: '24h', metadata, errors: null,
      output_file_id: null, error_file_id: null, expires_at: made.created_at + 86_400,
    }) // prettier-ignore
    expect(['validating', 'in_progress']).toContain(made.status)
    await desk.settled(made.id)
    const now = await desk.openai.batches.retrieve(made.id)
    expect(now).toMatchObject({
      status: 'in_progress', model: 'labels', request_counts: { total: 3, completed: 0, failed: 0 },
      volunteer: { eta_ms: 1000, rows_per_s: 12.35, volunteers: 2, trust: 'fast' },
    }) // prettier-ignore
    expect(now.in_progress_at).toBeGreaterThanOrEqual(now.created_at)
    expect((await desk.openai.batches.list()).data[0]).toEqual(now)
    const over = await desk.openai.batches.cancel(made.id)
    expect(over.status).toBe('cancelled')
    // Asked twice is asked once.
    expect((await desk.openai.batches.cancel(made.id)).status).toBe('cancelled')
  })

  test('lists come in pages that hold each batch once', async () => {
    const ids: string[] = []
    for (let i = 0; i < 5; i++) ids.push((await submit(jsonl([row(i)]))).id)
    const seen: string[] = []
    for await (const batch of desk.openai.batches.list({ limit: 2 })) seen.push(batch.id)
    expect(new Set(seen).size).toBe(seen.length)
    expect(seen.filter((id) => ids.includes(id))).toEqual(ids.toReversed())
  })

  test('what is finished can be read while the rest runs, in the order of the input, from anywhere', async () => {
    const batch = await submit(jsonl([row(0), row(1), row(2)]))
    const lines = [0, 1, 2].map((index) => {
      const line = outputLine(rowRequestId(batch.id, index), `r${index}`, { answer: 'é'.repeat(index + 1) })
      return { batch: batch.id, index, state: 'done' as const, line, receipt: null }
    })
    // The last row is finished first: it is counted, and read once those before it are.
    await desk.store.settle({ rows: lines.slice(2) })
    const { output_file_id, request_counts } = await desk.openai.batches.retrieve(batch.id)
    expect(request_counts).toEqual({ total: 3, completed: 1, failed: 0 })
    const read = async (): Promise<string> => (await desk.openai.files.content(output_file_id!)).text()
    expect(await read()).toBe('')
    await desk.store.settle({ rows: lines.slice(0, 1) })
    expect(await read()).toBe(`${lines[0]!.line}\n`)
    const seen = Buffer.byteLength(await read())
    await desk.store.settle({ rows: lines.slice(1, 2) })
    const whole = lines.map(({ line }) => `${line}\n`).join('')
    expect(await read()).toBe(whole)
    const tail = await fetch(`${desk.url}/v1/files/${output_file_id}/content`, {
      headers: { range: `bytes=${seen}-` },
    })
    expect(tail.status).toBe(206)
    expect(await tail.text()).toBe(lines.slice(1).map(({ line }) => `${line}\n`).join('')) // prettier-ignore
    // In the middle of a line, in the middle of a letter.
    const bytes = Buffer.from(whole)
    for (let from = 0; from < bytes.length; from += 37) {
      const piece = await fetch(`${desk.url}/v1/files/${output_file_id}/content`, { headers: { range: `bytes=${from}-${from + 50}` } })
      expect(Buffer.from(await piece.arrayBuffer()).equals(bytes.subarray(from, from + 51))).toBe(true)
    } // prettier-ignore
    for (const [from, to] of [[0, 1], [3, bytes.length - 2], [seen - 1, seen + 1]] as const) {
      const pieces: Uint8Array[] = []
      for await (const piece of readOutput(desk.store, { batch: batch.id, state: 'done' }, from, to)) pieces.push(piece)
      expect(Buffer.concat(pieces).equals(bytes.subarray(from, to))).toBe(true)
    } // prettier-ignore
    expect(await desk.openai.files.retrieve(output_file_id!)).toMatchObject({
      bytes: bytes.length,
      purpose: 'batch_output',
    })
    await expect(desk.openai.files.delete(output_file_id!)).rejects.toMatchObject({ status: 409 })
  })

  test('its input may be deleted once it runs', async () => {
    const batch = await submit(jsonl([row(1)]))
    await desk.openai.files.delete(batch.inputFile)
    expect((await desk.openai.batches.retrieve(batch.id)).input_file_id).toBe(batch.inputFile)
  })

  test('progress by events: the state at once, after a change, and at the end', async () => {
    const batch = await submit(jsonl([row(1), row(2)]))
    const events = await fetch(`${desk.url}/v1/batches/${batch.id}/events`)
    expect(events.headers.get('content-type')).toContain('text/event-stream')
    const counts: number[] = []
    let text = ''
    for await (const piece of events.body!.pipeThrough(new TextDecoderStream())) {
      text += piece
      const seen = [...text.matchAll(/^data: (\{.*\})$/gm)].map(([, json]) => JSON.parse(json!))
      counts.splice(0, Infinity, ...seen.map((one) => one.request_counts.completed))
      if (counts.length === 1) {
        await desk.store.settle({
          rows: [{ batch: batch.id, index: 0, state: 'done', line: '{}', receipt: null }],
        })
        desk.changed(batch.id)
      } else if (seen.at(-1)?.status === 'in_progress') void desk.openai.batches.cancel(batch.id)
    }
    expect(counts[0]).toBe(0)
    expect(counts.at(-1)).toBe(1)
    expect(text).toMatch(/"status":"cancelled".*\n\ndata: \[DONE\]\n\n$/)
  })
})

describe('requests that are none', () => {
  const good = { endpoint, completion_window: '24h' }
  test.each<[string, object, number, string, string]>([
    ['no file', good, 400, 'missing_field', 'input_file_id'],
    ['a file nobody uploaded', { ...good, input_file_id: 'file-123' }, 404, 'file_not_found', 'input_file_id'],
    ['an endpoint that takes no batches', { ...good, input_file_id: 'x', endpoint: '/v1/models' }, 400, 'invalid_value', 'endpoint'],
    ['a window of a minute', { ...good, input_file_id: 'x', completion_window: '1m' }, 400, 'invalid_value', 'completion_window'],
    ['a window of a year', { ...good, input_file_id: 'x', completion_window: '999h' }, 400, 'invalid_value', 'completion_window'],
    ['too much metadata', { ...good, input_file_id: 'x', metadata: Object.fromEntries(Array.from({ length: 17 }, (_, i) => [i, 'x'])) }, 400, 'invalid_value', 'metadata'],
    ['an unknown option', { ...good, input_file_id: 'x', priority: 1 }, 400, 'unsupported_parameter', 'priority'],
  ])('%s', async (_, body, status, code, param) => {
    expect(await errorOf(await desk.post('/v1/batches', body))).toMatchObject({ status, code, param })
  }) // prettier-ignore

  test('a batch of somebody else, or of nobody', async () => {
    for (const path of ['batch_123', 'batch_123/events', '..%2ffiles', '%00'])
      expect((await errorOf(await fetch(`${desk.url}/v1/batches/${path}`))).code).toBe('batch_not_found')
    expect((await errorOf(await desk.post('/v1/batches/batch_123/cancel', {}))).status).toBe(404)
  })

  test('no more rows than the tenant may have unfinished', async () => {
    const { key, record } = await desk.keys.create({
      name: 'few',
      tenant: 'public',
      quotas: { batchRows: 1 },
    })
    try {
      await desk.keys.create({ name: 'all', tenant: 'public' })
      const headers = { authorization: `Bearer ${key}` }
      const [file] = (await desk.store.files('public', { limit: 1 }))!
      const answer = await desk.post('/v1/batches', { ...good, input_file_id: file!.id }, headers)
      expect(await errorOf(answer)).toMatchObject({ status: 429, code: 'rate_limited' })
      expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0)
    } finally {
      for (const { id } of [record, ...desk.keys.list()]) await desk.keys.revoke(id)
    }
  })
})

describe('a file that is none names the line', () => {
  const many = (n: number): string[] => Array.from({ length: n }, (_, i) => JSON.stringify(row(i)))

  test.each<[string, (object | string)[], string, number, string | null]>([
    ['not JSON', [row(1), '{"custom_id": "x", body}'], 'invalid_json_line', 2, null],
    ['half a line', [row(1), '{"custom_id": "x'], 'invalid_json_line', 2, null],
    ['a list', [row(1), '[1]'], 'invalid_json_line', 2, null],
    ['no custom_id', [row(1, { custom_id: undefined })], 'missing_custom_id', 1, 'custom_id'],
    ['a number for custom_id', [row(1, { custom_id: 7 })], 'invalid_custom_id', 1, 'custom_id'],
    ['custom_id twice', [row(1), row(2), row(1)], 'duplicate_custom_id', 3, 'custom_id'],
    ['GET', [row(1, { method: 'GET' })], 'invalid_method', 1, 'method'],
    ['another endpoint', [row(1), '', row(2, { url: '/v1/completions' })], 'invalid_url', 3, 'url'],
    ['no body', [row(1, { body: undefined })], 'missing_body', 1, 'body'],
    ['an unknown key', [row(1, { priority: 1 })], 'unsupported_parameter', 1, 'priority'],
    ['a prototype', [JSON.stringify(row(1)).replace('{', '{"__proto__":{"x":1},')], 'unsupported_parameter', 1, '__proto__'],
    ['an unknown model', [row(1, { body: { model: 'x', input: 'y' } })], 'model_not_found', 1, 'body.model'],
    ['two models', [row(1), row(2, { body: { model: 'small', input: 'y' } })], 'invalid_value', 2, 'body.model'],
    ['no input', [row(1, { body: { model: 'labels' } })], 'missing_field', 1, 'body.input'],
    ['a wrong option', [row(1, { body: { model: 'labels', input: 'y', dimensions: 'all' } })], 'invalid_value', 1, 'body.dimensions'],
    ['another trust than the batch', [row(1, { body: { model: 'labels', input: 'y', volunteer: { trust: 'exact' } } })], 'mismatched_trust', 1, 'body.volunteer.trust'],
  ])('%s', async (_, rows, code, line, param) => {
    const batch = await submit(jsonl(rows))
    expect(batch).toMatchObject({ status: 'failed', errors: [{ code, line, param }] })
    expect(batch.errors[0]!.message).toMatch(new RegExp(`^Line ${line}: .*\\.$`))
    const shown = await desk.openai.batches.retrieve(batch.id)
    expect(shown.errors).toMatchObject({ object: 'list', data: [{ code, line, param }] })
    expect(shown.failed_at).toBeGreaterThan(0)
    expect(shown.request_counts).toEqual({ total: 0, completed: 0, failed: 0 })
  }) // prettier-ignore

  test('two generating models, and a stream', async () => {
    const text = (i: number, body: object): object =>
      row(i, { url: '/v1/completions', body: { prompt: 'x', model: 'small', ...body } })
    const two = await submit(jsonl([text(1, {}), text(2, { model: 'other' })]), '/v1/completions')
    expect(two.errors).toMatchObject([{ code: 'mismatched_model', line: 2, param: 'body.model' }])
    const stream = await submit(jsonl([text(1, { stream: true })]), '/v1/completions')
    expect(stream.errors).toMatchObject([{ code: 'unsupported_parameter', line: 1, param: 'body.stream' }])
  })

  test('an empty file, and one of blank lines', async () => {
    for (const text of ['\n', ' \r\n\n'])
      expect((await submit(text)).errors).toMatchObject([{ code: 'empty_file', line: null }])
  })

  test('row 31,417 of 40,000: not UTF-8, then not JSON', async () => {
    const lines = many(40_000)
    lines[31_416] = '{"custom_id"}'
    const wrong = await submit(lines.join('\n'))
    expect(wrong.errors).toMatchObject([{ code: 'invalid_json_line', line: 31_417 }])
    // The thousands before it are no rows of anything.
    expect(await desk.store.counts(wrong.id)).toMatchObject({ total: 0 })
    const [before, after] = [lines.slice(0, 31_416).join('\n'), many(40_000).slice(31_417).join('\n')]
    const bytes = Buffer.concat([
      Buffer.from(`${before}\n{"custom_id":"`),
      Buffer.from([0xff]),
      Buffer.from(`"}\n${after}`),
    ])
    expect((await submit(bytes)).errors).toMatchObject([{ code: 'invalid_utf8', line: 31_417 }])
  })

  test('50,000 rows are a batch, one more is none', async () => {
    const lines = many(ROWS_MAX + 1)
    expect(await submit(lines.slice(0, ROWS_MAX).join('\n'))).toMatchObject({
      status: 'in_progress',
      total: ROWS_MAX,
    })
    expect((await submit(lines.join('\n'))).errors).toMatchObject([
      { code: 'too_many_rows', line: ROWS_MAX + 1 },
    ])
  })

  test('more inputs than rows may have', async () => {
    const input = Array.from({ length: 2_000 }, () => 'x')
    const rows = Array.from({ length: EMBEDDINGS_MAX / 2_000 + 1 }, (_, i) =>
      row(i, { body: { model: 'labels', input } }),
    )
    expect((await submit(jsonl(rows))).errors).toMatchObject([{ code: 'too_many_inputs', line: rows.length }])
  })

  test('a line of 10 MB', async () => {
    const long = row(2, { body: { model: 'labels', input: 'x'.repeat(10_000_000) } })
    const batch = await submit(jsonl([row(1), long, row(3)]))
    expect(batch.errors).toMatchObject([{ code: 'line_too_long', line: 2 }])
    expect(batch.errors[0]!.message).toContain(String(LINE_BYTES_MAX))
  })

  test('a file of nothing but faults is not read to its end', async () => {
    const batch = await submit(Array.from({ length: 1_000 }, () => 'no').join('\n'))
    expect(batch.errors).toHaveLength(FAULTS_MAX + 1)
    expect(batch.errors.at(-1)).toMatchObject({ code: 'too_many_errors', line: null })
  })

  test('no fault quotes the text around it', async () => {
    const batch = await submit(jsonl(['{"custom_id":"a","body":{"input":"my secret" oops}}', '{"my secret']))
    expect(batch.errors).toHaveLength(2)
    expect(JSON.stringify(batch.errors)).not.toContain('secret')
  })
})

describe('webhooks', () => {
  const body = async (webhook: string): Promise<object> => ({
    input_file_id: await desk.upload(jsonl([row(1)])), endpoint, completion_window: '24h', volunteer: { webhook },
  }) // prettier-ignore

  test('only origins the operator listed; its secret is told once', async () => {
    const url = 'https://hooks.example.org/done?x=1'
    const made = await (await desk.post('/v1/batches', await body(url))).json()
    expect(made.volunteer.webhook_secret).toMatch(/^whsec_[\w+/]{32}$/)
    expect(JSON.stringify(await desk.openai.batches.retrieve(made.id))).not.toContain('whsec_')
    for (const [wrong, code] of [
      ['http://hooks.example.org/', 'permission_denied'],
      ['https://hooks.example.org.evil.net/', 'permission_denied'],
      ['https://hooks.example.org:444/', 'permission_denied'],
      ['https://user:pw@hooks.example.org/', 'invalid_value'],
      ['http://169.254.169.254/latest', 'permission_denied'],
      ['file:///etc/passwd', 'invalid_value'],
      ['x', 'invalid_value'],
    ] as const)
      // prettier-ignore
      expect((await errorOf(await desk.post('/v1/batches', await body(wrong)))).code, wrong).toBe(code)
  })

  test('no address of a private network counts as public', () => {
    for (const address of ['127.0.0.1', '10.1.2.3', '172.31.0.1', '192.168.1.1', '169.254.169.254', '100.64.0.1', '0.0.0.0', '::1', '::', 'fe80::1', 'fd00::1', '::ffff:10.0.0.1', '::ffff:7f00:1', '64:ff9b::a00:1', '2002:a00:1::', 'nonsense'])
      expect(isPrivate(address), address).toBe(true)
    for (const address of ['8.8.8.8', '172.32.0.1', '2606:4700::1111']) expect(isPrivate(address), address).toBe(false)
  }) // prettier-ignore

  test('signed as Standard Webhooks says, and tried again until it arrives', async () => {
    const calls: { headers: IncomingMessage['headers']; text: string }[] = []
    const server = createServer((request, answer) => {
      let text = ''
      request.on('data', (piece) => (text += String(piece)))
      request.on('end', () => {
        calls.push({ headers: request.headers, text })
        // First it is down, then it sends somewhere else, which is not followed.
        answer.writeHead([500, 302, 204][calls.length - 1]!, { location: 'http://127.0.0.1:9/' }).end()
      })
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
    const hooks = new Webhooks({ allowed: [origin], log: openLog('silent'), triesMs: [0, 5, 5, 5] })
    const secret = newSecret()
    const arrived = await new Promise((resolve) => {
      hooks.send(`${origin}/done`, secret, 'batch_1', { type: 'batch.completed' }, resolve)
    })
    expect(arrived).toBe(true)
    expect(calls).toHaveLength(3)
    for (const { headers, text } of calls) {
      expect(JSON.parse(text)).toEqual({ type: 'batch.completed' })
      const [id, time] = [headers['webhook-id'], headers['webhook-timestamp']]
      expect(headers['webhook-signature']).toBe(signatureOf(secret, String(id), Number(time), text))
    }
    hooks.close()
    server.close()
  })

  test('a name that leads to a private address is not called, though it is listed', async () => {
    let calls = 0
    const server = createServer((_, answer) => {
      calls++
      answer.end()
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const origin = `http://inside.example.org:${(server.address() as AddressInfo).port}`
    const names: string[] = []
    const resolve = async (name: string): Promise<LookupAddress[]> => {
      names.push(name)
      return [{ address: '127.0.0.1', family: 4 }]
    }
    const hooks = new Webhooks({ allowed: [origin], log: openLog('silent'), triesMs: [0, 1], resolve })
    const arrived = await new Promise((done) => {
      hooks.send(`${origin}/`, newSecret(), 'batch_1', {}, done)
    })
    expect([arrived, calls, names]).toEqual([false, 0, ['inside.example.org', 'inside.example.org']])
    server.close()
  })

  test('the example of the standard', () => {
    // https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
    const signature = signatureOf('whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw', 'msg_p5jXN8AQM9LWM0D4loKWxJek', 1614265330, '{"test": 2432232314}')
    expect(signature).toBe('v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=')
  }) // prettier-ignore
})
