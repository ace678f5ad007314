/** What strangers' answers must go through, as stories of a few volunteers; whole histories of liars are in test/sim. */
import { describe, expect, test } from 'vitest'
import { lotteryDraw, lotteryStatement } from '../../coordinator/core/checks.ts'
import type { Effect, Posting } from '../../coordinator/core/events.ts'
import { POLICY } from '../../coordinator/core/policy.ts'
import { checkRate, reputationOf } from '../../coordinator/core/trust.ts'
import { inputBytes, outputBytes, rootFromPath } from '../../protocol/index.ts'
import type { Assignment, Output, RequesterId, VolunteerId } from '../../protocol/index.ts'
import { law } from '../harness/random.ts'
import { Court, hex, key, known, sha } from './court.ts'
import { MODELS, SORTER, Stage } from './stage.ts'

describe('a newcomer', () => {
  test('is checked by a trusted engine before a checked answer is delivered', () => {
    const s = new Court()
    const house = s.join({ isHouse: true })
    const v = s.join({ publicKey: key('a') })
    s.ask('checked')
    const [a] = s.assigned()
    expect(a!.to).toBe(v)
    s.answers(v, a!)
    expect(s.of('deliver-rows')).toEqual([])
    const [check] = s.assigned()
    expect(check!.to).toBe(house)
    // Nothing tells it from work.
    expect({ ...check, id: 0, unit: 0, to: 0, leaseMs: 0 }).toEqual({
      ...a,
      id: 0,
      unit: 0,
      to: 0,
      leaseMs: 0,
    })
    s.answers(house, check!)
    expect(s.of('deliver-rows')).toHaveLength(1)
    expect(s.of('settle-unit')[0]).toMatchObject({
      identity: key('a'), status: 'final', check: { kind: 'trusted', rate: 1, by: ['house'] },
      record: { accepted: 1, checked: 1 },
    }) // prettier-ignore
    expect(s.of('finish-job')[0]!.summary.verification).toBe('trusted')
  })

  test('that lies delivers nothing: the truth is, its key is closed, and stays so', () => {
    const s = new Court()
    const house = s.join({ isHouse: true })
    const v = s.join({ publicKey: key('a') })
    s.ask('checked')
    s.answers(v, s.assigned()[0]!, 1)
    s.answers(house, s.assigned()[0]!)
    s.disclose()
    expect([...s.of('deliver-rows')[0]!.values]).toEqual([50, 7])
    expect(s.of('settle-unit')[0]).toMatchObject({ identity: 'house', status: 'final' })
    expect(s.of('close')).toMatchObject([{ volunteer: v, code: 4410 }])
    const again = s.join({ publicKey: key('a') })
    expect(s.of('close').at(-1)).toMatchObject({ volunteer: again, code: 4410 })
    expect(s.balances[`escrow:${key('a')}`] ?? 0).toBe(0)
  })

  test('with answers that wait for their checks is given nothing more', () => {
    const s = new Court()
    const house = s.join({ isHouse: true, slots: 1 })
    const v = s.join({ publicKey: key('a'), slots: 2 })
    for (let i = 0; i < 4; i++) s.ask('fast')
    for (let i = 0; i < 2; i++)
      s.answers(
        v,
        s.assigned().find((a) => a.to === v)!,
      )
    expect(s.assigned().filter((a) => a.to === v)).toEqual([])
    const check = s.done.findLast(
      (e) => e.type === 'send' && e.message.type === 'assign' && e.volunteer === house,
    )
    if (check?.type === 'send' && check.message.type === 'assign')
      s.answers(house, check.message.assignments[0]!)
    expect(s.assigned().filter((a) => a.to === v)).toHaveLength(1)
  })

  test('is not given what is to be checked when nobody here could', () => {
    const s = new Court()
    s.join({ publicKey: key('a') })
    s.ask('checked')
    expect(s.of('refuse-job')[0]!.error).toMatchObject({ code: 'no_capacity' })
    s.ask('fast')
    expect(s.assigned()).toHaveLength(1)
  })
})

