/** Ids of the Hub, against a hub of our own that serves one of the fixtures. */
import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { parseHubId } from '../../tools/hub.ts'
import { chorale, root } from './chorale.ts'
import type { Chorale } from './chorale.ts'

const SHA = '0123456789abcdef0123456789abcdef01234567'
const model = join(root, 'models/intents-3m')

let c: Chorale
let server: Server
let env: NodeJS.ProcessEnv
let requests: string[]
let tokens: Array<string | undefined>

beforeEach(async () => {
  c = chorale()
  requests = []
  tokens = []
  server = createServer((request, response) => {
    const url = decodeURIComponent(request.url!)
    requests.push(`${request.method} ${url.split('?')[0]}`)
    tokens.push(request.headers.authorization)
    const json = (value: unknown): void =>
      void response.setHeader('content-type', 'application/json').end(JSON.stringify(value))
    const entry = (path: string) => {
      const bytes = readFileSync(join(model, path))
      return {
        type: 'file',
        path,
        size: bytes.length,
        oid: createHash('sha1').update(bytes).digest('hex'),
        lastCommit: { id: SHA, date: 0, title: 'x' },
      }
    }
    if (url.startsWith('/api/models/us/private/')) return void response.writeHead(401).end('no')
    if (url.startsWith('/api/models/us/broken/')) return void response.writeHead(500).end('oh')
    if (url.startsWith('/api/models/us/intents/revision/'))
      return json({ _id: '1', id: 'us/intents', sha: SHA, lastModified: 0 })
    if (url.startsWith(`/api/models/us/intents/tree/${SHA}`))
      return json(
        [...readdirSync(model), 'pytorch_model.bin'].map((f) =>
          existsSync(join(model, f)) ? entry(f) : { type: 'file', path: f, size: 9, oid: '0' },
        ),
      )
    if (url.startsWith(`/api/models/us/intents/paths-info/${SHA}`)) {
      let body = ''
      request.on('data', (d: Buffer) => (body += d.toString()))
      return void request.on('end', () => json((JSON.parse(body) as { paths: string[] }).paths.map(entry)))
    }
    const file = new RegExp(`^/us/intents/resolve/${SHA}/([\\w.]+)`).exec(url)?.[1]
    if (!file)
      return void response
        .writeHead(404, { 'content-type': 'application/json' })
        .end('{"error":"Repository not found"}')
    const bytes = readFileSync(join(model, file))
    response.setHeader('etag', `"${entry(file).oid}"`)
    const range = /bytes=(\d+)-(\d+)?/.exec(request.headers.range ?? '')
    if (!range) return void response.end(bytes)
    const [from, to] = [Number(range[1]), Math.min(Number(range[2] ?? bytes.length - 1), bytes.length - 1)]
    response
      .writeHead(206, { 'content-range': `bytes ${from}-${to}/${bytes.length}` })
      .end(bytes.subarray(from, to + 1))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  env = { HF_HUB_OFFLINE: '', HF_ENDPOINT: `http://127.0.0.1:${(server.address() as AddressInfo).port}` }
})
afterEach(async () => {
  c.remove()
  server.closeAllConnections()
  await new Promise((resolve) => server.close(resolve))
})

test('a model is downloaded, packed and used; then it is there without a network', async () => {
  const args = ['classify', 'us/intents', '--json', 'play some jazz']
  const first = await c.run(args, { env: { ...env, HF_TOKEN: 'hf_secret' } })
  expect(first).toMatchObject({ code: 0 })
  expect(JSON.parse(first.stdout)).toMatchObject({ labels: [{ label: 'play_music' }] })
  expect(first.stderr).not.toContain('hf_secret')
  expect(requests.join()).not.toContain('pytorch_model.bin')
  expect(requests.join()).not.toContain('reference.json')
  expect(new Set(tokens)).toEqual(new Set(['Bearer hf_secret']))
  const snapshot = join(c.folder, 'hf/hub/models--us--intents/snapshots', SHA)
  expect(readdirSync(snapshot)).toContain('model.safetensors')

  const before = requests.length
  expect((await c.run(args, { env: { ...env, HF_HUB_OFFLINE: '1' } })).stdout).toBe(first.stdout)
  expect((await c.run(['classify', `us/intents@${SHA}`, '--json', 'play some jazz'], { env })).stdout).toBe(
    first.stdout,
  )
  expect(requests).toHaveLength(before)
  // A hub that went away is no reason not to use what is here.
  expect((await c.run(args, { env: { ...env, HF_ENDPOINT: 'http://127.0.0.1:9' } })).stdout).toBe(
    first.stdout,
  )
  expect((await c.run(['pack', 'us/intents', '--no-quality', '--tokens', '32'], { env })).code).toBe(0)
  expect(existsSync(join(c.folder, 'intents.pack/manifest.json'))).toBe(true)
})

test('what the hub refuses is said in one line', async () => {
  for (const [id, code, ...words] of [
    ['us/nothing', 3, 'no model us/nothing'],
    ['us/private', 3, 'refuses', 'HF_TOKEN'],
    ['us/broken', 1, '500'],
  ] as const) {
    const { code: got, stdout, stderr } = await c.run(['embed', id, 'x'], { env })
    expect([id, got, stdout]).toEqual([id, code, ''])
    expect(stderr.trimEnd().split('\n')).toHaveLength(1)
    for (const word of words) expect(stderr).toContain(word)
  }
  const { code, stderr } = await c.run(['embed', 'us/intents', 'x'], { env: { ...env, HF_TOKEN: 'secret' } })
  expect(code).toBe(3)
  expect(stderr).toMatch(/^chorale: HF_TOKEN /)
  expect(stderr).not.toContain('secret')
})

test('ids are owner/name with a revision, and nothing that could be a path', () => {
  expect(parseHubId('Qwen/Qwen3-0.6B')).toEqual({ repo: 'Qwen/Qwen3-0.6B', revision: null })
  expect(parseHubId('a/b@refs/pr/1')).toEqual({ repo: 'a/b', revision: 'refs/pr/1' })
  for (const no of [
    'a',
    'a/b/c',
    '/a/b',
    './a',
    '../a',
    'a/..',
    'a/b@',
    'a/b@../x',
    'a /b',
    '',
    'a/b@a..b',
    '~/x',
    'a\\b/c',
  ])
    expect([no, parseHubId(no)]).toEqual([no, null])
})
