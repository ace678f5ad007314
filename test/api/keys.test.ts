/** Who is let in, what a key may do, and what is done once though it is asked twice. */
import { createHash } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { FastifyInstance } from 'fastify'
import fc from 'fast-check'
import { afterEach, describe, expect, inject, test } from 'vitest'
import { accessOf } from '../../coordinator/api/access.ts'
import { hashOf } from '../../coordinator/api/keys.ts'
import { duration, Limiter } from '../../coordinator/api/limits.ts'
import { errorOf, openDesk } from './desk.ts'
import type { Desk, DeskOptions } from './desk.ts'

const desks: Desk[] = []
async function open(options?: DeskOptions): Promise<Desk> {
  const desk = await openDesk(options)
  desks.push(desk)
  return desk
}
afterEach(async () => {
  for (const desk of desks.splice(0)) await desk.close()
})

/** Counts what it did; takes its time if the body says so; fails as the body says. */
function counter(): { routes: (app: FastifyInstance) => void; done: () => number; release: () => void } {
  let done = 0
  let release = (): void => {}
  const routes = (app: FastifyInstance): void => {
    app.post<{ Body: { wait?: boolean; status?: number; tokens?: number } }>(
      '/v1/count',
      async (request, reply) => {
        const { charge, need } = accessOf(request)
        need('inference')
        charge(request.body.tokens ?? 0)
        if (request.body.wait) await new Promise<void>((resolve) => (release = resolve))
        done++
        return reply.code(request.body.status ?? 200).send({ done })
      },
    )
  }
  return { routes, done: () => done, release: () => release() }
}

const bearer = (key: string): { authorization: string } => ({ authorization: `Bearer ${key}` })

