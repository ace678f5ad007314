/** POST /v1/embeddings and /v1/classify. */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { JobSummary } from '../core/events.ts'
import type { Served } from '../models.ts'
import { classifyBody, embeddingBody, parseBody } from './bodies.ts'
import type { TextInput } from './bodies.ts'
import { checkTrust, modelFor, report, requesterOf, submitFor, tokensOf, unixNow } from './context.ts'
import type { ApiContext } from './context.ts'
import { ApiError } from './errors.ts'

export function addEncoders(app: FastifyInstance, context: ApiContext): void {
  app.post('/v1/embeddings', (request, reply) => embeddings(context, request, reply))
  app.post('/v1/classify', (request, reply) => classify(context, request, reply))
}

interface Rows {
  /** Real numbers, row by row. */
  rows: Float32Array[]
  tokens: number
  summary: JobSummary
}

async function embeddings(
  context: ApiContext,
  request: FastifyRequest,
  reply: FastifyReply,
): Promise<FastifyReply> {
  const body = parseBody(embeddingBody, request.body)
  const model = modelFor(context, body.model, ['embed', 'classify'], 'embed')
  const width = (model.core.embed ?? model.core).width
  if (body.dimensions != null && body.dimensions !== width) {
    const message = `'dimensions': the embeddings of ${model.id} have ${width}, and the model was not made to be cut.`
    throw new ApiError('unsupported_parameter', message, { param: 'dimensions' })
  }
  const { rows, tokens, summary } = await encodeRows(context, request, reply, model, 'embed', body)
  const isBase64 = body.encoding_format === 'base64'
  return reply.send({
    object: 'list',
    data: rows.map((row, index) => ({
      object: 'embedding',
      index,
      embedding: isBase64 ? base64(row) : Array.from(row),
    })),
    model: model.id,
    usage: { prompt_tokens: tokens, total_tokens: tokens },
    volunteer: report(context, summary),
  })
}

async function classify(
  context: ApiContext,
  request: FastifyRequest,
  reply: FastifyReply,
): Promise<FastifyReply> {
  const body = parseBody(classifyBody, request.body)
  const model = modelFor(context, body.model, ['classify'], 'classify')
  const { rows, tokens, summary } = await encodeRows(context, request, reply, model, 'classify', body)
  return reply.send({
    id: `classify-${request.id.slice(4)}`,
    object: 'list',
    created: unixNow(),
    model: model.id,
    data: rows.map((logits, index) => {
      const probs = softmax(logits)
      const best = probs.indexOf(Math.max(...probs))
      return { index, label: model.labels![best], probs, num_classes: probs.length }
    }),
    usage: { prompt_tokens: tokens, completion_tokens: 0, total_tokens: tokens },
    volunteer: report(context, summary),
  })
}

/** Runs a batch through the network; rejects with ApiError. */
async function encodeRows(
  context: ApiContext,
  request: FastifyRequest,
  reply: FastifyReply,
  model: Served,
  kind: 'embed' | 'classify',
  body: {
    input: TextInput
    volunteer?: { deadline_ms?: number | null; trust?: string | null; top_k?: number | null } | null
  },
): Promise<Rows> {
  checkTrust(body.volunteer?.trust)
  if (body.volunteer?.top_k != null)
    throw new ApiError('unsupported_parameter', `'volunteer.top_k' means nothing here.`, {
      param: 'volunteer.top_k',
    })
  const inputs = await tokensOf(context, model, body.input, 'input', model.core.context)
  const tokens = inputs.reduce((n, ids) => n + ids.length, 0)
  return new Promise((resolve, reject) => {
    const rows: Float32Array[] = Array.from(inputs, () => new Float32Array())
    submitFor(
      reply,
      context.jobs,
      {
        kind,
        requester: requesterOf(request),
        model: model.digest,
        priority: 'interactive',
        deadlineMs: body.volunteer?.deadline_ms ?? undefined,
        trust: 'fast',
        rows: inputs,
      },
      {
        onRefused: (error) => reject(ApiError.ofJob(error)),
        onFailed: (error) => reject(ApiError.ofJob(error)),
        onRows: ({ first, rows: count, width, bits, values }) => {
          const one = 2 ** -bits
          for (let i = 0; i < count; i++)
            rows[first + i] = Float32Array.from(values.subarray(i * width, (i + 1) * width), (x) => x * one)
        },
        onDone: (summary) => resolve({ rows, tokens, summary }),
      },
    )
  })
}

/** Little-endian float32, as OpenAI's clients decode it. */
export const base64 = (row: Float32Array): string =>
  Buffer.from(row.buffer, row.byteOffset, row.byteLength).toString('base64')

/** For people: the exact logits are what was computed, probabilities are a way to read them. */
function softmax(logits: Float32Array): number[] {
  const max = Math.max(...logits)
  const e = Array.from(logits, (x) => Math.exp(x - max))
  const sum = e.reduce((a, b) => a + b, 0)
  return e.map((x) => x / sum)
}
