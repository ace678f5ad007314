/** The stock `openai` client against real sockets: script R of the conventions, steps 1, 2, 5 and 6. */
import OpenAI from 'openai'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { eventually, serve, spawnStranger } from './serve.ts'
import type { Served, Spawned } from './serve.ts'

const story = { model: 'tales-3m', prompt: 'Once upon a time' } as const
const volunteerOf = (answer: unknown): Record<string, unknown> =>
  (answer as { volunteer: Record<string, unknown> }).volunteer

describe('with one volunteer', () => {
  let served: Served
  let volunteer: Spawned
  beforeAll(async () => {
    served = await serve()
    volunteer = await spawnStranger(served.url)
  })
  afterAll(async () => {
    volunteer?.kill()
    await served?.close(0)
  })

  test('the list of models says which are ready, and each can be asked for', async () => {
    const { data } = await served.openai.models.list()
    expect(data.map((m) => [m.id, volunteerOf(m).state])).toEqual([
      ['tales-3m', 'ready'],
      ['intents-3m', 'ready'],
    ])
    expect(await served.openai.models.retrieve('tales-3m')).toEqual(data[0])
    await expect(served.openai.models.retrieve('none')).rejects.toThrow(OpenAI.NotFoundError)
  })

  test('a completion is the same whole and streamed, and its usage adds up', async () => {
    const options = { ...story, max_tokens: 40, seed: 5 }
    const { data: whole, response } = await served.openai.completions.create(options).withResponse()
    expect(Object(whole)['_request_id']).toMatch(/^req_/)
    expect(response.headers.get('openai-processing-ms')).toMatch(/^\d+$/)
    expect(whole.usage!.total_tokens).toBe(whole.usage!.prompt_tokens + whole.usage!.completion_tokens)
    expect(volunteerOf(whole)).toMatchObject({
      verification: 'unverified',
      volunteers: 1,
      computed_by: [{ class: 'js' }],
    })
    let text = ''
    let finish: string | null = null
    for await (const chunk of await served.openai.completions.create({ ...options, stream: true })) {
      text += chunk.choices[0]!.text
      finish = chunk.choices[0]!.finish_reason
    }
    expect(text).toBe(whole.choices[0]!.text)
    expect(finish).toBe(whole.choices[0]!.finish_reason)
    expect(text.length).toBeGreaterThan(40)
  })

  test('chat answers, whole and streamed with usage last', async () => {
    const options = {
      model: 'tales-3m',
      messages: [{ role: 'user', content: 'Once upon a time' }],
      max_tokens: 30,
      seed: 5,
    } as const
    const whole = await served.openai.chat.completions.create({ ...options, messages: [...options.messages] })
    const stream = await served.openai.chat.completions.create({
      ...options, messages: [...options.messages], stream: true, stream_options: { include_usage: true },
    }) // prettier-ignore
    const chunks = []
    for await (const chunk of stream) chunks.push(chunk)
    expect(chunks.map((c) => c.choices[0]?.delta.content ?? '').join('')).toBe(
      whole.choices[0]!.message.content,
    )
    expect(chunks[0]!.choices[0]!.delta.role).toBe('assistant')
    expect(chunks.slice(0, -1).every((c) => c.usage === null)).toBe(true)
    expect(chunks.at(-1)).toMatchObject({ choices: [], usage: whole.usage })
  })

  test('n choices differ from one another, and the first is that of n = 1', async () => {
    const options = { ...story, max_tokens: 20, seed: 9, temperature: 1 }
    const one = await served.openai.completions.create(options)
    const three = await served.openai.completions.create({ ...options, n: 3 })
    expect(three.choices.map((c) => c.index)).toEqual([0, 1, 2])
    expect(three.choices[0]!.text).toBe(one.choices[0]!.text)
    expect(new Set(three.choices.map((c) => c.text)).size).toBe(3)
    expect(three.usage).toMatchObject({ prompt_tokens: one.usage!.prompt_tokens, completion_tokens: 60 })
  })

  test('several prompts, as texts and as token ids, give what each gives alone', async () => {
    const options = { model: 'tales-3m', max_tokens: 12, temperature: 0 }
    const alone = await Promise.all(
      ['Once', 'The dog'].map((prompt) => served.openai.completions.create({ ...options, prompt })),
    )
    const both = await served.openai.completions.create({ ...options, prompt: ['Once', 'The dog'] })
    expect(both.choices.map((c) => c.text)).toEqual(alone.map((a) => a.choices[0]!.text))
    const ids = await served.openai.completions.create({
      ...options,
      prompt: [
        [1, 300, 400],
        [1, 500],
      ],
    })
    const first = await served.openai.completions.create({ ...options, prompt: [1, 300, 400] })
    expect(ids.choices[0]!.text).toBe(first.choices[0]!.text)
  })

  test('a stop string cuts exactly before itself, wherever token borders fall, streamed or not', async () => {
    const options = { ...story, max_tokens: 120, temperature: 0 }
    const full = (await served.openai.completions.create(options)).choices[0]!.text
    for (const [from, to] of [
      [10, 11],
      [17, 20],
      [23, 31],
      [40, 58],
    ] as const) {
      const stop = full.slice(from, to)
      const expected = full.slice(0, full.indexOf(stop))
      const cut = await served.openai.completions.create({ ...options, stop: [stop, '\u0001never'] })
      expect(cut.choices[0]).toMatchObject({ text: expected, finish_reason: 'stop' })
      expect(cut.usage!.completion_tokens).toBeLessThan(120)
      let text = ''
      for await (const chunk of await served.openai.completions.create({ ...options, stop, stream: true }))
        text += chunk.choices[0]!.text
      expect(text).toBe(expected)
    }
  })

  test('log-probabilities are those of the drawn tokens, likeliest first', async () => {
    const options = { ...story, max_tokens: 10, temperature: 0 }
    const { choices } = await served.openai.completions.create({ ...options, logprobs: 3 })
    const { tokens, token_logprobs, top_logprobs, text_offset } = choices[0]!.logprobs!
    expect(tokens).toHaveLength(10)
    expect(tokens!.join('')).toBe(choices[0]!.text)
    expect(text_offset![0]).toBe(0)
    token_logprobs!.forEach((p, i) => {
      // Greedy: the drawn one is the likeliest.
      expect(p).toBe(Math.max(...Object.values(top_logprobs![i]!)))
      expect(Object.values(top_logprobs![i]!).reduce((sum, q) => sum + Math.exp(q), 0)).toBeLessThanOrEqual(
        1.001,
      )
    })
    const chat = await served.openai.chat.completions.create({
      model: 'tales-3m', messages: [{ role: 'user', content: story.prompt }], max_tokens: 10, temperature: 0, logprobs: true, top_logprobs: 2,
    }) // prettier-ignore
    expect(chat.choices[0]!.logprobs!.content!.map((one) => one.logprob)).toEqual(token_logprobs)
    expect(chat.choices[0]!.logprobs!.content![0]!.top_logprobs).toHaveLength(2)
  })

  test('embeddings by default (base64) and as floats are equal, and a batch is its rows', async () => {
    const input = ['play some jazz', 'what is the weather in Paris', 'play some jazz']
    const binary = await served.openai.embeddings.create({ model: 'intents-3m', input })
    const floats = await served.openai.embeddings.create({
      model: 'intents-3m',
      input,
      encoding_format: 'float',
    })
    binary.data.forEach(({ embedding }, i) =>
      embedding.forEach((x, j) => expect(Math.abs(x - floats.data[i]!.embedding[j]!)).toBeLessThan(1e-6)),
    )
    expect(floats.data.map((d) => d.index)).toEqual([0, 1, 2])
    expect(floats.data[2]!.embedding).toEqual(floats.data[0]!.embedding)
    expect(floats.data[1]!.embedding).not.toEqual(floats.data[0]!.embedding)
    const alone = await served.openai.embeddings.create({
      model: 'intents-3m',
      input: input[1]!,
      encoding_format: 'float',
    })
    expect(alone.data[0]!.embedding).toEqual(floats.data[1]!.embedding)
    expect(floats.usage.prompt_tokens).toBe(floats.usage.total_tokens)
    await expect(served.openai.embeddings.create({ model: 'intents-3m', input, dimensions: 8 })).rejects.toMatchObject({
      status: 400, code: 'unsupported_parameter', param: 'dimensions',
    }) // prettier-ignore
  })

  test('2,048 inputs in one call come back in order; one more is refused', async () => {
    const input = Array.from({ length: 2048 }, (_, i) => [101, 1000 + (i % 700), 102])
    const { data } = await served.openai.embeddings.create({
      model: 'intents-3m',
      input,
      encoding_format: 'float',
    })
    expect(data).toHaveLength(2048)
    expect(data[700]!.embedding).toEqual(data[0]!.embedding)
    expect(data[701]!.embedding).toEqual(data[1]!.embedding)
    expect(data[1]!.embedding).not.toEqual(data[0]!.embedding)
    await expect(
      served.openai.embeddings.create({ model: 'intents-3m', input: [...input, [1]] }),
    ).rejects.toThrow(OpenAI.BadRequestError)
  })

  test('classify names the intent', async () => {
    const answer = await served.post('/v1/classify', {
      model: 'intents-3m',
      input: ['play some jazz', 'is it going to rain tomorrow'],
    })
    const { data } = (await answer.json()) as { data: { label: string; probs: number[] }[] }
    expect(data.map((d) => d.label)).toEqual(['play_music', 'weather'])
    expect(data[0]!.probs.reduce((a, b) => a + b, 0)).toBeCloseTo(1, 9)
  })
})

