/** Files go in as bytes and come out as the same bytes, through the stock client; whatever is no file is refused by name. */
import { randomBytes } from 'node:crypto'
import { connect } from 'node:net'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest'
import { rangeOf } from '../../coordinator/api/files.ts'
import { linesOf } from '../../coordinator/api/jsonl.ts'
import type { Line } from '../../coordinator/api/jsonl.ts'
import { FILE_BYTES_MAX } from '../../coordinator/api/validation.ts'
import { errorOf, openDesk } from './desk.ts'
import type { Desk } from './desk.ts'

let desk: Desk
beforeAll(async () => {
  desk = await openDesk()
})
afterAll(async () => {
  await desk?.close()
})

describe('with the stock client', () => {
  test('a file is created, listed, described, read and deleted', async () => {
    const bytes = randomBytes(100_000)
    const made = await desk.openai.files.create({
      file: new File([bytes], 'änd\r\nmore.jsonl'),
      purpose: 'batch',
    })
    expect(made).toMatchObject({ object: 'file', bytes: 100_000, purpose: 'batch', status: 'processed' })
    expect(made.id).toMatch(/^file-[0-9a-f]{24}$/)
    // eslint-disable-next-line no-control-regex
    expect(made.filename).not.toMatch(/[\r\n]/)
    expect(await desk.openai.files.retrieve(made.id)).toEqual(made)
    const content = await desk.openai.files.content(made.id)
    expect(Buffer.from(await content.arrayBuffer()).equals(bytes)).toBe(true)
    expect((await desk.openai.files.list({ purpose: 'batch' })).data.map(({ id }) => id)).toContain(made.id)
    expect((await desk.openai.files.list({ purpose: 'batch_output' })).data).toEqual([])
    expect(await desk.openai.files.delete(made.id)).toEqual({ id: made.id, object: 'file', deleted: true })
    await expect(desk.openai.files.retrieve(made.id)).rejects.toMatchObject({
      status: 404,
      code: 'file_not_found',
    })
    await expect(desk.openai.files.content(made.id)).rejects.toMatchObject({ status: 404 })
  })

  test('lists come in pages that hold each file once, both ways', async () => {
    const ids: string[] = []
    for (let i = 0; i < 7; i++) ids.push(await desk.upload(`row ${i}`))
    for (const order of ['asc', 'desc'] as const) {
      const seen: string[] = []
      for await (const file of desk.openai.files.list({ limit: 3, order })) seen.push(file.id)
      expect(new Set(seen).size).toBe(seen.length)
      expect(seen.filter((id) => ids.includes(id))).toEqual(order === 'asc' ? ids : ids.toReversed())
    }
  })

  test('a file that is to expire says when, and is gone then', async () => {
    const file = await desk.openai.files.create({
      file: new File(['x'], 'x'),
      purpose: 'batch',
      expires_after: { anchor: 'created_at', seconds: 3600 },
    })
    expect(file.expires_at).toBe(file.created_at + 3600)
  })

  test('somebody else’s file is none', async () => {
    const file = await desk.upload('mine')
    const { key } = await desk.keys.create({ name: 'other' })
    const { key: mine, record } = await desk.keys.create({ name: 'public too', tenant: 'public' })
    try {
      const other = await fetch(`${desk.url}/v1/files/${file}`, {
        headers: { authorization: `Bearer ${key}` },
      })
      expect((await errorOf(other)).code).toBe('file_not_found')
      const same = await fetch(`${desk.url}/v1/files/${file}`, {
        headers: { authorization: `Bearer ${mine}` },
      })
      expect(same.status).toBe(200)
    } finally {
      for (const { id } of [record, ...desk.keys.list()]) await desk.keys.revoke(id)
    }
  })
})

