/** Server-sent events as OpenAI's clients read them. Anything that goes wrong from here on is an event, not a status. */
import type { ServerResponse } from 'node:http'
import type { FastifyReply } from 'fastify'
import type { ApiError } from './errors.ts'

/** Proxies and clients cut connections that say nothing. */
const PING_MS = 15_000
/** A reader this far behind is let go, and its job cancelled: answers are not stored for anybody. */
const UNREAD_BYTES_MAX = 8 * 1024 * 1024

export class EventStream {
  readonly #raw: ServerResponse
  readonly #ping: NodeJS.Timeout

  /** Sends the headers and a first comment at once. */
  constructor(reply: FastifyReply) {
    reply.hijack()
    this.#raw = reply.raw
    for (const [name, value] of Object.entries(reply.getHeaders()))
      if (value !== undefined) this.#raw.setHeader(name, value)
    this.#raw.writeHead(200, {
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-cache',
      'x-accel-buffering': 'no',
    })
    this.#raw.write(': ping\n\n')
    this.#ping = setInterval(() => this.#raw.write(': ping\n\n'), PING_MS)
    this.#raw.once('close', () => clearInterval(this.#ping))
  }

  send(chunk: object): void {
    if (this.#raw.writableEnded || this.#raw.destroyed) return
    this.#raw.write(`data: ${JSON.stringify(chunk)}\n\n`)
    if (this.#raw.writableLength > UNREAD_BYTES_MAX) this.#raw.destroy()
  }

  end(): void {
    clearInterval(this.#ping)
    this.#raw.end('data: [DONE]\n\n')
  }

  /** No [DONE]: what came before is not the whole answer. */
  fail(error: ApiError, requestId: string): void {
    this.send(error.body(requestId))
    clearInterval(this.#ping)
    this.#raw.end()
  }
}
