/** Every error of the API: one table from code to status, one class, one shape on the wire. */
import type { FastifyReply } from 'fastify'
import type { JobError } from '../core/events.ts'

/** `retry`: whether the same request may succeed later; sent as x-should-retry, which the SDKs obey. */
export const ERRORS = {
  invalid_json: { status: 400, type: 'invalid_request_error', retry: false },
  invalid_request: { status: 400, type: 'invalid_request_error', retry: false },
  missing_field: { status: 400, type: 'invalid_request_error', retry: false },
  invalid_value: { status: 400, type: 'invalid_request_error', retry: false },
  unsupported_parameter: { status: 400, type: 'invalid_request_error', retry: false },
  context_length_exceeded: { status: 400, type: 'invalid_request_error', retry: false },
  /** The Authorization header is missing, no key of ours, or one that was revoked or is past its time. */
  invalid_api_key: { status: 401, type: 'authentication_error', retry: false },
  permission_denied: { status: 403, type: 'permission_error', retry: false },
  model_not_found: { status: 404, type: 'invalid_request_error', retry: false },
  not_found: { status: 404, type: 'invalid_request_error', retry: false },
  file_not_found: { status: 404, type: 'invalid_request_error', retry: false },
  batch_not_found: { status: 404, type: 'invalid_request_error', retry: false },
  key_not_found: { status: 404, type: 'invalid_request_error', retry: false },
  request_timeout: { status: 408, type: 'invalid_request_error', retry: true },
  /** The Idempotency-Key belongs to another request. */
  idempotency_mismatch: { status: 409, type: 'invalid_request_error', retry: false },
  /** The first request with this Idempotency-Key is still being answered. */
  idempotency_in_progress: { status: 409, type: 'invalid_request_error', retry: true },
  /** It is over already, or still needed. */
  conflict: { status: 409, type: 'invalid_request_error', retry: false },
  request_too_large: { status: 413, type: 'invalid_request_error', retry: false },
  file_too_large: { status: 413, type: 'invalid_request_error', retry: false },
  unsupported_media_type: { status: 415, type: 'invalid_request_error', retry: false },
  range_not_satisfiable: { status: 416, type: 'invalid_request_error', retry: false },
  headers_too_large: { status: 431, type: 'invalid_request_error', retry: false },
  /** `retry` once other requests are over, if some are under way: what they don't need comes back. */
  insufficient_credits: { status: 429, type: 'rate_limit_error', retry: false },
  rate_limited: { status: 429, type: 'rate_limit_error', retry: true },
  internal: { status: 500, type: 'server_error', retry: false },
  /** What was streamed proved to be wrong: the right answer can be had by asking again. */
  verification_failed: { status: 500, type: 'server_error', retry: true },
  /** The job was ended from our side, not by its caller. */
  cancelled: { status: 500, type: 'server_error', retry: true },
  no_capacity: { status: 503, type: 'service_unavailable', retry: true },
  overloaded: { status: 503, type: 'service_unavailable', retry: true },
  draining: { status: 503, type: 'service_unavailable', retry: true },
  /** The coordinator's disk is full. */
  storage_full: { status: 503, type: 'service_unavailable', retry: true },
  deadline_exceeded: { status: 504, type: 'server_error', retry: false },
} as const

export type ErrorCode = keyof typeof ERRORS

export interface ErrorDetail {
  /** The request's field at fault, as a dotted path. */
  param?: string | null
  /** Until somebody can do it, where that is known. */
  etaMs?: number
  retryMs?: number
}

export class ApiError extends Error {
  readonly code: ErrorCode
  readonly param: string | null
  readonly etaMs: number | undefined
  readonly retryMs: number | undefined

  constructor(code: ErrorCode, message: string, { param = null, etaMs, retryMs }: ErrorDetail = {}) {
    super(message)
    this.name = 'ApiError'
    this.code = code
    this.param = param
    this.etaMs = etaMs
    this.retryMs = retryMs
  }

  static ofJob({ code, message, field, etaMs, retryMs }: JobError): ApiError {
    const param = field
      ? `volunteer.${field}`
      : code === 'model_not_found' || code === 'no_capacity'
        ? 'model'
        : null
    return new ApiError(code, message, { param, etaMs, retryMs })
  }

  get status(): number {
    return ERRORS[this.code].status
  }

  body(requestId: string): object {
    const { message, code, param, etaMs } = this
    const eta = etaMs === undefined ? {} : { eta_ms: Math.round(etaMs) }
    return { error: { message, type: ERRORS[code].type, param, code, ...eta, request_id: requestId } }
  }

  send(reply: FastifyReply, requestId: string): FastifyReply {
    const wait = this.etaMs ?? this.retryMs
    const retry = ERRORS[this.code].retry || this.retryMs !== undefined
    // Without anybody in sight a retry in seconds can't help; the caller is told when to ask again all the same.
    const mayRetry = retry && (this.code !== 'no_capacity' || wait !== undefined)
    reply.code(this.status).header('x-should-retry', String(mayRetry))
    if (retry) {
      const ms = Math.max(1, Math.round(wait ?? 30_000))
      reply.header('retry-after', Math.ceil(ms / 1000)).header('retry-after-ms', ms)
    }
    return reply.send(this.body(requestId))
  }
}