describe('uploads that are none', () => {
  const form = (fields: Record<string, string | Blob>): FormData => {
    const data = new FormData()
    for (const [name, value] of Object.entries(fields)) data.append(name, value)
    return data
  }
  const send = (body: FormData | string, headers: Record<string, string> = {}): Promise<Response> =>
    fetch(`${desk.url}/v1/files`, { method: 'POST', body, headers })
  const file = new Blob(['{}'])

  test.each<[string, Record<string, string | Blob>, number, string, string]>([
    ['no purpose', { file }, 400, 'missing_field', 'purpose'],
    ['another purpose', { file, purpose: 'fine-tune' }, 400, 'unsupported_parameter', 'purpose'],
    ['no file', { purpose: 'batch' }, 400, 'missing_field', 'file'],
    ['a text in the file’s place', { purpose: 'batch', file: 'text' }, 400, 'unsupported_parameter', 'file'],
    ['a file in another field', { purpose: 'batch', image: file }, 400, 'unsupported_parameter', 'image'],
    ['an unknown field', { purpose: 'batch', file, owner: 'me' }, 400, 'unsupported_parameter', 'owner'],
    ['an empty file', { purpose: 'batch', file: new Blob([]) }, 400, 'invalid_value', 'file'],
    ['an expiry without an anchor', { purpose: 'batch', file, 'expires_after[seconds]': '4000' }, 400, 'invalid_value', 'expires_after.anchor'],
    ['an expiry of a second', { purpose: 'batch', file, 'expires_after[anchor]': 'created_at', 'expires_after[seconds]': '1' }, 400, 'invalid_value', 'expires_after.seconds'],
  ])('%s', async (_, fields, status, code, param) => {
    expect(await errorOf(await send(form(fields)))).toMatchObject({ status, code, param })
  }) // prettier-ignore

  test('JSON, a form without a boundary, a body that ends in the middle', async () => {
    const json = await send('{}', { 'content-type': 'application/json' })
    expect(await errorOf(json)).toMatchObject({ status: 415, code: 'unsupported_media_type' })
    const none = await send('x', { 'content-type': 'multipart/form-data' })
    expect((await errorOf(none)).status).toBe(400)
    const long = await send('x', { 'content-type': `multipart/form-data; boundary=${'x'.repeat(300)}` })
    expect(await errorOf(long)).toMatchObject({ status: 400, code: 'invalid_request' })
    const half = await send('--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nhalf', {
      'content-type': 'multipart/form-data; boundary=x',
    })
    expect(await errorOf(half)).toMatchObject({ status: 400, code: 'invalid_request' })
    const nameless = await send('--x\r\nContent-Disposition: form-data; filename="a"\r\n\r\nx\r\n--x--\r\n', {
      'content-type': 'multipart/form-data; boundary=x',
    })
    expect((await errorOf(nameless)).status).toBe(400)
  })

  test('one byte more than a file may have is refused, and leaves nothing', async () => {
    const before = (await desk.openai.files.list()).data.length
    const piece = Buffer.alloc(1024 * 1024, 'x')
    const pieces = Array.from({ length: FILE_BYTES_MAX / piece.length }, () => piece)
    const answer = await send(form({ purpose: 'batch', file: new Blob([...pieces, 'x']) }))
    expect(await errorOf(answer)).toMatchObject({ status: 413, code: 'file_too_large' })
    expect((await desk.openai.files.list()).data).toHaveLength(before)
  })

  test('a caller that hangs up in the middle leaves nothing, and others go on', async () => {
    const before = (await desk.openai.files.list()).data.length
    const socket = connect(Number(new URL(desk.url).port), '127.0.0.1')
    socket.on('error', () => undefined)
    socket.write(
      'POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\nContent-Type: multipart/form-data; boundary=x\r\n\r\n' +
        '--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + 'y'.repeat(200_000),
    ) // prettier-ignore
    await new Promise((resolve) => setTimeout(resolve, 100))
    socket.destroy()
    await new Promise((resolve) => setTimeout(resolve, 50))
    await desk.upload('another')
    expect((await desk.openai.files.list()).data).toHaveLength(before + 1)
  })

  test('a tenant’s quota counts all its files, also while one comes in', async () => {
    const { key, record } = await desk.keys.create({ name: 'small', quotas: { fileBytes: 1_000 } })
    const headers = { authorization: `Bearer ${key}` }
    try {
      expect(
        (await send(form({ purpose: 'batch', file: new Blob(['x'.repeat(600)]) }), headers)).status,
      ).toBe(200)
      const second = await send(form({ purpose: 'batch', file: new Blob(['x'.repeat(600)]) }), headers)
      expect(await errorOf(second)).toMatchObject({ status: 413, code: 'file_too_large' })
      expect(
        (await send(form({ purpose: 'batch', file: new Blob(['x'.repeat(400)]) }), headers)).status,
      ).toBe(200)
    } finally {
      await desk.keys.revoke(record.id)
    }
  })
})

