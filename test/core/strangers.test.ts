/** What strangers might try without answering wrongly: to be asked more, less or last, and to be remembered for ever. */
import { describe, expect, test } from 'vitest'
import { LIMITS } from '../../coordinator/core/limits.ts'
import { leaseMs, yellowAt } from '../../coordinator/core/straggler.ts'
import { POLICY } from '../../coordinator/core/policy.ts'
import { reputationOf } from '../../coordinator/core/trust.ts'
import type { Assignment, Output, VolunteerId } from '../../protocol/index.ts'
import { Court, key } from './court.ts'
import { SORTER, WRITER } from './stage.ts'

type Join = NonNullable<Parameters<Court['join']>[0]>

const calm = { canaries: 0 }
/** Claims to need no time at all. */
const swift = [WRITER, SORTER].map((digest) => ({ digest, state: 'ready' as const, readMs: 0, drawMs: 0 }))

/** Somebody with a long record. */
function known(s: Court, name: string, change: Join = {}): VolunteerId {
  reputationOf(s.core.state, key(name), name, false).accepted = 5000
  return s.join({ publicKey: key(name), network: name, ...change })
}

describe('a check', () => {
  const ways: Record<string, (s: Court, v: VolunteerId, a: Assignment) => void> = {
    failed: (s, v, { id }) =>
      s.hear(v, { type: 'fail', assignment: id, reason: 'engine-error', retryable: true }),
    'given back': (s, v, { id }) =>
      s.hear(v, { type: 'fail', assignment: id, reason: 'returned', retryable: true }),
    'left behind': (s, v) => s.tell({ type: 'volunteer-left', volunteer: v, reason: 'gone' }),
  }
  for (const [how, give] of Object.entries(ways))
    test(`that accomplices have ${how} is made by a trusted engine all the same`, () => {
      const s = new Court({ policy: { ...calm, floor: 1 } })
      const liar = known(s, 'liar')
      s.ask('fast')
      const [lie] = s.assigned()
      const friends = Array.from({ length: 8 }, (_, i) => known(s, `friend ${i}`))
      const house = s.join({ isHouse: true })
      s.answers(liar, lie!, 1)
      for (let due = s.assigned(); due.length > 0; due = s.assigned())
        for (const a of due) {
          if (friends.includes(a.to)) give(s, a.to, a)
          else s.answers(house, a)
        }
      s.disclose()
      expect(s.of('check-unit')).toMatchObject([{ verdict: 'wrong', check: { kind: 'trusted' } }])
      expect(s.of('convict')).toMatchObject([{ identity: key('liar') }])
      expect(s.of('correct-unit')).toHaveLength(1)
    })

  test('comes to somebody who keeps free no more often than to others', () => {
    const s = new Court({ policy: { ...calm, floor: 1 } })
    const house = s.join({ isHouse: true })
    const others = Array.from({ length: 9 }, (_, i) => known(s, `other ${i}`, { slots: 32 }))
    // Each has something in hand, and room for more.
    for (const _ of others) s.ask('fast')
    const working = new Set(s.assigned().map(({ to }) => to))
    expect(working.size).toBe(9)
    const author = known(s, 'author')
    const friend = known(s, 'friend', { slots: 32, concurrency: 32, paused: 'user' })
    const to = new Map<VolunteerId, number>()
    for (let i = 0; i < 220; i++) {
      s.hear(friend, { type: 'state', state: 'paused', isHidden: false })
      s.ask('fast')
      const [a] = s.assigned()
      expect(a!.to).toBe(author)
      s.hear(friend, { type: 'state', state: 'open', isHidden: false })
      s.answers(author, a!)
      const [check] = s.assigned()
      to.set(check!.to, (to.get(check!.to) ?? 0) + 1)
      s.answers(check!.to, check!)
    }
    // Each 20 times but for chance: 45 is six deviations off.
    expect(to.size).toBe(11)
    expect(Math.max(...[friend, house].map((v) => to.get(v)!))).toBeLessThan(45)
  })
})

