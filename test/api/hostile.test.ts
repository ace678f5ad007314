/** Whoever misbehaves is told so, with the right code, and nobody else notices. */
import { randomBytes } from 'node:crypto'
import { connect } from 'node:net'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest'
import { WebSocket } from 'ws'
import type { ClientOptions } from 'ws'
import { SOCKET_LIMITS } from '../../coordinator/sockets.ts'
import { eventually, serve, spawnStranger } from './serve.ts'
import type { Served, Spawned } from './serve.ts'
import { frame, helloMeta, Key, unframe } from './stranger.ts'
import type { Meta } from './stranger.ts'

let served: Served
let honest: Spawned
beforeAll(async () => {
  served = await serve({ limits: { helloMs: 400, perAddressMax: 40 } })
  honest = await spawnStranger(served.url)
})
afterAll(async () => {
  honest?.kill()
  await served?.close(0)
})

const dial = (options: ClientOptions = {}, protocol = 'chorale.v1', path = '/v1/volunteer'): WebSocket =>
  new WebSocket(`${served.url.replace('http', 'ws')}${path}`, protocol, options)

const ended = (socket: WebSocket): Promise<{ code: number; reason: string }> =>
  new Promise((resolve) => {
    socket.on('error', () => undefined)
    socket.on('close', (code, reason) => resolve({ code, reason: reason.toString() }))
  })

/** Connects, sends these one after the other, and waits for the end. */
async function send(...messages: Said[]): Promise<{ code: number; reason: string }> {
  const socket = dial()
  const end = ended(socket)
  challenged(socket, (challenge) => {
    for (const message of messages) socket.send(typeof message === 'function' ? message(challenge) : message)
  })
  return end
}

/** Bytes as they are, or what answers the connection's challenge. */
type Said = Uint8Array | string | ((challenge: Meta) => Uint8Array)

/** The first frame of a connection is what hello has to sign. */
function challenged(socket: WebSocket, then: (challenge: Meta) => void): void {
  socket.once('message', (data: Buffer) => then(unframe(data).meta))
}

const story = { model: 'tales-3m', prompt: 'Once upon a time', max_tokens: 10, temperature: 0 }
const stillServes = async (): Promise<void> => {
  const answer = await served.post('/v1/completions', story)
  expect(answer.status).toBe(200)
}

const key = new Key()
const saying =
  (extra: Meta = {}, payload?: Uint8Array) =>
  (challenge: Meta): Buffer =>
    frame(1, 0, helloMeta({ ...key.hello(challenge), ...extra }), payload)
const hello = saying()
/** As long as a real one, under a signature of another day. */
const stale = hello({ coordinator: key.publicKey, nonce: 'n' })
const result = (extra: object, payload: Uint8Array = new Uint8Array(4)): Buffer =>
  frame(2, 1, { assignment: 'never-given', output: { kind: 'generate', position: 1, count: 1, finish: 'stop' }, digest: '0'.repeat(64), computeMs: 1, input: '0'.repeat(64), root: '0'.repeat(64), signature: 'A'.repeat(86), ...extra }, payload) // prettier-ignore

