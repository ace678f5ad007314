/** The coordinator's laws, as stories of a few volunteers; what holds over whole histories is in test/sim. */
import { describe, expect, test } from 'vitest'
import type { JobSpec } from '../../coordinator/core/events.ts'
import { Estimate } from '../../coordinator/core/estimate.ts'
import { FairQueue } from '../../coordinator/core/fair.ts'
import { Heap } from '../../coordinator/core/heap.ts'
import { LIMITS, SETTINGS } from '../../coordinator/core/limits.ts'
import { leaseMs, redAt, tardy, yellowAt } from '../../coordinator/core/straggler.ts'
import { view } from '../../coordinator/core/view.ts'
import type { RequesterId } from '../../protocol/nouns.ts'
import { law } from '../harness/random.ts'
import { SORTER, Stage, WRITER } from './stage.ts'

describe('a stream', () => {
  test('is carried on by another volunteer with the tokens already drawn, and the caller sees no seam', () => {
    const s = new Stage()
    const [a, b] = [s.join(), s.join()]
    s.write([1, 2, 3], 6)
    const [first] = s.assigned()
    const other = first!.to === a ? b : a
    s.tokens(first!.to, first!.id, 3, [11, 12])
    s.tell({ type: 'volunteer-left', volunteer: first!.to, reason: 'closed' })
    const [second] = s.assigned()
    expect(second!.to).toBe(other)
    expect([...second!.inputs[0]!]).toEqual([1, 2, 3, 11, 12])
    expect(second!.generate).toMatchObject({ maxTokens: 6, replay: 2 })
    s.tokens(other, second!.id, 5, [13])
    s.wrote(other, second!.id, 3, [11, 12, 13, 14, 15, 16])
    expect(s.of('deliver-tokens').flatMap((e) => e.tokens)).toEqual([11, 12, 13, 14, 15, 16])
    expect(s.of('deliver-tokens').map((e) => e.index)).toEqual([0, 2, 3])
    expect(s.of('finish-job')[0]!.summary.volunteers.map((v) => [v.volunteer, v.items])).toEqual([
      [first!.to, 2],
      [other, 4],
    ])
  })

  test('needs nobody else when its last token had arrived before its volunteer left', () => {
    const s = new Stage()
    s.join()
    s.write([1], 9)
    const [a] = s.assigned()
    s.tokens(a!.to, a!.id, 1, [20, 7])
    s.join()
    s.tell({ type: 'volunteer-left', volunteer: a!.to, reason: 'closed' })
    expect(s.of('finish-choice')).toEqual([
      { type: 'finish-choice', job: 'j0', choice: 0, finish: 'stop', tokens: 2 },
    ])
    expect(s.assigned()).toEqual([])
  })

  test('that stalls is hedged, the faster copy wins token by token, and the other is cancelled', () => {
    const s = new Stage()
    const [a, b] = [s.join(), s.join()]
    s.write([1, 2], 4)
    const [first] = s.assigned()
    s.tokens(first!.to, first!.id, 2, [30])
    s.wait(4_000)
    const [second] = s.assigned()
    expect(second!.to).toBe(first!.to === a ? b : a)
    expect([...second!.inputs[0]!]).toEqual([1, 2, 30])
    s.tokens(second!.to, second!.id, 3, [31, 32])
    s.tokens(first!.to, first!.id, 3, [31])
    s.wrote(second!.to, second!.id, 2, [30, 31, 32, 33])
    expect(s.of('deliver-tokens').flatMap((e) => e.tokens)).toEqual([30, 31, 32, 33])
    expect(s.sent(first!.to, 'cancel').flatMap((m) => m.assignments)).toEqual([first!.id])
    // Late, and too late: nothing more happens.
    expect(s.wrote(first!.to, first!.id, 2, [30, 31, 32, 33])).toEqual([])
  })

  test('that contradicts what was delivered is dropped, and given to somebody else', () => {
    const s = new Stage()
    s.join()
    s.join()
    s.write([1], 4)
    const [first] = s.assigned()
    s.tokens(first!.to, first!.id, 1, [30, 31])
    s.wrote(first!.to, first!.id, 1, [30, 99, 98, 97])
    const [second] = s.assigned()
    expect(second!.to).not.toBe(first!.to)
    s.wrote(second!.to, second!.id, 1, [30, 31, 32, 33])
    expect(s.of('deliver-tokens').flatMap((e) => e.tokens)).toEqual([30, 31, 32, 33])
    expect(view(s.core.state).totals.disagreements).toBe(1)
  })

  test('ends when its caller has read enough', () => {
    const s = new Stage()
    const v = s.join()
    const job = s.write([1], 50)
    const [a] = s.assigned()
    s.tokens(v, a!.id, 1, [30])
    const effects = s.tell({ type: 'choice-stopped', job, choice: 0 })
    expect(effects.map((e) => e.type)).toEqual([
      'send', 'finish-choice', 'settle-unit', 'post', 'post', 'finish-job',
    ]) // prettier-ignore
    expect(s.sent(v, 'cancel')[0]!.assignments).toEqual([a!.id])
  })
})

