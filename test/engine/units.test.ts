/** The laws of UnitRunner: what a unit answers depends on nothing but the unit. */
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest'
import type { Backend, Pack } from '../../engine/index.ts'
import { logprobsOf } from '../../engine/logprobs.ts'
import { failureOf, UnitRunner } from '../../engine/units.ts'
import type { Unit, UnitProgress } from '../../engine/units.ts'
import { openStage, storyOf } from './stage.ts'
import type { Generated, Stage } from './stage.ts'

let stage: Stage
let backend: Backend
let runner: UnitRunner
let packs: Map<string, Pack>
let tales = ''
let intents = ''

beforeAll(async () => {
  stage = await openStage()
  ;({ backend, runner, packs, tales, intents } = stage)
})
afterAll(() => stage?.close())

const story = (prompt: readonly number[], maxTokens: number, extra = {}, sampling = {}): Unit =>
  storyOf(tales, prompt, maxTokens, extra, sampling)
const tokensOf = async (unit: Unit): Promise<number[]> => [
  ...((await runner.run(unit)).output as Generated).tokens,
]

describe('generate units', () => {
  const prompt = [1, 300, 410, 520]

  test('alone, in company, with log-probabilities: the same tokens', async () => {
    const alone = await tokensOf(story(prompt, 40))
    const others = Array.from({ length: 5 }, (_, i) => story([1, 600 + i], 25 + i, {}, { stream: i }))
    const [a, b] = await Promise.all([
      tokensOf(story(prompt, 40)),
      tokensOf(story(prompt, 40, { logprobs: 2 })),
      ...others.map(tokensOf),
    ])
    expect(a).toEqual(alone)
    expect(b).toEqual(alone)
  })

  test('begun elsewhere at any place: the same tokens', async () => {
    const whole = await tokensOf(story(prompt, 24))
    for (let cut = 1; cut < 24; cut += 5)
      expect(await tokensOf(story([...prompt, ...whole.slice(0, cut)], 24 - cut))).toEqual(whole.slice(cut))
  })

  test('progress, joined, is a beginning of the result, without gaps', async () => {
    const seen: UnitProgress[] = []
    const { output } = await runner.run(story(prompt, 60, { logprobs: 1 }), {
      onTokens: (p) => void seen.push(p),
    })
    const { tokens, position, logprobs } = output as Generated
    expect(position).toBe(prompt.length)
    let at = prompt.length
    for (const one of seen) {
      expect(one.position).toBe(at)
      expect(one.logprobs!.values).toEqual(
        logprobs!.values.subarray((at - position) * 4, (at - position + one.tokens.length) * 4),
      )
      at += one.tokens.length
    }
    expect(at).toBeLessThan(prompt.length + tokens.length)
    expect(seen.flatMap((one) => [...one.tokens])).toEqual([...tokens].slice(0, at - prompt.length))
  })

  test('a full context ends with length; a whole prompt of it is refused', async () => {
    const long = Array.from({ length: 380 }, (_, i) => 300 + (i % 500))
    const finishes = new Set<string>()
    for (let stream = 0; stream < 20; stream++) {
      const { output } = await runner.run(story(long, 1000, {}, { stream, temperature: 2 }))
      const { tokens, finish, position } = output as Generated
      finishes.add(finish)
      expect(position).toBe(380)
      if (finish === 'length') expect(tokens).toHaveLength(4)
      else expect(packs.get(tales)!.manifest.spec.eosIds).toContain(tokens.at(-1))
    }
    expect(finishes).toContain('length')
    const error = await runner.run(story([...long, 1, 2, 3, 4], 1)).catch((e: unknown) => e)
    expect(failureOf(error)).toMatchObject({ reason: 'input-invalid', retryable: false })
  })

  test('one cancelled, before, between and after others: the others answer, its place is free again', async () => {
    const abort = new AbortController()
    const cancelled = runner.run(story(prompt, 300), {
      signal: abort.signal,
      onTokens: () => abort.abort(new Error('enough')),
    })
    const others = [1, 2, 3, 4].map((stream) => tokensOf(story(prompt, 20, {}, { stream })))
    await expect(cancelled).rejects.toThrow('enough')
    const texts = await Promise.all(others)
    for (const [i, text] of texts.entries())
      expect(await tokensOf(story(prompt, 20, {}, { stream: i + 1 }))).toEqual(text)
    await expect(runner.run(story(prompt, 5), { signal: abort.signal })).rejects.toThrow('enough')
    expect(runner.running).toBe(0)
  })

  test('a bad unit among good ones: only it fails, by name', async () => {
    const bad = [
      story([], 5),
      story([99_999], 5),
      story(prompt, 0),
      story(prompt, 1.5),
      { ...story(prompt, 5), model: 'f'.repeat(64) },
      { ...story(prompt, 5), kind: 'embed' as const },
      story(prompt, 5, {}, { topP: 7 }),
    ]
    const good = tokensOf(story(prompt, 10))
    const reasons = await Promise.all(bad.map((unit) => runner.run(unit).then(() => 'answered', (e: unknown) => failureOf(e).reason))) // prettier-ignore
    expect(reasons).toEqual([
      'input-invalid',
      'input-invalid',
      'input-invalid',
      'input-invalid',
      'model-missing',
      'input-invalid',
      'input-invalid',
    ])
    expect(await good).toHaveLength(10)
  })

  test('the event loop turns while it works', async () => {
    let turns = 0
    const count = setInterval(() => turns++, 0)
    await runner.run(story(prompt, 370))
    clearInterval(count)
    expect(turns).toBeGreaterThan(0)
  })
})

