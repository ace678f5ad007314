/**
 * Watches a world from outside and trusts nobody: it keeps its own books from what crosses the network and compares every answer
 * with the truth. What it finds is thrown at once, so that the seed's history ends at the first mistake.
 */
import type { Choice, JobEffect, JobSpec, TrustEffect } from '../../coordinator/core/events.ts'
import { LIMITS, SETTINGS } from '../../coordinator/core/limits.ts'
import { mayServe, mayTake } from '../../coordinator/core/scheduler.ts'
import { costOf } from '../../coordinator/core/planner.ts'
import { isWilling, roomOf } from '../../coordinator/core/classes.ts'
import { NONE, takeOut } from '../../coordinator/core/lists.ts'
import { partsOf } from '../../coordinator/core/state.ts'
import { Table } from '../../coordinator/core/table.ts'
import type { ModelClass, State, Unit } from '../../coordinator/core/state.ts'
import type { FromCoordinator, FromVolunteer } from '../../protocol/index.ts'
import type { AssignmentId, JobId, Output, UnitId } from '../../protocol/nouns.ts'
import { Judge } from './judge.ts'
import { encode, generate, WIDTH } from './truth.ts'
import type { Connection, Device } from './volunteer.ts'
import type { World } from './world.ts'

/** A job as its caller sees it. */
interface Record {
  spec: JobSpec
  isAccepted: boolean
  /** Tokens delivered per choice, or which rows were. */
  tokens: number[][]
  isFinished: boolean[]
  rows: boolean[]
  /** Choices or first rows that are wrong as delivered. */
  wrong: ReadonlySet<number>
}

/** Of a connection: what it was given and has neither answered nor lost. */
export interface Book {
  slots: number
  readonly held: { readonly id: AssignmentId; readonly holding: Holding }[]
}

/** Who computes a unit now. */
interface Holding {
  readonly unit: UnitId
  readonly people: string[]
}

const NOTHING: ReadonlySet<never> = new Set<never>()

export class Auditor {
  readonly counts = { assigned: 0, hedged: 0, cancelled: 0, answers: 0, adopted: 0, disagreed: 0 }
  /** Of each text that was put right before its caller was told of its end: its wrong tokens that were delivered. */
  readonly withdrawn: number[] = []
  readonly #world: World
  readonly judge: Judge
  readonly #jobs = new Table<JobId, Record>()
  readonly #holdings = new Table<UnitId, Holding>()
  readonly #units = new Map<AssignmentId, UnitId>()
  readonly #people = new Map<AssignmentId, string>()

  constructor(world: World) {
    this.#world = world
    this.judge = new Judge(world)
  }

  fail(what: string): never {
    const { options, now } = this.#world
    const { seed } = options
    throw new Error(`${what} (at ${Math.round(now)} ms; reproduce: npm run sim -- --small --seed ${seed})`)
  }

  personOf(id: AssignmentId): string | undefined {
    return this.#people.get(id)
  }

  // ── Volunteers ──

  joined(connection: Connection, hello: Extract<FromVolunteer, { type: 'hello' }>): void {
    this.judge.known(connection.device)
    connection.book = { slots: hello.slots, held: [] }
  }

  left(connection: Connection): void {
    for (const { id } of connection.book?.held.slice() ?? NONE) this.#release(connection, id)
    connection.book = undefined
  }

  crashed(): void {
    this.judge.crashed()
    this.#holdings.clear()
    this.#units.clear()
    this.#jobs.clear()
  }