test('an exact answer is confirmed by somebody long known, where there is one: new keys are free', () => {
  const s = new Court({ policy: calm })
  const steady = known(s, 'steady')
  for (let i = 0; i < 30; i++) s.join({ publicKey: key(`x${i}`), models: swift })
  s.ask('exact')
  const [a] = s.assigned()
  expect(a!.to).not.toBe(steady)
  s.answers(a!.to, a!)
  const [check] = s.assigned()
  expect(check!.to).toBe(steady)
  s.answers(steady, check!)
  expect(s.of('settle-unit')).toMatchObject([{ check: { kind: 'replicated', by: [key('steady')] } }])
})

describe('work', () => {
  test('that strangers take and leave, again and again, comes to whoever answered before', () => {
    const s = new Court({ policy: calm })
    const steady = known(s, 'steady')
    let keys = 0
    const stranger = (): VolunteerId => s.join({ publicKey: key(`x${keys++}`), models: swift })
    for (let i = 0; i < 5; i++) stranger()
    s.ask('fast')
    for (let tries = 0; ; tries++) {
      const [a] = s.assigned()
      if (a!.to === steady) break
      expect(tries).toBeLessThan(LIMITS.givenBack)
      stranger()
      s.tell({ type: 'volunteer-left', volunteer: a!.to, reason: 'gone' })
    }
  })

  test('that is streamed over and over without a new token is given to somebody else', () => {
    const s = new Court({ policy: calm })
    const v = s.join({ publicKey: key('v') })
    s.write([1, 2, 3], 20, { trust: 'fast' })
    const [a] = s.assigned()
    s.tokens(v, a!.id, 3, [103])
    const other = s.join({ publicKey: key('other') })
    for (let t = 0; t < 20_000; t += 200) {
      s.wait(200)
      s.tokens(v, a!.id, 3, [103])
      s.hear(other, { type: 'pong', nonce: 0 })
    }
    expect(s.assigned().map(({ to }) => to)).toContain(other)
  })

  test('whose tokens drip, each as late as the one before allows, is given to a second in time', () => {
    const s = new Court({ policy: calm })
    const v = s.join({ publicKey: key('v') })
    s.write([1, 2, 3], 90, { trust: 'fast' })
    const [a] = s.assigned()
    const other = s.join({ publicKey: key('other') })
    const due = leaseMs(8 * 90 + 3, (8 * 90 + 3) / 2, 10)
    const isHedged = (): boolean => s.core.state.totals.hedged > 0
    for (let drawn = 0; drawn < 20 && !isHedged(); drawn++) {
      s.tokens(v, a!.id, 3 + drawn, [103 + drawn])
      const at = yellowAt(s.core.state.leases.get(a!.id)!.watch!)
      // The last millisecond before it is suspect; once it is late as a whole there is none.
      for (let ms = Math.max(2, at - 1 - s.now); ms > 0 && !isHedged(); ms -= 1000) {
        s.wait(Math.min(1000, ms))
        for (const one of [v, other]) s.hear(one, { type: 'pong', nonce: 0 })
      }
    }
    expect(s.assigned().map(({ to }) => to)).toEqual([other])
    expect(s.now).toBeLessThanOrEqual(due + 1000)
  })

  test('goes to those whose answers need no check while trusted engines are behind with newcomers’', () => {
    const s = new Court({ policy: { ...calm, floor: 1e-9, beta: 1e-9 } })
    s.join({ isHouse: true, slots: 1 })
    const steady = known(s, 'steady')
    for (let i = 0; i < 100; i++)
      s.join({ publicKey: key(`x${i}`), models: swift, slots: 32, concurrency: 32 })
    let answered = 0
    for (let i = 0; i < 500; i++) {
      s.ask('checked')
      for (const a of s.assigned())
        if (a.to !== 'v0') {
          s.answers(a.to, a)
          if (a.to === steady) answered++
        }
    }
    const { checks, laterChecks } = s.core.state.classes.get(SORTER)!
    expect(checks.length + laterChecks.length).toBeLessThanOrEqual(LIMITS.unchecked + 32)
    expect(answered).toBeGreaterThan(400)
  })
})

