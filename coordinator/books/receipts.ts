/**
 * A receipt for every answer: what was asked, who answered under which signature, what was checked. Built from the core's effects
 * while a job runs, kept when it is done, and sealed when somebody asks for it, as it stands then. docs/trust.md.
 */
import { randomUUID } from 'node:crypto'
import type { JobId, UnitId } from '../../protocol/index.ts'
import type { Effect, JobSpec, Recalled, UnitCheck } from '../core/events.ts'
import type { Policy } from '../core/policy.ts'
import { verificationOf, weaker } from '../core/verification.ts'
import { optionsDocument, RECEIPT_FORMAT, unitInput } from './documents.ts'
import type { OptionsDocument, Receipt, ReceiptUnit } from './documents.ts'
import type { CoordinatorKey } from '../identity.ts'
import type { Provisional } from './provisional.ts'
import type { Recorder, Records } from './records.ts'
import { sealed } from './seal.ts'
import type { LedgerHead } from '../store/store.ts'

/** What is kept: a receipt without what is only known when it is issued. */
interface Kept {
  request: Receipt['request']
  units: ReceiptUnit[]
  policy: Receipt['policy']
  lottery: Receipt['lottery']
}

/** What became known of a unit after its receipt was kept, under `{receipt}/{unit}`. */
type Amendment = { check: ReceiptUnit['check'] } | { corrected: Corrected }
type Corrected = Pick<ReceiptUnit, 'volunteer' | 'output' | 'root' | 'tokens'>

interface Open {
  id: string
  spec: JobSpec
  units: Map<UnitId, ReceiptUnit>
  /** Of each: which of its key's results it is, and what of it lies in escrow. */
  held: Map<UnitId, { index: number; paid: number }>
  /** Per choice, as delivered. */
  tokens: number[][]
}

export interface ReceiptsHost {
  records: Records
  recorder: Recorder
  key: CoordinatorKey
  provisional: Provisional
  policy: Policy
  /** What people call a model. */
  nameOf: (digest: string) => string
  /** What was promised of a period of the lottery. */
  commitmentOf: (period: number) => string | undefined
  ledgerHead: () => Promise<LedgerHead>
}

/** Share of all work that is taken to be lies where a bound is stated. */
const LIARS = 0.1

export class Receipts {
  readonly #host: ReceiptsHost
  readonly #open = new Map<JobId, Open>()
  /** Kept, and perhaps not durable yet. */
  readonly #fresh = new Map<string, string>()

  constructor(host: ReceiptsHost) {
    this.#host = host
  }

  begin(spec: JobSpec): void {
    const id = newReceiptId()
    this.#open.set(spec.id, { id, spec, units: new Map(), held: new Map(), tokens: [] })
  }

  /** The job's caller gave up: nobody will know the receipt's name. */
  drop(job: JobId): void {
    this.#open.delete(job)
  }

  /** The receipt's id, from begin() until the job is over. */
  idOf(job: JobId): string | undefined {
    return this.#open.get(job)?.id
  }

  /** What its caller is told of the receipt when the job is done. */
  reportOf(job: JobId): { receipt: string; status: 'provisional' | 'final' } | null {
    const open = this.#open.get(job)
    if (!open) return null
    const isOpen = [...open.units.values()].some((unit) => unit.status === 'provisional')
    return { receipt: open.id, status: isOpen ? 'provisional' : 'final' }
  }

  /** To be told of every effect, before a job's caller is. */
  perform(effect: Effect): void {
    switch (effect.type) {
      case 'settle-unit':
        return this.#settle(effect)
      case 'deliver-tokens': {
        const open = this.#open.get(effect.job)
        if (open) (open.tokens[effect.choice] ??= []).push(...effect.tokens)
        return
      }
      case 'check-unit': {
        const { job, unit, check } = effect
        const settled = this.#open.get(job)?.units.get(unit)
        if (settled) settled.check = checkDocument(check)
        else this.#amend(unit, { check: checkDocument(check) })
        return this.#host.provisional.check(unit, check)
      }
      case 'finalize-unit': {
        const settled = this.#open.get(effect.job)?.units.get(effect.unit)
        if (settled?.status === 'provisional') settled.status = 'final'
        return this.#host.provisional.forget(effect.unit)
      }
      case 'post': {
        const { kind, job, unit, identity, lines } = effect.entry
        const held = kind === 'earn' && this.#open.get(job!)?.held.get(unit!)
        if (held)
          for (const { account, amount } of lines) if (account === `escrow:${identity}`) held.paid += amount
        return
      }
      case 'correct-unit':
        return this.#correct(effect)
      case 'finish-job':
        return this.#finish(effect.job)
      case 'refuse-job':
      case 'fail-job':
        return this.drop(effect.job)
      default:
    }
  }

