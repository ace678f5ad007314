/** POST /v1/completions and /v1/chat/completions. */
import type { FastifyInstance } from 'fastify'
import { ModelError } from '../../engine/index.ts'
import type { Tokenizer } from '../../engine/index.ts'
import type { ChatMessage } from '../../engine/tokenizer.ts'
import type { Served } from '../models.ts'
import { chatBody, completionBody, parseBody } from './bodies.ts'
import type { Message } from './bodies.ts'
import { callerOf, encode, fingerprint, idOf, modelFor, tokensOf, tooLong, unixNow } from './context.ts'
import type { ApiContext } from './context.ts'
import { ApiError } from './errors.ts'
import { answer, checkGeneration } from './generate.ts'
import type { Generation, Shape, TokenLogprob } from './generate.ts'

/** OpenAI's own default. */
const COMPLETION_TOKENS = 16

export function addCompletions(app: FastifyInstance, context: ApiContext): void {
  const asks = { '/v1/completions': completion, '/v1/chat/completions': chat }
  for (const [path, understand] of Object.entries(asks))
    app.post(path, async (request, reply) => {
      const generation = await understand(context, request.body, request.id)
      const body = await answer(context, callerOf(request, reply), generation)
      // Undefined: it was streamed, or nobody waits any more.
      return body ? reply.send(body) : reply
    })
}

/** What a body of /v1/completions asks for. Rejects with ApiError. */
export async function completion(
  context: ApiContext,
  given: unknown,
  requestId: string,
): Promise<Generation> {
  const body = parseBody(completionBody, given)
  const model = modelFor(context, body.model, ['generate'], 'generate text')
  const prompts = await tokensOf(context, model, body.prompt, 'prompt', model.core.context - 1)
  if (body.echo && body.logprobs != null)
    throw new ApiError(
      'unsupported_parameter',
      `'echo' together with 'logprobs' is not supported: prompts are not scored.`,
      { param: 'echo' },
    )
  const maxTokens = body.max_tokens ?? Math.min(COMPLETION_TOKENS, roomFor(model, prompts))
  checkRoom(model, prompts, maxTokens, 'max_tokens')
  const n = body.n ?? 1
  const echoed = body.echo ? prompts.map((ids) => model.tokenizer?.decode(ids) ?? '') : null
  const prefix = echoed ? (i: number): string => echoed[Math.floor(i / n)]! : undefined
  const base = {
    id: `cmpl-${idOf(requestId)}`,
    object: 'text_completion',
    created: unixNow(),
    model: model.id,
    system_fingerprint: fingerprint(model),
  }
  // text_offset counts characters over a whole choice, so it is kept across pieces.
  const offsets = new Map<number, number>()
  const logprobsOf = (choice: number, list: TokenLogprob[] | undefined): object | null => {
    if (!list) return null
    const text_offset = list.map(({ token }) => {
      const at = offsets.get(choice) ?? 0
      offsets.set(choice, at + token.length)
      return at
    })
    return {
      tokens: list.map(({ token }) => token),
      token_logprobs: list.map(({ logprob }) => logprob),
      top_logprobs: list.map(({ top }) =>
        Object.fromEntries(top.map(({ token, logprob }) => [token, logprob])),
      ),
      text_offset,
    }
  }
  const shape: Shape = {
    piece: (index, text, logprobs) => ({
      ...base,
      choices: [{ index, text, logprobs: logprobsOf(index, logprobs), finish_reason: null }],
    }),
    finish: (index, finish_reason) => ({
      ...base,
      choices: [{ index, text: '', logprobs: null, finish_reason }],
    }),
    usage: () => ({ ...base, choices: [] }),
    whole: (choices) => ({
      ...base,
      choices: choices.map(({ text, finish, logprobs }, index) => ({
        index, text, logprobs: logprobsOf(index, logprobs), finish_reason: finish,
      })), // prettier-ignore
    }),
  }
  const logprobs = body.logprobs ?? undefined
  const generation = { model, prompts, body, maxTokens, logprobs, prefix, shape }
  checkGeneration(generation)
  return generation
}