describe('evidence', () => {
  test('names the first leaf that differs, and leads to both roots', () => {
    const s = new Court()
    const house = s.join({ isHouse: true })
    const v = s.join({ publicKey: key('a') })
    s.ask('fast')
    s.answers(v, s.assigned()[0]!, 1, 5)
    s.answers(house, s.assigned()[0]!)
    s.disclose()
    const [{ evidence }] = s.of('convict') as [Extract<Effect, { type: 'convict' }>]
    const leaf = evidence.leaf!
    expect(leaf).toMatchObject({ index: 1, count: 3 })
    expect(hex(rootFromPath(leaf.accused, 1, 3, leaf.accusedPath, sha)!)).toBe(evidence.root)
    expect(hex(rootFromPath(leaf.referee, 1, 3, leaf.refereePath, sha)!)).toBe(evidence.referee.root)
    expect(evidence.signature).toBe(`by ${v}`)
    expect(hex(sha(inputBytes(evidence.unit)))).toBe(evidence.input)
  })

  test('does not need the leaves: who withholds them is convicted as well, a moment later', () => {
    const s = new Court()
    const house = s.join({ isHouse: true })
    const v = s.join({ publicKey: key('a') })
    s.ask('fast')
    s.answers(v, s.assigned()[0]!, 1)
    s.answers(house, s.assigned()[0]!)
    expect(s.of('convict')).toEqual([])
    s.wait(POLICY.discloseMs)
    expect(s.of('convict')[0]!.evidence.leaf).toBeNull()
    expect(s.of('close').at(-1)).toMatchObject({ volunteer: v, code: 4410 })
  })

  test('is a wrong trace as well, under a right answer', () => {
    const s = new Court()
    const house = s.join({ isHouse: true })
    const v = s.join({ publicKey: key('a') })
    s.ask('fast')
    s.answers(v, s.assigned()[0]!, 0, 9)
    s.answers(house, s.assigned()[0]!)
    s.disclose()
    expect(s.of('convict')).toHaveLength(1)
  })
})

describe('nobody is convicted', () => {
  const innocent = (s: Court): void => {
    s.wait(60_000)
    expect(s.of('convict')).toEqual([])
  }

  test('for leaving, being late, or failing', () => {
    const s = new Court()
    s.join({ isHouse: true })
    const [a, b] = [s.join({ publicKey: key('a') }), s.join({ publicKey: key('b') })]
    s.ask('fast')
    const [first] = s.assigned()
    s.hear(first!.to, { type: 'fail', assignment: first!.id, reason: 'engine-error', retryable: true })
    s.tell({ type: 'volunteer-left', volunteer: a, reason: 'closed' })
    s.ask('checked')
    s.wait(10_000)
    s.tell({ type: 'volunteer-left', volunteer: b, reason: 'closed' })
    innocent(s)
  })

  test('for the answer to another question: it is refused', () => {
    const s = new Court()
    s.join({ isHouse: true })
    const v = s.join({ publicKey: key('a') })
    s.ask('fast')
    const [a] = s.assigned()
    const output = s.output(a!)
    const digest = hex(sha(outputBytes(output)))
    s.hear(v, { type: 'result', assignment: a!.id, output, digest, computeMs: 1, input: '00'.repeat(32) })
    expect(s.sent(v, 'error')[0]!.message).toMatch(/input digest/)
    innocent(s)
  })

  test('because others say so: two volunteers that contradict one are judged by a trusted engine', () => {
    const s = new Court({ restore: known('a', 'b', 'c') })
    const vs = ['a', 'b', 'c'].map((name) => s.join({ publicKey: key(name) }))
    const house = s.join({ isHouse: true })
    // Until one of its answers is drawn.
    let check: (Assignment & { to: VolunteerId }) | undefined
    let author: VolunteerId | undefined
    for (let i = 0; i < 400 && !check; i++) {
      s.ask('fast')
      const [a] = s.assigned()
      author = a!.to
      s.answers(author, a!)
      check = s.assigned()[0]
    }
    expect(vs).toContain(check!.to)
    expect(check!.to).not.toBe(author)
    s.answers(check!.to, check!, 1)
    expect(s.of('convict')).toEqual([])
    const [referee] = s.assigned()
    expect(referee!.to).toBe(house)
    s.answers(house, referee!)
    s.disclose()
    expect(s.of('convict').map((e) => e.identity)).toEqual([['a', 'b', 'c'].map(key)[vs.indexOf(check!.to)]])
    expect(s.of('check-unit').at(-1)).toMatchObject({ verdict: 'right', check: { kind: 'trusted' } })
  })
})

