/** A requester with a limit: every job's most is reserved or refused, and nothing goes below nothing. */
import { expect, test } from 'vitest'
import type { RequesterId, VolunteerId } from '../../protocol/index.ts'
import { law } from '../harness/random.ts'
import type { Random } from '../harness/random.ts'
import { Court, key, known } from './court.ts'
import { POLICY } from '../../coordinator/core/policy.ts'

const poor = 'poor' as RequesterId
const rich = 'rich' as RequesterId
/** Of one row: 50 tokens, a standard unit each. */
const EACH = 50

law(
  'credit never goes below nothing, whatever is asked at once, and holds up nobody without a limit',
  (random) => {
    for (let run = 0; run < 50; run++) history(random)
  },
)

function history(random: Random): void {
  const s = new Court({ restore: { credit: [[poor, random.int(0, 300)]] } })
  const given = s.core.state.credit.get(poor)!
  const left = (): number => given + (s.balances[`requester:${poor}`] ?? 0)
  const house = s.join({ isHouse: true, slots: 3 })
  for (let i = 0; i < 40; i++) {
    const before = left()
    const step = random.int(0, 9)
    if (step === 0) s.tell({ type: 'credit-granted', requester: poor, amount: random.int(-200, 200) })
    else if (step < 6) {
      const rows = random.int(1, 5)
      const requester = random.pick([poor, poor, rich])
      const isOpen = s.core.state.jobsOf.has(poor)
      const job = s.sort(rows, { requester, mayWait: true })
      const error = s.of('refuse-job').find((e) => e.job === job)?.error
      const isTooMuch = requester === poor && EACH * rows > before
      expect(error?.code).toBe(isTooMuch ? 'insufficient_credits' : undefined)
      // Waiting helps only where something may come back.
      if (error) expect(error.retryMs !== undefined).toBe(isOpen)
      else if (requester === poor) expect(left()).toBe(before - EACH * rows)
    } else if (step < 9) for (const a of s.assigned()) s.answers(house as VolunteerId, a)
    else
      for (const { spec } of s.core.state.jobs.values())
        s.tell({ type: 'job-cancelled', job: spec.id, reason: 'gone' })
    expect(left()).toBeGreaterThanOrEqual(0)
    expect(s.core.state.credit.get(poor)).toBe(left())
  }
}

test('what is granted is an account that owes it, and taken back only while it is there', () => {
  const s = new Court()
  s.tell({ type: 'credit-granted', requester: poor, amount: 70 })
  expect(s.of('post').at(-1)!.entry).toMatchObject({
    kind: 'grant',
    lines: [{ account: 'granted:poor', amount: -70 }, { account: 'requester:poor', amount: 70 }],
  }) // prettier-ignore
  s.tell({ type: 'credit-granted', requester: poor, amount: -71 })
  expect(s.balances).toEqual({ 'granted:poor': -70, 'requester:poor': 70 })
  s.tell({ type: 'credit-granted', requester: poor, amount: -70 })
  expect(s.core.state.credit.get(poor)).toBe(0)
})

test('what a convict earned is there to be spent again', () => {
  const s = new Court({ restore: { ...known('b'), credit: [[poor, EACH]] } })
  const house = s.join({ isHouse: true })
  const v = s.join({ publicKey: key('a') })
  s.sort(1, { requester: poor })
  s.answers(v, s.assigned()[0]!, 1)
  expect(s.core.state.credit.get(poor)).toBe(0)
  s.answers(house, s.assigned()[0]!)
  s.wait(POLICY.discloseMs)
  expect(s.of('convict')).toHaveLength(1)
  expect(s.core.state.credit.get(poor)).toBe(EACH)
})
