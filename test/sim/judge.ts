/**
 * The books of trust, kept from outside: who lied, what was delivered, what became of it, and every posting. It knows the truth,
 * and fails the history when somebody honest is convicted, a check is no check, or credit does not add up.
 */
import type { JobSpec, TrustEffect } from '../../coordinator/core/events.ts'
import type { Restore } from '../../coordinator/core/policy.ts'
import type { JobId, Output, UnitId } from '../../protocol/nouns.ts'
import { digestOf, encode, generate, WIDTH } from './truth.ts'
import type { Device } from './volunteer.ts'
import type { World } from './world.ts'

interface UnitBook {
  spec: JobSpec
  first: number
  count: number
  key: string
  isWrong: boolean
  status: 'provisional' | 'final'
}

interface KeyBook {
  device: Device
  /** It sent something wrong, on purpose or not. */
  hasLied: boolean
  lies: number
  results: number
  /** How many results it had sent before the first lie, and when it was convicted. */
  firstLieAt: number | undefined
  convictedAt: number | undefined
  /** Delivered: units, wrong ones, and credit for right ones. */
  units: number
  wrong: number
  earned: number
  accepted: number
  checked: number
}

export class Judge {
  readonly keys = new Map<string, KeyBook>()
  readonly balances = new Map<string, number>()
  readonly counts = {
    settled: 0,
    wrong: 0,
    wrongFinal: 0,
    corrected: 0,
    checks: 0,
    convicted: 0,
    honestConvicted: 0,
  }
  readonly #units = new Map<UnitId, UnitBook>()
  readonly #world: World

  constructor(world: World) {
    this.#world = world
  }