describe('frames', () => {
  test.each<[string, number, Said[]]>([
    ['a text message', 4400, ['hello']],
    ['an empty message', 4400, [new Uint8Array()]],
    ['another magic number', 4400, [Buffer.concat([Buffer.from('GET '), stale.subarray(4)])]],
    [
      'another version of frames',
      4406,
      [Buffer.concat([stale.subarray(0, 2), Buffer.from([9]), stale.subarray(3)])],
    ],
    ['an unknown type', 4400, [frame(33, 0, {})]],
    ['a type only coordinators send', 4400, [frame(64, 0, {})]],
    ['no hello first', 4400, [frame(8, 0, { nonce: 1 })]],
    ['hello twice', 4400, [hello, hello]],
    ['an unknown key', 4400, [saying({ admin: true })]],
    ['a missing key', 4400, [saying({ slots: undefined })]],
    ['more slots than there are', 4400, [saying({ slots: 1e6 })]],
    ['NaN, which JSON has not', 4400, [saying({ slots: NaN })]],
    [
      'a prototype as a key',
      4400,
      [Buffer.from(stale.toString('latin1').replace('"version"', '"__prot"'), 'latin1')],
    ],
    ['a payload where none belongs', 4400, [saying({}, new Uint8Array(8))]],
    ['a result whose digest is not its own', 4400, [hello, result({})]],
    [
      'a result shorter than it says',
      4400,
      [hello, result({ output: { kind: 'generate', position: 1, count: 99, finish: 'stop' } })],
    ],
    [
      'meta longer than the message',
      4400,
      [Buffer.concat([stale.subarray(0, 4), Buffer.from([255, 100, 0, 0]), stale.subarray(8)])],
    ],
    ['a message larger than any may be', 1009, [hello, randomBytes(1_200_000)]],
  ])('%s ends the connection with %i', async (_, code, messages) => {
    const end = await send(...messages)
    expect(end.code, end.reason).toBe(code)
    if (code >= 4000) expect(end.reason).not.toBe('')
    await stillServes()
  })

  test('no hello in time: 4408', async () => {
    expect((await ended(dial())).code).toBe(4408)
  })

  test('too many frames: 4429', async () => {
    const pong = frame(8, 1, { nonce: 1 })
    const end = await send(hello, ...Array.from({ length: SOCKET_LIMITS.framesBurst + 500 }, () => pong))
    expect(end.code).toBe(4429)
    await stillServes()
  })

  test('any bytes at all end with a code of this protocol, and others go on', async () => {
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 200 }), fc.nat({ max: 100 }), async (noise, at) => {
        const socket = dial()
        const end = ended(socket)
        challenged(socket, (challenge) => {
          // Damage that leaves a good hello is welcome; then goodbye.
          socket.on('message', () => socket.close(1000))
          const good = hello(challenge)
          const rest = good.subarray(Math.min(good.length, at + noise.length))
          socket.send(Buffer.concat([good.subarray(0, at), noise, rest]))
        })
        expect([1000, 4400, 4401, 4406, 4408, 4413]).toContain((await end).code)
      }),
      { numRuns: 60, seed: inject('seed') },
    )
    await stillServes()
  })

  test('pieces without end: let go, not collected', async () => {
    const { port } = new URL(served.url)
    const socket = connect(Number(port), '127.0.0.1')
    const over = new Promise<void>((resolve) => socket.on('close', () => resolve()))
    socket.on('error', () => undefined)
    socket.resume()
    socket.write(
      `GET /v1/volunteer HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n` +
        `Sec-WebSocket-Key: ${randomBytes(16).toString('base64')}\r\nSec-WebSocket-Protocol: chorale.v1\r\n\r\n`,
    )
    // Continuation frames of one masked byte each; the message never ends.
    socket.write(Buffer.from([0x02, 0x81, 0, 0, 0, 0, 7]))
    for (let i = 0; i < 1000; i++) socket.write(Buffer.from([0x00, 0x81, 0, 0, 0, 0, 7]))
    await over
    await stillServes()
  })
})

describe('connections', () => {
  const refused = (socket: WebSocket): Promise<number> =>
    new Promise((resolve) => {
      socket.on('error', () => undefined)
      socket.on('unexpected-response', (_, answer) => resolve(answer.statusCode!))
    })

  test('another subprotocol: 426; another path: 404', async () => {
    expect(await refused(dial({}, 'chorale.v9'))).toBe(426)
    expect(await refused(dial({}, 'chorale.v1', '/v1/other'))).toBe(404)
  })

  test('more connections from one address than allowed: 429, and the first ones stay', async () => {
    const socket: WebSocket[] = []
    const codes: number[] = []
    for (let i = 0; i < 45; i++) {
      const one = dial()
      socket.push(one)
      await new Promise<void>((resolve) => {
        one.on('error', () => undefined)
        one.on('open', resolve)
        one.on('unexpected-response', (_, answer) => {
          codes.push(answer.statusCode!)
          resolve()
        })
      })
    }
    // One place is the honest volunteer's.
    expect(codes).toEqual([429, 429, 429, 429, 429, 429])
    for (const one of socket) one.terminate()
    await stillServes()
  })

  test('a volunteer that claims the moon and answers nothing holds nobody up', async () => {
    const moon = dial()
    const models = served
      .status()
      .models.map(({ digest }) => ({ digest, state: 'ready', readMs: 0, drawMs: 0 }))
    let assigned = 0
    moon.on('message', (data: Buffer) => {
      const { type } = unframe(data)
      if (type === 71) moon.send(saying({ slots: 32, concurrency: 32 })(unframe(data).meta))
      if (type === 64) moon.send(frame(7, 1, { models }))
      if (type === 65) assigned++
    })
    await eventually(() => served.status().models.every((m) => m.volunteers === 2), 'it is believed')
    const answers = await Promise.all(Array.from({ length: 6 }, () => served.post('/v1/completions', story)))
    expect(answers.map((a) => a.status)).toEqual([200, 200, 200, 200, 200, 200])
    expect(assigned).toBeGreaterThan(0)
    moon.terminate()
  })

  test('results for assignments nobody gave change nothing', async () => {
    const before = await (await served.post('/v1/completions', story)).json()
    const payload = Buffer.from([1, 0, 0, 0])
    const digest = (await import('node:crypto')).createHash('sha256').update(payload).digest('hex')
    const socket = dial()
    const end = ended(socket)
    challenged(socket, (challenge) => {
      socket.send(hello(challenge))
      for (let i = 0; i < 200; i++) socket.send(result({ assignment: `a${i}-forged`, digest }, payload))
      setTimeout(() => socket.close(1000), 300)
    })
    await end
    const after = await (await served.post('/v1/completions', story)).json()
    expect(after.choices).toEqual(before.choices)
  })
})

