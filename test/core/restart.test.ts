/** What was not final when the coordinator died goes on in its next life: windows, checks, verdicts and credit. */
import { describe, expect, test } from 'vitest'
import type { Effect, Event, JobSpec } from '../../coordinator/core/events.ts'
import { POLICY } from '../../coordinator/core/policy.ts'
import type { Policy } from '../../coordinator/core/policy.ts'
import type { Assignment, Output, RequesterId, UnitId, VolunteerId } from '../../protocol/nouns.ts'
import { law } from '../harness/random.ts'
import type { Random } from '../harness/random.ts'
import { Archive } from './archive.ts'
import { Court, key } from './court.ts'

const HOUR = 3_600_000

/** A life of a coordinator whose store outlives it. */
class Life extends Court {
  readonly archive: Archive
  readonly #number: number

  constructor(before?: Life, policy: Partial<Policy> = {}) {
    const archive = before?.archive ?? new Archive()
    const number = before ? before.#number + 1 : 1
    super({ epoch: `life${number}`, seed: number, policy, restore: archive.kept(before?.now ?? 0) })
    this.archive = archive
    this.#number = number
  }

  override submit(change: Partial<JobSpec>): ReturnType<Court['submit']> {
    return super.submit({ requester: 'r' as RequesterId, ...change })
  }

  override tell(event: Event): Effect[] {
    // Two lives may both have a first job.
    const told: Event =
      event.type === 'job-submitted'
        ? {
            type: 'job-submitted',
            job: { ...event.job, id: `${event.job.id}.${this.#number}` as JobSpec['id'] },
          }
        : event
    if (told.type === 'job-submitted') this.archive.asked(told.job)
    const effects = super.tell(told)
    for (const effect of effects) this.archive.perform(effect, this.now)
    for (const effect of effects)
      if (effect.type === 'recall-unit')
        this.tell({ type: 'unit-recalled', unit: effect.unit, recalled: this.archive.recall(effect.unit) })
    return effects
  }

  /** Everybody answers what was assigned, and what follows from that. @param wrong what they add to it, by who they are */
  settleDown(wrong: Partial<Record<VolunteerId, number>> = {}): void {
    for (let open = this.assigned(); open.length; open = this.assigned()) {
      for (const a of open) if (!this.#isGone(a)) this.answers(a.to, a, wrong[a.to] ?? 0)
      this.disclose()
    }
  }

  #isGone({ id }: Assignment): boolean {
    return !this.core.state.leases.has(id)
  }

  account(name: string): number {
    return this.archive.balances.get(name) ?? 0
  }
}

/** A known key, checked for nothing unless a test wants it. */
const unchecked: Partial<Policy> = { floor: 0, beta: 0, probation: 1, canaries: 0, tail: 0, textShare: 0 }

/** A life in which `a` is known, and answered `n` questions of which none was checked, each adding `wrong`. */
function past(n: number, wrong: number, kind: 'rows' | 'text' = 'rows'): { life: Life; units: UnitId[] } {
  const life = new Life(undefined, unchecked)
  const house = life.join({ isHouse: true })
  const v = life.join({ publicKey: key('a') })
  life.ask('checked')
  life.settleDown()
  for (let i = 0; i < n; i++) {
    if (kind === 'rows') life.ask('fast')
    else life.write([1, 2, i], 5)
    life.settleDown({ [v]: wrong })
  }
  const units = life.of('settle-unit').filter((e) => e.status === 'provisional').map((e) => e.unit) // prettier-ignore
  expect(units).toHaveLength(n)
  expect(life.of('convict')).toEqual([])
  life.tell({ type: 'volunteer-left', volunteer: house, reason: '' })
  return { life, units }
}

/** `a` comes back, and is caught: the next thing it says is checked. */
function caught(life: Life): void {
  life.join({ isHouse: true })
  const v = life.join({ publicKey: key('a') })
  life.ask('exact')
  const asked = life.assigned().find((a) => a.to === v)!
  life.answers(v, asked, 1)
  life.settleDown()
  life.wait(10_000)
  life.settleDown()
  expect(life.of('convict')).toMatchObject([{ identity: key('a') }])
}