describe('encoder units', () => {
  const rows = Array.from({ length: 40 }, (_, i) =>
    Uint32Array.from([101, 500 + i, 600 + 2 * i, 102].slice(0, 2 + (i % 3))),
  )

  test('a batch is its rows', async () => {
    for (const kind of ['embed', 'classify'] as const) {
      const { output } = await runner.run({ kind, model: intents, inputs: rows })
      if (output.kind === 'generate') throw new Error('a row is no text')
      expect(output.values).toHaveLength(rows.length * output.width)
      for (const i of [0, 7, 39]) {
        const alone = await runner.run({ kind, model: intents, inputs: [rows[i]!] })
        expect((alone.output as typeof output).values).toEqual(
          output.values.subarray(i * output.width, (i + 1) * output.width),
        )
      }
    }
  })

  test('no rows and rows that are too long are refused', async () => {
    for (const inputs of [[], [new Uint32Array(65)], [new Uint32Array()]]) {
      const error = await runner.run({ kind: 'classify', model: intents, inputs }).catch((e: unknown) => e)
      expect(failureOf(error).reason).toBe('input-invalid')
    }
  })
})

test('log-probabilities are a distribution, close to the real one, likeliest first', () => {
  let state = inject('seed') >>> 0
  const next = (): number => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0)
  for (let round = 0; round < 50; round++) {
    const logits = Int32Array.from({ length: 1 + (next() % 3000) }, () => (next() >> 8) - (1 << 23))
    const drawn = next() % logits.length
    const top = Math.min(20, logits.length)
    const pairs = logprobsOf(logits, drawn, top)
    const max = Math.max(...logits)
    const norm = Math.log(logits.reduce((sum, l) => sum + Math.exp((l - max) / 65536), 0))
    const sorted = [...logits.keys()].sort((a, b) => logits[b]! - logits[a]! || a - b)
    for (let i = 0; i <= top; i++) {
      const id = pairs[2 * i]!
      expect(id).toBe(i === 0 ? drawn : sorted[i - 1])
      expect(Math.abs(pairs[2 * i + 1]! - (logits[id]! - max - 65536 * norm))).toBeLessThanOrEqual(0.501)
    }
  }
  // By hand: two equal logits are ln ½ each.
  expect([...logprobsOf(Int32Array.of(5, 5), 1, 1)]).toEqual([1, -45426, 0, -45426])
})

test('measuring gives times, and a model that was unloaded is missing', async () => {
  const mine = new UnitRunner(backend, async (digest) => packs.get(digest)!)
  const measured = await mine.measure(tales)
  expect(measured.readMs).toBeGreaterThan(0)
  expect(measured.drawMs).toBeGreaterThan(0)
  expect((await mine.measure(intents)).drawMs).toBeUndefined()
  mine.unload(tales)
  expect(failureOf(await mine.run(story([1], 1)).catch((e: unknown) => e)).reason).toBe('model-missing')
  const pending = mine
    .run({ kind: 'classify', model: intents, inputs: [Uint32Array.of(1)] })
    .catch((e: unknown) => failureOf(e).reason)
  await mine.close()
  expect(await pending).toBe('model-missing')
})
