/** Texts that are checked while they are written: who reads them, what it costs, and what becomes of a lie. */
import { describe, expect, test } from 'vitest'
import { inputBytes, progressBytes } from '../../protocol/index.ts'
import type { VolunteerId } from '../../protocol/index.ts'
import { law } from '../harness/random.ts'
import { hex, key, PROMPT, right, Room, scene, sha } from './room.ts'
import type { Sent } from './room.ts'

describe('a text that is being written', () => {
  test('is read chunk by chunk by who reads fast, and its caller is told how far it is right', () => {
    const { s, house, writer, a } = scene(40)
    for (const from of [0, 4]) s.streams(writer, a, from, from + 4)
    const [check] = s.assigned()
    // The last token is for the reader to find: to whom it looks like a text to be gone on with.
    expect(check).toMatchObject({ to: house, kind: 'generate', generate: { replay: 7, maxTokens: 8 } })
    expect([...check!.inputs[0]!]).toEqual([...PROMPT, ...s.tokensOf(4, 11)])
    s.streams(writer, a, 8, 18)
    expect(s.assigned()).toEqual([])
    s.answers(house, check!)
    expect(s.checked).toEqual([8])
    s.streams(writer, a, 18, 20)
    // One reading later all that was written meanwhile is read.
    const [next] = s.assigned()
    expect(next).toMatchObject({ to: house, generate: { replay: 19, maxTokens: 20 } })
    s.answers(house, next!)
    expect(s.checked).toEqual([8, 20])
    s.answers(writer, a)
    // And the whole of it, with its root, at its end.
    const [last] = s.assigned()
    expect(last).toMatchObject({ to: house, generate: { replay: 40, maxTokens: 40 } })
    s.answers(house, last!)
    expect(s.of('settle-unit')[0]).toMatchObject({
      identity: key('a'),
      status: 'final',
      check: { kind: 'trusted', rate: 1 },
    })
    expect(s.told).toEqual(s.tokensOf(4, 44))
    expect(s.core.state.totals).toMatchObject({ chunks: 2, checks: 1, wrong: 0 })
  })

  test('is not read by who reads slowly, nor by its writer’s neighbours', () => {
    const s = new Room({ textShare: 1 / 16 })
    const writer = s.enter('a', 8, { network: 'n' })
    s.write(PROMPT, 400, { trust: 'fast' })
    const [a] = s.assigned()
    s.enter('b', 500, { network: 'n' })
    s.enter('house', 15, { isHouse: true })
    s.streams(writer, a!, 0, 200)
    s.streams(writer, a!, 200, 300)
    expect(s.core.state.totals.chunks).toBe(0)
    const fast = s.enter('c', 500)
    s.streams(writer, a!, 300, 310)
    expect(s.assigned()).toMatchObject([{ to: fast, generate: { maxTokens: 310 } }])
  })

  test('whose caller wants no more of it is no longer read', () => {
    const { s, house, writer, a } = scene(40)
    s.streams(writer, a, 0, 8)
    const [check] = s.assigned()
    const { job } = s.of('deliver-tokens')[0]!
    s.tell({ type: 'job-cancelled', job, reason: 'gone' })
    expect(s.sent(house, 'cancel').flatMap((m) => m.assignments)).toEqual([check!.id])
    s.answers(house, check!)
    expect(s.checked).toEqual([])
  })

  test('is read by somebody else where its reader leaves', () => {
    const { s, house, writer, a } = scene(40)
    s.enter('b', 200)
    s.streams(writer, a, 0, 8)
    const [first] = s.assigned()
    s.tell({ type: 'volunteer-left', volunteer: first!.to, reason: 'closed' })
    const [second] = s.assigned()
    expect(second).toMatchObject({ generate: { replay: 7, maxTokens: 8 } })
    expect(new Set([first!.to, second!.to])).toContain(house)
    s.answers(second!.to, second!)
    expect(s.checked).toEqual([8])
  })
})