test('content is never shown as a page, whatever it is', async () => {
  const file = await desk.upload('<script>alert(1)</script>', '../../"><h1>.html')
  const { headers } = await fetch(`${desk.url}/v1/files/${file}/content`)
  expect(headers.get('content-type')).toBe('application/octet-stream')
  expect(headers.get('content-disposition')).toMatch(/^attachment; filename\*=UTF-8''[\w%.-]+$/)
  expect(headers.get('x-content-type-options')).toBe('nosniff')
  expect(headers.get('content-security-policy')).toContain('sandbox')
})

test('a range gives those bytes; beyond the end is 416', async () => {
  const file = await desk.upload('0123456789')
  const read = (range: string): Promise<Response> =>
    fetch(`${desk.url}/v1/files/${file}/content`, { headers: { range } })
  for (const [range, text, of] of [['bytes=2-4', '234', '2-4'], ['bytes=7-', '789', '7-9'], ['bytes=-3', '789', '7-9'], ['bytes=0-99', '0123456789', '0-9']] as const) {
    const answer = await read(range)
    expect([answer.status, await answer.text(), answer.headers.get('content-range')]).toEqual([206, text, `bytes ${of}/10`])
  } // prettier-ignore
  const beyond = await read('bytes=10-')
  expect([beyond.status, beyond.headers.get('content-range')]).toEqual([416, 'bytes */10'])
  expect((await read('lines=1-2')).status).toBe(200)
})

test('ranges: inside the file, not empty, and as long as was asked', () => {
  fc.assert(
    fc.property(fc.nat(1000), fc.nat(1200), fc.nat(1200), (size, a, b) => {
      const range = rangeOf(`bytes=${a}-${b}`, size)
      if (b < a) expect(range).toBeUndefined()
      else if (a >= size) expect(range).toBeNull()
      else expect(range).toEqual([a, Math.min(size, b + 1)])
    }),
    { seed: inject('seed') },
  )
})

describe('lines', () => {
  const read = async (bytes: Uint8Array, cuts: readonly number[], max = 1_000): Promise<Line[]> => {
    const all: Line[] = []
    const borders = [0, ...cuts.map((cut) => Math.min(cut, bytes.length)).sort((a, b) => a - b), bytes.length]
    const pieces = (async function* () {
      for (let i = 1; i < borders.length; i++) {
        // A buffer that is used again for the next piece, as readers do.
        const piece = Uint8Array.from(bytes.subarray(borders[i - 1], borders[i]))
        yield piece
        piece.fill(0x21)
      }
    })()
    for await (const lines of linesOf(pieces, max)) all.push(...lines)
    return all
  }

  test('wherever the input is cut, lines are those of the whole, with their places', async () => {
    const piece = fc.constantFrom('a', 'é', '\n', '\r\n', ' ', '{"x":1}', '𝄞', '\n\n', '\u2028')
    await fc.assert(
      fc.asyncProperty(
        fc.array(piece, { maxLength: 60 }),
        fc.array(fc.nat(100), { maxLength: 6 }),
        async (pieces, cuts) => {
          const text = pieces.join('')
          const bytes = Buffer.from(text)
          const expected = text
            .split('\n')
            .map((one, i) => ({ line: i + 1, text: one.replace(/\r$/, '') }))
            .filter((one) => one.text.trim() !== '')
          const lines = await read(bytes, cuts)
          expect(lines.map(({ line, text: t }) => ({ line, text: t }))).toEqual(expected)
          for (const one of lines)
            expect(bytes.subarray(one.offset, one.offset + one.bytes).toString()).toBe(one.text)
        },
      ),
      { seed: inject('seed') },
    )
  })

  test('too long and not UTF-8 are faults of their line alone', async () => {
    const bytes = Buffer.concat([
      Buffer.from('\ufeffone\n'), Buffer.from('x'.repeat(5_000)), Buffer.from('\nthree\n'), Buffer.from([0x61, 0xc3, 0x28, 0x0a]), Buffer.from('five'),
    ]) // prettier-ignore
    const cuts = Array.from({ length: 50 }, (_, i) => i * 101)
    expect(await read(bytes, cuts)).toMatchObject([
      { line: 1, text: 'one', offset: 3 },
      { line: 2, fault: 'too_long', bytes: 5_000 },
      { line: 3, text: 'three' },
      { line: 4, fault: 'not_utf8' },
      { line: 5, text: 'five' },
    ])
  })
})