describe('the door', () => {
  test('on this machine it is open until there is a key', async () => {
    const { routes } = counter()
    const desk = await open({ routes })
    expect((await desk.post('/v1/count', {})).status).toBe(200)
    expect((await desk.post('/v1/count', {}, bearer('anything'))).status).toBe(200)
    const { key, record } = await desk.keys.create({ name: 'first' })
    const refused = await desk.post('/v1/count', {})
    expect(refused.headers.get('www-authenticate')).toBe('Bearer')
    expect(await errorOf(refused)).toMatchObject({ status: 401, code: 'invalid_api_key' })
    for (const wrong of [
      'anything',
      key.slice(0, -1),
      `${key}x`,
      key.toUpperCase(),
      hashOf(key),
      record.id,
      '',
    ])
      expect((await desk.post('/v1/count', {}, bearer(wrong))).status, wrong).toBe(401)
    expect((await desk.post('/v1/count', {}, { authorization: `Basic ${key}` })).status).toBe(401)
    expect((await desk.post('/v1/count', {}, bearer(key))).status).toBe(200)
  })

  test('on an address others reach it does not open by oversight', async () => {
    for (const host of ['0.0.0.0', '::', '192.168.1.7', 'example.org'])
      await expect(openDesk({ host })).rejects.toThrow(/no API key yet.*chorale keys create.*--open/)
    const { routes } = counter()
    const desk = await open({ host: '0.0.0.0', open: true, routes })
    expect((await desk.post('/v1/count', {})).status).toBe(200)
  })

  test('what is open on this machine is open under its name only, and not through a proxy', async () => {
    const { routes, done } = counter()
    const desk = await open({ routes })
    const { port } = new URL(desk.url)
    const ask = (headers: Record<string, string>): Promise<number> =>
      new Promise((resolve, reject) => {
        const all = { 'content-type': 'application/json', host: `127.0.0.1:${port}`, ...headers }
        const out = request(`${desk.url}/v1/count`, { method: 'POST', headers: all }, (answer) => {
          answer.resume()
          resolve(answer.statusCode!)
        })
        out.on('error', reject)
        out.end('{}')
      })
    // A name that was made to lead here: to the browser, its page and this API are one site.
    expect(await ask({ host: `evil.example:${port}`, origin: `http://evil.example:${port}` })).toBe(401)
    expect(await ask({ host: '127.0.0.1.evil.example' })).toBe(401)
    for (const header of ['x-forwarded-for', 'x-forwarded-host', 'forwarded'])
      expect(await ask({ [header]: '127.0.0.1' }), header).toBe(401)
    expect(done()).toBe(0)
    for (const host of [`localhost:${port}`, '[::1]', '127.0.0.1'])
      expect(await ask({ host }), host).toBe(200)
  })

  test('with the stock client: a wrong key is an AuthenticationError that is not retried', async () => {
    const desk = await open()
    await desk.keys.create({ name: 'first' })
    await expect(desk.openai.batches.list()).rejects.toMatchObject({ status: 401, code: 'invalid_api_key' })
  })

  test('what anybody may read needs no key, whatever is written around it', async () => {
    const desk = await open({ routes: (app) => void app.get('/v1/models', async () => ({ data: [] })) })
    await desk.keys.create({ name: 'first' })
    expect((await fetch(`${desk.url}/v1/models`)).status).toBe(200)
    for (const path of ['/v1/files', '/v1/files?/v1/models', '/v1/batches/../models', '/v1/batches#/v1/models', '/v1/keys'])
      expect((await fetch(`${desk.url}${path}`)).status, path).toBe(path.includes('..') ? 200 : 401)
    for (const path of ['//v1/files', '/V1/files', '/v1%2ffiles', '/%76%31/files'])
      expect([401, 404], path).toContain((await fetch(`${desk.url}${path}`)).status)
  }) // prettier-ignore

  test('a key does what its scopes say, until it is revoked or past its time', async () => {
    const { routes } = counter()
    const desk = await open({ routes })
    const asks = await desk.keys.create({ name: 'asks', scopes: ['inference'] })
    const files = await desk.keys.create({ name: 'files', scopes: ['batches'] })
    const old = await desk.keys.create({ name: 'old', expiresAt: 1_000 })
    const status = async (key: string, path: string): Promise<number> =>
      path === '/v1/count'
        ? (await desk.post(path, {}, bearer(key))).status
        : (await fetch(`${desk.url}${path}`, { headers: bearer(key) })).status
    expect(await status(asks.key, '/v1/count')).toBe(200)
    expect(await status(asks.key, '/v1/files')).toBe(403)
    expect(await status(asks.key, '/v1/batches')).toBe(403)
    expect(await status(files.key, '/v1/count')).toBe(403)
    expect(await status(files.key, '/v1/batches')).toBe(200)
    expect(await status(files.key, '/v1/keys')).toBe(403)
    expect(await status(old.key, '/v1/count')).toBe(401)
    await desk.keys.revoke(asks.record.id)
    expect(await status(asks.key, '/v1/count')).toBe(401)
  })

  test('keys are created, listed and revoked over the API, by an admin only', async () => {
    const desk = await open()
    expect((await desk.post('/v1/keys', { name: 'x' })).status).toBe(401)
    const admin = await desk.keys.create({ name: 'admin', scopes: ['admin'] })
    const headers = bearer(admin.key)
    const made = await (await desk.post('/v1/keys', { name: 'team', tenant: 'team-1', weight: 2, quotas: { batchRows: 5 } }, headers)).json()
    expect(made).toMatchObject({ object: 'key', name: 'team', tenant: 'team-1', weight: 2, quotas: { batchRows: 5 }, scopes: ['inference', 'batches'] })
    expect(made.key).toMatch(/^chr_[\w-]{43}$/)
    const { data } = await (await fetch(`${desk.url}/v1/keys`, { headers })).json()
    expect(data).toHaveLength(2)
    expect(JSON.stringify(data)).not.toContain(made.key)
    expect(JSON.stringify(data)).not.toContain(hashOf(made.key))
    const gone = await fetch(`${desk.url}/v1/keys/${made.id}`, { method: 'DELETE', headers })
    expect(await gone.json()).toEqual({ id: made.id, object: 'key', revoked: true })
    expect((await fetch(`${desk.url}/v1/keys/${made.id}`, { method: 'DELETE', headers })).status).toBe(404)
    expect((await fetch(`${desk.url}/v1/files`, { headers: bearer(made.key) })).status).toBe(401)
    expect((await errorOf(await desk.post('/v1/keys', { name: '', scopes: [] }, headers))).status).toBe(400)
  }) // prettier-ignore

  test('a key is nowhere in the data, and works after a restart; a revoked one does not', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'chorale-keys-'))
    try {
      const first = await openDesk({ folder })
      const kept = await first.keys.create({ name: 'kept' })
      const gone = await first.keys.create({ name: 'gone' })
      await first.keys.revoke(gone.record.id)
      await first.close()
      for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true }))
        if (entry.isFile()) {
          const bytes = readFileSync(join(entry.parentPath, entry.name))
          for (const { key } of [kept, gone]) {
            expect(bytes.includes(key)).toBe(false)
            expect(bytes.includes(key.slice(4))).toBe(false)
          }
        }
      const second = await openDesk({ folder })
      const { data } = await (await fetch(`${second.url}/v1/files`, { headers: bearer(kept.key) })).json()
      expect(data).toEqual([])
      expect((await fetch(`${second.url}/v1/files`, { headers: bearer(gone.key) })).status).toBe(401)
      await second.close()
    } finally {
      await rm(folder, { recursive: true })
    }
  })
})