law('no text costs more than its share to check, however it ends', (random) => {
  let chunks = 0
  for (let i = 0; i < 150; i++) {
    const textShare = random.pick([1 / 16, 0.2, 1])
    const reads = random.int(2, 600)
    const s = new Room({ textShare, chunk: random.pick([8, 64]) })
    const house = s.enter('house', reads, { isHouse: true })
    const writer = s.enter('a', 8)
    const prompt = Array.from({ length: random.int(1, 300) }, (_, at) => right(at))
    const most = random.int(1, 800)
    s.endsAt = prompt.length + random.int(0, 800)
    const drawn = Math.min(most, s.endsAt + 1 - prompt.length)
    s.write(prompt, most, { trust: 'fast' })
    const [a] = s.assigned()
    let draws = 0
    const read = (checks: readonly Sent[]): void => {
      for (const check of checks) {
        expect(check.to).toBe(house)
        const { replay = 0 } = check.generate!
        // What is not drawn yet is drawn.
        draws += check.inputs[0]!.length / reads + Math.min(1, drawn - replay)
        s.answers(house, check)
      }
    }
    for (let at = 0; at < drawn - 1;) {
      const to = Math.min(drawn - 1, at + random.int(1, 40))
      s.streams(writer, a!, at, to)
      at = to
      if (random.float() < 0.7) read(s.assigned())
    }
    const rest = s.assigned()
    s.answers(writer, a!)
    // The one that was under way when the text ended is not needed any more.
    const dropped = new Set(s.sent(house, 'cancel').flatMap((m) => m.assignments))
    read([...rest, ...s.assigned()].filter(({ id }) => !dropped.has(id)))
    expect(draws, `${drawn} tokens after ${prompt.length}, ${reads} read per draw`).toBeLessThanOrEqual(textShare * drawn + 1e-9) // prettier-ignore
    // And where its share allows that all of it is read once, it is.
    if ((prompt.length + drawn) / reads <= textShare * drawn)
      expect(s.of('settle-unit')[0]!.check.rate).toBe(1)
    expect(s.convicts).toEqual([])
    chunks += s.checked.length
  }
  expect(chunks).toBeGreaterThan(100)
})

describe('a lie in the middle of a text', () => {
  test('is put right before its end: somebody else goes on behind the right tokens, and the liar is convicted', () => {
    const { s, house, writer, a } = scene(40)
    const other = s.enter('b', 1)
    s.streams(writer, a, 0, 9, 5)
    const [check] = s.assigned()
    s.streams(writer, a, 9, 14, 5)
    s.answers(house, check!)
    expect(s.of('correct-unit')).toMatchObject([{ choice: 0, identity: 'house', isJobOpen: true }])
    expect(s.convicts).toEqual([key('a')])
    expect(s.told).toEqual(s.tokensOf(4, 13))
    expect(s.checked).toEqual([9])
    // Nine tokens were wrong as delivered, of a chunk of eight.
    const [next] = s.assigned()
    expect(next).toMatchObject({ to: other, generate: { replay: 9, maxTokens: 40 } })
    expect([...next!.inputs[0]!]).toEqual([...PROMPT, ...s.tokensOf(4, 13)])
    s.streams(other, next!, 9, 15)
    s.answers(other, next!)
    for (const one of s.assigned()) if (one.to === house) s.answers(house, one)
    expect(s.told).toEqual(s.tokensOf(4, 44))
    expect(s.of('settle-unit')).toMatchObject([{ identity: key('b') }])
    expect(s.of('finish-choice')).toMatchObject([{ tokens: 40, finish: 'length' }])
    expect(s.convicts).toEqual([key('a')])
    // What it had signed when it was read is shown, and how much of it was drawn again; the question is the one that was asked.
    const { evidence } = s.of('convict')[0]!
    const lie = Uint32Array.from(s.tokensOf(4, 13), (id, i) => (i < 5 ? id : id + 1))
    expect(evidence).toMatchObject({
      output: hex(sha(progressBytes(lie))),
      signature: `by ${writer} up to 13`,
      streamed: { from: 4, tokens: lie },
      referee: { identity: 'house', tokens: 9 },
    })
    expect(evidence.unit.generate!.maxTokens).toBe(40)
    expect(evidence.input).toBe(hex(sha(inputBytes(evidence.unit))))
    expect(evidence.referee.output).toBe(hex(sha(Buffer.from(Uint32Array.from(s.tokensOf(4, 13)).buffer))))
  })

  test('is not brought back by what its liar had sent already', () => {
    const { s, house, writer, a } = scene(40)
    s.enter('b', 1)
    s.streams(writer, a, 0, 9, 5)
    s.answers(house, s.assigned()[0]!)
    s.streams(writer, a, 9, 20, 5)
    s.answers(writer, a, 5)
    expect(s.told).toEqual(s.tokensOf(4, 13))
    expect(s.core.state.totals.disputes).toBe(0)
  })

  test('that stands where the text should have ended ends it there', () => {
    const { s, house, writer, a } = scene(40)
    s.endsAt = 4 + 5
    s.tokens(writer, a.id, 4, [...s.tokensOf(4, 9), 300, 301, 302, 303])
    s.answers(house, s.assigned()[0]!)
    expect(s.told).toEqual(s.tokensOf(4, 10))
    expect(s.of('finish-choice')).toMatchObject([{ tokens: 6, finish: 'stop' }])
    expect(s.of('settle-unit')).toMatchObject([{ identity: 'house', status: 'final' }])
    expect(s.convicts).toEqual([key('a')])
    expect(s.core.state.jobs.size).toBe(0)
  })

  test('is the liar’s alone, whoever was writing when it was found', () => {
    const { s, house, writer, a } = scene(40, { chunk: 16 })
    const other = s.enter('b', 8)
    s.streams(writer, a, 0, 10, 5)
    s.tell({ type: 'volunteer-left', volunteer: writer, reason: 'closed' })
    const [next] = s.assigned()
    expect(next!.to).toBe(other)
    // It draws the same as was drawn before, or nothing could be told of the two.
    const base = next!.inputs[0]!.length
    s.tokens(other, next!.id, base, s.tokensOf(base, base + 8))
    s.answers(
      house,
      s.assigned().find(({ to }) => to === house)!,
    )
    expect(s.convicts).toEqual([key('a')])
    expect(s.told).toEqual(s.tokensOf(4, 22))
    // It goes on from what is right now, and what it was given before is void.
    expect(s.sent(other, 'cancel').flatMap((m) => m.assignments)).toContain(next!.id)
    expect(s.assigned()).toMatchObject([{ to: other, generate: { replay: 18 } }])
  })

  test('that a caller’s stop cut off is evidence of the question that was asked', () => {
    const { s, house, writer, a } = scene(40, { chunk: 64 })
    s.streams(writer, a, 0, 6, 3)
    s.tell({ type: 'choice-stopped', job: s.of('deliver-tokens')[0]!.job, choice: 0 })
    s.answers(house, s.assigned()[0]!)
    const { evidence } = s.of('convict')[0]!
    expect(evidence).toMatchObject({ signature: `by ${writer} up to 10`, referee: { tokens: 6 } })
    expect(evidence.unit.generate!.maxTokens).toBe(40)
    expect(evidence.input).toBe(hex(sha(inputBytes(evidence.unit))))
    expect(s.told).toEqual(s.tokensOf(4, 10))
  })
})