  sent(connection: Connection, message: FromCoordinator): void {
    const { book } = connection
    if (!book) return this.fail(`${message.type} sent to ${connection.id} before its hello`)
    if (message.type === 'welcome') {
      for (const id of message.keep) {
        this.counts.adopted++
        this.#hold(connection, id, this.#units.get(id) ?? this.fail(`kept ${id}, which nobody was given`))
      }
    } else if (message.type === 'assign') {
      for (const { id, unit } of message.assignments) {
        this.counts.assigned++
        if (this.#isAnybodyLying) this.judge.mayAssign(connection.device)
        if (this.#world.options.audit) this.#remember(connection, id, unit)
        if (this.#hold(connection, id, unit) > 1) this.counts.hedged++
      }
      if (book.held.length > book.slots)
        this.fail(`${connection.id} has ${book.held.length} units in ${book.slots} slots`)
    } else if (message.type === 'error' && !connection.device.isHostile && !connection.device.strategy) {
      this.fail(`${connection.id} is honest and was told: ${message.message}`)
    } else if (message.type === 'cancel') {
      for (const id of message.assignments) {
        this.counts.cancelled++
        this.#release(connection, id)
      }
    }
  }

  /** For small worlds: the books of a large one would be larger than the world. */
  #remember(connection: Connection, id: AssignmentId, unit: UnitId): void {
    if (this.#units.has(id)) this.fail(`assignment ${id} was used twice`)
    this.#units.set(id, unit)
    this.#people.set(id, connection.device.person)
  }

  /** Returns how many compute the unit now. */
  #hold(connection: Connection, id: AssignmentId, unit: UnitId): number {
    const { person } = connection.device
    let holding = this.#holdings.get(unit)
    if (holding) {
      if (holding.people.includes(person)) this.fail(`${person} was given ${unit} twice at once`)
      holding.people.push(person)
    } else this.#holdings.set(unit, (holding = { unit, people: [person] }))
    connection.book!.held.push({ id, holding })
    const count = holding.people.length
    if (count > LIMITS.copies) this.fail(`${unit} is computed ${count} times at once`)
    return count
  }

  #release(connection: Connection, id: AssignmentId): void {
    const held = connection.book?.held ?? NONE
    const at = held.findIndex((entry) => entry.id === id)
    if (at < 0) return
    const { unit, people } = held[at]!.holding
    held.splice(at, 1)
    takeOut(people, connection.device.person)
    if (people.length === 0) this.#holdings.delete(unit)
  }

  /** An answer frees its slot, whatever it is worth. */
  received(connection: Connection, message: FromVolunteer): void {
    if (message.type === 'result' || message.type === 'fail') this.#release(connection, message.assignment)
    else if (message.type === 'slots') connection.book!.slots = message.slots
  }

  /** Nobody lies and nothing breaks inside a device: what fails then is the coordinator's fault. */
  get #isPeaceful(): boolean {
    const { hostile, deviceLossesPerMinute, stall } = this.#world.options
    return hostile === 0 && !this.#isAnybodyLying && deviceLossesPerMinute === 0 && stall === 0
  }

