/** What every endpoint needs: the models, the jobs, who asks. */
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Millis, Priority, RequesterId, Trust, VolunteerId } from '../../protocol/index.ts'
import type { JobHandle, JobListener, JobReport, JobRequest, Jobs } from '../jobs.ts'
import type { Catalog, Served } from '../models.ts'
import { TextError, TooMuchText } from '../tokens.ts'
import type { Tokens } from '../tokens.ts'
import { accessOf } from './access.ts'
import { ApiError } from './errors.ts'
import type { TextInput } from './bodies.ts'
import { EventStream } from './sse.ts'

export interface ApiContext {
  catalog: Catalog
  jobs: Jobs
  tokens: Tokens
  /** What a request gets that asks for none. */
  trust: Trust
  /** `webgpu`, `wasm`, `js` or `house`: what kind of volunteer this is or was. */
  classOf: (volunteer: VolunteerId) => string
}

/** Who wants an answer, and how it reaches them: a request that waits for it, or a row of a batch that doesn't. */
export interface Caller {
  /** `req_…`; answers are named after it. */
  requestId: string
  requester: RequesterId
  /** Share relative to other requesters; default 1. */
  weight?: number
  priority: Priority
  /** What rows of a batch are promised: their bodies don't say. */
  trust?: Trust
  /** Where the body names no deadline of its own. */
  deadlineMs?: Millis
  mayWait?: boolean
  /** Calls back when nobody waits for the answer any more; at once, if that is so already. */
  onGone: (callback: () => void) => void
  /** Begins a streamed answer. */
  openStream: () => EventStream
  /** Told of the tokens before they are asked for: prompts', and those an answer may have. Throws ApiError for too many. */
  charge?: (tokens: number) => void
}

/** The caller of a request: the job lives no longer than the connection. Throws ApiError for a key that may not ask. */
export function callerOf(request: FastifyRequest, reply: FastifyReply): Caller {
  const { requester, weight, charge, need } = accessOf(request)
  need('inference')
  return {
    requestId: request.id,
    requester,
    weight,
    charge,
    priority: 'interactive',
    onGone: (callback) => {
      // It may have hung up while its text was tokenised.
      if (reply.raw.destroyed) callback()
      else reply.raw.once('close', callback)
    },
    openStream: () => new EventStream(reply),
  }
}

/** Throws ApiError `model_not_found`, `unsupported_parameter`. */
export function modelFor(context: ApiContext, name: string, tasks: readonly string[], verb: string): Served {
  const model = context.catalog.get(name)
  if (!model) {
    const names = context.catalog.all.map((m) => m.id).join(', ')
    throw new ApiError(
      'model_not_found',
      `There is no model ${JSON.stringify(name)} here. Models: ${names}.`,
      { param: 'model' },
    )
  }
  if (!tasks.includes(model.core.task)) {
    const can = tasksOf(model).join(', ')
    throw new ApiError('invalid_value', `${model.id} cannot ${verb}; it can ${can}.`, { param: 'model' })
  }
  return model
}

/** What a model can be asked for. */
export const tasksOf = ({ core: { task } }: Served): string[] =>
  task === 'classify' ? ['classify', 'embed'] : [task]

/**
 * Token ids of every text or token list of an input, checked against the vocabulary.
 * Rejects with ApiError naming the place: `context_length_exceeded` where a list is longer than `room`, `invalid_value`.
 */
export async function tokensOf(
  context: ApiContext,
  model: Served,
  input: TextInput,
  field: string,
  room: number,
): Promise<Uint32Array[]> {
  const list = (typeof input === 'string' || typeof input[0] === 'number' ? [input] : input) as
    string[] | number[][]
  const params = list.map((_, i) => (list.length === 1 ? field : `${field}.${i}`))
  const ids =
    typeof list[0] === 'string'
      ? await encode(context, model, list as string[], params, room)
      : (list as number[][]).map((one) => Uint32Array.from(one))
  const { vocab } = model.core
  ids.forEach((one, i) => {
    const param = params[i]!
    if (one.length === 0) throw new ApiError('invalid_value', `'${param}' is empty.`, { param })
    if (one.length > room) throw tooLong(model, `${one.length} tokens`, room, param)
    const wrong = one.find((id) => id >= vocab)
    if (wrong === undefined) return
    const message = `'${param}' has token id ${wrong}; those of ${model.id} end at ${vocab - 1}.`
    throw new ApiError('invalid_value', message, { param })
  })
  return ids
}

