/** What clients send unasked is accepted where it asks for nothing; what can't be honoured is refused by its name. */
import { describe, expect, test } from 'vitest'
import { chatBody, completionBody, parseBody } from '../../coordinator/api/bodies.ts'
import { ApiError } from '../../coordinator/api/errors.ts'

const chat = { model: 'm', messages: [{ role: 'user', content: 'hello' }] }
const refusal = (extra: object, schema: typeof chatBody | typeof completionBody = chatBody): ApiError => {
  try {
    parseBody<typeof chatBody | typeof completionBody>(schema, { ...chat, ...extra })
  } catch (error) {
    if (error instanceof ApiError) return error
    throw error
  }
  throw new Error(`accepted: ${JSON.stringify(extra)}`)
}

describe('an option that asks for nothing is accepted', () => {
  test.each([
    { tools: [], tool_choice: 'none', parallel_tool_calls: false },
    { functions: [], function_call: 'auto' },
    { response_format: { type: 'text' }, modalities: ['text'], logit_bias: {} },
    { presence_penalty: 0, frequency_penalty: 0, store: false, service_tier: 'auto' },
    { user: 'u', safety_identifier: 's', prompt_cache_key: 'k', metadata: { team: 'a' } },
    { reasoning_effort: 'none', verbosity: 'medium', prediction: null, audio: null },
    { stop: [], logprobs: false, top_logprobs: 0, n: 1, stream: false },
    { stream: true, stream_options: { include_usage: true, include_obfuscation: false } },
  ])('%j', (extra) => {
    expect(parseBody(chatBody, { ...chat, ...extra })).toMatchObject(extra)
  })

  test('null says as little as leaving it out', () => {
    const names = Object.keys(chatBody.entries).filter((name) => !(name in chat))
    const nulls = Object.fromEntries(names.map((name) => [name, null]))
    expect(parseBody(chatBody, { ...chat, ...nulls })).toEqual({ ...chat, ...nulls })
  })

  test('an answer goes back into the conversation as the clients hold it', () => {
    const answer = { role: 'assistant', content: 'hi', refusal: null, annotations: [], audio: null, function_call: null, tool_calls: null } // prettier-ignore
    const messages = [...chat.messages, answer, ...chat.messages]
    expect(parseBody(chatBody, { ...chat, messages })).toMatchObject({ messages })
  })
})

describe('an option that cannot be honoured is refused by its name', () => {
  test.each([
    ['tools', { tools: [{ type: 'function', function: { name: 'f' } }] }],
    ['tool_choice', { tool_choice: 'required' }],
    ['response_format', { response_format: { type: 'json_object' } }],
    ['modalities', { modalities: ['text', 'audio'] }],
    ['store', { store: true }],
    ['logit_bias', { logit_bias: { 50: 1 } }],
    ['presence_penalty', { presence_penalty: 0.5 }],
    ['service_tier', { service_tier: 'priority' }],
    ['reasoning_effort', { reasoning_effort: 'high' }],
    ['prediction', { prediction: { type: 'content', content: 'x' } }],
    ['frobnicate', { frobnicate: 1 }],
    ['volunteer.frobnicate', { volunteer: { frobnicate: 1 } }],
    ['messages.0.tool_calls', { messages: [{ role: 'assistant', content: '', tool_calls: [{ id: '1' }] }] }],
  ])('%s', (param, extra) => {
    expect(refusal(extra)).toMatchObject({ code: 'unsupported_parameter', param })
    expect(refusal(extra).message).toContain(`'${param}'`)
  })

  test('a value of the wrong kind is told with what it must be', () => {
    expect(refusal({ temperature: 2.5 })).toMatchObject({ code: 'invalid_value', message: "'temperature' must be <=2, not 2.5." }) // prettier-ignore
    expect(refusal({ seed: 1.5 }).message).toBe("'seed' must be a whole number, not 1.5.")
    const image = { role: 'user', content: [{ type: 'image_url', image_url: { url: 'data:' } }] }
    expect(refusal({ messages: [image] })).toMatchObject({ param: 'messages.0.content.0.type' })
    expect(refusal({ messages: [{ role: 'tool', content: 'x' }] })).toMatchObject({
      param: 'messages.0.role',
    })
    expect(refusal({}, completionBody)).toMatchObject({ code: 'missing_field', param: 'prompt' })
  })
})