describe('the lottery', () => {
  law('checks all of a newcomer, β / n of who is known, and never less than its floor', (random) => {
    const s = new Court().core.state
    const r = reputationOf(s, 'a', 'n', false)
    r.accepted = random.int(0, 5_000)
    const rate = checkRate(s, r)
    if (r.accepted < POLICY.probation) expect(rate).toBe(1)
    else expect(rate).toBe(Math.min(1, Math.max(POLICY.floor, POLICY.beta / r.accepted)))
    r.isTrusted = true
    expect(checkRate(s, r)).toBe(0)
  })

  law('is uniform, and anybody can draw it again once the secret is known', (random) => {
    const secret = hex(random.bytes(32))
    const draws = Array.from({ length: 2_000 }, (_, i) =>
      lotteryDraw(sha(new TextEncoder().encode(lotteryStatement(secret, `a${i}-e`, 'ff'.repeat(32))))),
    )
    expect(Math.min(...draws)).toBeGreaterThanOrEqual(0)
    expect(Math.max(...draws)).toBeLessThan(1)
    const share = draws.filter((x) => x < 0.25).length / draws.length
    expect(share).toBeGreaterThan(0.2)
    expect(share).toBeLessThan(0.3)
  })

  test('draws what the published secret says', () => {
    const s = new Court({ restore: known('a') })
    s.join({ isHouse: true })
    s.join({ publicKey: key('a') })
    for (let i = 0; i < 300; i++) {
      s.ask('fast')
      const a = s.assigned().find((x) => !x.inputs[0] || x.to)!
      const isDrawn = s.answers(a.to, a).some((e) => e.type === 'send' && e.message.type === 'assign')
      const { assignment, root, check } = s.of('settle-unit').at(-1)!
      const draw = lotteryDraw(
        sha(new TextEncoder().encode(lotteryStatement('ab'.repeat(32), assignment, root!))),
      )
      expect(isDrawn, assignment).toBe(draw < check.rate)
      if (isDrawn) for (const c of s.assigned()) s.answers(c.to, c)
    }
  })
})

describe('exact', () => {
  test('takes two keys of two networks where nobody is trusted, and is refused where there is one', () => {
    const s = new Court()
    s.join({ publicKey: key('a'), network: 'n' })
    s.join({ publicKey: key('b'), network: 'n' })
    s.ask('exact')
    expect(s.of('refuse-job')).toHaveLength(1)
    s.join({ publicKey: key('c'), network: 'm' })
    s.ask('exact')
    const [a] = s.assigned()
    s.answers(a!.to, a!)
    expect(s.of('deliver-rows')).toEqual([])
    const [b] = s.assigned()
    const networks = [a!.to, b!.to].map((v) => s.core.state.volunteers.get(v)!.reputation.network)
    expect(new Set(networks).size).toBe(2)
    s.answers(b!.to, b!)
    expect(s.of('settle-unit')[0]!.check).toMatchObject({ kind: 'replicated', rate: 1 })
  })
})