test('without volunteers: 503 no_capacity at once, with Retry-After, and no retries of the client; with a deadline it waits that long', async () => {
  const served = await serve()
  try {
    const openai = new OpenAI({ baseURL: `${served.url}/v1`, apiKey: 'none' })
    const error = await openai.completions.create({ ...story }).then(
      () => undefined,
      (e: unknown) => e as InstanceType<typeof OpenAI.APIError>,
    )
    expect(error).toMatchObject({
      status: 503,
      code: 'no_capacity',
      param: 'model',
      type: 'service_unavailable',
    })
    expect(Number(error!.headers!.get('retry-after'))).toBeGreaterThan(0)
    expect(error!.headers!.get('x-should-retry')).toBe('false')
    // Early: refused on arrival, once, by a client that would retry twice if it were told to.
    expect(served.status().totals).toMatchObject({ jobsRefused: 1, jobsAccepted: 0 })
    expect((await fetch(`${served.url}/readyz`)).status).toBe(503)
    // Who names a deadline waits that long for somebody who may yet come.
    const late = await served.post('/v1/completions', { ...story, volunteer: { deadline_ms: 100 } })
    expect(late.status).toBe(504)
    const waiting = served.post('/v1/completions', { ...story, volunteer: { deadline_ms: 60_000 } })
    await eventually(() => served.status().jobs.open === 1, 'it waits')
    const came = await spawnStranger(served.url, {})
    expect((await waiting).status).toBe(200)
    came.kill()
    expect((await fetch(`${served.url}/healthz`)).status).toBe(200)
  } finally {
    await served.close(0)
  }
})