describe('rows', () => {
  test('are cut to what their volunteer does in about 300 ms, when it takes them', () => {
    const s = new Stage()
    const v = s.join()
    s.sort(100, { priority: 'batch' })
    const [a] = s.assigned()
    // It says 1 ms a token; a row has 50.
    expect(a!.inputs.length).toBe(6)
    s.now += 30
    s.sorted(v, a!)
    const [b] = s.assigned()
    // It took 30 ms, a tenth of what it said.
    expect(b!.inputs.length).toBeGreaterThan(30)
  })

  test('of somebody who waits are spread over all who are free', () => {
    const s = new Stage()
    for (let i = 0; i < 4; i++) s.join()
    s.sort(8)
    expect(s.assigned().map((a) => a.inputs.length)).toEqual([2, 2, 2, 2])
  })

  test('arrive in any order and are each delivered once', () => {
    const s = new Stage()
    for (let i = 0; i < 3; i++) s.join()
    s.sort(9)
    for (const a of s.assigned().toReversed()) s.sorted(a.to, a)
    const rows = s.of('deliver-rows').flatMap((e) => Array.from({ length: e.rows }, (_, i) => e.first + i))
    expect(rows.sort((a, b) => a - b)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8])
    expect(s.of('finish-job')).toHaveLength(1)
  })

  test('a classifier that embeds is asked for vectors of their own shape', () => {
    const s = new Stage()
    const v = s.join()
    s.sort(1, { kind: 'embed' } as Partial<JobSpec>)
    const [a] = s.assigned()
    expect(a!.kind).toBe('embed')
    s.sorted(v, a!, 3, 24)
    expect(s.of('deliver-rows')[0]).toMatchObject({ width: 3, bits: 24 })
  })
})

describe('volunteers', () => {
  test('that fall silent are let go after three pings, and their work is done by others', () => {
    const s = new Stage()
    const a = s.join()
    s.wait(SETTINGS.silentMs + SETTINGS.pingMs)
    expect(s.sent(a, 'ping').length).toBeGreaterThanOrEqual(3)
    expect(s.of('close')[0]).toMatchObject({ volunteer: a, code: 4408 })
    expect(s.core.state.volunteers.size).toBe(0)
  })

  test('are not blamed when the coordinator itself slept', () => {
    const s = new Stage()
    s.join()
    s.now += 3_600_000
    s.tell({ type: 'time-passed' })
    expect(s.of('close')).toEqual([])
  })

  test('that come back keep what they hold, and are the same volunteer', () => {
    const s = new Stage()
    const a = s.join({ publicKey: 'k' })
    s.write([1], 3)
    const [first] = s.assigned()
    s.tell({ type: 'volunteer-left', volunteer: a, reason: 'closed' })
    const b = s.join({ publicKey: 'k', held: [first!.id] })
    expect(s.sent(b, 'welcome')[0]!.keep).toEqual([first!.id])
    expect(s.assigned()).toEqual([])
    s.wrote(b, first!.id, 1, [30, 31, 32])
    expect(s.of('finish-job')).toHaveLength(1)
  })

  test('cannot answer for others, and are sent away when they keep trying', () => {
    const s = new Stage()
    const [a, b] = [s.join(), s.join()]
    s.write([1], 3)
    const [first] = s.assigned()
    const other = first!.to === a ? b : a
    for (let i = 0; i < LIMITS.strikes; i++) s.wrote(other, first!.id, 1, [30, 31, 32])
    expect(s.of('deliver-tokens')).toEqual([])
    expect(s.sent(other, 'error')[0]!.code).toBe('unknown_assignment')
    expect(s.of('close')).toMatchObject([{ volunteer: other, code: 4403 }])
  })

  test('get no more than their slots, and nothing while paused, congested or without the model', () => {
    const s = new Stage()
    const v = s.join({ slots: 2, concurrency: 2 })
    s.tell({ type: 'volunteer-congested', volunteer: v, isCongested: true })
    for (let i = 0; i < 5; i++) s.write([1], 3)
    expect(s.assigned()).toEqual([])
    s.tell({ type: 'volunteer-congested', volunteer: v, isCongested: false })
    expect(s.assigned()).toHaveLength(2)
    s.hear(v, { type: 'state', state: 'paused', reason: 'user', isHidden: false })
    const held = s.core.state.volunteers.get(v)!.held.map((l) => l.id)
    s.wrote(v, held[0]!, 1, [30, 31, 32])
    expect(s.assigned()).toEqual([])
  })

  test('with too little memory for a long text are passed over', () => {
    const s = new Stage()
    s.join({ models: [{ digest: WRITER, state: 'ready', context: 20 }] })
    s.write([1, 2, 3], 40)
    expect(s.of('refuse-job')[0]!.error.code).toBe('no_capacity')
    const large = s.join()
    s.write([1, 2, 3], 40)
    expect(s.assigned().map((a) => a.to)).toEqual([large])
  })

  test('the house computes only when nobody else can soon', () => {
    const s = new Stage()
    const house = s.join({ isHouse: true })
    const v = s.join()
    s.write([1], 3)
    expect(s.assigned()[0]!.to).toBe(v)
    s.tell({ type: 'volunteer-left', volunteer: v, reason: 'closed' })
    expect(s.assigned()[0]!.to).toBe(house)
  })
})

