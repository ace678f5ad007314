/** How much one requester may ask per minute: token buckets, and the headers that tell what is left. */
import type { FastifyReply } from 'fastify'
import { ApiError } from './errors.ts'

/** Per minute; Infinity for as much as there is. */
export interface Rates {
  requestsPerMinute: number
  /** Of prompts, and those an answer may have at most. */
  tokensPerMinute: number
}
export const UNLIMITED: Rates = { requestsPerMinute: Infinity, tokensPerMinute: Infinity }

/** Requesters per generation, ~200 bytes each. Whoever was forgotten begins with a full bucket. */
const GENERATION = 50_000

/**
 * A minute in milliseconds, and parts per request or token: what a bucket gains per millisecond is a whole number of
 * parts, so nothing is rounded and what a caller is told to wait is enough.
 */
const MINUTE = 60_000

interface Bucket {
  /** Parts left; a whole minute's worth when full. */
  left: number
  /** Whole milliseconds, monotonic. */
  at: number
}
type Kind = 'requests' | 'tokens'

export class Limiter {
  readonly #now: () => number
  #young = new Map<string, Bucket>()
  /** Those asked for longest ago, forgotten together: one by one, a Map's first key is slow to find. */
  #old = new Map<string, Bucket>()

  /** @param now monotonic milliseconds */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now
  }

  /**
   * Takes `count` from a requester's bucket and writes its headers.
   * Throws ApiError `rate_limited` with the time until they are there, `request_too_large` for more than ever will be.
   */
  take(requester: string, kind: Kind, limit: number, count: number, reply: FastifyReply | null): void {
    if (limit === Infinity) return
    const bucket = this.#bucket(`${kind} ${requester}`, limit)
    const isRefused = bucket.left < count * MINUTE
    if (!isRefused) bucket.left -= count * MINUTE
    if (reply) {
      void reply
        .header(`x-ratelimit-limit-${kind}`, limit)
        .header(`x-ratelimit-remaining-${kind}`, Math.floor(bucket.left / MINUTE))
        .header(`x-ratelimit-reset-${kind}`, duration((limit * MINUTE - bucket.left) / limit))
    }
    if (!isRefused) return
    if (count > limit)
      throw new ApiError(
        'request_too_large',
        `It asks for ${count} ${kind}; ${limit} are allowed per minute.`,
      )
    const retryMs = Math.ceil((count * MINUTE - bucket.left) / limit)
    throw new ApiError(
      'rate_limited',
      `More than ${limit} ${kind} per minute. Try again in ${duration(retryMs)}.`,
      { retryMs },
    )
  }

  #bucket(name: string, limit: number): Bucket {
    const now = Math.floor(this.#now())
    const full = limit * MINUTE
    const { left, at } = this.#young.get(name) ?? this.#old.get(name) ?? { left: full, at: now }
    const bucket = { left: Math.min(full, left + (now - at) * limit), at: now }
    this.#young.set(name, bucket)
    if (this.#young.size >= GENERATION) {
      this.#old = this.#young
      this.#young = new Map()
    }
    return bucket
  }
}

/** As OpenAI writes it: 350ms, 1s, 6m0s. */
export function duration(ms: number): string {
  if (ms < 1000) return `${Math.ceil(ms)}ms`
  const s = Math.ceil(ms / 1000)
  return s < 60 ? `${s}s` : `${Math.floor(s / 60)}m${s % 60}s`
}