describe('requests', () => {
  test.each<[string, number, string, unknown, string?]>([
    ['not JSON', 400, 'invalid_json', '{"model":'],
    ['an empty body', 400, 'invalid_json', ''],
    ['a list', 400, 'invalid_request', [1, 2]],
    ['null', 400, 'invalid_request', 'null'],
    ['a prototype', 400, 'invalid_json', '{"model":"tales-3m","prompt":"a","__proto__":{"n":9}}'],
    [
      'a constructor',
      400,
      'invalid_json',
      '{"model":"tales-3m","prompt":"a","constructor":{"prototype":{"n":9}}}',
    ],
    ['no model', 400, 'missing_field', { prompt: 'a' }, 'model'],
    ['no prompt', 400, 'missing_field', { model: 'tales-3m' }, 'prompt'],
    ['an unknown model', 404, 'model_not_found', { model: '../../etc/passwd', prompt: 'a' }, 'model'],
    ['a model for something else', 400, 'invalid_value', { model: 'intents-3m', prompt: 'a' }, 'model'],
    ['an unknown option', 400, 'unsupported_parameter', { ...story, tools: [] }, 'tools'],
    [
      'an unknown option of ours',
      400,
      'unsupported_parameter',
      { ...story, volunteer: { speed: 9 } },
      'volunteer.speed',
    ],
    [
      'trust that nobody here can give',
      503,
      'no_capacity',
      { ...story, volunteer: { trust: 'exact' } },
      'volunteer.trust',
    ],
    ['a penalty', 400, 'unsupported_parameter', { ...story, presence_penalty: 0.5 }, 'presence_penalty'],
    ['a temperature beyond 2', 400, 'invalid_value', { ...story, temperature: 3 }, 'temperature'],
    ['a negative count', 400, 'invalid_value', { ...story, n: -1 }, 'n'],
    ['too many choices', 400, 'invalid_value', { ...story, prompt: ['a', 'b', 'c'], n: 100 }, 'n'],
    ['half a token', 400, 'invalid_value', { ...story, prompt: [1, 2.5] }, 'prompt.1'],
    ['a token of no vocabulary', 400, 'invalid_value', { ...story, prompt: [1, 99_999] }, 'prompt'],
    ['an empty prompt list', 400, 'invalid_value', { ...story, prompt: [] }, 'prompt'],
    ['an empty stop string', 400, 'invalid_value', { ...story, stop: [''] }, 'stop.0'],
    ['half a character', 400, 'invalid_value', '{"model":"tales-3m","prompt":"\\ud800"}', 'prompt'],
    ['more tokens than fit', 400, 'context_length_exceeded', { ...story, max_tokens: 100_000 }, 'max_tokens'],
    [
      'a prompt that is too long',
      400,
      'context_length_exceeded',
      { ...story, prompt: 'once '.repeat(2_000) },
      'prompt',
    ],
    [
      'a prompt of megabytes',
      400,
      'context_length_exceeded',
      { ...story, prompt: 'a'.repeat(4_000_000) },
      'prompt',
    ],
    ['a body that is too large', 413, 'request_too_large', { ...story, prompt: 'a'.repeat(4_500_000) }],
  ])('%s: %i %s', async (_, status, code, body, param) => {
    const answer = await served.post('/v1/completions', body)
    const { error } = (await answer.json()) as { error: Record<string, unknown> }
    expect([answer.status, error.code, error.param ?? undefined], String(error.message)).toEqual([
      status,
      code,
      param,
    ])
    expect(error.request_id).toBe(answer.headers.get('x-request-id'))
    expect(answer.headers.get('x-should-retry')).toBe('false')
  })

  test('other media types and paths have the same shape of error', async () => {
    const text = await served.post('/v1/completions', 'model=tales-3m', {
      'content-type': 'application/x-www-form-urlencoded',
    })
    expect([text.status, (await text.json()).error.code]).toEqual([415, 'unsupported_media_type'])
    const plain = await served.post('/v1/completions', JSON.stringify(story), {
      'content-type': 'text/plain',
    })
    expect(plain.status).toBe(415)
    const nowhere = await fetch(`${served.url}/v1/nowhere`)
    expect([nowhere.status, (await nowhere.json()).error.code]).toEqual([404, 'not_found'])
    // A path that looks like a pattern of routes is a path.
    for (const path of ['/*//h', '/v1/:id', '/v1/files/*'])
      expect((await fetch(`${served.url}${path}`)).status, path).toBe(404)
  })

  test('any JSON at all is answered, with an error that has a code', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom('/v1/completions', '/v1/chat/completions', '/v1/embeddings', '/v1/classify'),
        fc.json(),
        async (path, body) => {
          const answer = await served.post(path, body)
          expect(answer.status).toBeLessThan(500)
          expect(((await answer.json()) as { error: { code: string } }).error.code).toMatch(/^[a-z_]+$/)
        },
      ),
      { numRuns: 200, seed: inject('seed') },
    )
  })

  test('ten thousand requests at once: each is answered, memory stays bounded, and then it serves as before', async () => {
    const before = process.memoryUsage().rss
    const statuses = new Map<string, number>()
    // Pipelined, so that the test needs no ten thousand sockets: to the server they are requests like all others.
    const lanes = Array.from({ length: 100 }, () =>
      pipeline(100, JSON.stringify({ ...story, max_tokens: 1 })),
    )
    for (const status of (await Promise.all(lanes)).flat())
      statuses.set(status, (statuses.get(status) ?? 0) + 1)
    const shown = JSON.stringify([...statuses])
    // Either answered or refused in good order.
    expect(
      [...statuses.keys()].filter((status) => !['200', '429', '503'].includes(status)),
      shown,
    ).toEqual([])
    expect(
      [...statuses.values()].reduce((a, b) => a + b),
      shown,
    ).toBe(10_000)
    expect(statuses.get('200'), shown).toBeGreaterThan(0)
    // Client and server share this process: 50 kB for each of both ends, generously.
    expect(process.memoryUsage().rss - before).toBeLessThan(1024 * 1024 * 1024)
    await eventually(() => served.status().jobs.open === 0, 'nothing is left over')
    await stillServes()
  })
})

