/** Those who ask: they submit, retry what was refused or lost, sometimes hang up, and compare every answer with the truth. */
import type { JobEffect, JobSpec } from '../../coordinator/core/events.ts'
import type { JobId, RequesterId } from '../../protocol/nouns.ts'
import { Table } from '../../coordinator/core/table.ts'
import { Random } from '../harness/random.ts'
import { SORTER, WRITER } from './world.ts'
import type { World } from './world.ts'

const HOUR = 3_600_000

interface Wish {
  spec: JobSpec
  parts: number
  isPoison: boolean
  hangsUp: boolean
  askedAt: number
  state: 'planned' | 'asked' | 'done' | 'given-up'
}

export class Requesters {
  readonly latencies: number[] = []
  /** Wishes that ended well, were hung up, or were given up because they could not be computed. */
  done = 0
  failed = 0
  refused = 0
  retried = 0
  readonly #world: World
  readonly #random: Random
  readonly #lists: Uint32Array[] = Array.from({ length: 64 }, (_, i) =>
    Uint32Array.from({ length: 69 + i }, (_, k) => 10 + ((7 * i + k) % 900)),
  )
  readonly #names: RequesterId[]
  readonly #asked = new Table<JobId, Wish>()
  /** To be asked again. */
  readonly #planned = new Set<Wish>()
  #unitsLeft: number
  #jobs = 0
  /** First submission to last answer. */
  firstAt = Infinity
  lastAt = 0

  constructor(world: World) {
    this.#world = world
    this.#random = new Random(world.options.seed, 'requesters')
    this.#unitsLeft = world.options.units
    this.#names = times(world.options.requesters + 1, (i) => `r${i}` as RequesterId)
    world.at(2_000, () => this.#arrive())
  }

  get isDone(): boolean {
    return this.#unitsLeft === 0 && this.#asked.size === 0 && this.#planned.size === 0
  }

  get open(): readonly Wish[] {
    return [...this.#planned, ...this.#asked.values()]
  }

  /** Arrivals are Poisson at `load` of what the volunteers could do; with load 0 all come at once. */
  #arrive(): void {
    const { load, unitMs, volunteers, partsMax } = this.#world.options
    const parts = Math.min(this.#random.int(1, partsMax), this.#unitsLeft)
    this.#unitsLeft -= parts
    const wish = this.#wish(parts)
    this.#ask(wish)
    if (this.#unitsLeft === 0) return
    const gap = load > 0 ? (unitMs * parts * -Math.log(1 - this.#random.float())) / (load * volunteers) : 0
    this.#world.after(gap, () => this.#arrive())
  }

  /** So many units more, from now on. */
  goOn(units: number): void {
    this.#unitsLeft += units
    this.#arrive()
  }

  isPoison(id: JobId): boolean {
    return this.#asked.get(id)?.isPoison ?? false
  }

  #wish(parts: number): Wish {
    const { options: o, context } = this.#world
    const random = this.#random
    const isPoison = random.float() < o.poison
    const isHurried = o.audit && random.float() < 0.05
    const id = '' as JobId
    const requester = this.#names[random.int(1, o.requesters)]!
    const trust = o.trust.length > 1 ? random.pick(o.trust) : o.trust[0]
    const priority = random.float() < 0.7 ? 'interactive' : 'batch'
    // A few are in a hurry and take a failure for an answer; the slowest devices need minutes for the longest texts.
    const deadlineMs = isHurried ? random.int(500, 20_000) : HOUR
    // An ordinary unit costs 100: a row of 100 tokens, or a prompt of 20 and 10 drawn at 8 each.
    const spec: JobSpec =
      random.float() < o.generate
        ? {
            id, requester, trust, priority, deadlineMs,
            kind: 'generate',
            model: WRITER,
            choices: times(parts, (stream) => ({
              prompt: this.#list(random.int(1, 40), isPoison),
              options: {
                maxTokens: o.audit && random.float() < 0.05 ? context : random.int(1, o.tokensMax),
                sampling: { temperature: 1, topK: 0, topP: 1, seed: String(random.u32()), stream },
              },
            })),
          }
        : {
            id, requester, trust, priority, deadlineMs,
            kind: 'classify',
            model: SORTER,
            rows: times(parts, () => this.#list(random.int(80, 120), isPoison)),
          } // prettier-ignore
    return { spec, parts, isPoison, hangsUp: random.float() < o.hangUp, askedAt: 0, state: 'planned' }
  }

  #list(length: number, isPoison: boolean): Uint32Array {
    const random = this.#random
    // Large worlds measure the coordinator: their inputs are a few, used again and again.
    if (!this.#world.options.audit) return this.#lists[random.int(0, this.#lists.length - 1)]!
    const ids = new Uint32Array(length)
    for (let i = 0; i < length; i++) ids[i] = 10 + random.int(0, 900)
    // Poison: the engine fails on it, wherever it runs.
    if (isPoison) ids[0] = 1
    return ids
  }

  #ask(wish: Wish): void {
    const world = this.#world
    this.#planned.delete(wish)
    if (wish.state === 'done' || wish.state === 'given-up') return
    if (!world.isUp) return this.#again(wish)
    const id = `j${this.#jobs++}` as JobId
    if (wish.askedAt === 0) wish.askedAt = world.now
    this.firstAt = Math.min(this.firstAt, world.now)
    const spec = (wish.spec = { ...wish.spec, id })
    wish.state = 'asked'
    this.#asked.set(id, wish)
    world.auditor.asked(spec)
    world.tell({ type: 'job-submitted', job: spec })
    if (wish.hangsUp) world.after(world.random.int(0, 3_000), () => this.#hangUp(wish, id))
  }

  #hangUp(wish: Wish, id: JobId): void {
    const world = this.#world
    if (!world.isUp || this.#asked.get(id) !== wish) return
    world.tell({ type: 'job-cancelled', job: id, reason: 'hung up' })
    if (this.#asked.has(id)) world.auditor.fail(`${id} was cancelled and did not end`)
  }

  #again(wish: Wish): void {
    wish.state = 'planned'
    this.#planned.add(wish)
    this.retried++
    this.#world.after(this.#world.random.int(500, 3_000), () => this.#ask(wish))
  }

  effect(effect: JobEffect): void {
    if (effect.type !== 'refuse-job' && effect.type !== 'finish-job' && effect.type !== 'fail-job') return
    const wish = this.#asked.get(effect.job)
    if (!wish) return
    this.#asked.delete(effect.job)
    switch (effect.type) {
      case 'refuse-job':
        this.refused++
        return this.#again(wish)
      case 'finish-job':
        this.latencies.push(this.#world.now - wish.askedAt)
        return this.#end(wish, 'done')
      case 'fail-job':
        this.failed++
        if (effect.error.code === 'cancelled') return this.#end(wish, 'given-up')
        // Work that fails everywhere is to be refused; anything else that failed is asked for again.
        if (effect.error.code === 'deadline_exceeded' && wish.spec.deadlineMs! < HOUR)
          return this.#end(wish, 'given-up')
        if (effect.error.code === 'internal' && wish.isPoison) return this.#end(wish, 'given-up')
        return this.#again(wish)
    }
  }

  #end(wish: Wish, state: 'done' | 'given-up'): void {
    wish.state = state
    this.done += wish.parts
    this.lastAt = this.#world.now
  }

  /** The coordinator came back without its memory: callers see their connection break, and ask again. */
  restarted(): void {
    for (const wish of this.#asked.values()) this.#again(wish)
    this.#asked.clear()
  }
}

/** As Array.from({ length }) does, without an iterator. */
function times<T>(count: number, make: (i: number) => T): T[] {
  const list = Array<T>(count)
  for (let i = 0; i < count; i++) list[i] = make(i)
  return list
}