test('the house answers alone, and says that it did', async () => {
  const served = await serve({ house: true })
  try {
    await eventually(async () => (await fetch(`${served.url}/readyz`)).ok, 'the house is ready')
    await eventually(() => served.status().models.every((m) => m.houses > 0), 'the house has every model')
    const answer = await served.openai.completions.create({ ...story, max_tokens: 5 })
    expect(volunteerOf(answer).computed_by).toMatchObject([{ class: 'house', units: 1 }])
  } finally {
    await served.close(0)
  }
})

describe('a volunteer that is too slow', () => {
  let served: Served
  let slow: Spawned
  beforeAll(async () => {
    served = await serve()
    slow = await spawnStranger(served.url, { restMs: 60, concurrency: 1 })
  })
  afterAll(async () => {
    slow?.kill()
    await served?.close(0)
  })

  test('a deadline is kept: 504', async () => {
    const body = { ...story, max_tokens: 300, volunteer: { deadline_ms: 300 } }
    const answer = await served.post('/v1/completions', body)
    expect(answer.status).toBe(504)
    expect(await answer.json()).toMatchObject({ error: { code: 'deadline_exceeded' } })
    await eventually(() => served.status().jobs.open === 0, 'the job is gone')
  })

  test('a deadline that passes in a stream is an error event, and no [DONE]', async () => {
    const stream = await served.openai.completions.create({
      ...story, max_tokens: 300, stream: true, volunteer: { deadline_ms: 500 },
    } as never) as unknown as AsyncIterable<unknown> // prettier-ignore
    await expect(
      (async () => {
        for await (const _ of stream);
      })(),
    ).rejects.toMatchObject({ code: 'deadline_exceeded' })
  })

  test('a caller that hangs up cancels its job, streamed or not', async () => {
    for (const stream of [false, true]) {
      const abort = new AbortController()
      const asked = fetch(`${served.url}/v1/completions`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ ...story, max_tokens: 300, stream }),
        signal: abort.signal,
      }).then(
        (answer) => answer.text(),
        () => undefined,
      )
      await eventually(() => served.status().jobs.open === 1, 'the job runs')
      abort.abort()
      await asked.catch(() => undefined)
      await eventually(() => served.status().jobs.open === 0, 'the job is cancelled')
      expect(served.status().totals.jobsCancelled).toBe(stream ? 2 : 1)
    }
  })
})

test.each([
  ['greedy', { temperature: 0 }],
  ['sampled', { temperature: 0.9, seed: 11 }],
])(
  'volunteers killed mid-stream: the stream goes on with the tokens of an undisturbed run (%s)',
  async (_, sampling) => {
    const served = await serve()
    const spawned: Spawned[] = []
    try {
      const options = { ...story, max_tokens: 60, logprobs: 1, ...sampling }
      spawned.push(await spawnStranger(served.url, { restMs: 0 }))
      const undisturbed = (await served.openai.completions.create(options)).choices[0]!
      spawned.pop()!.kill()

      spawned.push(await spawnStranger(served.url, { restMs: 80, concurrency: 1 }))
      const stream = await served.openai.completions.create({ ...options, stream: true })
      let text = ''
      const tokens: string[] = []
      let kills = 0
      let last: unknown
      for await (const chunk of stream) {
        last = chunk
        text += chunk.choices[0]!.text
        tokens.push(...(chunk.choices[0]!.logprobs?.tokens ?? []))
        if (kills < 2 && tokens.length > 8 * (kills + 1)) {
          kills++
          const next = await spawnStranger(served.url, { restMs: 80, concurrency: 1 })
          spawned.at(-1)!.kill()
          spawned.push(next)
        }
      }
      expect(kills).toBe(2)
      expect(text).toBe(undisturbed.text)
      expect(tokens).toEqual(undisturbed.logprobs!.tokens)
      expect(volunteerOf(last).volunteers).toBeGreaterThanOrEqual(2)
      expect(volunteerOf(last).redispatched).toBeGreaterThanOrEqual(1)
    } finally {
      for (const one of spawned) one.kill()
      await served.close(0)
    }
  },
)