describe('other sites', () => {
  const preflight = (desk: Desk, origin: string): Promise<Response> =>
    fetch(`${desk.url}/v1/files`, {
      method: 'OPTIONS',
      headers: { origin, 'access-control-request-method': 'POST', 'access-control-request-headers': 'authorization,x-stainless-os,x-evil' },
    }) // prettier-ignore
  test('their pages may do nothing, until the operator lists them', async () => {
    const { routes, done } = counter()
    const desk = await open({ corsOrigins: ['https://app.example.org'], routes })
    for (const origin of ['https://evil.example', 'null', 'https://app.example.org.evil.example', 'http://app.example.org']) {
      expect((await preflight(desk, origin)).headers.get('access-control-allow-origin')).toBeNull()
      const answer = await desk.post('/v1/count', {}, { origin })
      expect([answer.status, answer.headers.get('access-control-allow-origin')]).toEqual([403, null])
    }
    expect(done()).toBe(0)
    // A form needs no preflight, and a path has many spellings.
    for (const path of ['/v1/files', '/%761/files', '/v%31/files']) {
      const form = new FormData()
      form.append('purpose', 'batch')
      form.append('file', new Blob(['x']))
      const headers = { origin: 'https://evil.example' }
      expect((await fetch(`${desk.url}${path}`, { method: 'POST', body: form, headers })).status, path).toBe(403)
    }
    expect((await desk.openai.files.list()).data).toEqual([])
    const own = await desk.post('/v1/count', {}, { origin: desk.url })
    expect(own.status).toBe(200)
    const origin = 'https://app.example.org'
    const yes = await preflight(desk, origin)
    expect([yes.status, yes.headers.get('access-control-allow-origin'), yes.headers.get('vary')]).toEqual([204, origin, 'Origin'])
    expect(yes.headers.get('access-control-allow-headers')).toMatch(/authorization, content-type.*x-stainless-os$/)
    const answer = await desk.post('/v1/count', {}, { origin })
    expect([answer.status, answer.headers.get('access-control-allow-origin')]).toEqual([200, origin])
    expect(answer.headers.get('access-control-allow-credentials')).toBeNull()
    expect(answer.headers.get('access-control-expose-headers')).toContain('x-request-id')
  }) // prettier-ignore

  test('an error can be read by the page that caused it', async () => {
    const desk = await open({ corsOrigins: ['*'] })
    const answer = await desk.post('/v1/batches', {}, { origin: 'https://any.example' })
    expect([answer.status, answer.headers.get('access-control-allow-origin')]).toEqual([
      400,
      'https://any.example',
    ])
  })

  test('what is no origin is refused at the start', async () => {
    for (const wrong of ['https://example.org/', 'example.org', 'https://example.org/path', ''])
      await expect(openDesk({ corsOrigins: [wrong] })).rejects.toThrow('is no origin')
  })
})