describe('a liar that is convicted after a restart', () => {
  test.each(['rows', 'text'] as const)('has its earlier %s computed again, corrected, and its credit taken back', (kind) => {
    const { life, units } = past(7, 1, kind)
    const before = life.account('requester:r')
    const paid = life.account(`escrow:${key('a')}`)
    expect(paid).toBeGreaterThan(0)
    const next = new Life(life, unchecked)
    caught(next)
    const corrected = next.of('correct-unit').filter((e) => units.includes(e.unit))
    expect(corrected.map((e) => e.unit).sort()).toEqual([...units].sort())
    for (const { output, identity, isJobOpen } of corrected) {
      expect([identity, isJobOpen]).toEqual(['house', false])
      if (output.kind === 'generate') expect(Array.from(output.tokens)).toEqual([103, 104, 105, 106, 107])
      else expect(Array.from((output as { values: Int32Array }).values)).toEqual([50, 7])
    }
    expect(next.account(`escrow:${key('a')}`)).toBe(0)
    // All of it, to whom it came from, less what the house's answer to the last question cost.
    expect(next.account('requester:r')).toBe(before + paid - 50)
    expect(next.archive.size).toBe(0)
  }) // prettier-ignore

  test('has those left alone that were right, and that receipt says who found so', () => {
    const { life, units } = past(4, 0)
    const next = new Life(life, unchecked)
    caught(next)
    expect(next.of('correct-unit').filter((e) => units.includes(e.unit))).toEqual([])
    const checked = next.of('check-unit').filter((e) => units.includes(e.unit))
    expect(checked).toHaveLength(4)
    for (const { verdict, check } of checked) expect([verdict, check.kind, check.by]).toEqual(['right', 'trusted', ['house']]) // prettier-ignore
    expect(next.of('finalize-unit').map((e) => e.unit).sort()).toEqual([...units].sort()) // prettier-ignore
  })
})

describe('what was under way when the coordinator died', () => {
  test('is checked in its next life: drawn is drawn', () => {
    const life = new Life()
    life.join({ isHouse: true })
    const v = life.join({ publicKey: key('a') })
    life.ask('fast')
    life.answers(v, life.assigned()[0]!, 1)
    expect(life.of('settle-unit')).toMatchObject([{ status: 'provisional', check: { kind: 'pending' } }])
    const { unit } = life.of('settle-unit')[0]!
    const next = new Life(life)
    next.join({ isHouse: true })
    next.settleDown()
    expect(next.of('correct-unit')).toMatchObject([{ unit }])
    expect(next.of('convict')).toMatchObject([{ identity: key('a'), evidence: { signature: `by ${v}` } }])
  })

  test('is given up where nobody is there to check it, and says so', () => {
    const life = new Life()
    life.join({ isHouse: true })
    const v = life.join({ publicKey: key('a') })
    life.ask('fast')
    life.answers(v, life.assigned()[0]!)
    const next = new Life(life)
    next.tell({ type: 'time-passed' })
    next.wait(60_000)
    expect(next.of('check-unit')).toMatchObject([{ verdict: 'inconclusive', check: { kind: 'abandoned' } }])
  })

  test('is carried out where the verdict was spoken, and its leaves were waited for', () => {
    const life = new Life()
    const house = life.join({ isHouse: true })
    const v = life.join({ publicKey: key('a') })
    life.ask('fast')
    life.answers(v, life.assigned()[0]!, 1)
    life.answers(house, life.assigned()[0]!)
    expect([life.of('correct-unit').length, life.of('convict').length]).toEqual([1, 0])
    const next = new Life(life)
    next.join({ isHouse: true })
    next.settleDown()
    expect(next.of('convict')).toMatchObject([{ identity: key('a') }])
    expect(next.archive.size).toBe(0)
  })
})

describe('an honest key', () => {
  test('has what it answered before a restart final after its window, and what it earned becomes its own', () => {
    const { life, units } = past(5, 0)
    life.wait(10 * HOUR)
    const paid = life.account(`escrow:${key('a')}`)
    const own = life.account(`volunteer:${key('a')}`)
    const next = new Life(life, unchecked)
    next.tell({ type: 'time-passed' })
    next.wait(13 * HOUR)
    expect(next.of('finalize-unit')).toEqual([])
    next.wait(2 * HOUR)
    expect(next.of('finalize-unit').map((e) => e.unit).sort()).toEqual([...units].sort()) // prettier-ignore
    expect(next.account(`escrow:${key('a')}`)).toBe(0)
    expect(next.account(`volunteer:${key('a')}`)).toBe(own + paid)
    expect(next.archive.size).toBe(0)
  })

  test('has it final after enough further results, of both lives', () => {
    const policy = { ...unchecked, windowResults: 8 }
    const { life, units } = past(5, 0)
    const next = new Life(life, policy)
    next.join({ isHouse: true })
    next.join({ publicKey: key('a') })
    for (let i = 0; i < 3; i++) {
      next.ask('fast')
      next.settleDown()
    }
    expect(next.of('finalize-unit')).toEqual([])
    for (const unit of units) {
      next.ask('fast')
      next.settleDown()
      expect(next.of('finalize-unit').at(-1)!.unit).toBe(unit)
    }
  })
})

