/**
 * A text that a liar writes, over real sockets, with a house that reads it meanwhile: its caller is told how far it was checked and
 * where it went wrong, whoever waits for the whole of it has the right one, and what the liar had streamed by then is proven wrong.
 */
import { afterEach, expect, test } from 'vitest'
import type { EvidenceBundle, Receipt } from '../../coordinator/books/documents.ts'
import { Town } from './town.ts'
import { story, until } from './world.ts'

let town: Town | undefined
afterEach(async () => {
  await town?.close()
  town = undefined
})

const CHUNK = 16
const LIE = 40
const ASKED = { max_tokens: 300, temperature: 0.8, seed: 3 }
const PROMPT = 'Once upon a time there was a little girl who'

interface Piece {
  choices?: { text: string }[]
  volunteer?: { status: string; checked_tokens?: number; receipt?: string }
  error?: { code: string; message: string }
}

/** A completion as it streams. */
async function stream(url: string): Promise<Piece[]> {
  const answer = await fetch(`${url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ model: 'tales-3m', prompt: PROMPT, stream: true, ...ASKED }),
  })
  return (await answer.text())
    .split('\n\n')
    .filter((event) => event.startsWith('data: {'))
    .map((event) => JSON.parse(event.slice('data: '.length)) as Piece)
}

const told = (pieces: readonly Piece[]): string =>
  pieces.map(({ choices }) => choices?.[0]?.text ?? '').join('')

test('a lie in the middle of a text is found while it is being written', async () => {
  // Any reader is fast enough, so the house's WASM is.
  town = await Town.open({ policy: { textShare: 1_000, chunk: CHUNK, discloseMs: 1_000 } })
  const { direct } = town.world
  const { status } = town.world
  await until(() => status().models.some(({ name, houses }) => name === 'tales-3m' && houses > 0), 'the house is ready') // prettier-ignore
  // What is right: the house alone says it.
  const right = await story(direct, PROMPT, { ...ASKED, volunteer: { trust: 'exact' } })

  /** Found in the middle: of a text that was streamed, and of one that was waited for. */
  const found = { stream: false, whole: false }
  // A liar whose text was not read before it was done is found at its end, as ever; another one comes.
  for (let i = 0; i < 8 && !(found.stream && found.whole); i++) {
    const liar = await town.settle(`liar ${i}`, `forger:${LIE}`)
    await until(() => liar.picture().models.some(({ state }) => state === 'ready'), 'the liar is ready')
    let checked = 0
    if (found.stream) {
      const { text } = await story(direct, PROMPT, { ...ASKED, volunteer: { trust: 'checked' } })
      expect(text).toBe(right.text)
    } else {
      const pieces = await stream(direct)
      const { error } = pieces.at(-1)!
      expect(error?.code).toBe('verification_failed')
      const [, same] = /first (\d+) are/.exec(error!.message)!
      expect(told(pieces).slice(0, Number(same))).toBe(right.text.slice(0, Number(same)))
      const steps = pieces.flatMap(({ volunteer }) => volunteer?.checked_tokens ?? [])
      expect(steps).toEqual([...steps].sort((a, b) => a - b))
      checked = steps.at(-1)!
    }
    await until(async () => (await town!.convicted()).has(liar.key()), `${liar.name} is convicted`)
    const id = (await town.convicted()).get(liar.key())!
    const { request, accused, referee } = (await town.document(`/v1/evidence/${id}`)) as EvidenceBundle
    const report = await town.verify(`/v1/evidence/${id}`)
    expect(report).toMatchObject({ flaw: null, proven: true })
    if (!accused.streamed) continue
    expect(request.options!.max_tokens).toBe(ASKED.max_tokens)
    // It is drawn again as far as it had come, and no farther.
    expect(referee.tokens).toBeLessThan(ASKED.max_tokens)
    const { at, said, right: due } = report.wrong!
    expect(at).toBe(LIE)
    expect(accused.streamed.tokens[at - (accused.streamed.from - request.inputs[0]!.length)]).toBe(said)
    expect(due).not.toBe(said)
    if (found.stream) found.whole = true
    else if (checked > 0) found.stream = true
  }
  expect(found).toEqual({ stream: true, whole: true })
  expect(status().trust.chunks).toBeGreaterThan(0)
})

test('of a text that its caller stopped, the receipt bears the signature of whoever wrote it', async () => {
  town = await Town.open({ house: false })
  const { direct } = town.world
  // A forger that would begin behind every text is honest, and as slow as a large model.
  const writer = await town.settle('writer', 'forger:1000')
  await until(() => writer.picture().models.some(({ state }) => state === 'ready'), 'somebody is ready')
  const { volunteer } = await story(direct, PROMPT, { ...ASKED, stop: ['.'] })
  const path = `/v1/receipts/${(volunteer as unknown as { receipt: string }).receipt}`
  expect(await town.verify(path)).toMatchObject({ ok: true, flaw: null })
  const { units } = (await town.document(path)) as Receipt
  expect(units).toMatchObject([{ volunteer: writer.key(), signature: null }])
  expect(units[0]!.tokens!.length).toBeLessThan(ASKED.max_tokens)
  expect(units[0]!.streamed!.signature).toMatch(/^[\w-]{86}$/)
})