describe('limits', () => {
  test('of requests: told in headers, 429 with the time to wait', async () => {
    const { routes } = counter()
    const desk = await open({ rates: { requestsPerMinute: 3 }, routes })
    const answers = []
    for (let i = 0; i < 5; i++) answers.push(await desk.post('/v1/count', {}, bearer(`another${i}`)))
    expect(answers.map(({ status }) => status)).toEqual([200, 200, 200, 429, 429])
    expect(answers.map(({ headers }) => headers.get('x-ratelimit-remaining-requests'))).toEqual(['2', '1', '0', '0', '0'])
    expect(answers[0]!.headers.get('x-ratelimit-limit-requests')).toBe('3')
    expect(answers[0]!.headers.get('x-ratelimit-reset-requests')).toMatch(/^\d+(ms|s)$/)
    const { headers } = answers[4]!
    expect(Number(headers.get('retry-after'))).toBeGreaterThan(0)
    expect(Number(headers.get('retry-after'))).toBeLessThanOrEqual(20)
    expect(headers.get('x-should-retry')).toBe('true')
    expect(await errorOf(answers[4]!)).toMatchObject({ code: 'rate_limited' })
  }) // prettier-ignore

  test('of tokens, and a key’s own instead of everybody’s', async () => {
    const { routes } = counter()
    const desk = await open({ rates: { tokensPerMinute: 100 }, routes })
    const { key } = await desk.keys.create({ name: 'more', quotas: { tokensPerMinute: 1_000 } })
    const plain = await desk.keys.create({ name: 'plain' })
    const ask = async (tokens: number, by: string): Promise<number> =>
      (await desk.post('/v1/count', { tokens }, bearer(by))).status
    expect(await ask(500, key)).toBe(200)
    expect(await ask(600, key)).toBe(429)
    expect(await ask(60, plain.key)).toBe(200)
    expect(await ask(60, plain.key)).toBe(429)
    // More than ever will be there: waiting is no use.
    const never = await desk.post('/v1/count', { tokens: 101 }, bearer(plain.key))
    expect([never.status, never.headers.get('x-should-retry')]).toEqual([413, 'false'])
  })

  test('over any time, no more than a minute’s worth and what the time allows; and what is told comes true', () => {
    const step = fc.record({ afterMs: fc.nat(30_000), count: fc.integer({ min: 1, max: 40 }) })
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 100 }), fc.array(step, { maxLength: 60 }), (limit, steps) => {
        let now = 0
        let taken = 0
        const limiter = new Limiter(() => now)
        for (const { afterMs, count } of steps) {
          now += afterMs
          try {
            limiter.take('a', 'tokens', limit, count, null)
            taken += count
          } catch (error) {
            const { code, retryMs } = error as { code: string; retryMs?: number }
            expect(code).toBe(count > limit ? 'request_too_large' : 'rate_limited')
            if (retryMs === undefined) continue
            now += retryMs
            limiter.take('a', 'tokens', limit, count, null)
            taken += count
          }
          expect(taken).toBeLessThanOrEqual(limit + (now * limit) / 60_000 + 1e-6)
        }
      }),
      { seed: inject('seed') },
    )
  })

  test('a flood of requesters is forgotten, not collected', () => {
    let now = 0
    const limiter = new Limiter(() => now)
    const before = process.memoryUsage().heapUsed
    for (let i = 0; i < 300_000; i++) {
      now += 0.01
      limiter.take(`ip:${i}`, 'requests', 10, 1, null)
    }
    expect(process.memoryUsage().heapUsed - before).toBeLessThan(100e6)
  })

  test('times as OpenAI writes them', () => {
    expect([0.2, 350, 1_000, 1_001, 59_999, 360_000].map(duration)).toEqual(['1ms', '350ms', '1s', '2s', '1m0s', '6m0s'])
  }) // prettier-ignore
})