test('a text that its caller stopped is checked after a restart as far as it went, and no farther', () => {
  for (const wrong of [0, 1]) {
    const life = new Life(undefined, unchecked)
    const house = life.join({ isHouse: true })
    const v = life.join({ publicKey: key('a') })
    life.ask('checked')
    life.settleDown()
    const job = life.write([1, 2, 3], 20)
    const [a] = life.assigned()
    const { tokens } = life.output(a!, wrong) as Extract<Output, { kind: 'generate' }>
    life.tokens(v, a!.id, 3, Array.from(tokens.slice(0, 4)))
    life.tell({ type: 'choice-stopped', job: `${job}.1` as typeof job, choice: 0 })
    for (const volunteer of [house, v]) life.tell({ type: 'volunteer-left', volunteer, reason: '' })
    const next = new Life(life, { ...unchecked, tail: 1 })
    // Its author does not come back.
    next.tell({ type: 'time-passed' })
    next.wait(POLICY.awayMs - 1_000)
    next.join({ isHouse: true })
    next.wait(2_000)
    next.settleDown()
    expect(next.of('check-unit')).toMatchObject([{ verdict: wrong ? 'wrong' : 'right' }])
    expect(next.of('convict').map(({ identity }) => identity)).toEqual(wrong ? [key('a')] : [])
    // What it had signed is known to this life as well.
    for (const { evidence } of next.of('convict'))
      expect(evidence).toMatchObject({
        assignment: a!.id,
        signature: `by ${v} up to 7`,
        streamed: { from: 3, tokens: tokens.slice(0, 4) },
        referee: { tokens: 4 },
      })
  }
})

law(
  'any history with kills: the lies of the convicted are corrected, the honest keep theirs, credit adds up',
  (random) => {
    for (let i = 0; i < 30; i++) tell(random)
  },
)

function tell(random: Random): void {
  const policy = { floor: 0.2, beta: 1, probation: 2, canaries: 0.1, windowResults: 12, textShare: 0 }
  let life = new Life(undefined, policy)
  const all: Life[] = [life]
  const honest = ['a', 'b', 'c']
  const liars = ['liar', 'sleeper']
  const here = new Map<string, VolunteerId>()
  const arrive = (): void => {
    here.clear()
    life.join({ isHouse: true })
    for (const name of [...honest, ...liars])
      if (random.float() < 0.8) here.set(name, life.join({ publicKey: key(name), network: name }))
  }
  arrive()
  const lies = new Set<string>()
  for (let turn = 0; turn < 60; turn++) {
    const trust = random.pick(['fast', 'checked'] as const)
    if (random.float() < 0.5) life.sort(random.int(1, 3), { trust })
    else life.write([1, turn], random.int(1, 4), { trust })
    const wrong: Partial<Record<VolunteerId, number>> = {}
    const [liar, sleeper] = [here.get('liar'), here.get('sleeper')]
    if (liar && random.float() < 0.3) wrong[liar] = 1
    if (sleeper && turn > 30) wrong[sleeper] = 2
    const isLast = random.float() < 0.15
    for (let open = life.assigned(); open.length; open = life.assigned())
      for (const a of open) {
        if (isLast && random.float() < 0.4) continue
        if (wrong[a.to]) lies.add(a.id)
        if (life.core.state.leases.has(a.id)) life.answers(a.to, a, wrong[a.to] ?? 0)
        if (random.float() < 0.9) life.disclose()
      }
    if (!isLast) continue
    life = new Life(life, policy)
    all.push(life)
    arrive()
  }
  life.settleDown()
  life.wait(10_000)
  life.settleDown()
  for (let i = 0; i < 3; i++) {
    life.wait(13 * HOUR)
    life.settleDown()
  }

  const done = all.flatMap((s) => s.done)
  const of = <K extends Effect['type']>(type: K) => all.flatMap((s) => s.of(type))
  const convicts = new Set(of('convict').map((e) => e.identity))
  for (const name of honest) expect(convicts).not.toContain(key(name))
  const corrected = new Set(of('correct-unit').map((e) => e.unit))
  const verdictOn = (who: string): number => done.findIndex((e) => e.type === 'convict' && e.identity === who)
  const finals = new Map(done.flatMap((e, i) => (e.type === 'finalize-unit' ? [[e.unit, i] as const] : [])))
  const delivered = new Set(of('finish-job').map((e) => e.job))
  for (const { assignment, identity, unit, job } of of('settle-unit')) {
    if (identity === 'house') continue
    if (!lies.has(assignment)) expect(corrected, `${unit} of ${identity} was right`).not.toContain(unit)
    else if (
      convicts.has(identity) &&
      delivered.has(job) &&
      (finals.get(unit) ?? Infinity) > verdictOn(identity)
    )
      expect(corrected, `${unit} of ${identity} was wrong`).toContain(unit)
  }
  const { balances } = life.archive
  for (const [account, amount] of balances)
    if (!/^(requester|operator):/.test(account)) expect(amount, account).toBeGreaterThanOrEqual(0)
  for (const account of balances.keys()) expect(account).not.toMatch(/^(escrow|reserved):/)
  expect([...balances.values()].reduce((a, b) => a + b, 0)).toBe(0)
  expect(life.archive.size).toBe(0)
}
