import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { ModelError } from '../../engine/weights/errors.ts'
import { openTokenizer, textOfUtf8 } from '../../engine/tokenizer.ts'
import type { Tokenizer } from '../../engine/tokenizer.ts'
import { byteTokenizer } from '../../scripts/make-random-model.ts'
import { law } from '../harness/random.ts'
import type { Random } from '../harness/random.ts'
import { refusal } from './build.ts'
import { readJson, sharedModel } from './shared.ts'

const tricky =
  'Once 🐉 the café — “Zoë”, 漢字, 👩‍👩‍👧‍👦, e\u0301, \u00a0x\ttab\nline\u200b\ufeffend  two  spaces, naïve'

function open(folder: string, vocab?: number): Tokenizer {
  const options = vocab === undefined ? {} : { vocab }
  return openTokenizer(readJson(folder, 'tokenizer.json'), readJson(folder, 'tokenizer_config.json'), options)
}

/** Streamed piece by piece, checking that no piece has half a surrogate pair. */
function streamed(tokenizer: Tokenizer, ids: ArrayLike<number>, context?: ArrayLike<number>): string {
  const decoder = tokenizer.stream(context)
  let text = ''
  for (const id of Array.from(ids)) {
    const piece = decoder.push(id)
    expect(piece.isWellFormed()).toBe(true)
    text += piece
  }
  return text + decoder.flush()
}

function randomIds(random: Random, tokenizer: Tokenizer): number[] {
  return Array.from({ length: random.int(0, 60) }, () => random.int(0, tokenizer.size - 1))
}

const small = byteTokenizer(300)
const models: [string, Tokenizer][] = [['byte-level', openTokenizer(small.tokenizer, small.config)]]
for (const name of ['tales-3m', 'intents-3m', 'test-only/stories260K']) {
  const path = sharedModel(name)
  if (path) models.push([name, open(path)])
}

describe.each(models)('%s', (name, tokenizer) => {
  const path = name === 'byte-level' ? null : sharedModel(name)

  law(`${name}: pieces joined are the whole text, for any ids`, (random) => {
    for (let round = 0; round < 200; round++) {
      const ids = randomIds(random, tokenizer)
      expect(streamed(tokenizer, ids)).toBe(tokenizer.decode(ids))
    }
  })

  law(`${name}: after a context, pieces are what the ids add to its text`, (random) => {
    for (let round = 0; round < 100; round++) {
      const context = tokenizer.encode('One day, a little fox' + ' ran'.repeat(random.int(0, 3)))
      const ids = randomIds(random, tokenizer)
      // [SEP] at the end of the context is not shown, so it is no part of the joint text either.
      expect(tokenizer.decode(context) + streamed(tokenizer, ids, context)).toBe(
        tokenizer.decode([...context, ...ids]),
      )
    }
  })

  test('half a surrogate pair is refused, wherever it is', async () => {
    for (const text of ['\ud800', 'ab\udc00c', 'x\ud83d', '\udc49\ud83d']) {
      await refusal('text-invalid', () => tokenizer.encode(text))
    }
  })

  test('what is no token id is refused', async () => {
    for (const id of [-1, 0.5, NaN, tokenizer.size, 2 ** 32]) {
      await refusal('token-invalid', () => tokenizer.decode([id]))
      await refusal('token-invalid', () => tokenizer.stream().push(id))
    }
    expect(tokenizer.decode([])).toBe('')
  })

  test('truncation keeps the special tokens and the beginning of the text', () => {
    const text = 'my card was declined '.repeat(20)
    const whole = tokenizer.encode(text)
    const bare = tokenizer.encode(text, { special: false })
    const extra = whole.length - bare.length
    for (const tokensMax of [extra, extra + 1, 7, whole.length - 1, whole.length, whole.length + 1]) {
      const cut = tokenizer.encode(text, { tokensMax })
      expect(cut.length).toBe(Math.min(tokensMax, whole.length))
      const end = name === 'intents-3m' ? 1 : 0
      if (end) expect(cut.at(-1)).toBe(whole.at(-1))
      expect(cut.slice(0, cut.length - end)).toEqual(whole.slice(0, cut.length - end))
    }
    if (extra > 0) expect(() => tokenizer.encode(text, { tokensMax: extra - 1 })).toThrow(RangeError)
  })

  test('a model with a smaller vocabulary is refused', async () => {
    const again = (vocab: number) =>
      path ? open(path, vocab) : openTokenizer(small.tokenizer, small.config, { vocab })
    expect(again(tokenizer.size).size).toBe(tokenizer.size)
    await refusal('tokenizer-mismatch', () => again(tokenizer.size - 1))
    // A larger one has ids without a token: they are the model's, and add nothing.
    expect(again(tokenizer.size + 1).decode([tokenizer.size])).toBe('')
  })

  test('text comes back, but for what the vocabulary changes', () => {
    if (name === 'intents-3m') return
    expect(tokenizer.decode(tokenizer.encode(tricky))).toBe(tricky)
    expect(streamed(tokenizer, tokenizer.encode(tricky))).toBe(tricky)
  })
})

