/** What a store keeps of the core's effects, in plain maps: enough for another life to go on. */
import type { Effect, JobSpec, KeptClaim, Recalled, UnitCheck } from '../../coordinator/core/events.ts'
import type { Restore } from '../../coordinator/core/policy.ts'
import type { JobId, UnitId } from '../../protocol/nouns.ts'

type Settled = Extract<Effect, { type: 'settle-unit' }>
interface Claim {
  settled: Settled
  spec: JobSpec
  check: UnitCheck
  tokens: number[]
  paid: number
  at: number
}

export class Archive {
  readonly #jobs = new Map<JobId, { spec: JobSpec; tokens: number[][]; units: Map<UnitId, Claim> }>()
  readonly #claims = new Map<UnitId, Claim>()
  readonly #keys = new Map<string, { accepted: number; checked: number; isConvicted: boolean }>()
  readonly balances = new Map<string, number>()

  get size(): number {
    return this.#claims.size
  }

  asked(spec: JobSpec): void {
    this.#jobs.set(spec.id, { spec, tokens: [], units: new Map() })
  }

  perform(effect: Effect, now: number): void {
    switch (effect.type) {
      case 'deliver-tokens':
        ;(this.#jobs.get(effect.job)!.tokens[effect.choice] ??= []).push(...effect.tokens)
        return
      case 'settle-unit': {
        const { spec } = this.#jobs.get(effect.job)!
        this.#remember(effect.identity, effect.record)
        if (effect.status === 'final') return
        const claim = { settled: effect, spec, check: effect.check, tokens: [], paid: 0, at: now }
        this.#jobs.get(effect.job)!.units.set(effect.unit, claim)
        return
      }
      case 'check-unit': {
        this.#remember(effect.identity, effect.record)
        const claim = this.#jobs.get(effect.job)?.units.get(effect.unit) ?? this.#claims.get(effect.unit)
        if (claim) claim.check = effect.check
        return
      }
      case 'correct-unit': {
        const job = this.#jobs.get(effect.job)
        if (job && effect.output.kind === 'generate')
          job.tokens[effect.first] = Array.from(effect.output.tokens)
        return
      }
      case 'finalize-unit':
        this.#jobs.get(effect.job)?.units.delete(effect.unit)
        this.#claims.delete(effect.unit)
        return
      case 'convict':
        this.#keys.set(effect.identity, { accepted: 0, checked: 0, isConvicted: true })
        return
      case 'post': {
        const { kind, job, unit, identity, lines } = effect.entry
        const claim = kind === 'earn' ? this.#jobs.get(job!)?.units.get(unit!) : undefined
        for (const { account, amount } of lines) {
          const balance = (this.balances.get(account) ?? 0) + amount
          if (balance) this.balances.set(account, balance)
          else this.balances.delete(account)
          if (claim?.settled.identity === identity && account === `escrow:${identity}`) claim!.paid += amount
        }
        return
      }
      case 'finish-job': {
        const { units, tokens } = this.#jobs.get(effect.job)!
        for (const [unit, claim] of units)
          this.#claims.set(unit, { ...claim, tokens: tokens[claim.settled.first] ?? [] })
        this.#jobs.delete(effect.job)
        return
      }
      case 'refuse-job':
      case 'fail-job':
        this.#jobs.delete(effect.job)
        return
      default:
    }
  }

  #remember(identity: string, record: { accepted: number; checked: number }): void {
    if (identity !== 'house' && !this.#keys.get(identity)?.isConvicted)
      this.#keys.set(identity, { ...record, isConvicted: false })
  }

  /** For the next life: the process died at `now`, by the clock of the one that ended. @param next the same moment by the next one's */
  kept(now: number, next = 0): Restore {
    this.#jobs.clear()
    for (const [account, amount] of this.balances)
      if (account.startsWith('reserved:')) {
        this.balances.delete(account)
        this.balances.set('requester:lost', (this.balances.get('requester:lost') ?? 0) + amount)
      }
    return {
      identities: [...this.#keys].map(([identity, record]) => ({ identity, ...record })),
      balances: Object.fromEntries(this.balances),
      claims: [...this.#claims.values()].map((claim): KeptClaim => {
        const { settled, check, paid, at } = claim
        claim.at += next - now
        const { job, requester, unit, model, identity, assignment, root, index } = settled
        return {
          job,
          requester,
          unit,
          model,
          identity,
          assignment,
          root,
          check,
          paid,
          index,
          ageMs: now - at,
        }
      }),
    }
  }

  recall(unit: UnitId): Recalled | null {
    const claim = this.#claims.get(unit)
    if (!claim) return null
    const { spec, tokens, settled } = claim
    const { kind, first, count, input, output, signature, streamed, macs } = settled
    const asked =
      spec.kind === 'generate'
        ? { inputs: [spec.choices[first]!.prompt], options: spec.choices[first]!.options }
        : { inputs: spec.rows.slice(first, first + count), options: undefined }
    return { kind, first, count, ...asked, tokens, input, output, signature, streamed, macs }
  }
}