  /** As it stands now, signed; null if there is none (any more). */
  async get(id: string): Promise<Receipt | null> {
    const { records, key, nameOf, ledgerHead } = this.#host
    const json = this.#fresh.get(id) ?? (await records.document('receipt', id))?.json
    if (json === undefined) return null
    const kept = JSON.parse(json) as Kept
    const units = await this.#current(id, kept)
    const done = units.map(({ check }) => verificationOf(check.kind, check.rate))
    const verification = done.length ? done.reduce(weaker) : 'unverified'
    const body = {
      format: RECEIPT_FORMAT,
      id,
      issued_at: Math.floor(Date.now() / 1000),
      request: { ...kept.request, model_name: nameOf(kept.request.model) },
      units,
      verification,
      policy: kept.policy,
      bound: boundOf(kept.policy, units, verification),
      lottery: kept.lottery,
      ledger: { ...(await ledgerHead()) },
    } as const
    return sealed(body, key)
  }

  /** What the core wants to know again of an answer of an earlier life; null where it was in no receipt. */
  async recall(unit: UnitId): Promise<Recalled | null> {
    const { records, provisional } = this.#host
    const id = provisional.receiptOf(unit)
    const json = id && (await records.document('receipt', id))?.json
    if (!json) return null
    const { request, units } = JSON.parse(json) as Kept
    const said = units.find((one) => one.unit === unit)!
    const { kind, inputs, generate: options } = unitInput(request, said)
    const { first, count, tokens = [], input, output, signature, streamed, macs } = said
    return { kind, first, count, inputs, options, tokens, input, output, signature, streamed, macs }
  }

  #settle(e: Extract<Effect, { type: 'settle-unit' }>): void {
    const open = this.#open.get(e.job)
    if (!open) return
    open.held.set(e.unit, { index: e.index, paid: 0 })
    open.units.set(e.unit, {
      unit: e.unit,
      first: e.choice ?? e.first,
      count: e.choice === null ? e.count : 1,
      volunteer: e.identity,
      output: e.output,
      root: e.root,
      assignment: e.assignment,
      input: e.input,
      signature: e.signature,
      ...(e.streamed && { streamed: e.streamed }),
      macs: e.macs,
      check: checkDocument(e.check),
      status: e.status,
    })
  }

  #correct({
    job,
    unit,
    choice,
    identity,
    digest,
    root,
    output,
  }: Extract<Effect, { type: 'correct-unit' }>): void {
    const tokens = output.kind === 'generate' ? Array.from(output.tokens) : undefined
    const corrected = { volunteer: identity, output: digest, root, tokens }
    const open = this.#open.get(job)
    const settled = open?.units.get(unit)
    if (!open) return this.#amend(unit, { corrected })
    if (settled) open.units.set(unit, replaced(settled, corrected))
    if (tokens && choice !== null) open.tokens[choice] = tokens
  }

  #finish(job: JobId): void {
    const open = this.#open.get(job)
    if (!open) return
    this.#open.delete(job)
    const { policy, provisional } = this.#host
    const { id, spec, held, tokens } = open
    const units = [...open.units.values()].sort((a, b) => a.first - b.first)
    if (spec.kind === 'generate') for (const unit of units) unit.tokens = tokens[unit.first] ?? []
    for (const unit of units)
      if (unit.status === 'provisional') provisional.keep(id, unit, spec, held.get(unit.unit as UnitId)!)
    const kept: Kept = {
      request: requestDocument(spec),
      units,
      policy: policyDocument(policy),
      lottery: this.#promises(units),
    }
    this.#keep(id, JSON.stringify(kept))
  }

  /** Of the periods in which it was drawn whether to check these. */
  #promises(units: readonly ReceiptUnit[]): Receipt['lottery'] {
    const periods = new Set(units.map(({ check }) => check.period))
    return [...periods].map((period) => ({ period, commitment: this.#host.commitmentOf(period)! }))
  }

  /** The last word counts: a correction says all that a check would. */
  #amend(unit: UnitId, amendment: Amendment): void {
    const receipt = this.#host.provisional.receiptOf(unit)
    if (receipt !== undefined) this.#keep(`${receipt}/${unit}`, JSON.stringify(amendment))
  }

  #keep(id: string, json: string): void {
    this.#fresh.set(id, json)
    void this.#host.recorder.document('receipt', id, json).then(() => {
      if (this.#fresh.get(id) === json) this.#fresh.delete(id)
    })
  }

  /** The units with what became known since. */
  async #current(id: string, { units }: Kept): Promise<ReceiptUnit[]> {
    const { records, provisional } = this.#host
    const amendments = new Map<string, Amendment>()
    const add = (name: string, json: string): void => {
      if (name.startsWith(`${id}/`)) amendments.set(name.slice(id.length + 1), JSON.parse(json) as Amendment)
    }
    for (const { id: name, json } of await records.documents('receipt', `${id}/`, units.length))
      add(name, json)
    for (const [name, json] of this.#fresh) add(name, json)
    return units.map((unit) => {
      const amendment = amendments.get(unit.unit)
      const isOver = unit.status === 'provisional' && !provisional.has(unit.unit as UnitId)
      const current: ReceiptUnit = { ...unit, status: isOver ? 'final' : unit.status }
      if (amendment === undefined) return current
      return 'corrected' in amendment ? replaced(current, amendment.corrected) : { ...current, ...amendment }
    })
  }
}