describe('a text', () => {
  test('whose tokens two volunteers contradict is settled by the house; what was delivered wrong is replaced', () => {
    const s = new Court()
    const [a, b] = [s.join({ publicKey: key('a') }), s.join({ publicKey: key('b') })]
    const house = s.join({ isHouse: true })
    s.write([1, 2, 3], 4, { trust: 'fast' })
    const [first] = s.assigned()
    const liar = first!.to
    const other = liar === a ? b : a
    s.tokens(liar, first!.id, 3, [555, 104])
    s.tell({ type: 'volunteer-left', volunteer: liar, reason: 'closed' })
    const [second] = s.assigned()
    expect(second).toMatchObject({ to: other, generate: { replay: 2 } })
    s.tokens(other, second!.id, 3, [103, 104, 105])
    const [third] = s.assigned()
    expect(third!.to).toBe(house)
    s.answers(house, third!)
    expect(s.of('convict').map((e) => e.identity)).toEqual([key(liar === a ? 'a' : 'b')])
    const [corrected] = s.of('correct-unit')
    expect(corrected).toMatchObject({ choice: 0, isJobOpen: true })
    expect([...(corrected!.output as Extract<Output, { kind: 'generate' }>).tokens]).toEqual([
      103, 104, 105, 106,
    ])
    expect(s.of('finish-choice')[0]!.tokens).toBe(4)
  })

  test('that its caller stopped is checked as far as it went', () => {
    const s = new Court()
    const house = s.join({ isHouse: true })
    const v = s.join({ publicKey: key('a') })
    const job = s.write([1, 2, 3], 50, { trust: 'checked' })
    const [a] = s.assigned()
    s.tokens(v, a!.id, 3, [103, 104])
    s.tell({ type: 'choice-stopped', job, choice: 0 })
    expect(s.of('finish-choice')).toEqual([])
    const [check] = s.assigned()
    expect(check).toMatchObject({ to: house, generate: { replay: 2, maxTokens: 2 } })
    s.answers(house, check!)
    expect(s.of('settle-unit')[0]).toMatchObject({ identity: key('a'), signature: null, status: 'final' })
  })
})

describe('a canary', () => {
  /** A house that has made one answer certain, and a known key that is asked after each answer, and checked for nothing else. */
  const scene = (): { s: Court; house: VolunteerId; v: VolunteerId; canary: Assignment } => {
    const s = new Court({ restore: known('a'), policy: { canaries: 1, floor: 1e-9, beta: 1e-9 } })
    const house = s.join({ isHouse: true })
    const newcomer = s.join({ publicKey: key('b') })
    s.ask('fast')
    s.answers(newcomer, s.assigned()[0]!)
    s.answers(house, s.assigned()[0]!)
    s.tell({ type: 'volunteer-left', volunteer: newcomer, reason: '' })
    const v = s.join({ publicKey: key('a') })
    s.ask('fast', 2)
    s.answers(v, s.assigned()[0]!)
    const [canary] = s.assigned()
    expect(canary!.to).toBe(v)
    // The newcomer's question, and nobody asked it now.
    expect(canary!.inputs).toHaveLength(1)
    expect(s.core.state.jobs.size).toBe(0)
    return { s, house, v, canary: canary! }
  }

  test('asks a known key what is certain already; a right answer is paid with its own', () => {
    const { s, v, canary } = scene()
    const before = s.balances[`escrow:${key('a')}`]!
    s.answers(v, canary)
    expect(s.assigned()).toEqual([])
    expect(s.balances[`escrow:${key('a')}`]).toBe(before + 50)
    s.wait(POLICY.windowMs + 1)
    expect(s.balances[`escrow:${key('a')}`]).toBe(0)
    expect(s.balances[`volunteer:${key('a')}`]).toBe(before + 50)
    for (const { entry } of s.of('post')) expect(sumOf(entry)).toBe(0)
  })

  test('that is answered wrongly is computed once more, and convicts', () => {
    const { s, house, v, canary } = scene()
    s.answers(v, canary, 1)
    const [check] = s.assigned()
    expect(check!.to).toBe(house)
    s.answers(house, check!)
    s.disclose()
    expect(s.of('convict')).toMatchObject([{ identity: key('a'), evidence: { leaf: { index: 1 } } }])
    expect(s.balances[`escrow:${key('a')}`]).toBe(0)
  })

  test('that comes back without an answer convicts nobody, and is nobody else’s', () => {
    const { s, v, canary } = scene()
    s.tell({ type: 'volunteer-left', volunteer: v, reason: '' })
    expect(s.assigned().filter((a) => a.to === v || a.unit === canary.unit)).toEqual([])
    expect(s.of('convict')).toEqual([])
  })
})

