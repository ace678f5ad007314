/** What callers may send: one schema per body. Unknown keys are refused by name; nothing is silently ignored. */
import * as v from 'valibot'
import { ApiError } from './errors.ts'

const whole = (low: number, high: number) =>
  v.pipe(v.number(), v.integer(), v.minValue(low), v.maxValue(high))
const real = (low: number, high: number) => v.pipe(v.number(), v.finite(), v.minValue(low), v.maxValue(high))

/** At most this many of choices × prompts in one request; the core has the same bound. */
export const CHOICES_MAX = 128
export const INPUTS_MAX = 2048

/** Everything this network adds to the OpenAI API. */
const volunteer = v.strictObject({
  deadline_ms: v.nullish(whole(1, 86_400_000)),
  trust: v.nullish(v.picklist(['fast', 'checked', 'exact'])),
  top_k: v.nullish(whole(0, 2 ** 31)),
})

const common = {
  model: v.pipe(v.string(), v.minLength(1), v.maxLength(300)),
  /** For the operator of the caller's own service; it changes nothing here. */
  user: v.nullish(v.pipe(v.string(), v.maxLength(500))),
  volunteer: v.nullish(volunteer),
}
const stopString = v.pipe(v.string(), v.minLength(1), v.maxLength(1000))
const sampling = {
  ...common,
  temperature: v.nullish(real(0, 2)),
  top_p: v.nullish(real(0, 1)),
  seed: v.nullish(v.pipe(v.number(), v.safeInteger())),
  stop: v.nullish(v.union([stopString, v.pipe(v.array(stopString), v.maxLength(16))])),
  n: v.nullish(whole(1, CHOICES_MAX)),
  max_tokens: v.nullish(whole(1, 2 ** 31)),
  stream: v.nullish(v.boolean()),
  stream_options: v.nullish(v.strictObject({ include_usage: v.nullish(v.boolean()) })),
  // Honoured at the values that change nothing; other values are refused.
  presence_penalty: v.nullish(v.literal(0)),
  frequency_penalty: v.nullish(v.literal(0)),
  logit_bias: v.nullish(v.strictObject({})),
}
const tokens = v.pipe(v.array(whole(0, 2 ** 24 - 1)), v.minLength(1))

/** A text, texts, token ids, or lists of them. The first element says which is meant, so complaints are about that. */
function textInput(max: number) {
  const list = <S extends v.GenericSchema>(item: S) => v.pipe(v.array(item), v.minLength(1), v.maxLength(max))
  const [texts, lists] = [list(v.string()), list(tokens)]
  return v.lazy((input): v.GenericSchema<TextInput> => {
    if (!Array.isArray(input)) return v.string()
    return typeof input[0] === 'number' ? tokens : Array.isArray(input[0]) ? lists : texts
  })
}

export const completionBody = v.strictObject({
  ...sampling,
  prompt: textInput(CHOICES_MAX),
  logprobs: v.nullish(whole(0, 20)),
  echo: v.nullish(v.boolean()),
  best_of: v.nullish(v.literal(1)),
  suffix: v.nullish(v.literal('')),
})

const textPart = v.strictObject({ type: v.literal('text'), text: v.string() })
const content = v.union([v.string(), v.pipe(v.array(textPart), v.minLength(1))])
export const chatBody = v.strictObject({
  ...sampling,
  messages: v.pipe(
    v.array(
      v.strictObject({
        role: v.picklist(['system', 'developer', 'user', 'assistant']),
        content,
        name: v.nullish(v.string()),
      }),
    ),
    v.minLength(1),
    v.maxLength(4096),
  ),
  max_completion_tokens: v.nullish(whole(1, 2 ** 31)),
  logprobs: v.nullish(v.boolean()),
  top_logprobs: v.nullish(whole(0, 20)),
  response_format: v.nullish(v.strictObject({ type: v.literal('text') })),
  modalities: v.nullish(v.tuple([v.literal('text')])),
  store: v.nullish(v.literal(false)),
})

export const embeddingBody = v.strictObject({
  ...common,
  input: textInput(INPUTS_MAX),
  encoding_format: v.nullish(v.picklist(['float', 'base64'])),
  dimensions: v.nullish(whole(1, 2 ** 31)),
})
export const classifyBody = v.strictObject({ ...common, input: textInput(INPUTS_MAX) })

export type SamplingBody = v.InferOutput<typeof completionBody> | v.InferOutput<typeof chatBody>
export type TextInput = string | string[] | number[] | number[][]

/** Throws ApiError: the first thing that is wrong, by the field's name. */
export function parseBody<S extends v.GenericSchema>(schema: S, body: unknown): v.InferOutput<S> {
  if (typeof body !== 'object' || body === null || Array.isArray(body))
    throw new ApiError('invalid_request', 'The body must be a JSON object.')
  const parsed = v.safeParse(schema, body, { abortEarly: true })
  if (parsed.success) return parsed.output
  const { issue, path } = deepest(parsed.issues[0], [])
  const param = path.length ? path.join('.').slice(0, 100) : null
  const shown = param === null ? 'The body' : `'${param}'`
  if (issue.expected === 'never')
    throw new ApiError('unsupported_parameter', `${shown} is not supported here.`, { param })
  if (issue.input === undefined) throw new ApiError('missing_field', `${shown} is missing.`, { param })
  if (path.length && NEUTRAL.test(path[0]!)) {
    const message = `${shown} is supported only at the value that changes nothing. ${issue.message}.`
    throw new ApiError('unsupported_parameter', message, { param })
  }
  throw new ApiError('invalid_value', `${shown}: ${issue.message}.`, { param })
}

const NEUTRAL =
  /^(presence_penalty|frequency_penalty|logit_bias|best_of|suffix|response_format|modalities|store)$/

/** Of a union's complaints, the one that got furthest says what was meant. Paths inside a union start at the union. */
function deepest(
  issue: v.BaseIssue<unknown>,
  above: readonly string[],
): { issue: v.BaseIssue<unknown>; path: readonly string[] } {
  const path = [...above, ...(issue.path ?? []).map((item) => String(item.key))]
  let best = { issue, path: path as readonly string[] }
  for (const inner of issue.issues ?? []) {
    const candidate = deepest(inner as v.BaseIssue<unknown>, path)
    if (candidate.path.length > best.path.length) best = candidate
  }
  return best
}