describe('reference ids', () => {
  const tales = sharedModel('tales-3m')
  test.skipIf(!tales)('tales-3m', () => {
    const tokenizer = open(tales!, 2048)
    for (const c of readJson<{
      cases: { prompt: string; input_ids: number[]; greedy_ids: number[]; text: string }[]
    }>(tales!, 'reference.json').cases) {
      expect([...tokenizer.encode(c.prompt)]).toEqual(c.input_ids)
      expect(tokenizer.decode(c.greedy_ids)).toBe(c.text)
      expect(streamed(tokenizer, c.greedy_ids)).toBe(c.text)
    }
  })

  const stories = sharedModel('test-only/stories260K')
  test.skipIf(!stories)('stories260K', () => {
    const tokenizer = open(stories!, 512)
    for (const c of readJson<{
      cases: { prompt: string; prompt_ids: number[]; greedy_ids: number[]; text: string }[]
    }>(stories!, 'reference_greedy.json').cases) {
      expect([...tokenizer.encode(c.prompt)]).toEqual(c.prompt_ids)
      expect(tokenizer.decode([...c.prompt_ids, ...c.greedy_ids])).toBe(c.text)
      expect(c.prompt + streamed(tokenizer, c.greedy_ids, c.prompt_ids)).toBe(c.text)
    }
  })

  const intents = sharedModel('intents-3m')
  test.skipIf(!intents)('intents-3m, cut to 64 with [SEP] kept', () => {
    const tokenizer = open(intents!, 4608)
    const { cases } = readJson<{ cases: { text: string; input_ids: number[] }[] }>(intents!, 'reference.json')
    expect(Math.max(...cases.map((c) => c.input_ids.length))).toBe(64)
    for (const c of cases) expect([...tokenizer.encode(c.text, { tokensMax: 64 })]).toEqual(c.input_ids)
  })
})

describe('files that are not a tokenizer', () => {
  const broken: [string, unknown][] = [
    ['null', null],
    ['a list', []],
    ['a string', 'x'],
    ['empty', {}],
    ['no model', { ...small.tokenizer, model: null }],
    ['a model of no known type', { ...small.tokenizer, model: { type: 'Magic', vocab: {} } }],
    ['a model without a vocabulary', { ...small.tokenizer, model: { type: 'BPE', merges: [] } }],
    ['a decoder of no known type', { ...small.tokenizer, decoder: { type: 'Magic' } }],
    ['added tokens that are not a list', { ...small.tokenizer, added_tokens: null }],
  ]
  test.each(broken)('%s', async (_, json) => {
    await refusal('tokenizer-invalid', () => openTokenizer(json, null))
  })

  test('a config that is not an object', async () => {
    await refusal('tokenizer-invalid', () => openTokenizer(small.tokenizer, [1]))
  })

  test('bytes that are not UTF-8', async () => {
    expect(textOfUtf8(new TextEncoder().encode(tricky))).toBe(tricky)
    for (const bytes of [[0xff], [0xc3], [0xed, 0xa0, 0x80], [0xc0, 0x80], [0xf4, 0x90, 0x80, 0x80]]) {
      await refusal('text-invalid', () => textOfUtf8(Uint8Array.from(bytes)))
    }
  })
})

describe('chat templates', () => {
  const template =
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}" +
    '<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}'
  const messages = [
    { role: 'user', content: 'Hi {{ 1 + 1 }}' },
    { role: 'assistant', content: 'Hello' },
  ]
  const make = (chat_template: unknown, chatTemplate?: string): Tokenizer =>
    openTokenizer(
      small.tokenizer,
      { ...small.config, chat_template, bos_token: { content: '<s>' } },
      chatTemplate === undefined ? {} : { chatTemplate },
    )

  test('render, from a string, a list, or a file of its own; messages are never templates', () => {
    const wanted = '<s><user>Hi {{ 1 + 1 }}<assistant>Hello<assistant>'
    expect(make(template).chat(messages)).toBe(wanted)
    expect(
      make([
        { name: 'tool_use', template: 'x' },
        { name: 'default', template },
      ]).chat(messages),
    ).toBe(wanted)
    expect(make('unused', template).chat(messages)).toBe(wanted)
    expect(make(template).chat(messages, { addGenerationPrompt: false })).toBe(
      wanted.slice(0, -'<assistant>'.length),
    )
  })

  test('no template, a broken one, and one that refuses', async () => {
    expect(make(undefined).hasChatTemplate).toBe(false)
    await refusal('template-missing', () => make(undefined).chat(messages))
    await refusal('template-failed', () => make('{% for').chat(messages))
    const error = await refusal('template-failed', () => make(template).chat([{ role: 'tool', content: '' }]))
    expect(error.message).toContain('no tools here')
  })
})

test('any text is encoded and comes back, or is refused by name', () => {
  const naughty = new URL('../../../shared/data/naughty-strings.json', import.meta.url)
  let texts: unknown
  try {
    texts = JSON.parse(readFileSync(naughty, 'utf8'))
  } catch {
    console.log('skipped: no ../shared/data/naughty-strings.json beside this checkout')
    return
  }
  for (const [name, tokenizer] of models) {
    for (const text of (texts as unknown[]).filter((t) => typeof t === 'string')) {
      try {
        const ids = tokenizer.encode(text)
        expect(streamed(tokenizer, ids)).toBe(tokenizer.decode(ids))
        if (name === 'byte-level') expect(tokenizer.decode(ids)).toBe(text)
      } catch (error) {
        if (!(error instanceof ModelError) || error.code !== 'text-invalid') throw error
      }
    }
  }
})