  #fail(what: string): never {
    return this.#world.auditor.fail(what)
  }

  known(device: Device): KeyBook {
    let book = this.keys.get(device.key)
    if (!book) {
      book = {
        device, hasLied: false, lies: 0, results: 0, firstLieAt: undefined, convictedAt: undefined, units: 0, wrong: 0, earned: 0,
        accepted: 0, checked: 0,
      } // prettier-ignore
      this.keys.set(device.key, book)
    }
    return book
  }

  computed(device: Device, output: Output, honest: Output, isTraceTrue: boolean): void {
    const book = this.known(device)
    book.results++
    if (isTraceTrue && digestOf(output) === digestOf(honest)) return
    book.hasLied = true
    book.lies++
    book.firstLieAt ??= book.results
  }

  lied(device: Device): void {
    this.known(device).hasLied = true
  }

  mayAssign(device: Device): void {
    if (this.keys.get(device.key)?.convictedAt !== undefined)
      this.#fail(`${device.key} was convicted and was given work`)
  }

  /** Whether this is what should be said of the unit. @param isBegun of a text, its beginning will do */
  #isRight({ spec, first, count }: UnitBook, output: Output, isBegun = false): boolean {
    if (spec.kind === 'generate') {
      const { prompt, options } = spec.choices[first]!
      const { seed, stream } = options.sampling
      const truth = generate(prompt, seed, stream, options.maxTokens, this.#world.context)
      if (output.kind !== 'generate') return false
      return output.tokens.join() === (isBegun ? truth.slice(0, output.tokens.length) : truth).join()
    }
    if (output.kind === 'generate' || output.rows !== count) return false
    for (let i = 0; i < count; i++) {
      const [a, b] = encode(spec.rows[first + i]!)
      if (output.values[i * WIDTH] !== a || output.values[i * WIDTH + 1] !== b) return false
    }
    return true
  }

  isRightOutput(spec: JobSpec, first: number, output: Output, isBegun: boolean): boolean {
    const count = output.kind === 'generate' ? 1 : output.rows
    return this.#isRight({ spec, first, count } as UnitBook, output, isBegun)
  }

  /** @param spec of its job, and whether what was delivered of it is wrong, for `settle-unit` */
  effect(effect: TrustEffect, spec: JobSpec | undefined, isWrong: boolean): void {
    switch (effect.type) {
      case 'settle-unit':
        return this.#settled(effect, spec!, isWrong)
      case 'check-unit': {
        const unit = this.#unit(effect.unit)
        this.#auditors(effect.identity, effect.check.by)
        this.counts.checks++
        Object.assign(this.keys.get(effect.identity)!, effect.record)
        if (effect.verdict === 'wrong' && !unit.isWrong && !this.keys.get(effect.identity)!.hasLied)
          this.#fail(`${effect.unit} of ${effect.identity} is right and was found wrong`)
        return
      }
      case 'finalize-unit': {
        const unit = this.#unit(effect.unit)
        if (unit.status === 'final') this.#fail(`${effect.unit} is final twice`)
        this.#final(unit)
        return
      }
      case 'correct-unit': {
        const unit = this.#units.get(effect.unit)
        if (!unit) return
        if (unit.status === 'final') this.#fail(`${effect.unit} was final and was corrected`)
        if (!this.#isRight(unit, effect.output)) this.#fail(`${effect.unit} was corrected to something wrong`)
        if (unit.isWrong) this.counts.corrected++
        unit.isWrong = false
        return
      }
      case 'convict': {
        const book =
          this.keys.get(effect.identity) ?? this.#fail(`${effect.identity}, whom nobody knows, was convicted`)
        if (book.convictedAt !== undefined) this.#fail(`${effect.identity} was convicted twice`)
        book.convictedAt = book.results
        this.counts.convicted++
        if (book.hasLied) return
        this.counts.honestConvicted++
        return this.#fail(`${effect.identity} is honest and was convicted of ${effect.evidence.assignment}`)
      }
      case 'post':
        // Checking is work as well.
        if (effect.entry.kind === 'earn' && effect.entry.lines[0]!.account === 'operator:checks')
          this.keys.get(effect.entry.identity!)!.earned += effect.entry.lines[1]!.amount
        return this.#posted(effect.entry.lines, effect.entry.kind)
    }
  }

  #settled(effect: Extract<TrustEffect, { type: 'settle-unit' }>, spec: JobSpec, isWrong: boolean): void {
    const { unit, identity, first, count, check, status, macs } = effect
    if (this.#units.has(unit)) this.#fail(`${unit} was settled twice`)
    const book =
      this.keys.get(identity) ?? this.#fail(`${unit} is said to be of ${identity}, whom nobody knows`)
    if (
      book.convictedAt !== undefined &&
      book.results >= book.convictedAt &&
      (check.kind === 'none' || check.kind === 'pending')
    )
      this.#fail(`${unit} of ${identity} was settled after its conviction`)
    this.#auditors(identity, check.by)
    this.counts.settled++
    book.units++
    book.accepted = effect.record.accepted
    book.checked = effect.record.checked
    if (isWrong) {
      this.counts.wrong++
      book.wrong++
      if (!book.hasLied) this.#fail(`${unit} of ${identity} is wrong, and ${identity} never lied`)
      if (check.kind === 'trusted') this.#fail(`${unit} is wrong and was checked by a trusted engine`)
      const isLeague = check.by.some((by) => this.keys.get(by)?.hasLied)
      if ((check.kind === 'audited' || check.kind === 'replicated') && !isLeague)
        this.#fail(`${unit} is wrong and was ${check.kind} by the honest`)
      if (
        spec.trust !== 'fast' &&
        check.rate === 1 &&
        check.kind !== 'replicated' &&
        check.kind !== 'audited'
      )
        this.#fail(`${unit} of a newcomer is wrong and was delivered as ${spec.trust}`)
    } else book.earned += macs
    const entry: UnitBook = { spec, first, count, key: identity, isWrong, status: 'provisional' }
    this.#units.set(unit, entry)
    if (status === 'final') this.#final(entry)
  }

  #final(unit: UnitBook): void {
    unit.status = 'final'
    if (unit.isWrong) this.counts.wrongFinal++
  }

  #unit(id: UnitId): UnitBook {
    return this.#units.get(id) ?? this.#fail(`${id} was never settled`)
  }

  /** Nobody checks himself, or somebody beside him, unless the operator trusts him. */
  #auditors(identity: string, by: readonly string[]): void {
    const { device } = this.keys.get(identity) ?? this.#fail(`${identity} is unknown`)
    for (const key of by) {
      const auditor = this.keys.get(key)?.device ?? this.#fail(`${key}, who checked, is unknown`)
      if (key === identity) this.#fail(`${identity} checked its own answer`)
      if (auditor.network === device.network && !auditor.isTrusted)
        this.#fail(`${key} and ${identity} are neighbours, and one checked the other`)
    }
  }

  #posted(lines: readonly { account: string; amount: number }[], kind: string): void {
    let sum = 0
    for (const { account, amount } of lines) {
      sum += amount
      const balance = (this.balances.get(account) ?? 0) + amount
      if (balance) this.balances.set(account, balance)
      else this.balances.delete(account)
      if (!Number.isSafeInteger(amount)) this.#fail(`${account} is posted ${amount}`)
      if (balance < 0 && /^(reserved|escrow|volunteer|owner):/.test(account))
        this.#fail(`${account} has ${balance} after ${kind}`)
    }
    if (sum !== 0) this.#fail(`a posting (${kind}) sums to ${sum}`)
  }

  jobOver(id: JobId): void {
    if (this.balances.has(`reserved:${id}`))
      this.#fail(`${id} is over and has ${this.balances.get(`reserved:${id}`)} reserved`)
  }

  /** When all is over: nothing is left to those who were convicted but what was final before. */
  end(): void {
    for (const [key, { convictedAt }] of this.keys) {
      const left = this.balances.get(`escrow:${key}`)
      if (convictedAt !== undefined && left) this.#fail(`${key} was convicted and has ${left} in escrow`)
    }
  }

  /** What a store would have kept when the process dies: what was reserved goes back. */
  crashed(): void {
    for (const [account, amount] of this.balances)
      if (account.startsWith('reserved:')) {
        this.balances.delete(account)
        this.balances.set('requester:lost', (this.balances.get('requester:lost') ?? 0) + amount)
      }
  }

  kept(): Restore {
    const identities = [...this.keys].map(([identity, { accepted, checked, convictedAt }]) => ({
      identity, accepted, checked, isConvicted: convictedAt !== undefined,
    })) // prettier-ignore
    return { identities, balances: Object.fromEntries(this.balances) }
  }

  /** What liars have for their lies: what they were paid and kept, less what their right answers were worth. */
  netCredit(): number {
    let net = 0
    for (const [key, { hasLied, earned }] of this.keys)
      if (hasLied)
        net +=
          (this.balances.get(`volunteer:${key}`) ?? 0) + (this.balances.get(`escrow:${key}`) ?? 0) - earned
    return net
  }
}