describe('requests', () => {
  test('are refused at once when nobody can run the model, with the time when somebody is loading it', () => {
    const s = new Stage()
    s.write([1], 3)
    expect(s.of('refuse-job')[0]!.error).toMatchObject({ code: 'no_capacity' })
    s.join({ models: [{ digest: WRITER, state: 'downloading', etaMs: 9_000 }] })
    s.write([1], 3)
    expect(s.of('refuse-job')[1]!.error).toMatchObject({ code: 'no_capacity', etaMs: 9_000 })
    s.write([1], 3, { mayWait: true })
    expect(s.of('accept-job')).toHaveLength(1)
  })

  test('that can not be are refused by name', () => {
    const s = new Stage()
    s.join()
    s.write([1], 3, { model: 'cc'.repeat(32) as typeof WRITER })
    s.write(
      Array.from({ length: 100 }, () => 1),
      3,
    )
    s.write([], 3)
    s.sort(1, { model: WRITER })
    expect(s.of('refuse-job').map((e) => e.error.code)).toEqual([
      'model_not_found', 'context_length_exceeded', 'invalid_request', 'invalid_request',
    ]) // prettier-ignore
  })

  test('whose caller hangs up are over in the same call', () => {
    const s = new Stage()
    const v = s.join()
    const job = s.write([1], 3)
    const [a] = s.assigned()
    s.tell({ type: 'job-cancelled', job, reason: 'the caller hung up' })
    expect(s.of('fail-job')[0]!.error.code).toBe('cancelled')
    expect(s.sent(v, 'cancel')[0]!.assignments).toEqual([a!.id])
    expect(s.core.state).toMatchObject({ tokensQueued: 0 })
    expect([s.core.state.jobs.size, s.core.state.leases.size, s.core.state.jobsOf.size]).toEqual([0, 0, 0])
  })

  test('end at their deadline', () => {
    const s = new Stage()
    const v = s.join()
    s.write([1], 3, { deadlineMs: 2_000 })
    s.hear(v, { type: 'pong', nonce: 1 })
    s.wait(2_000)
    expect(s.of('fail-job')[0]!.error.code).toBe('deadline_exceeded')
  })

  test('that three volunteers fail are given up, and nobody has to rest for it', () => {
    const s = new Stage()
    for (let i = 0; i < 4; i++) s.join()
    s.write([1], 3)
    for (let i = 0; i < 3; i++) {
      const [a] = s.assigned()
      s.hear(a!.to, { type: 'fail', assignment: a!.id, reason: 'engine-error', retryable: true })
    }
    expect(s.of('fail-job')[0]!.error.code).toBe('internal')
    s.write([1], 3)
    expect(s.assigned()).toHaveLength(1)
    expect([...s.core.state.volunteers.values()].every((v) => v.restUntil <= s.now)).toBe(true)
  })

  test('ten thousand at once stay within the bounds, and end when they are cancelled', () => {
    const s = new Stage()
    s.join()
    const jobs = Array.from({ length: 10_000 }, () => s.write([1, 2, 3], 20, { mayWait: true }))
    expect(s.core.state.jobs.size).toBeLessThanOrEqual(LIMITS.jobs)
    for (const job of jobs) s.tell({ type: 'job-cancelled', job, reason: 'x' })
    const { tokensQueued, jobs: open, classes } = s.core.state
    expect([
      tokensQueued,
      open.size,
      classes.get(WRITER)!.queuedCost,
      classes.get(WRITER)!.queuedParts,
    ]).toEqual([0, 0, 0, 0])
  })

  test('are finished before a drain ends, and new ones refused', () => {
    const s = new Stage()
    const v = s.join()
    s.write([1], 1)
    const [a] = s.assigned()
    s.tell({ type: 'drain-started', graceMs: 10_000, retryMs: 500 })
    s.write([1], 1)
    expect(s.of('refuse-job')[0]!.error.code).toBe('draining')
    expect(s.of('finish-drain')).toEqual([])
    s.wrote(v, a!.id, 1, [30])
    expect(s.of('finish-drain')).toHaveLength(1)
    expect(s.sent(v, 'drain')).toEqual([{ type: 'drain', retryMs: 500 }])
  })

  test('of a model that is no longer served end', () => {
    const s = new Stage()
    s.join()
    s.write([1], 3)
    s.tell({ type: 'models-changed', models: [] })
    expect(s.of('fail-job')[0]!.error.code).toBe('model_not_found')
  })
})