/** Unguessable (122 random bits), and beginning with the time: what is stored together lies together. */
const newReceiptId = (): string =>
  `rcpt_${Date.now().toString(36).padStart(9, '0')}${randomUUID().replaceAll('-', '')}`

function replaced(unit: ReceiptUnit, corrected: Corrected): ReceiptUnit {
  const { volunteer, output, root, assignment, signature } = unit
  return {
    ...unit,
    ...corrected,
    signature: null,
    streamed: undefined,
    status: 'corrected',
    check: { ...unit.check, kind: 'trusted', by: [corrected.volunteer] },
    replaced: { volunteer, output, root, assignment, signature },
  }
}

const checkDocument = ({ by, ...check }: UnitCheck): ReceiptUnit['check'] => ({ ...check, by: [...by] })

const policyDocument = (p: Policy): Receipt['policy'] => ({
  probation: p.probation,
  beta: p.beta,
  floor: p.floor,
  window_results: p.windowResults,
  window_ms: p.windowMs,
  tail: p.tail,
})

/** Each prompt once, however many choices were drawn for it. */
function requestDocument(spec: JobSpec): Receipt['request'] {
  const { kind, model, trust = 'checked' } = spec
  const common = { model, model_name: '', numerics: 'xn1', kind, trust } as const
  if (spec.kind !== 'generate') return { ...common, inputs: spec.rows.map((row) => Array.from(row)) }
  const places = new Map<Uint32Array, number>()
  const inputs: number[][] = []
  const choices = spec.choices.map(({ prompt, options }): { input: number } & OptionsDocument => {
    let input = places.get(prompt)
    if (input === undefined) {
      input = inputs.push(Array.from(prompt)) - 1
      places.set(prompt, input)
    }
    return { input, ...optionsDocument(options) }
  })
  return { ...common, inputs, choices }
}

/**
 * Numerics §7.1: a volunteer that lies and leaves keeps at most 1/(e·beta) of its results wrong once they are final, 1/(1 + beta)
 * while they are provisional, whatever its strategy. Times the share of all work that is done by such volunteers.
 */
function boundOf(
  { beta }: Receipt['policy'],
  units: readonly ReceiptUnit[],
  verification: Receipt['verification'],
): Receipt['bound'] {
  const stated = (undetected: number, meaning: string): Receipt['bound'] => ({
    undetected,
    liars: LIARS,
    meaning,
  })
  if (verification === 'trusted')
    return stated(0, "The coordinator's own engine, or one its operator trusts, computed all of it.")
  if (verification === 'unverified')
    return stated(LIARS, 'Nothing was checked: it is as right as the volunteers are honest.')
  if (verification === 'replicated')
    return stated(
      LIARS * LIARS,
      'Two keys of different networks computed it alike; both would have to be one liar’s.',
    )
  const isOpen = units.some(({ status }) => status === 'provisional')
  return isOpen
    ? stated(
        LIARS / (1 + beta),
        'Checked by lot; some of it is provisional, and may be corrected until it is final.',
      )
    : stated(
        LIARS / (Math.E * beta),
        'Checked by lot, and all of it final: the lies of a convicted volunteer were found and corrected.',
      )
}