describe('Idempotency-Key', () => {
  const once = (key: string): Record<string, string> => ({ 'idempotency-key': key })

  test('the same request twice: done once, answered twice, and told so', async () => {
    const { routes, done } = counter()
    const desk = await open({ routes })
    const first = await desk.post('/v1/count', { a: 1 }, once('k1'))
    const second = await desk.post('/v1/count', { a: 1 }, once('k1'))
    expect([await first.json(), await second.json()]).toEqual([{ done: 1 }, { done: 1 }])
    expect([first, second].map(({ headers }) => headers.get('idempotent-replayed'))).toEqual([null, 'true'])
    expect(second.headers.get('content-type')).toContain('application/json')
    await desk.post('/v1/count', { a: 1 }, once('k2'))
    await desk.post('/v1/count', { a: 1 })
    expect(done()).toBe(3)
  })

  test('another body or path under the same key is refused', async () => {
    const { routes, done } = counter()
    const desk = await open({ routes })
    await desk.post('/v1/count', { a: 1 }, once('k'))
    const other = await desk.post('/v1/count', { a: 2 }, once('k'))
    expect(other.headers.get('x-should-retry')).toBe('false')
    expect(await errorOf(other)).toMatchObject({ status: 409, code: 'idempotency_mismatch' })
    expect((await errorOf(await desk.post('/v1/batches', { a: 1 }, once('k')))).code).toBe(
      'idempotency_mismatch',
    )
    expect(done()).toBe(1)
  })

  test('while the first is under way the second may be retried', async () => {
    const { routes, done, release } = counter()
    const desk = await open({ routes })
    const first = desk.post('/v1/count', { wait: true }, once('k'))
    await new Promise((resolve) => setTimeout(resolve, 100))
    const second = await desk.post('/v1/count', { wait: true }, once('k'))
    expect([second.headers.get('x-should-retry'), second.headers.get('retry-after')]).toEqual(['true', '1'])
    expect(await errorOf(second)).toMatchObject({ status: 409, code: 'idempotency_in_progress' })
    release()
    expect((await first).status).toBe(200)
    expect((await desk.post('/v1/count', { wait: true }, once('k'))).headers.get('idempotent-replayed')).toBe(
      'true',
    )
    expect(done()).toBe(1)
  })

  test('a hundred at once: one does it, none gets another answer', async () => {
    const { routes, done } = counter()
    const desk = await open({ routes })
    const answers = await Promise.all(
      Array.from({ length: 100 }, () => desk.post('/v1/count', {}, once('k'))),
    )
    expect(done()).toBe(1)
    for (const answer of answers) expect(answer.status === 409 || (await answer.json()).done === 1).toBe(true)
  })

  test('refusals that say nothing about the request are not kept, those that do are', async () => {
    const { routes, done } = counter()
    const desk = await open({ routes })
    for (const status of [500, 503, 429]) {
      await desk.post('/v1/count', { status }, once(`k${status}`))
      await desk.post('/v1/count', { status }, once(`k${status}`))
    }
    expect(done()).toBe(6)
    await desk.post('/v1/count', { status: 400 }, once('k400'))
    expect((await desk.post('/v1/count', { status: 400 }, once('k400'))).status).toBe(400)
    expect(done()).toBe(7)
  })

  test('a caller that hangs up gives its key back', async () => {
    const { routes, done, release } = counter()
    const desk = await open({ routes })
    const gone = new AbortController()
    const first = fetch(`${desk.url}/v1/count`, {
      method: 'POST', body: '{"wait":true}', signal: gone.signal, headers: { 'content-type': 'application/json', ...once('k') },
    }) // prettier-ignore
    await new Promise((resolve) => setTimeout(resolve, 100))
    gone.abort()
    await expect(first).rejects.toThrow()
    await new Promise((resolve) => setTimeout(resolve, 100))
    const second = desk.post('/v1/count', { wait: true }, once('k'))
    await new Promise((resolve) => setTimeout(resolve, 100))
    release()
    expect((await second).status).toBe(200)
    expect(done()).toBe(1)
  })

  test('kept across restarts; each tenant has keys of its own', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'chorale-once-'))
    const { routes, done } = counter()
    try {
      const first = await openDesk({ folder, routes })
      await first.post('/v1/count', {}, once('k'))
      await first.close()
      const second = await openDesk({ folder, routes })
      expect((await second.post('/v1/count', {}, once('k'))).headers.get('idempotent-replayed')).toBe('true')
      const { key } = await second.keys.create({ name: 'other' })
      await second.post('/v1/count', {}, { ...once('k'), ...bearer(key) })
      expect(done()).toBe(2)
      await second.close()
    } finally {
      await rm(folder, { recursive: true })
    }
  })

  test('a batch is created once, even if the coordinator died before it could answer', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'chorale-once-'))
    try {
      const first = await openDesk({ folder })
      const body = {
        input_file_id: await first.upload('x'),
        endpoint: '/v1/embeddings',
        completion_window: '24h',
      }
      const made = await (await first.post('/v1/batches', body, once('k'))).json()
      // As a kill between the batch and its kept answer leaves it: a claim nobody answered.
      await first.store.answered('public', 'k', null)
      const request = createHash('sha256')
        .update(`POST /v1/batches\n${JSON.stringify(body)}`)
        .digest('hex')
      await first.store.claim(
        { tenant: 'public', key: 'k', request, createdAt: made.created_at, answer: null },
        0,
      )
      await first.close()
      const second = await openDesk({ folder })
      const again = await (await second.post('/v1/batches', body, once('k'))).json()
      expect(again.id).toBe(made.id)
      expect((await second.openai.batches.list()).data).toHaveLength(1)
      await second.close()
    } finally {
      await rm(folder, { recursive: true })
    }
  })

  test('not for streams and uploads, and not any text', async () => {
    const { routes } = counter()
    const desk = await open({ routes })
    expect(await errorOf(await desk.post('/v1/count', { stream: true }, once('k')))).toMatchObject({ status: 400, param: 'stream' })
    expect((await desk.post('/v1/count', {}, once('a b'))).status).toBe(400)
    expect((await desk.post('/v1/count', {}, once('x'.repeat(256)))).status).toBe(400)
    const form = new FormData()
    form.append('purpose', 'batch')
    form.append('file', new Blob(['x']))
    const upload = await fetch(`${desk.url}/v1/files`, { method: 'POST', body: form, headers: once('k') })
    expect((await errorOf(upload)).code).toBe('unsupported_parameter')
  }) // prettier-ignore
})
