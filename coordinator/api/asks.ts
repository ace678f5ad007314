/**
 * The endpoints that compute, without HTTP: body → Ask → answer's body. Rows of batches take the same way as requests:
 *
 *   const ask = await understand(context, '/v1/embeddings', row.body, requestId)   // ApiError: the row is at fault
 *   const body = await perform(context, caller, ask)                               // ApiError: the network is
 *
 * Encodings of one `groupOf` may be run together by encodeRows(): one job, units of a useful size.
 */
import type { Served } from '../models.ts'
import { chatBody, classifyBody, completionBody, embeddingBody, parseBody } from './bodies.ts'
import type { TextInput } from './bodies.ts'
import { chat, completion } from './completions.ts'
import { modelFor } from './context.ts'
import type { ApiContext, Caller } from './context.ts'
import { classification, embedding, encodeRows } from './encoders.ts'
import type { Encoding } from './encoders.ts'
import { answer } from './generate.ts'
import type { Generation } from './generate.ts'

export const ENDPOINTS = [
  '/v1/embeddings', '/v1/classify', '/v1/completions', '/v1/chat/completions',
] as const // prettier-ignore
export type Endpoint = (typeof ENDPOINTS)[number]
export const isEndpoint = (text: unknown): text is Endpoint => ENDPOINTS.includes(text as Endpoint)

export type Ask = { encoding: Encoding } | { generation: Generation }

/** What a body asks of an endpoint, with its texts in tokens. Rejects with ApiError naming the field at fault. */
export async function understand(
  context: ApiContext,
  endpoint: Endpoint,
  body: unknown,
  requestId: string,
): Promise<Ask> {
  switch (endpoint) {
    case '/v1/embeddings':
      return { encoding: await embedding(context, body) }
    case '/v1/classify':
      return { encoding: await classification(context, body, requestId) }
    case '/v1/completions':
      return { generation: await completion(context, body, requestId) }
    case '/v1/chat/completions':
      return { generation: await chat(context, body, requestId) }
  }
}

/** What can be told of a body without tokenising it. Throws ApiError naming the field at fault. */
export function inspect(
  context: ApiContext,
  endpoint: Endpoint,
  body: unknown,
): { model: Served; inputs: number; trust: string | null | undefined; isStreamed: boolean } {
  switch (endpoint) {
    case '/v1/embeddings': {
      const { model, input, volunteer } = parseBody(embeddingBody, body)
      const served = modelFor(context, model, ['embed', 'classify'], 'embed')
      return { model: served, inputs: inputsOf(input), trust: volunteer?.trust, isStreamed: false }
    }
    case '/v1/classify': {
      const { model, input, volunteer } = parseBody(classifyBody, body)
      const served = modelFor(context, model, ['classify'], 'classify')
      return { model: served, inputs: inputsOf(input), trust: volunteer?.trust, isStreamed: false }
    }
    case '/v1/completions':
    case '/v1/chat/completions': {
      const schema = endpoint === '/v1/completions' ? completionBody : chatBody
      const { model, stream, volunteer } = parseBody<typeof completionBody | typeof chatBody>(schema, body)
      const served = modelFor(context, model, ['generate'], 'generate text')
      return { model: served, inputs: 1, trust: volunteer?.trust, isStreamed: stream === true }
    }
  }
}

const inputsOf = (input: TextInput): number =>
  typeof input === 'string' || typeof input[0] === 'number' ? 1 : input.length

/** Asks of equal groups may share a job; null: each has its own. */
export function groupOf(ask: Ask): string | null {
  if (!('encoding' in ask)) return null
  const { kind, model, deadlineMs, trust } = ask.encoding
  return `${kind} ${model.digest} ${deadlineMs ?? ''} ${trust}`
}

/** The answer's body; undefined where nobody waits for it any more. Rejects with ApiError. */
export async function perform(context: ApiContext, caller: Caller, ask: Ask): Promise<object | undefined> {
  if ('generation' in ask) return answer(context, caller, ask.generation)
  const [body] = await encodeRows(context, caller, [ask.encoding])
  return body
}
