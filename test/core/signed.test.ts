/** Tokens are signed as they are streamed: whoever is convicted of some is shown what it signed of them, and nothing else. */
import { expect, test } from 'vitest'
import type { Effect } from '../../coordinator/core/events.ts'
import { inputBytes, progressBytes } from '../../protocol/index.ts'
import type { Assignment, Output, VolunteerId } from '../../protocol/index.ts'
import { law } from '../harness/random.ts'
import { Court } from './court.ts'
import { hex, key, PROMPT, Room, scene, sha } from './room.ts'
import type { Sent } from './room.ts'

type Evidence = Extract<Effect, { type: 'convict' }>['evidence']

test('whoever contradicts a text as it goes on with it is shown its own tokens, those that agree with it first', () => {
  const { s, house, writer, a } = scene(40, { chunk: 64 })
  s.streams(writer, a, 0, 6)
  const liar = s.enter('b', 8)
  s.tell({ type: 'volunteer-left', volunteer: writer, reason: 'closed' })
  const [next] = s.assigned()
  expect(next).toMatchObject({ to: liar, generate: { replay: 6 } })
  // It is back, and ahead of whoever took its place.
  const again = s.enter('a', 8, { held: [a.id] })
  s.streams(again, a, 0, 12)
  s.streams(liar, next!, 6, 8)
  s.streams(liar, next!, 8, 12, 10)
  s.answers(
    house,
    s.assigned().find(({ to }) => to === house)!,
  )
  expect(s.convicts).toEqual([key('b')])
  const { streamed, signature, referee } = s.of('convict')[0]!.evidence
  const [right, wrong] = [s.tokensOf(10, 14), s.tokensOf(14, 16).map((id) => id + 1)]
  expect(streamed).toEqual({ from: 10, tokens: Uint32Array.of(...right, ...wrong), logprobs: undefined })
  expect(signature).toBe(`by ${liar} up to 16`)
  expect(referee.tokens).toBe(40)
})

test('a stream that is sent again after a broken connection goes on where it was, and no less of it is signed', () => {
  const { s, house, writer, a } = scene(40)
  s.streams(writer, a, 0, 7, 3)
  s.tell({ type: 'volunteer-left', volunteer: writer, reason: 'closed' })
  const again = s.enter('a', 8, { held: [a.id] })
  s.streams(again, a, 0, 4, 3)
  s.streams(again, a, 4, 7, 3)
  s.streams(again, a, 7, 9, 3)
  s.answers(
    house,
    s.assigned().find(({ to }) => to === house)!,
  )
  expect(s.of('convict')[0]!.evidence).toMatchObject({
    signature: `by ${again} up to 13`,
    streamed: { from: 4, tokens: { length: 9 } },
  })
})

test('whoever begins a stream anew behind what it had signed gets no farther, and stands by that', () => {
  const { s, writer, a } = scene(40)
  s.streams(writer, a, 0, 7, 3)
  const tokens = Uint32Array.from(s.tokensOf(11, 14))
  s.hear(writer, {
    type: 'tokens',
    assignment: a.id,
    position: 11,
    tokens,
    from: 11,
    signature: 'of the rest',
  })
  expect(s.sent(writer, 'error')).toMatchObject([{ code: 'invalid_result', message: expect.stringMatching(/from 11 on, before they were from 4 on/) }]) // prettier-ignore
  // Whoever goes on is read.
  for (let due = s.assigned(); due.length; due = s.assigned()) for (const one of due) s.answers(one.to, one)
  expect(s.convicts).toEqual([key('a')])
  expect(s.of('convict')[0]!.evidence.signature).toBe(`by ${writer} up to 11`)
})

test('whoever went on behind wrong log-probabilities without having seen them is not convicted of them, and is paid', () => {
  const s = new Court({ policy: { canaries: 0, textShare: 0 } })
  const house = s.join({ isHouse: true, models: [] })
  const [liar, honest] = [s.join({ publicKey: key('liar') }), s.join({ publicKey: key('honest') })]
  const sampling = { temperature: 0, topK: 0, topP: 1, seed: '1', stream: 0 }
  const choices = [{ prompt: Uint32Array.of(1, 2, 3), options: { maxTokens: 9, sampling, logprobs: 0 } }]
  const job = s.submit({
    kind: 'generate',
    model: s.core.state.classes.keys().next().value!,
    choices,
    trust: 'fast',
  })
  const [first] = s.assigned()
  expect(first!.to).toBe(liar)
  const stream = (v: VolunteerId, a: Assignment, from: number, to: number, wrong: number): void => {
    const { position, tokens, logprobs } = s.output(a) as Extract<Output, { kind: 'generate' }>
    const values = logprobs!.values.slice(2 * from, 2 * to)
    values[1]! += wrong
    s.hear(v, {
      type: 'tokens', assignment: a.id, position: position + from, tokens: tokens.slice(from, to), logprobs: { top: 0, values },
      from: position + from, signature: `by ${v}`,
    }) // prettier-ignore
  }
  stream(liar, first!, 0, 3, 1)
  s.tell({ type: 'volunteer-left', volunteer: liar, reason: 'gone' })
  const [next] = s.assigned()
  expect(next!.to).toBe(honest)
  stream(honest, next!, 3, 5, 0)
  s.hear(house, { type: 'models', models: [{ digest: next!.model, state: 'ready', readMs: 1, drawMs: 8 }] })
  s.tell({ type: 'choice-stopped', job, choice: 0 })
  s.tell({ type: 'volunteer-left', volunteer: honest, reason: 'gone' })
  s.answers(house, s.assigned()[0]!)
  expect(s.of('correct-unit')).toHaveLength(1)
  expect(s.of('convict').map(({ identity, evidence }) => [identity, evidence.signature, evidence.streamed!.tokens.length])).toEqual([[key('liar'), `by ${liar}`, 3]]) // prettier-ignore
  expect(s.balances[`volunteer:${key('honest')}`]).toBeGreaterThan(0)
  expect(s.balances[`escrow:${key('honest')}`] ?? 0).toBe(0)
})

