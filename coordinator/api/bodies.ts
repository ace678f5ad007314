/** What callers may send: one schema per body. Unknown keys are refused by name; nothing is silently ignored. */
import { isDeepStrictEqual } from 'node:util'
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

/**
 * Options of OpenAI's that can't be honoured, and their values that ask for nothing: clients send those unasked, so they are
 * accepted, like null. Any other value is refused by name.
 */
const NEUTRAL = {
  presence_penalty: [0],
  frequency_penalty: [0],
  logit_bias: [{}],
  best_of: [1],
  suffix: [''],
  response_format: [{ type: 'text' }],
  modalities: [['text']],
  store: [false],
  tools: [[]],
  tool_choice: ['none', 'auto'],
  parallel_tool_calls: [true, false],
  functions: [[]],
  function_call: ['none', 'auto'],
  service_tier: ['auto', 'default'],
  reasoning_effort: ['none'],
  verbosity: ['medium'],
  prompt_cache_retention: ['in_memory', 'in-memory'],
  prediction: [],
  audio: [],
  web_search_options: [],
  tool_calls: [[]],
  refusal: [],
  annotations: [[]],
} as const satisfies Record<string, readonly unknown[]>

/** Entries of a strictObject for options of NEUTRAL. */
function neutral<K extends keyof typeof NEUTRAL>(...names: K[]): Record<K, ReturnType<typeof asksNothing>> {
  return Object.fromEntries(names.map((name) => [name, asksNothing(NEUTRAL[name])])) as Record<
    K,
    ReturnType<typeof asksNothing>
  >
}
const asksNothing = (values: readonly unknown[]) =>
  v.nullish(v.custom<unknown>((given) => values.some((one) => isDeepStrictEqual(one, given))))

/** Words for the caller's own books; they change nothing here. */
const label = v.nullish(v.pipe(v.string(), v.maxLength(512)))

const common = {
  model: v.pipe(v.string(), v.minLength(1), v.maxLength(300)),
  user: label,
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
  stream_options: v.nullish(
    v.strictObject({
      include_usage: v.nullish(v.boolean()),
      include_obfuscation: v.nullish(v.literal(false)),
    }),
  ),
  ...neutral('presence_penalty', 'frequency_penalty', 'logit_bias'),
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
  ...neutral('best_of', 'suffix'),
})

const textPart = v.strictObject({ type: v.literal('text'), text: v.string() })
const content = v.union([v.string(), v.pipe(v.array(textPart), v.minLength(1))])
const message = v.variant('role', [
  v.strictObject({
    role: v.picklist(['system', 'developer', 'user']),
    content,
    name: v.nullish(v.string()),
  }),
  // An answer comes back as it was given: with the fields that a text leaves empty.
  v.strictObject({
    role: v.literal('assistant'),
    content: v.nullish(content),
    name: v.nullish(v.string()),
    ...neutral('refusal', 'annotations', 'audio', 'tool_calls', 'function_call'),
  }),
])
const metadata = v.pipe(
  v.record(v.pipe(v.string(), v.maxLength(64)), v.pipe(v.string(), v.maxLength(512))),
  v.maxEntries(16),
)
export const chatBody = v.strictObject({
  ...sampling,
  messages: v.pipe(v.array(message), v.minLength(1), v.maxLength(4096)),
  max_completion_tokens: v.nullish(whole(1, 2 ** 31)),
  logprobs: v.nullish(v.boolean()),
  top_logprobs: v.nullish(whole(0, 20)),
  metadata: v.nullish(metadata),
  safety_identifier: label,
  prompt_cache_key: label,
  ...neutral('response_format', 'modalities', 'audio', 'prediction', 'store', 'service_tier'),
  ...neutral('tools', 'tool_choice', 'parallel_tool_calls', 'functions', 'function_call'),
  ...neutral('reasoning_effort', 'verbosity', 'web_search_options', 'prompt_cache_retention'),
})

export const embeddingBody = v.strictObject({
  ...common,
  input: textInput(INPUTS_MAX),
  encoding_format: v.nullish(v.picklist(['float', 'base64'])),
  dimensions: v.nullish(whole(1, 2 ** 31)),
})
export const classifyBody = v.strictObject({ ...common, input: textInput(INPUTS_MAX) })

export type SamplingBody = v.InferOutput<typeof completionBody> | v.InferOutput<typeof chatBody>
export type Message = v.InferOutput<typeof message>
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
  const name = path.at(-1)
  if (issue.type === 'custom' && name !== undefined && Object.hasOwn(NEUTRAL, name)) {
    const values = NEUTRAL[name as keyof typeof NEUTRAL].map((value) => JSON.stringify(value))
    const but = values.length ? `, but for ${values.join(' or ')}` : ''
    throw new ApiError('unsupported_parameter', `${shown} is not supported here${but}.`, { param })
  }
  if (issue.expected === 'never')
    throw new ApiError('unsupported_parameter', `${shown} is not supported here.`, { param })
  if (issue.input === undefined) throw new ApiError('missing_field', `${shown} is missing.`, { param })
  throw new ApiError('invalid_value', `${shown} ${complaint(issue)}.`, { param })
}

/** What is wrong with a value, as the end of a sentence. */
function complaint({ type, expected, received }: v.BaseIssue<unknown>): string {
  if (type.endsWith('_length') || type.endsWith('_entries'))
    return `has ${received} parts; it must have ${expected}`
  if (expected === null) return `must be a ${type === 'finite' ? '' : 'whole '}number, not ${received}`
  const words = (text: string): string =>
    text
      .replace(/[()]/g, '')
      .replaceAll(' | ', ' or ')
      .replaceAll('Array', 'a list')
      .replaceAll('Object', 'an object')
  return `must be ${words(expected)}, not ${words(received)}`
}

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
