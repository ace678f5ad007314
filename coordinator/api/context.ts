/** What every endpoint needs: the models, the jobs, who asks. */
import { createHash } from 'node:crypto'
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { RequesterId, VolunteerId } from '../../protocol/index.ts'
import { ModelError } from '../../engine/index.ts'
import type { JobSummary } from '../core/events.ts'
import type { JobHandle, JobListener, JobRequest, Jobs } from '../jobs.ts'
import type { Catalog, Served } from '../models.ts'
import { ApiError } from './errors.ts'
import type { TextInput } from './bodies.ts'

export interface ApiContext {
  catalog: Catalog
  jobs: Jobs
  /** `webgpu`, `wasm`, `js` or `house`: what kind of volunteer this is or was. */
  classOf: (volunteer: VolunteerId) => string
}

/** Whose fair share a request counts against: its key's, or else its address's. */
export function requesterOf({ headers, ip }: FastifyRequest): RequesterId {
  const key = headers.authorization
  const name = key ? `key:${createHash('sha256').update(key).digest('base64url').slice(0, 22)}` : `ip:${ip}`
  return name as RequesterId
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

/** Refuses what can't be honoured yet. */
export function checkTrust(trust: string | null | undefined): void {
  if (trust === 'checked' || trust === 'exact') {
    throw new ApiError(
      'unsupported_parameter',
      `'volunteer.trust': answers are not verified yet, so only "fast" can be promised.`,
      {
        param: 'volunteer.trust',
      },
    )
  }
}

/**
 * Token ids of every text or token list of an input, checked against the vocabulary.
 * Throws ApiError naming the place: `context_length_exceeded` where a list is longer than `room`, `invalid_value`.
 */
export function tokensOf(model: Served, input: TextInput, field: string, room: number): Uint32Array[] {
  const list = (typeof input === 'string' || typeof input[0] === 'number' ? [input] : input) as (
    string | number[]
  )[]
  const isOne = list.length === 1
  return list.map((one, i) => {
    const param = isOne ? field : `${field}.${i}`
    const ids = typeof one === 'string' ? encode(model, one, param, room) : Uint32Array.from(one)
    if (ids.length === 0) throw new ApiError('invalid_value', `'${param}' is empty.`, { param })
    if (ids.length > room) throw tooLong(model, `${ids.length} tokens`, room, param)
    const vocab = model.core.vocab
    const wrong = ids.find((id) => id >= vocab)
    if (wrong !== undefined)
      throw new ApiError(
        'invalid_value',
        `'${param}' has token id ${wrong}; those of ${model.id} end at ${vocab - 1}.`,
        { param },
      )
    return ids
  })
}

/** @param options of Tokenizer.encode */
export function encode(
  model: Served,
  text: string,
  param: string,
  room: number,
  options?: { special?: boolean },
): Uint32Array {
  if (!model.tokenizer)
    throw new ApiError('invalid_value', `${model.id} has no tokenizer: send token ids.`, { param })
  // Not worth the seconds of tokenising: no token stands for this many characters on average.
  if (text.length > 100 * model.core.context) throw tooLong(model, `${text.length} characters`, room, param)
  try {
    return model.tokenizer.encode(text, options)
  } catch (error) {
    if (error instanceof ModelError)
      throw new ApiError('invalid_value', `'${param}': ${error.message}`, { param })
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

/** Submits a job that lives no longer than its caller's connection. */
export function submitFor(
  reply: FastifyReply,
  jobs: Jobs,
  request: JobRequest,
  listener: JobListener,
): JobHandle {
  const handle = jobs.submit(request, listener)
  reply.raw.once('close', () => handle.cancel('the caller hung up'))
  return handle
}

/** The answer's `volunteer` object: who computed it and where the time went. Seconds. */
export function report(
  context: ApiContext,
  { volunteers, queuedMs, totalMs, units, redispatched, hedged }: JobSummary,
): object {
  const computeMs = volunteers.reduce((sum, one) => sum + one.computeMs, 0)
  const seconds = (ms: number): number => Math.round(ms * 10) / 10_000
  return {
    // Checks do not exist yet. The field says so in every answer.
    verification: 'unverified',
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

export const unixNow = (): number => Math.floor(Date.now() / 1000)