describe('a conviction', () => {
  test('computes again what was not final, corrects it, and gives the credit back', () => {
    const s = new Court({ restore: known('a') })
    const v = s.join({ publicKey: key('a') })
    const house = s.join({ isHouse: true })
    let checks: (Assignment & { to: VolunteerId })[] = []
    let asked = 0
    for (; asked < 400 && checks.length === 0; asked++) {
      s.ask('fast')
      const a = s.assigned().find((x) => x.to === v)!
      s.answers(v, a, 1)
      checks = s.assigned()
    }
    for (let i = 0; i < 2 * asked && checks.length; i++) {
      for (const check of checks) s.answers(house, check)
      s.disclose()
      checks = s.assigned()
    }
    expect(s.of('convict')).toHaveLength(1)
    // Every one of its lies was delivered, and every one was put right.
    expect(s.of('correct-unit')).toHaveLength(asked)
    expect(s.of('deliver-rows')).toHaveLength(asked)
    const { balances } = s
    expect(balances[`escrow:${key('a')}`]).toBe(0)
    expect(balances[`volunteer:${key('a')}`] ?? 0).toBe(0)
    expect(balances['requester:r']).toBe(0)
    for (const { entry } of s.of('post')) expect(sumOf(entry)).toBe(0)
  })

  test('raises the checks of its neighbours for a while', () => {
    const s = new Court({ restore: known('b') })
    const house = s.join({ isHouse: true })
    const a = s.join({ publicKey: key('a'), network: 'n' })
    s.ask('fast')
    s.answers(a, s.assigned()[0]!, 1)
    s.answers(house, s.assigned()[0]!)
    s.disclose()
    s.join({ publicKey: key('b'), network: 'n' })
    const neighbour = s.core.state.records.get(key('b'))!
    expect(checkRate(s.core.state, neighbour)).toBe(1)
    s.wait(POLICY.alarmMs + 1)
    s.tell({ type: 'time-passed' })
    expect(checkRate(s.core.state, neighbour)).toBe(POLICY.floor)
  })

  test('outlives the coordinator', () => {
    const identities = [{ identity: key('a'), accepted: 5, checked: 5, isConvicted: true }]
    const s = new Court({ restore: { identities } })
    const v = s.join({ publicKey: key('a') })
    expect(s.of('close')).toMatchObject([{ volunteer: v, code: 4410 }])
  })
})

const sumOf = ({ lines }: Posting): number => lines.reduce((n, { amount }) => n + amount, 0)