describe('fair share', () => {
  law('requesters with always something waiting get work in proportion to their weights', (random) => {
    const queue = new FairQueue<{ who: number }>(() => false)
    const weights = Array.from({ length: random.int(2, 6) }, () => random.int(1, 5))
    weights.forEach((w, who) => queue.push({ who }, 'interactive', `r${who}` as RequesterId, w))
    const got = weights.map(() => 0)
    const costMax = 10
    for (let i = 0; i < 5_000; i++) {
      const { who } = queue.peek()!
      const cost = random.int(1, costMax)
      got[who]! += cost
      queue.charge(cost)
    }
    // Start-time fair queueing: two flows' normalised service differs by at most one unit of each.
    const shares = got.map((g, i) => g / weights[i]!)
    for (const [i, a] of shares.entries())
      for (const [j, b] of shares.entries())
        expect(Math.abs(a - b)).toBeLessThanOrEqual(costMax / weights[i]! + costMax / weights[j]!)
  })

  test('somebody with one request does not wait for somebody with a thousand', () => {
    const s = new Stage()
    const v = s.join()
    for (let i = 0; i < 1000; i++) s.write([1], 1, { requester: 'many' as RequesterId })
    const mine = s.write([1], 1, { requester: 'one' as RequesterId })
    for (let i = 0; i < 3; i++) for (const a of s.assigned()) s.wrote(v, a.id, 1, [30])
    expect(s.of('finish-job').map((e) => e.job)).toContain(mine)
  })

  test('batch work gets its tenth beside interactive work', () => {
    const s = new Stage()
    const v = s.join()
    for (let i = 0; i < 50; i++) s.write([1], 1)
    const batch = s.write([1], 1, { priority: 'batch' })
    let served = 0
    while (!s.of('finish-job').some((e) => e.job === batch)) {
      for (const a of s.assigned()) s.wrote(v, a.id, 1, [30])
      expect(++served).toBeLessThanOrEqual(LIMITS.batchEvery + 2)
    }
  })
})

describe('small parts', () => {
  law('a heap gives what went in, smallest first, equals in their order', (random) => {
    const heap = new Heap<number>()
    const keys = Array.from({ length: random.int(0, 500) }, () => random.int(0, 50))
    keys.forEach((key, i) => heap.push(key, i))
    const out: number[] = []
    while (heap.size) out.push(heap.pop()!)
    expect(out).toEqual(
      keys
        .map((key, i) => ({ key, i }))
        .sort((a, b) => a.key - b.key || a.i - b.i)
        .map((x) => x.i),
    )
    expect(heap.pop()).toBe(undefined)
  })

  test('an estimate follows RFC 6298', () => {
    const e = new Estimate(100)
    e.observe(8)
    expect([e.mean, e.deviation]).toEqual([8, 4])
    e.observe(16)
    expect([e.mean, e.deviation]).toEqual([9, 5])
  })

  law(
    'a light turns from green over yellow to red, once, and a lease is never shorter than its own estimate',
    (random) => {
      const watch = {
        since: random.int(0, 1e6),
        expectedMs: random.int(1, 60_000),
        deviationMs: random.int(0, 10_000),
        rttMs: random.int(0, 500),
        graceMs: LIMITS.hedgeMsMin,
        overdueAt: Infinity,
      }
      expect(tardy(watch, watch.since)).toBe('green')
      expect(yellowAt(watch)).toBeLessThanOrEqual(redAt(watch))
      expect(tardy(watch, yellowAt(watch) - 1)).toBe('green')
      expect(tardy(watch, redAt(watch))).toBe('red')
      expect(leaseMs(watch.expectedMs, watch.deviationMs, watch.rttMs)).toBeGreaterThanOrEqual(
        Math.min(LIMITS.leaseMsMax, watch.rttMs + watch.expectedMs),
      )
    },
  )

  test('the view says what is checked, and hides what proves an identity', () => {
    const s = new Stage()
    s.join()
    s.sort(3)
    const shown = view(s.core.state)
    expect(shown.trust).toMatchObject({ wrong: 0, convicted: 0 })
    expect(shown.models.find((m) => m.digest === SORTER)).toMatchObject({
      state: 'ready',
      volunteers: 1,
      jobs: 1,
    })
    expect(JSON.parse(JSON.stringify(shown))).toEqual(shown)
  })
})