/** What a stranger needs to see it proven, but for the arithmetic of signatures. */
function proves(
  s: Room,
  { unit, input, output, signature, streamed, referee }: Evidence,
  said: readonly number[],
): boolean {
  expect(input).toBe(hex(sha(inputBytes(unit))))
  expect(output).toBe(hex(sha(progressBytes(streamed!.tokens))))
  const base = unit.inputs[0]!.length
  const at = streamed!.from - base
  // It said just this, and signed it last at its end.
  expect([...streamed!.tokens]).toEqual(said.slice(0, streamed!.tokens.length))
  expect(signature).toMatch(new RegExp(` up to ${streamed!.from + streamed!.tokens.length}$`))
  return streamed!.tokens.some((id, i) => at + i < referee.tokens! && id !== s.token(base + at + i))
}

law(
  'whatever is streamed, given up, taken over and sent again: who is convicted has signed a wrong token',
  (random) => {
    let convicted = 0
    for (let run = 0; run < 120; run++) {
      const names = ['a', 'b', 'c', 'd']
      const liars = new Set(names.filter(() => random.float() < 0.4))
      const s = new Room({ chunk: random.pick([4, 8, 64]) })
      const house = s.enter('house', 100, { isHouse: true })
      const here = new Map(names.slice(0, 2).map((name) => [s.enter(name, 8), name]))
      /** What was said for each assignment, from where on. */
      const said = new Map<string, { from: number; tokens: number[] }>()
      const maxTokens = random.int(6, 40)
      s.write(PROMPT, maxTokens, { trust: random.pick(['fast', 'checked'] as const) })
      const work: Sent[] = []
      for (let step = 0; step < 200 && s.core.state.jobs.size > 0; step++) {
        work.push(...s.assigned())
        const a = random.pick(work)
        const name = here.get(a.to)
        if (a.to === house) {
          if (random.float() < 0.5) s.answers(house, a)
          continue
        }
        if (name === undefined || !s.core.state.leases.has(a.id)) continue
        const lie = liars.has(name) ? random.int(0, maxTokens) : Infinity
        const { replay = 0 } = a.generate!
        const base = a.inputs[0]!.length - replay
        let stream = said.get(a.id)
        if (!stream) {
          // Those who are honest draw again what they are given, and begin where it is wrong.
          const wrong = liars.has(name)
            ? -1
            : [...a.inputs[0]!.subarray(base)].findIndex((id, i) => id !== s.token(base + i))
          stream = { from: base + (wrong < 0 ? replay : wrong), tokens: [] }
          said.set(a.id, stream)
        }
        const next = stream.from + stream.tokens.length
        const end = Math.min(base + maxTokens, next + random.int(1, 6))
        if (random.float() < 0.15) {
          s.tell({ type: 'volunteer-left', volunteer: a.to, reason: 'closed' })
          here.delete(a.to)
          const back = random.float() < 0.6
          const id = s.enter(back ? name : names.find((n) => ![...here.values()].includes(n))!, 8, {
            held: back ? [a.id] : [],
          })
          here.set(id, back ? name : names.find((n) => ![...here.values()].includes(n))!)
          if (back && s.sent(id, 'welcome')[0]?.keep.includes(a.id)) {
            a.to = id
            for (let at = 0; at < stream.tokens.length;) {
              const to = Math.min(stream.tokens.length, at + random.int(1, 6))
              s.tokens(id, a.id, stream.from + at, stream.tokens.slice(at, to))
              at = to
            }
          }
        } else if (next >= base + maxTokens - 1) {
          s.answers(a.to, a, liars.has(name) && random.float() < 0.5 ? 0 : undefined)
        } else {
          const ids = s.tokensOf(next, end).map((id, i) => (next + i - base >= lie ? id + 1 : id))
          stream.tokens.push(...ids)
          s.tokens(a.to, a.id, next, ids)
        }
      }
      for (const due of [...work, ...s.assigned()]) if (due.to === house) s.answers(house, due)
      for (const { identity, evidence } of s.of('convict')) {
        expect([...liars].map(key)).toContain(identity)
        expect(evidence.signature).not.toBeNull()
        if (!evidence.streamed) continue
        convicted++
        const { from, tokens } = said.get(evidence.assignment)!
        expect(evidence.streamed.from).toBe(from)
        expect(proves(s, evidence, tokens)).toBe(true)
      }
    }
    expect(convicted).toBeGreaterThan(10)
  },
)