describe('credit', () => {
  test('is reserved before work is given, earned by who did it, and what was not needed goes back', () => {
    const s = new Court({ restore: known('a') })
    s.join({ isHouse: true })
    const v = s.join({ publicKey: key('a') })
    s.write([1, 2, 3], 50, { trust: 'fast', requester: 'r' as RequesterId })
    expect(s.balances['requester:r']).toBe(-(52 + 50))
    const [a] = s.assigned()
    s.tokens(v, a!.id, 3, [103])
    const output = { kind: 'generate', position: 3, tokens: Uint32Array.of(103, 7), finish: 'stop' } as const
    s.hear(v, {
      type: 'result',
      assignment: a!.id,
      output,
      digest: hex(sha(outputBytes(output))),
      computeMs: 1,
    })
    // Four positions read, two tokens drawn.
    expect(s.balances).toMatchObject({ 'requester:r': -6, [`escrow:${key('a')}`]: 6, 'reserved:j0': 0 })
  })

  test('is paid with the job: what a kill, or a drain, leaves unfinished costs its requester nothing', () => {
    const s = new Court({ restore: known('a') })
    s.join({ isHouse: true })
    const v = s.join({ publicKey: key('a') })
    const rows = Array.from({ length: 40 }, () => new Uint32Array(50).fill(10))
    const job = s.submit({ kind: 'classify', model: SORTER, rows, priority: 'batch' })
    const [a] = s.assigned()
    expect(a!.inputs.length).toBeLessThan(40)
    s.answers(v, a!)
    expect(s.of('settle-unit')).toHaveLength(1)
    expect(s.of('post').map((e) => e.entry.kind)).toEqual(['reserve'])
    s.tell({ type: 'drain-started', graceMs: 0, retryMs: 1 })
    s.wait(1)
    expect(s.of('fail-job')).toMatchObject([{ job, error: { code: 'draining' } }])
    const worth = 50 * a!.inputs.length
    expect(s.balances).toMatchObject({ 'requester:r': 0, 'operator:lost': -worth, [`reserved:${job}`]: 0 })
    expect(s.balances[`escrow:${key('a')}`]).toBe(worth)
  })

  test('of a job of many units is paid once it is finished, each to who answered it', () => {
    const s = new Court({ restore: known('a') })
    s.join({ isHouse: true })
    const v = s.join({ publicKey: key('a') })
    const rows = Array.from({ length: 40 }, () => new Uint32Array(50).fill(10))
    s.submit({ kind: 'classify', model: SORTER, rows, priority: 'batch' })
    for (let open = s.assigned(); open.length; open = s.assigned())
      for (const a of open) {
        expect(s.of('post').filter((e) => e.entry.kind === 'earn' && e.entry.lines[0]!.account.startsWith('reserved:'))).toEqual([]) // prettier-ignore
        s.answers(a.to, a)
      }
    expect(s.of('finish-job')).toHaveLength(1)
    const paid = s.of('post').filter((e) => e.entry.lines[0]!.account === 'reserved:j0' && e.entry.kind === 'earn')
    expect(paid.map((e) => e.entry.unit)).toEqual(s.of('settle-unit').map((e) => e.unit))
    expect(paid.length).toBeGreaterThan(1)
    expect(s.balances).toMatchObject({ 'requester:r': -2_000, 'reserved:j0': 0 })
    expect(v).toBeDefined()
  }) // prettier-ignore

  test('of a model that names its owners is shared with them', () => {
    const owned = MODELS.map((m) => ({ ...m, owners: [{ name: 'maker', share: 0.1 }] }))
    const s = new Stage(owned)
    const house = s.join({ isHouse: true })
    s.sort(1, { requester: 'r' as RequesterId })
    s.sorted(house, s.assigned()[0]!)
    const lines = s.of('post').flatMap((e) => e.entry.lines)
    expect(lines).toContainEqual({ account: 'owner:maker', amount: 5 })
    expect(lines).toContainEqual({ account: 'volunteer:house', amount: 45 })
  })

  test('becomes its own for good when its window is over', () => {
    const s = new Court({ restore: known('a'), policy: { windowMs: 60_000 } })
    s.join({ isHouse: true })
    const v = s.join({ publicKey: key('a') })
    s.ask('fast')
    s.answers(v, s.assigned()[0]!)
    expect(s.of('settle-unit')[0]).toMatchObject({ status: 'provisional', model: SORTER })
    s.hear(v, { type: 'pong', nonce: 0 })
    s.wait(61_000)
    for (const c of s.assigned()) s.answers(c.to, c)
    expect(s.of('finalize-unit')).toHaveLength(1)
    s.tell({ type: 'volunteer-left', volunteer: v, reason: 'closed' })
    expect(s.balances[`volunteer:${key('a')}`]).toBe(50)
    expect(s.balances[`escrow:${key('a')}`]).toBe(0)
  })
})