describe('a reader that says a text is wrong', () => {
  /** A text of which `b` reads a chunk and says that it is wrong; the house reads too slowly to be asked first. */
  const accused = (
    isTrusted: boolean,
  ): { s: Room; reader: VolunteerId; writer: VolunteerId; a: Sent; house: VolunteerId } => {
    const s = new Room()
    const house = isTrusted ? s.enter('house', 2, { isHouse: true }) : ('' as VolunteerId)
    const writer = s.enter('a', 8)
    s.write(PROMPT, 40, { trust: 'fast' })
    const [a] = s.assigned()
    const reader = s.enter('b', 500)
    s.streams(writer, a!, 0, 8)
    const [check] = s.assigned()
    expect(check!.to).toBe(reader)
    s.answers(reader, check!, 5)
    return { s, reader, writer, a: a!, house }
  }

  test('is not believed before a trusted engine read it; meanwhile the text goes on', () => {
    const { s, house, writer, a } = accused(true)
    const [verdict] = s.assigned()
    expect(verdict).toMatchObject({ to: house, generate: { replay: 7, maxTokens: 8 } })
    s.streams(writer, a, 8, 20)
    s.answers(house, verdict!)
    s.wait(10_000)
    expect(s.convicts).toEqual([key('b')])
    expect(s.of('convict')[0]!.evidence.signature).not.toBeNull()
    expect(s.checked).toEqual([8])
    expect(s.told).toEqual(s.tokensOf(4, 24))
  })

  test('is found out even where the text ended meanwhile', () => {
    const { s, house, writer, a } = accused(true)
    const [verdict] = s.assigned()
    s.answers(writer, a)
    s.answers(house, verdict!)
    s.wait(10_000)
    expect(s.convicts).toEqual([key('b')])
    expect(s.told).toEqual(s.tokensOf(4, 44))
  })

  test('convicts nobody where nobody can judge', () => {
    const { s, writer, a } = accused(false)
    s.streams(writer, a, 8, 12)
    s.answers(writer, a)
    s.wait(60_000)
    expect(s.convicts).toEqual([])
    expect(s.of('finish-choice')).toHaveLength(1)
  })
})

test('whoever draws other tokens than somebody who left is not blamed where nobody can judge', () => {
  const s = new Room()
  const [a, b] = [s.enter('a', 8), s.enter('b', 8)]
  s.write(PROMPT, 20, { trust: 'fast' })
  const [first] = s.assigned()
  s.streams(first!.to, first!, 0, 4, 2)
  s.tell({ type: 'volunteer-left', volunteer: first!.to, reason: 'closed' })
  const [next] = s.assigned()
  expect(new Set([first!.to, next!.to])).toEqual(new Set([a, b]))
  s.tokens(next!.to, next!.id, 4, s.tokensOf(4, 10))
  expect(s.core.state.totals.disagreements).toBe(1)
  expect(s.sent(next!.to, 'error')).toEqual([])
  expect(s.convicts).toEqual([])
})

test('whoever contradicts what it streamed itself is told so', () => {
  const s = new Room()
  const writer = s.enter('a', 8)
  s.write(PROMPT, 20, { trust: 'fast' })
  const [a] = s.assigned()
  s.streams(writer, a!, 0, 4, 2)
  s.streams(writer, a!, 0, 8)
  expect(s.sent(writer, 'error')).toHaveLength(1)
})