describe('log-probabilities', () => {
  const sampling = { temperature: 0, topK: 0, topP: 1, seed: '1', stream: 0 }
  const ask = (
    s: Court,
    trust: 'fast' | 'checked',
  ): { house: VolunteerId; v: VolunteerId; a: Assignment } => {
    const house = s.join({ isHouse: true })
    const v = s.join({ publicKey: key('v') })
    const choices = [{ prompt: Uint32Array.of(1, 2, 3), options: { maxTokens: 4, sampling, logprobs: 0 } }]
    s.submit({ kind: 'generate', model: WRITER, choices, trust })
    const [a] = s.assigned()
    expect(a!.to).toBe(v)
    return { house, v, a: a! }
  }
  /** The first `count` tokens of the right answer, `wrong` added to what is said of the last one. */
  const stream = (s: Court, v: VolunteerId, a: Assignment, count: number, wrong: number): void => {
    const { position, tokens, logprobs } = s.output(a) as Extract<Output, { kind: 'generate' }>
    const values = logprobs!.values.slice(0, 2 * count)
    values[2 * count - 1]! += wrong
    s.hear(v, {
      type: 'tokens',
      assignment: a.id,
      position,
      tokens: tokens.slice(0, count),
      logprobs: { top: 0, values },
    })
  }

  test('that were streamed otherwise than signed are put right, and cost the key', () => {
    const s = new Court()
    const { house, v, a } = ask(s, 'checked')
    stream(s, v, a, 2, 1)
    s.answers(v, a)
    s.answers(house, s.assigned()[0]!)
    s.disclose()
    expect(s.of('correct-unit')).toMatchObject([{ isJobOpen: true, output: s.output(a) }])
    expect(s.of('convict')).toMatchObject([{ identity: key('v') }])
    expect(s.of('settle-unit')).toMatchObject([{ identity: 'house', status: 'final' }])
  })

  test('of a text its caller stopped are checked with it', () => {
    for (const wrong of [0, 1]) {
      const s = new Court()
      const { house, v, a } = ask(s, 'checked')
      stream(s, v, a, 2, wrong)
      s.tell({ type: 'choice-stopped', job: s.of('accept-job')[0]!.job, choice: 0 })
      s.answers(house, s.assigned()[0]!)
      s.disclose()
      expect(s.of('convict')).toHaveLength(wrong)
      expect(s.of('correct-unit')).toHaveLength(wrong)
      expect(s.of('finish-job')).toHaveLength(1)
    }
  })

  test('that were not asked for, or not given, make an answer useless', () => {
    const s = new Court()
    const { v, a } = ask(s, 'fast')
    s.tokens(v, a.id, 3, [103])
    expect(s.sent(v, 'error')).toMatchObject([{ code: 'invalid_result' }])
    expect(s.of('deliver-tokens')).toEqual([])
  })
})

test('keys that came once are forgotten, however many were convicted before them', () => {
  const s = new Court({ policy: { ...calm, records: 50 } })
  const house = s.join({ isHouse: true })
  for (let i = 0; i < 20; i++) {
    const liar = s.join({ publicKey: key(`liar ${i}`) })
    s.ask('checked')
    s.answers(liar, s.assigned()[0]!, 1)
    s.answers(house, s.assigned()[0]!)
    s.disclose()
  }
  expect(s.of('convict')).toHaveLength(20)
  expect(s.core.state.alarms.size).toBeGreaterThan(0)
  for (let i = 0; i < 500; i++) {
    const guest = s.join({ publicKey: key(`guest ${i}`) })
    s.ask('fast')
    s.tell({ type: 'volunteer-left', volunteer: guest, reason: 'gone' })
  }
  const { records, alarms } = s.core.state
  expect(records.size).toBeLessThanOrEqual(50 + 20 + 2)
  for (let i = 0; i < 20; i++) expect(records.get(key(`liar ${i}`))?.isConvicted).toBe(true)
  s.wait(POLICY.alarmMs + 1)
  expect(alarms.size).toBe(0)
})
