/** Rows of SECURITY.md that no other test is about: what is written down, what is kept from strangers, and who takes his time. */
import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { connect } from 'node:net'
import type { AddressInfo, Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { afterAll, describe, expect, test } from 'vitest'
import { openHttp } from '../../coordinator/http.ts'
import { openLog } from '../../coordinator/log.ts'
import { root } from '../cli/chorale.ts'
import { errorOf, openDesk } from './desk.ts'

const folder = mkdtempSync(join(tmpdir(), 'chorale-security-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

test('every row of SECURITY.md names tests that exist', () => {
  const rows = [...readFileSync(join(root, 'SECURITY.md'), 'utf8').matchAll(/^\| .* \|$/gm)].slice(2)
  expect(rows.length).toBeGreaterThan(10)
  for (const [row] of rows) {
    const named = [...row.matchAll(/`(test\/[\w/.-]+)`/g)].map(([, path]) => path!)
    expect(named.length, row).toBeGreaterThan(0)
    for (const path of named) expect(existsSync(join(root, path)), path).toBe(true)
  }
})

test('at trace level, with every kind of request: no prompt, no answer, no key and no secret is logged', async () => {
  const child = spawn(
    process.execPath,
    [join(root, 'bin/chorale.js'), 'serve', '--port', '0', '--json', '--log-level', 'trace', '--webhook-origins', 'http://127.0.0.1:9'],
    { env: { ...process.env, CHORALE_DATA: join(folder, 'data') } },
  )
  const done = new Promise((resolve) => child.on('close', resolve))
  let [stdout, stderr] = ['', '']
  child.stdout!.on('data', (piece) => (stdout += String(piece)))
  child.stderr!.on('data', (piece) => (stderr += String(piece)))
  while (!stdout.includes('\n')) await new Promise((resolve) => setTimeout(resolve, 20))
  const { url } = JSON.parse(stdout) as { url: string }
  while (!(await fetch(`${url}/readyz`)).ok) await new Promise((resolve) => setTimeout(resolve, 50))
  // Words of no language, so that none can come from anywhere else.
  const secret = 'zqxjkvbq'
  const key = `chr_${secret}`
  const headers = { 'content-type': 'application/json', authorization: `Bearer ${key}`, 'idempotency-key': `${secret}-once`, cookie: secret }
  const post = (path: string, body: unknown): Promise<Response> =>
    fetch(`${url}${path}`, { method: 'POST', headers, body: typeof body === 'string' ? body : JSON.stringify(body) })
  const answer = await (await post('/v1/completions', { model: 'tales-3m', prompt: `${secret} went out`, max_tokens: 30, seed: 1, temperature: 1 })).json()
  const text = String(answer.choices[0].text)
  const plain = { ...headers } as Record<string, string>
  delete plain['idempotency-key']
  await (await fetch(`${url}/v1/completions`, { method: 'POST', headers: plain, body: JSON.stringify({ model: 'tales-3m', prompt: secret, max_tokens: 5, stream: true }) })).text()
  await post('/v1/embeddings', { model: 'intents-3m', input: [secret, secret] })
  await post('/v1/embeddings', { model: secret, input: 'x' })
  await post('/v1/chat/completions', `{"messages": "${secret}" oops`)
  await post('/v1/chat/completions', { model: 'tales-3m', messages: [{ role: secret, content: secret }] })
  await fetch(`${url}/v1/files/${secret}?${secret}=${secret}`, { headers: { authorization: headers.authorization } })
  const upload = async (content: string): Promise<string> => {
    const form = new FormData()
    form.append('purpose', 'batch')
    form.append('file', new Blob([content]), `${secret}.jsonl`)
    return (await (await fetch(`${url}/v1/files`, { method: 'POST', body: form })).json()).id
  }
  const row = JSON.stringify({ custom_id: secret, method: 'POST', url: '/v1/embeddings', body: { model: 'intents-3m', input: secret } })
  for (const content of [row, `${row}\n{"${secret}`]) {
    const made = await (await fetch(`${url}/v1/batches`, { method: 'POST', headers: plain, body: JSON.stringify({ input_file_id: await upload(content), endpoint: '/v1/embeddings', completion_window: '24h', metadata: { secret }, volunteer: { webhook: `http://127.0.0.1:9/${secret}` } }) })).json()
    for (let status = ''; !['completed', 'failed'].includes(status); )
      status = (await (await fetch(`${url}/v1/batches/${made.id}`)).json()).status
    expect(made.volunteer.webhook_secret).toBeTruthy()
    expect(stderr).not.toContain(made.volunteer.webhook_secret)
  }
  await new Promise((resolve) => setTimeout(resolve, 300))
  const { pid, key: operator } = JSON.parse(readFileSync(join(folder, 'data/running.json'), 'utf8')) as { pid: number; key: string }
  expect(pid).toBe(child.pid)
  if (process.platform !== 'win32') expect(statSync(join(folder, 'data/running.json')).mode & 0o077).toBe(0)
  child.kill('SIGTERM')
  await done
  expect(existsSync(join(folder, 'data/running.json'))).toBe(false)
  // It did log, and the path of every request, without what a path may carry.
  expect(stderr).toMatch(/"url":"\/v1\/completions"/)
  expect(stderr).toMatch(/a webhook did not arrive/)
  expect(stderr).not.toContain(operator)
  expect(text.length).toBeGreaterThan(10)
  expect(stderr).not.toContain(text.trim().slice(0, 20))
  const spilled = stderr.split('\n').filter((line) => line.includes(secret))
  expect(spilled).toEqual([])
}) // prettier-ignore

describe('who takes his time', () => {
  const slow = async (first: string, more: string, everyMs: number): Promise<string> => {
    const app = openHttp(openLog('silent'), { times: { headersMs: 300, jsonMs: 900, checkMs: 200, bytesPerCheck: 1_000 } })
    app.post('/v1/echo', (request, reply) => reply.send(request.body))
    await app.listen({ host: '127.0.0.1', port: 0 })
    const socket: Socket = connect((app.server.address() as AddressInfo).port, '127.0.0.1')
    let text = ''
    socket.on('data', (piece) => (text += String(piece)))
    socket.on('error', () => undefined)
    socket.write(first)
    const timer = setInterval(() => socket.write(more), everyMs)
    await new Promise((resolve) => socket.on('close', resolve))
    clearInterval(timer)
    await app.close()
    return text
  } // prettier-ignore
  const head =
    'POST /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n'

  test('with headers, with a body that stands still, with one that never ends: 408, and the connection is closed', async () => {
    for (const [i, text] of (await Promise.all([slow('POST /v1/echo HTTP/1.1\r\n', 'X: 1\r\n', 50), slow(head, ' ', 50), slow(head, ' '.repeat(2_000), 50)])).entries()) {
      expect(text, String(i)).toMatch(/^HTTP\/1\.1 408 /)
      expect(text).toMatch(/"code":"request_timeout"/)
    }
  }) // prettier-ignore
})

test('a body that unpacks is not unpacked', async () => {
  const desk = await openDesk()
  const body = gzipSync(Buffer.alloc(50_000_000))
  const answer = await fetch(`${desk.url}/v1/batches`, {
    method: 'POST', body, headers: { 'content-type': 'application/json', 'content-encoding': 'gzip' },
  }) // prettier-ignore
  expect(await errorOf(answer)).toMatchObject({ status: 415, code: 'unsupported_media_type' })
  await desk.close()
})

test('headers beyond any bound, and bytes that are no HTTP, are refused in the same shape', async () => {
  const desk = await openDesk()
  const raw = (bytes: string): Promise<string> =>
    new Promise((resolve) => {
      const socket = connect(Number(new URL(desk.url).port), '127.0.0.1')
      let text = ''
      socket.on('data', (piece) => (text += String(piece)))
      socket.on('close', () => resolve(text))
      socket.on('error', () => undefined)
      socket.write(bytes)
    })
  expect(await raw(`GET / HTTP/1.1\r\nHost: x\r\nX: ${'x'.repeat(20_000)}\r\n\r\n`)).toMatch(/^HTTP\/1\.1 431 [\s\S]*"headers_too_large"/)
  expect(await raw('hello\r\n\r\n')).toMatch(/^HTTP\/1\.1 400 [\s\S]*"invalid_request"/)
  // Two lengths, or a length and chunks: which of them a proxy believes is how requests are smuggled.
  for (const lengths of ['Content-Length: 3\r\nContent-Length: 5', 'Content-Length: 3\r\nTransfer-Encoding: chunked'])
    expect(await raw(`POST /v1/batches HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n${lengths}\r\n\r\n{}`)).toMatch(/^HTTP\/1\.1 400 /)
  await desk.close()
}) // prettier-ignore

test('data is for its owner alone', async () => {
  if (process.platform === 'win32') return
  const parent = await mkdtemp(join(tmpdir(), 'chorale-own-'))
  const { openData } = await import('../../coordinator/data.ts')
  const data = await openData(join(parent, 'data'))
  expect(statSync(data.folder).mode & 0o077).toBe(0)
  await data.close()
  await rm(parent, { recursive: true })
})

test('few packages run here, none of them at install time', () => {
  const { dependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
    dependencies: Record<string, string>
  }
  expect(Object.keys(dependencies).length).toBeLessThanOrEqual(40)
  const { packages } = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')) as {
    packages: Record<string, { integrity?: string; dev?: boolean; link?: boolean }>
  }
  const unpinned = Object.entries(packages).filter(
    ([path, one]) => path !== '' && !one.link && !one.integrity,
  )
  expect(unpinned.map(([path]) => path)).toEqual([])
})