  get #isAnybodyLying(): boolean {
    const { hostile, liars, cast } = this.#world.options
    return hostile > 0 || liars > 0 || cast.length > 0
  }

  /** What a device says it computed, and what it should have. */
  computed(device: Device, output: Output, honest: Output, isTraceTrue: boolean): void {
    if (this.#isAnybodyLying) this.judge.computed(device, output, honest, isTraceTrue)
  }

  trust(effect: TrustEffect): void {
    // Of large worlds among the honest, the books would be larger than the world.
    if (!this.#world.options.audit && !this.#isAnybodyLying) return
    const job = 'job' in effect ? this.#jobs.get(effect.job) : undefined
    if (effect.type === 'correct-unit' && effect.isJobOpen) this.#correct(job!, effect)
    this.judge.effect(effect, job?.spec, effect.type === 'settle-unit' && job!.wrong.has(effect.first))
  }

  /** What was delivered of it is void. */
  #correct(
    job: Record,
    { job: id, choice, first, output }: Extract<TrustEffect, { type: 'correct-unit' }>,
  ): void {
    const isBegun = choice !== null && !job.isFinished[choice]
    if (!this.judge.isRightOutput(job.spec, first, output, isBegun))
      this.fail(`${id} was corrected to something wrong`)
    if (output.kind === 'generate') {
      const told = job.tokens[choice!]!
      const right = told.findIndex((token, i) => token !== output.tokens[i])
      if (isBegun && right >= 0) this.withdrawn.push(told.length - right)
      job.tokens[choice!] = [...output.tokens]
    }
    job.wrong = new Set([...job.wrong].filter((at) => at !== first))
  }

  // ── Requesters ──

  asked(spec: JobSpec): void {
    const parts = partsOf(spec)
    this.#jobs.set(spec.id, {
      spec,
      isAccepted: false,
      tokens: spec.kind === 'generate' ? Array.from({ length: parts }, () => []) : NONE,
      isFinished: spec.kind === 'generate' ? Array<boolean>(parts).fill(false) : NONE,
      rows: spec.kind === 'generate' ? NONE : Array<boolean>(parts).fill(false),
      wrong: NOTHING,
    })
  }

  effect(effect: JobEffect): void {
    const job = this.#jobs.get(effect.job)
    if (!job) return this.fail(`${effect.type} for ${effect.job}, which is over or never was`)
    const { spec } = job
    if (effect.type === 'accept-job') {
      if (job.isAccepted) this.fail(`${effect.job} accepted twice`)
      job.isAccepted = true
      return
    }
    if (effect.type === 'refuse-job') {
      if (job.isAccepted) this.fail(`${effect.job} refused after it was accepted`)
      this.#jobs.delete(effect.job)
      return
    }
    if (!job.isAccepted) this.fail(`${effect.type} before ${effect.job} was accepted`)
    switch (effect.type) {
      case 'deliver-tokens': {
        const got = job.tokens[effect.choice]!
        if (job.isFinished[effect.choice]) this.fail(`tokens after the end of ${effect.job}.${effect.choice}`)
        if (effect.index !== got.length)
          this.fail(`tokens from ${effect.index} where ${got.length} were delivered`)
        for (const id of effect.tokens) got.push(id)
        return
      }
      case 'verify-tokens': {
        const got = job.tokens[effect.choice]!
        if (effect.tokens > got.length) this.fail(`${effect.tokens} tokens are checked of ${got.length}`)
        if (this.judge.keys.get(effect.by)?.hasLied) return
        if (spec.kind !== 'generate') return this.fail('a choice of rows')
        const truth = this.#truthOf(spec.choices[effect.choice]!)
        if (got.slice(0, effect.tokens).join() !== truth.slice(0, effect.tokens).join())
          this.fail(`${effect.by} is honest and found ${effect.job}.${effect.choice} right: ${got}`)
        return
      }
      case 'finish-choice': {
        if (spec.kind !== 'generate') return this.fail('a choice of rows')
        const truth = this.#truthOf(spec.choices[effect.choice]!)
        const got = job.tokens[effect.choice]!
        if (got.join() !== truth.join()) {
          if (!this.#isAnybodyLying)
            this.fail(`${effect.job}.${effect.choice} is ${got} where ${truth} was due`)
          job.wrong = new Set(job.wrong).add(effect.choice)
        }
        if (effect.tokens !== got.length)
          this.fail(`${effect.tokens} tokens reported, ${got.length} delivered`)
        if (job.isFinished[effect.choice]) this.fail(`${effect.job}.${effect.choice} finished twice`)
        job.isFinished[effect.choice] = true
        this.counts.answers++
        return
      }
      case 'deliver-rows': {
        if (spec.kind === 'generate') return this.fail('rows of a text')
        this.counts.answers++
        for (let i = 0; i < effect.rows; i++) {
          const row = effect.first + i
          if (job.rows[row]) this.fail(`row ${row} of ${effect.job} delivered twice`)
          job.rows[row] = true
          const [a, b] = encode(spec.rows[row]!)
          if (effect.values[i * WIDTH] !== a || effect.values[i * WIDTH + 1] !== b)
            if (this.#isAnybodyLying) job.wrong = new Set(job.wrong).add(effect.first)
            else this.fail(`row ${row} of ${effect.job} is wrong`)
        }
        return
      }
      case 'finish-job':
        if (job.isFinished.includes(false) || job.rows.includes(false))
          this.fail(`${effect.job} finished before all of it was`)
        this.judge.jobOver(effect.job)
        this.#jobs.delete(effect.job)
        return
      case 'fail-job':
        this.judge.jobOver(effect.job)
        this.#jobs.delete(effect.job)
        if (
          effect.error.code === 'internal' &&
          this.#isPeaceful &&
          !this.#world.requesters.isPoison(effect.job)
        )
          this.fail(`${effect.job} failed among honest volunteers: ${effect.error.message}`)
    }
  }

  #truthOf({ prompt, options: { sampling, maxTokens } }: Choice): number[] {
    return generate(prompt, sampling.seed, sampling.stream, maxTokens, this.#world.context)
  }

  // ── The coordinator's own books ──

  /** Every unit in exactly one state, every slot counted, and no work waiting for somebody who is free. */
  inspect(s: State): void {
    for (const v of s.volunteers.values()) {
      // A round of pings late at most, after a sleep of the coordinator's own.
      if (s.now - v.lastHeardAt > SETTINGS.silentMs + SETTINGS.pingMs)
        this.fail(`${v.id} is silent and still waited for`)
      if (v.held.length > v.slots) this.fail(`${v.id} holds ${v.held.length} of ${v.slots}`)
      for (const lease of v.held)
        if (lease.state !== 'live' || lease.volunteer !== v || !lease.unit.copies.includes(lease))
          this.fail(`${lease.id} is in ${v.id}'s hands and ${lease.state}`)
    }
    for (const { identity, claims } of s.records.values())
      if (claims[0]?.isFinal) this.fail(`what ${identity} said is final and still remembered`)
    for (const c of s.classes.values()) this.#inspectClass(s, c)
  }

  #inspectClass(s: State, c: ModelClass): void {
    let cost = 0
    let parts = 0
    const ready: Unit[] = []
    for (const job of s.jobsIn(c)) {
      for (let i = job.next; i < partsOf(job.spec); i++, parts++) cost += costOf(job.spec, i)
      for (const unit of job.open) {
        if (unit.state === 'ready') {
          if (unit.copies.length) this.fail(`${unit.id} is ready and has ${unit.copies.length} copies`)
          if (!(unit.isDisputed ? c.checks.includes(unit) : c.returned.includes(unit, c.returnedHead)))
            this.fail(`${unit.id} is ready and nowhere`)
          cost += unit.cost
          parts += unit.count
          ready.push(unit)
        } else if (unit.state === 'checking') {
          if (!unit.claim?.check) this.fail(`${unit.id} waits for no check`)
        } else if (unit.state !== 'leased' || unit.copies.length === 0 || unit.copies.length > LIMITS.copies)
          this.fail(`${unit.id} is ${unit.state} with ${unit.copies.length} copies`)
        for (const copy of unit.copies)
          if (!copy.volunteer.held.includes(copy)) this.fail(`${copy.id} is in nobody's hands`)
      }
    }
    if (cost !== c.queuedCost || parts !== c.queuedParts)
      this.fail(
        `${c.model.name} has ${parts} parts of cost ${cost} ready, its books say ${c.queuedParts} and ${c.queuedCost}`,
      )
    for (const v of s.volunteers.values()) {
      if (
        v.isHouse ||
        !isWilling(s, v) ||
        v.held.length >= Math.min(v.concurrency, v.slots) ||
        !v.ready.includes(c)
      )
        continue
      for (const unit of ready.slice(0, LIMITS.scan))
        if (
          !unit.isDisputed &&
          mayTake(unit, v) &&
          mayServe(s, c, v, unit.job) &&
          roomOf(v, c) >= unit.job.need
        )
          this.fail(`${unit.id} waits although ${v.id} is free`)
      const next = c.queue.peek()
      if (next && roomOf(v, c) >= next.need && mayServe(s, c, v, next))
        this.fail(`${next.spec.id} waits although ${v.id} is free`)
    }
  }
}
