/**
 * Tells a requester's server that a batch is over: Standard Webhooks (id, timestamp, HMAC-SHA-256), tried again for a while.
 * A coordinator that fetches whatever strangers name can be made to knock on its own network's doors: so only origins the
 * operator listed are called, their addresses are looked at when the connection is made, and redirects are not followed.
 */
import { createHmac, randomBytes } from 'node:crypto'
import type { LookupAddress } from 'node:dns'
import { lookup } from 'node:dns/promises'
import { request as requestHttp } from 'node:http'
import { request as requestHttps } from 'node:https'
import { BlockList, isIP } from 'node:net'
import type { LookupFunction } from 'node:net'
import type { Log } from '../log.ts'
import { ApiError } from './errors.ts'

/** Waits before each try, milliseconds: an hour in all. */
const TRIES_MS = [0, 1_000, 10_000, 60_000, 600_000, 3_000_000]
const TIMEOUT_MS = 10_000

export interface WebhooksOptions {
  /** Origins that may be called, like https://hooks.example.org; empty: none. */
  allowed: readonly string[]
  log: Log
  /** For tests: the waits, and what a name leads to. */
  triesMs?: readonly number[]
  resolve?: (hostname: string) => Promise<LookupAddress[]>
}

export const newSecret = (): string => `whsec_${randomBytes(24).toString('base64')}`

export class Webhooks {
  readonly #allowed: ReadonlySet<string>
  readonly #log: Log
  readonly #triesMs: readonly number[]
  readonly #lookup: LookupFunction
  readonly #timers = new Set<NodeJS.Timeout>()

  /** Throws TypeError for what is no origin. */
  constructor({ allowed, log, triesMs = TRIES_MS, resolve = addressesOf }: WebhooksOptions) {
    this.#allowed = new Set(allowed.map((one) => originOf(one)))
    this.#log = log
    this.#triesMs = triesMs
    this.#lookup = publicOnly(resolve)
  }

  /** Throws ApiError for a URL that is not called. */
  check(url: string): void {
    const param = 'volunteer.webhook'
    let origin: string
    try {
      origin = originOf(url)
    } catch {
      throw new ApiError('invalid_value', `'${param}' is no http or https URL without a password.`, { param })
    }
    if (this.#allowed.has(origin)) return
    const which = this.#allowed.size ? `only ${[...this.#allowed].join(', ')}` : 'none'
    throw new ApiError('permission_denied', `'${param}': the operator allows ${which}.`, { param })
  }

  /** Begins to deliver; `onEnd` is told whether it arrived. */
  send(url: string, secret: string, id: string, event: object, onEnd: (isDelivered: boolean) => void): void {
    const body = JSON.stringify(event)
    const attempt = (n: number): void => {
      const timer = setTimeout(() => {
        this.#timers.delete(timer)
        this.#post(url, secret, id, body)
          .then((status) => {
            if (status >= 200 && status < 300) return onEnd(true)
            throw new Error(`it answered ${status}`)
          })
          .catch((error: Error) => {
            const isLast = n + 1 >= this.#triesMs.length
            const { origin } = new URL(url)
            this.#log.info({ webhook: id, origin, err: error.message, isLast }, 'a webhook did not arrive')
            if (isLast) onEnd(false)
            else attempt(n + 1)
          })
      }, this.#triesMs[n])
      timer.unref()
      this.#timers.add(timer)
    }
    attempt(0)
  }

  close(): void {
    for (const timer of this.#timers) clearTimeout(timer)
  }

  async #post(url: string, secret: string, id: string, body: string): Promise<number> {
    // The list may have changed since the batch was created.
    this.check(url)
    const { protocol, hostname } = new URL(url)
    // An address the operator wrote down is meant; a name that leads to one's own network is not.
    const isMeant = isIP(hostname.replace(/^\[|\]$/g, '')) !== 0 || hostname === 'localhost'
    const timestamp = Math.floor(Date.now() / 1000)
    const headers = {
      'content-type': 'application/json',
      'content-length': Buffer.byteLength(body),
      'user-agent': 'chorale',
      'webhook-id': id,
      'webhook-timestamp': timestamp,
      'webhook-signature': signatureOf(secret, id, timestamp, body),
    }
    return new Promise((resolve, reject) => {
      const request = (protocol === 'https:' ? requestHttps : requestHttp)(
        url,
        {
          method: 'POST',
          headers,
          timeout: TIMEOUT_MS,
          agent: false,
          ...(isMeant ? {} : { lookup: this.#lookup }),
        },
        (answer) => {
          answer.destroy()
          resolve(answer.statusCode ?? 0)
        },
      )
      request.on('timeout', () => request.destroy(new Error(`no answer within ${TIMEOUT_MS} ms`)))
      request.on('error', reject)
      request.end(body)
    })
  }
}

/** As https://www.standardwebhooks.com has it. */
export function signatureOf(secret: string, id: string, timestamp: number, body: string): string {
  const key = Buffer.from(secret.replace(/^whsec_/, ''), 'base64')
  return `v1,${createHmac('sha256', key).update(`${id}.${timestamp}.${body}`).digest('base64')}`
}

function originOf(text: string): string {
  const url = new URL(text)
  if ((url.protocol !== 'https:' && url.protocol !== 'http:') || url.username !== '' || url.password !== '')
    throw new TypeError(`${text} is no http or https URL without a password`)
  return url.origin
}

/** Everything that is not the public internet (IANA's special-purpose registries). */
const PRIVATE_V4 = new BlockList()
for (const [net, bits] of [
  ['0.0.0.0', 8], ['10.0.0.0', 8], ['100.64.0.0', 10], ['127.0.0.0', 8], ['169.254.0.0', 16], ['172.16.0.0', 12], ['192.0.0.0', 24],
  ['192.0.2.0', 24], ['192.168.0.0', 16], ['198.18.0.0', 15], ['198.51.100.0', 24], ['203.0.113.0', 24], ['224.0.0.0', 3],
] as const) PRIVATE_V4.addSubnet(net, bits, 'ipv4') // prettier-ignore
// Of IPv6 only 2000::/3 is given out; of that, tunnels that carry private addresses and examples are left out. A list of its
// own: BlockList takes IPv4 addresses for mapped ones.
const PRIVATE_V6 = new BlockList()
for (const [net, bits] of [
  ['::', 3], ['4000::', 2], ['8000::', 1], ['2001::', 23], ['2001:db8::', 32], ['2002::', 16],
] as const) PRIVATE_V6.addSubnet(net, bits, 'ipv6') // prettier-ignore

export function isPrivate(address: string): boolean {
  const v4 = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address)?.[1] ?? address
  const family = isIP(v4)
  if (family === 0) return true
  return family === 4 ? PRIVATE_V4.check(v4, 'ipv4') : PRIVATE_V6.check(v4, 'ipv6')
}

const addressesOf = (hostname: string): Promise<LookupAddress[]> => lookup(hostname, { all: true })

/** Refuses names that lead to private addresses, at the moment of connecting: no second look-up can differ. */
const publicOnly =
  (resolve: (hostname: string) => Promise<LookupAddress[]>): LookupFunction =>
  (hostname, { all }, callback) => {
    const answer = callback as (
      error: Error | null,
      address: string | LookupAddress[],
      family?: number,
    ) => void
    resolve(hostname).then(
      (addresses) => {
        const [first] = addresses
        const wrong = addresses.find(({ address }) => isPrivate(address))
        if (!first || wrong) answer(new Error(`${hostname} leads to no public address`), '')
        else if (all) answer(null, addresses)
        else answer(null, first.address, first.family)
      },
      (error: Error) => answer(error, ''),
    )
  }
