/** Damaged requests to a real server: every one is answered, with a code of the table or a success, and never `internal`. */
import { Agent, request } from 'node:http'
import { connect } from 'node:net'
import { ERRORS } from '../../coordinator/api/errors.ts'
import type { ErrorCode } from '../../coordinator/api/errors.ts'
import { Random } from '../harness/random.ts'
import type { Finding } from './frames.ts'
import { damageBytes, damageJson } from './mutate.ts'

interface Good {
  method: string
  path: string
  body?: object | string
  type?: string
}

/** One of everything that can be asked; the ids are some that exist. */
export function corpusOf(ids: { file: string; batch: string }): Good[] {
  const sampling = { model: 'tales-3m', max_tokens: 4, temperature: 0.5, top_p: 0.9, seed: 3, stop: ['x'], n: 2, logprobs: 1, stream: false, volunteer: { deadline_ms: 200, trust: 'fast', top_k: 5 } }
  const row = { custom_id: 'a', method: 'POST', url: '/v1/embeddings', body: { model: 'intents-3m', input: 'x' } }
  const form = (content: string): string =>
    `--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\nContent-Type: text/plain\r\n\r\n${content}\r\n--x--\r\n`
  return [
    { method: 'POST', path: '/v1/completions', body: { ...sampling, prompt: ['Once', 'upon'] } },
    { method: 'POST', path: '/v1/completions', body: { ...sampling, prompt: [1, 2, 3], stream: true } },
    { method: 'POST', path: '/v1/chat/completions', body: { model: 'tales-3m', max_tokens: 3, messages: [{ role: 'user', content: [{ type: 'text', text: 'hi' }] }], logprobs: true, top_logprobs: 2 } },
    { method: 'POST', path: '/v1/embeddings', body: { model: 'intents-3m', input: ['a', 'b'], encoding_format: 'base64' } },
    { method: 'POST', path: '/v1/classify', body: { model: 'intents-3m', input: [[1, 2], [3]] } },
    { method: 'POST', path: '/v1/files', body: form(JSON.stringify(row)), type: 'multipart/form-data; boundary=x' },
    { method: 'POST', path: '/v1/batches', body: { input_file_id: ids.file, endpoint: '/v1/embeddings', completion_window: '24h', metadata: { a: 'b' }, output_expires_after: { anchor: 'created_at', seconds: 3600 }, volunteer: { trust: 'fast' } } },
    { method: 'POST', path: `/v1/batches/${ids.batch}/cancel`, body: {} },
    { method: 'POST', path: '/v1/keys', body: { name: 'x', scopes: ['admin'], quotas: { batchRows: 1 }, credit: 5 } },
    { method: 'POST', path: '/v1/keys/key_1/credit', body: { amount: 5 } },
    { method: 'DELETE', path: '/v1/keys/key_1' },
    { method: 'DELETE', path: '/v1/files/file-1' },
    ...['/v1/models', '/v1/models/tales-3m', '/v1/status', '/v1/files?limit=2&order=asc', `/v1/files/${ids.file}`, `/v1/files/${ids.file}/content`, '/v1/batches?limit=3&after=x', `/v1/batches/${ids.batch}`, '/v1/receipts/r-1', '/v1/ledger?after=0&limit=3', '/v1/ledger/head', '/v1/ledger/checkpoint', '/v1/credits', '/v1/lottery', '/v1/evidence/x', '/healthz', '/readyz', '/version', '/metrics', '/models/x/manifest.json', '/', '/dashboard'].map((path) => ({ method: 'GET', path })),
  ]
} // prettier-ignore

export interface Request {
  method: string
  path: string
  headers: Record<string, string>
  body: Buffer
}

/** The `index`th damaged request of a seed. */
export function requestOf(corpus: readonly Good[], seed: number, index: number): Request {
  const random = new Random(seed, `request ${index}`)
  const good = random.pick(corpus)
  const headers: Record<string, string> = {}
  let { path, method } = good
  let body: Buffer = Buffer.alloc(0)
  if (good.body !== undefined) {
    headers['content-type'] = good.type ?? 'application/json'
    const isJson = typeof good.body === 'object'
    const value = isJson && random.float() < 0.8 ? damageJson(random, good.body) : good.body
    body = Buffer.from(typeof value === 'string' && !isJson ? value : JSON.stringify(value))
    if (random.float() < 0.3) body = damageBytes(random, body)
  }
  if (random.float() < 0.2) path = pathFrom(damageBytes(random, Buffer.from(path)))
  if (random.float() < 0.05)
    method = random.pick(['PUT', 'PATCH', 'HEAD', 'OPTIONS', 'TRACE', 'GET', 'POST', 'DELETE'])
  if (random.float() < 0.3) Object.assign(headers, strangeHeaders(random))
  return { method, path, headers, body }
}

