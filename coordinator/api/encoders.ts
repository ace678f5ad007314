/** POST /v1/embeddings and /v1/classify. */
import type { FastifyInstance } from 'fastify'
import type { Trust } from '../../protocol/index.ts'
import type { JobReport } from '../jobs.ts'
import type { Served } from '../models.ts'
import { classifyBody, embeddingBody, parseBody } from './bodies.ts'
import type { TextInput } from './bodies.ts'
import { callerOf, idOf, modelFor, report, submitFor, tokensOf, unixNow } from './context.ts'
import type { ApiContext, Caller } from './context.ts'
import { ApiError } from './errors.ts'

export function addEncoders(app: FastifyInstance, context: ApiContext): void {
  const asks = { '/v1/embeddings': embedding, '/v1/classify': classification }
  for (const [path, understand] of Object.entries(asks))
    app.post(path, async (request, reply) => {
      const ask = await understand(context, request.body, request.id)
      const [body] = await encodeRows(context, callerOf(request, reply), [ask])
      return reply.send(body)
    })
}

/** A body that was understood: its rows in tokens, and how its answer is written. */
export interface Encoding {
  kind: 'embed' | 'classify'
  model: Served
  rows: readonly Uint32Array[]
  deadlineMs: number | undefined
  trust: Trust
  /** The answer's body. `values`: real numbers, row by row. */
  answer: (values: readonly Float32Array[], summary: JobReport) => object
}

/** What a body of /v1/embeddings asks for. Rejects with ApiError. */
export async function embedding(context: ApiContext, given: unknown): Promise<Encoding> {
  const body = parseBody(embeddingBody, given)
  const model = modelFor(context, body.model, ['embed', 'classify'], 'embed')
  const width = (model.core.embed ?? model.core).width
  if (body.dimensions != null && body.dimensions !== width) {
    const message = `'dimensions': the embeddings of ${model.id} have ${width}, and the model was not made to be cut.`
    throw new ApiError('unsupported_parameter', message, { param: 'dimensions' })
  }
  const isBase64 = body.encoding_format === 'base64'
  const { rows, tokens, ...terms } = await rowsOf(context, model, body)
  return {
    kind: 'embed',
    model,
    rows,
    ...terms,
    answer: (values, summary) => ({
      object: 'list',
      data: values.map((row, index) => ({
        object: 'embedding',
        index,
        embedding: isBase64 ? base64(row) : Array.from(row),
      })),
      model: model.id,
      usage: { prompt_tokens: tokens, total_tokens: tokens },
      volunteer: report(context, summary),
    }),
  }
}

/** What a body of /v1/classify asks for. Rejects with ApiError. */
export async function classification(
  context: ApiContext,
  given: unknown,
  requestId: string,
): Promise<Encoding> {
  const body = parseBody(classifyBody, given)
  const model = modelFor(context, body.model, ['classify'], 'classify')
  const { rows, tokens, ...terms } = await rowsOf(context, model, body)
  return {
    kind: 'classify',
    model,
    rows,
    ...terms,
    answer: (values, summary) => ({
      id: `classify-${idOf(requestId)}`,
      object: 'list',
      created: unixNow(),
      model: model.id,
      data: values.map((logits, index) => {
        const probs = softmax(logits)
        const best = probs.indexOf(Math.max(...probs))
        return { index, label: model.labels![best], probs, num_classes: probs.length }
      }),
      usage: { prompt_tokens: tokens, completion_tokens: 0, total_tokens: tokens },
      volunteer: report(context, summary),
    }),
  }
}

/** Integers of rows [first, first + rows). */
interface Rows {
  first: number
  rows: number
  width: number
  bits: number
  values: Int32Array
}

interface EncoderBody {
  input: TextInput
  volunteer?: { deadline_ms?: number | null; trust?: Trust | null; top_k?: number | null } | null
}

async function rowsOf(
  context: ApiContext,
  model: Served,
  { input, volunteer }: EncoderBody,
): Promise<{ rows: Uint32Array[]; tokens: number; deadlineMs: number | undefined; trust: Trust }> {
  if (volunteer?.top_k != null)
    throw new ApiError('unsupported_parameter', `'volunteer.top_k' means nothing here.`, {
      param: 'volunteer.top_k',
    })
  const rows = await tokensOf(context, model, input, 'input', model.core.context)
  const tokens = rows.reduce((n, ids) => n + ids.length, 0)
  return {
    rows,
    tokens,
    deadlineMs: volunteer?.deadline_ms ?? undefined,
    trust: volunteer?.trust ?? context.trust,
  }
}

/**
 * Runs encodings of one model and kind as one job, so that volunteers get units of a useful size, and resolves with their
 * answers. All of them have the first one's deadline and trust, and fail together. Rejects with ApiError.
 */
export function encodeRows(
  context: ApiContext,
  caller: Caller,
  asks: readonly Encoding[],
): Promise<object[]> {
  const { kind, model, deadlineMs, trust } = asks[0]!
  const inputs = asks.flatMap(({ rows }) => rows)
  return new Promise((resolve, reject) => {
    const values: Float32Array[] = Array.from(inputs, () => new Float32Array())
    const read = ({ first, rows, width, bits, values: integers }: Rows): void => {
      const one = 2 ** -bits
      for (let i = 0; i < rows; i++)
        values[first + i] = Float32Array.from(integers.subarray(i * width, (i + 1) * width), (x) => x * one)
    }
    caller.onGone(() => reject(new ApiError('cancelled', 'Nobody waits for this any more.')))
    submitFor(
      caller,
      context.jobs,
      { kind, model: model.digest, deadlineMs, trust, rows: inputs },
      {
        onRefused: (error) => reject(ApiError.ofJob(error)),
        onFailed: (error) => reject(ApiError.ofJob(error)),
        onRows: read,
        onCorrected: ({ first, output }) => {
          if (output.kind !== 'generate') read({ first, ...output })
        },
        onDone: (summary) => {
          let from = 0
          resolve(asks.map(({ rows, answer }) => answer(values.slice(from, (from += rows.length)), summary)))
        },
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