/** Token ids of texts; `params` are their names in the request. */
export async function encode(
  { tokens }: ApiContext,
  model: Served,
  texts: readonly string[],
  params: readonly string[],
  room: number,
  options?: { special?: boolean },
): Promise<Uint32Array[]> {
  if (!model.tokenizer)
    throw new ApiError('invalid_value', `${model.id} has no tokenizer: send token ids.`, { param: params[0] })
  // Not worth the seconds of tokenising: no token stands for this many characters on average.
  texts.forEach((text, i) => {
    if (text.length > 100 * model.core.context)
      throw tooLong(model, `${text.length} characters`, room, params[i]!)
  })
  try {
    return await tokens.encode(model, texts, options)
  } catch (error) {
    const param = error instanceof TextError ? params[error.at]! : ''
    if (error instanceof TextError)
      throw new ApiError('invalid_value', `'${param}': ${error.message}`, { param })
    if (error instanceof TooMuchText)
      throw new ApiError('overloaded', 'Too many long texts at once.', { retryMs: 5_000 })
    throw error
  }
}

export function tooLong(model: Served, what: string, room: number, param: string): ApiError {
  const { context } = model.core
  return new ApiError(
    'context_length_exceeded',
    `'${param}' has ${what}; ${room} fit into the ${context} of ${model.id}.`,
    { param },
  )
}

/** Submits a job that lives no longer than somebody waits for it. */
export function submitFor(
  { requester, weight, priority, trust, deadlineMs, mayWait, onGone, charge }: Caller,
  jobs: Jobs,
  request: Asked,
  listener: JobListener,
): JobHandle {
  charge?.(tokensIn(request))
  const handle = jobs.submit(
    {
      ...request,
      requester,
      weight,
      priority,
      // Who says how long they wait, waits that long, for somebody who may yet come.
      mayWait: mayWait ?? request.deadlineMs !== undefined,
      trust: trust ?? request.trust,
      deadlineMs: request.deadlineMs ?? deadlineMs,
    },
    listener,
  )
  onGone(() => handle.cancel('the caller hung up'))
  return handle
}

const tokensIn = (request: Asked): number =>
  request.kind === 'generate'
    ? request.choices.reduce((n, { prompt, options }) => n + prompt.length + options.maxTokens, 0)
    : request.rows.reduce((n, row) => n + row.length, 0)

/** A job without what its caller adds. */
type Asked = JobRequest extends infer Spec
  ? Spec extends unknown
    ? Omit<Spec, 'requester' | 'weight' | 'priority' | 'mayWait'>
    : never
  : never

/** The answer's `volunteer` object: who computed it and where the time went. Seconds. */
export function report(
  context: ApiContext,
  { verification, receipt, status, volunteers, queuedMs, totalMs, units, redispatched, hedged }: JobReport,
): object {
  const computeMs = volunteers.reduce((sum, one) => sum + one.computeMs, 0)
  const seconds = (ms: number): number => Math.round(ms * 10) / 10_000
  return {
    receipt,
    verification,
    status,
    volunteers: volunteers.length,
    computed_by: volunteers.map((one) => ({
      class: one.isHouse ? 'house' : context.classOf(one.volunteer),
      units: one.units,
      compute_s: seconds(one.computeMs),
    })),
    units,
    redispatched,
    hedged,
    timings: { total_s: seconds(totalMs), queue_s: seconds(queuedMs), compute_s: seconds(computeMs) },
    prompt_visible_to_volunteers: true,
  }
}

/** Names the model's bytes and the arithmetic: equal fingerprints, equal seeds, equal answers. */
export const fingerprint = (model: Served): string => `xn1-${model.digest.slice(0, 16)}`

/** What names an answer: its request's id without `req_` or `batch_req_`. */
export const idOf = (requestId: string): string => requestId.slice(requestId.lastIndexOf('_') + 1)

export const unixNow = (): number => Math.floor(Date.now() / 1000)