/** What Node's client lets through: no control characters, no spaces, a slash first. */
const pathFrom = (bytes: Buffer): string =>
  `/${bytes.toString('latin1').replace(/[^\u0021-\u007e\u0080-\u00ff]/g, '%00')}`
    .replace(/^\/\//, '/')
    .slice(0, 3_000)

function strangeHeaders(random: Random): Record<string, string> {
  const long = 'x'.repeat(random.pick([300, 5_000]))
  return random.pick<Record<string, string>>([
    { 'content-type': random.pick(['text/plain', 'multipart/form-data', 'multipart/form-data; boundary=', 'application/json; charset=utf-7', 'application/x-www-form-urlencoded', 'x', `multipart/form-data; boundary=${long}`]) },
    { 'content-encoding': random.pick(['gzip', 'identity', 'br, gzip', long]) },
    { 'idempotency-key': random.pick(['a', 'b', 'c d', long, '__proto__', String(random.int(0, 50))]) },
    { authorization: random.pick(['Bearer x', 'Basic eDp5', 'Bearer', `Bearer ${long}`, 'Bearer __proto__']) },
    { range: random.pick(['bytes=0-0', 'bytes=5-', 'bytes=-1', 'bytes=9-1', `bytes=${'9'.repeat(30)}-`, 'bytes=0-1,2-3', 'x']) },
    { origin: random.pick(['null', 'http://evil.example', '*', long]) },
    { accept: random.pick(['text/html', '*/*;q=x', long]) },
    { 'x-forwarded-for': random.pick(['1.2.3.4', long, '::1']) },
    { host: random.pick(['evil.example', '', 'a:b:c', '[::1']) },
    { expect: random.pick(['100-continue', 'x']) },
    { te: 'trailers' },
    { upgrade: 'websocket', connection: random.pick(['upgrade', 'x']) },
    { cookie: `a=${long}` },
    { 'x-http-method-override': 'DELETE' },
  ])
} // prettier-ignore

/** Of bytes that may be no request any more. */
const pathOf = (bytes: Buffer): string => /^[A-Z]+ (\/[^ ]*) HTTP/.exec(bytes.toString('latin1'))?.[1] ?? '/'

interface Answer {
  status: number
  text: string
}

const PLAIN = new Set([400, 404, 405, 416, 426, 429, 503])

/** What is wrong with an answer; null if nothing is. */
export function fault({ status, text }: Answer, path = '/v1/', isUpgrade = false): string | null {
  if (status === 101 || (status >= 200 && status < 400)) return null
  let error: { code?: unknown; message?: unknown } | undefined
  let reason: unknown
  try {
    ;({ error, reason } = JSON.parse(text) as { error?: typeof error; reason?: unknown })
  } catch {
    // Pages, packs and sockets are refused in plain words.
    if ((isUpgrade || !path.startsWith('/v1/')) && PLAIN.has(status)) return null
    return `${status} is no JSON: ${text.slice(0, 200)}`
  }
  // Readiness has a shape of its own, however its path is spelled.
  if (status === 503 && typeof reason === 'string') return null
  const known = ERRORS[error?.code as ErrorCode]
  if (!known) return `${status} with a code that is none: ${text.slice(0, 200)}`
  if (known.status !== status) return `${String(error!.code)} with ${status}`
  if (error!.code === 'internal') return `internal: ${text.slice(0, 200)}`
  return typeof error!.message === 'string' && error!.message !== '' ? null : 'without a message'
}

export class Requests {
  readonly #agent = new Agent({ keepAlive: true, maxSockets: 64 })
  readonly #url: URL
  readonly #corpus: Good[]
  readonly #seed: number

  constructor(url: string, corpus: Good[], seed: number) {
    this.#url = new URL(url)
    this.#corpus = corpus
    this.#seed = seed
  }

  /** Every tenth as bytes on a socket of its own, damaged as a whole. */
  async send(index: number): Promise<Finding | null> {
    const one = requestOf(this.#corpus, this.#seed, index)
    const isRaw = index % 10 === 0
    const what = await (isRaw ? this.#raw(one, index) : this.#whole(one)).catch(
      (error: Error) => error.message,
    )
    const input = `${one.method} ${one.path} ${JSON.stringify(one.headers)} ${one.body.toString('latin1')}`
    return what === null ? null : { what, seed: this.#seed, index, input: input.slice(0, 2_000) }
  }

  close(): void {
    this.#agent.destroy()
  }

  #whole({ method, path, headers, body }: Request): Promise<string | null> {
    return new Promise((resolve, reject) => {
      const { hostname, port } = this.#url
      const isBare = method === 'GET' || method === 'HEAD' || method === 'OPTIONS' || method === 'TRACE'
      const sent = isBare ? headers : { 'content-length': String(body.length), ...headers }
      const timer = setTimeout(() => reject(new Error('no answer within 60 s')), 60_000)
      const done = (what: string | null): void => {
        clearTimeout(timer)
        resolve(what)
      }
      const out = request({ hostname, port, method, path, headers: sent, agent: this.#agent }, (answer) => {
        let text = ''
        answer.setEncoding('utf8')
        answer.on('data', (piece: string) => (text.length < 100_000 ? (text += piece) : 0))
        answer.on('end', () =>
          done(
            method === 'HEAD'
              ? null
              : fault({ status: answer.statusCode!, text }, path, 'upgrade' in headers),
          ),
        )
        answer.on('error', () => done('the answer broke off'))
      })
      out.on('upgrade', (_, socket) => {
        socket.destroy()
        done(null)
      })
      // A refusal may overtake the body, and a connection may close behind it.
      out.on('error', (error: NodeJS.ErrnoException) =>
        // Bytes that are no HTTP are refused with a body, also where HEAD was meant.
        error.code === 'EPIPE' || error.code === 'ECONNRESET' || method === 'HEAD'
          ? done(null)
          : done(error.message),
      )
      out.end(isBare ? undefined : body)
    })
  }

  #raw({ method, path, headers, body }: Request, index: number): Promise<string | null> {
    const random = new Random(this.#seed, `raw ${index}`)
    const length = random.float() < 0.2 ? random.pick(['-1', '1e3', '99', '0, 5', 'x', '18446744073709551616']) : String(body.length)
    const lines = Object.entries({ host: '127.0.0.1', connection: 'close', ...headers, 'content-length': length }).map(([name, value]) => `${name}: ${value}\r\n`)
    const bytes = Buffer.concat([Buffer.from(`${method} ${path} HTTP/1.1\r\n${lines.join('')}\r\n`, 'latin1'), body])
    const sent = random.float() < 0.7 ? damageBytes(random, bytes) : bytes
    return new Promise((resolve) => {
      let text = ''
      const socket = connect(Number(this.#url.port), this.#url.hostname, () => {
        // Half closed: whatever is missing will not come.
        socket.end(sent)
      })
      socket.setEncoding('latin1')
      socket.on('data', (piece) => (text.length < 100_000 ? (text += String(piece)) : 0))
      socket.on('error', () => undefined)
      const timer = setTimeout(() => {
        socket.destroy()
        resolve('a raw request was neither answered nor ended within 60 s')
      }, 60_000)
      socket.on('close', () => {
        clearTimeout(timer)
        // Nothing at all is an answer to half a request that ended.
        if (text === '' || sent.toString('latin1').startsWith('HEAD ')) return resolve(null)
        const [, status] = /^HTTP\/1\.1 (\d{3}) /.exec(text) ?? []
        if (status === undefined) return resolve(`no HTTP: ${text.slice(0, 100)}`)
        // Answers to whatever the damage made of the rest may follow the first.
        const start = text.indexOf('\r\n\r\n') + 4
        const length = Number(/^content-length: (\d+)/im.exec(text.slice(0, start))?.[1] ?? Infinity)
        const content = Buffer.from(text.slice(start, start + length), 'latin1').toString('utf8')
        resolve(text.startsWith('HTTP/1.1 100') || /transfer-encoding: chunked/i.test(text) ? null : fault({ status: Number(status), text: content }, pathOf(sent), /upgrade/i.test(sent.toString('latin1'))))
      })
    })
  } // prettier-ignore
}