/** The statuses of `count` equal requests, all sent before the first answer is read. */
function pipeline(count: number, body: string): Promise<string[]> {
  const { port } = new URL(served.url)
  const request =
    `POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n` +
    `Content-Length: ${body.length}\r\n\r\n${body}`
  return new Promise((resolve, reject) => {
    const socket = connect(Number(port), '127.0.0.1')
    let text = ''
    socket.setEncoding('latin1')
    socket.on('error', reject)
    socket.on('data', (more: string) => {
      text += more
      const statuses = [...text.matchAll(/HTTP\/1\.1 (\d+) /g)].map(([, status]) => status!)
      if (statuses.length < count) return
      socket.destroy()
      resolve(statuses)
    })
    socket.on('close', () =>
      reject(new Error(`closed after ${text.match(/HTTP\/1\.1 /g)?.length ?? 0} answers`)),
    )
    socket.write(request.repeat(count))
  })
}

describe('model files', () => {
  const digest = (): string => served.status().models[0]!.digest
  const get = (file: string, headers: Record<string, string> = {}): Promise<Response> =>
    fetch(`${served.url}/models/${digest()}/${file}`, { headers })

  test('pieces make the whole, for ever cacheable', async () => {
    const whole = await get('embedding.bin')
    expect(whole.headers.get('cache-control')).toBe('public, max-age=31536000, immutable')
    const bytes = Buffer.from(await whole.arrayBuffer())
    const middle = await get('embedding.bin', { range: 'bytes=100-299' })
    expect([middle.status, middle.headers.get('content-range')]).toEqual([
      206,
      `bytes 100-299/${bytes.length}`,
    ])
    expect(Buffer.from(await middle.arrayBuffer()).equals(bytes.subarray(100, 300))).toBe(true)
    const end = await get('embedding.bin', { range: 'bytes=-50' })
    expect(Buffer.from(await end.arrayBuffer()).equals(bytes.subarray(-50))).toBe(true)
    expect((await get('embedding.bin', { range: `bytes=${bytes.length}-` })).status).toBe(416)
    expect((await get('embedding.bin', { 'if-none-match': whole.headers.get('etag')! })).status).toBe(304)
    expect((await get('embedding.bin', { range: 'bytes=0-9', 'if-range': '"another"' })).status).toBe(200)
  })

  test('nothing outside a pack, and nothing by name', async () => {
    for (const path of [
      '..%2f..%2fpackage.json',
      '%2e%2e/manifest.json',
      'nope.bin',
      'constructor',
      '__proto__',
    ])
      expect((await get(path)).status, path).toBe(404)
    expect((await fetch(`${served.url}/models/tales-3m/manifest.json`)).status).toBe(404)
  })
})