/** What a body of /v1/chat/completions asks for. Rejects with ApiError. */
export async function chat(context: ApiContext, given: unknown, requestId: string): Promise<Generation> {
  const body = parseBody(chatBody, given)
  const model = modelFor(context, body.model, ['generate'], 'generate text')
  if (body.top_logprobs && !body.logprobs)
    throw new ApiError('invalid_value', `'top_logprobs' needs 'logprobs': true.`, { param: 'top_logprobs' })
  if (
    body.max_tokens != null &&
    body.max_completion_tokens != null &&
    body.max_tokens !== body.max_completion_tokens
  )
    throw new ApiError(
      'invalid_value',
      `'max_tokens' and 'max_completion_tokens' say different things: send one.`,
      { param: 'max_tokens' },
    )
  const prompts = [await promptOf(context, model, body.messages)]
  const asked = body.max_completion_tokens ?? body.max_tokens
  const room = roomFor(model, prompts)
  const maxTokens = asked ?? Math.min(room, model.defaults.maxTokens ?? room)
  checkRoom(
    model,
    prompts,
    maxTokens,
    body.max_completion_tokens == null ? 'max_tokens' : 'max_completion_tokens',
  )
  const base = {
    id: `chatcmpl-${idOf(requestId)}`,
    created: unixNow(),
    model: model.id,
    system_fingerprint: fingerprint(model),
  }
  const chunk = (
    index: number,
    delta: object,
    logprobs: object | null,
    finish_reason: string | null,
  ): object => ({
    ...base,
    object: 'chat.completion.chunk',
    choices: [{ index, delta, logprobs, finish_reason }],
  })
  const shape: Shape = {
    begin: (index) => chunk(index, { role: 'assistant', content: '' }, null, null),
    piece: (index, content, logprobs) => chunk(index, { content }, chatLogprobs(logprobs), null),
    finish: (index, finish) => chunk(index, {}, null, finish),
    usage: () => ({ ...base, object: 'chat.completion.chunk', choices: [] }),
    whole: (choices) => ({
      ...base,
      object: 'chat.completion',
      choices: choices.map(({ text, finish, logprobs }, index) => ({
        index,
        message: { role: 'assistant', content: text, refusal: null },
        logprobs: chatLogprobs(logprobs),
        finish_reason: finish,
      })),
    }),
  }
  const logprobs = body.logprobs ? (body.top_logprobs ?? 0) : undefined
  const generation = { model, prompts, body, maxTokens, logprobs, shape }
  checkGeneration(generation)
  return generation
}

/** A model that was not made for chat is given the contents, one under the other, to go on from. */
async function promptOf(context: ApiContext, model: Served, given: readonly Message[]): Promise<Uint32Array> {
  const { tokenizer } = model
  const messages = given.map(({ role, name, content }) => ({
    role,
    ...(name != null && { name }),
    content: Array.isArray(content) ? content.map((part) => part.text).join('') : (content ?? ''),
  }))
  const param = 'messages'
  const room = model.core.context - 1
  if (!tokenizer)
    throw new ApiError('invalid_value', `${model.id} has no tokenizer: use /v1/completions with token ids.`, {
      param: 'model',
    })
  const hasTemplate = tokenizer.hasChatTemplate
  const text = hasTemplate ? render(tokenizer, messages) : messages.map((m) => m.content).join('\n')
  // A template writes the special tokens itself.
  const [ids] = (await encode(context, model, [text], [param], room, { special: !hasTemplate })) as [
    Uint32Array,
  ]
  if (ids.length === 0) throw new ApiError('invalid_value', `'messages' have no text.`, { param })
  if (ids.length > room) throw tooLong(model, `${ids.length} tokens`, room, param)
  return ids
}

function render(tokenizer: Tokenizer, messages: ChatMessage[]): string {
  try {
    return tokenizer.chat(messages)
  } catch (error) {
    if (error instanceof ModelError)
      throw new ApiError('invalid_value', `'messages': ${error.message}`, { param: 'messages' })
    throw error
  }
}

const longest = (prompts: readonly Uint32Array[]): number => Math.max(...prompts.map((p) => p.length))
const roomFor = (model: Served, prompts: readonly Uint32Array[]): number =>
  model.core.context - longest(prompts)

function checkRoom(model: Served, prompts: readonly Uint32Array[], maxTokens: number, param: string): void {
  if (maxTokens <= roomFor(model, prompts)) return
  throw new ApiError(
    'context_length_exceeded',
    `${model.id} has a context of ${model.core.context} tokens; ${longest(prompts)} of the prompt and ${maxTokens} of the answer are more.`,
    { param },
  )
}

function chatLogprobs(list: TokenLogprob[] | undefined): object | null {
  if (!list) return null
  const entry = ({ token, logprob }: { token: string; logprob: number }): object => ({
    token, logprob, bytes: [...Buffer.from(token)],
  }) // prettier-ignore
  return { content: list.map((one) => ({ ...entry(one), top_logprobs: one.top.map(entry) })), refusal: null }
}
