/**
 * A receipt for every answer: what was asked, who answered under which signature, what was checked. Built from the core's effects
 * while a job runs, kept when it is done, and sealed when somebody asks for it, as it stands then. docs/trust.md.
 */
import { randomBytes } from 'node:crypto'
import type { JobId, UnitId } from '../protocol/index.ts'
import type { Effect, JobSpec, UnitCheck } from './core/events.ts'
import type { Policy } from './core/policy.ts'
import { optionsDocument, RECEIPT_FORMAT } from './documents.ts'
import type { OptionsDocument, Receipt, ReceiptUnit } from './documents.ts'
import type { CoordinatorKey } from './identity.ts'
import type { Recorder, Records } from './records.ts'
import { sealed } from './seal.ts'
import type { LedgerHead } from './store/store.ts'

/** What is kept: a receipt without what is only known when it is issued. */
interface Kept {
  /** Which life of the coordinator; an earlier one's unfinished business is never finished. */
  life: string
  /** Unix milliseconds. */
  doneAt: number
  request: Receipt['request']
  units: ReceiptUnit[]
  policy: Receipt['policy']
  lottery: Receipt['lottery']
}

/** What became known of a unit after its receipt was kept, under `{receipt}/{unit}`. */
interface Amendment {
  check?: ReceiptUnit['check']
  corrected?: Pick<ReceiptUnit, 'volunteer' | 'output' | 'root' | 'tokens'>
}

interface Open {
  id: string
  spec: JobSpec
  units: Map<UnitId, ReceiptUnit>
  /** Per choice, as delivered. */
  tokens: number[][]
}

export interface ReceiptsHost {
  records: Records
  recorder: Recorder
  key: CoordinatorKey
  policy: Policy
  life: string
  /** What people call a model. */
  nameOf: (digest: string) => string
  lottery: () => Receipt['lottery']
  ledgerHead: () => Promise<LedgerHead>
}

/** Share of all work that is taken to be lies where a bound is stated. */
const LIARS = 0.1

export class Receipts {
  readonly #host: ReceiptsHost
  readonly #open = new Map<JobId, Open>()
  /** Units of kept receipts that may still change. The core bounds how many there are. */
  readonly #pending = new Map<UnitId, { receipt: string; amendment: Amendment }>()
  /** Kept, and perhaps not durable yet. */
  readonly #fresh = new Map<string, string>()

  constructor(host: ReceiptsHost) {
    this.#host = host
  }

  begin(spec: JobSpec): void {
    const id = `rcpt_${randomBytes(18).toString('base64url')}`
    this.#open.set(spec.id, { id, spec, units: new Map(), tokens: [] })
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

  /** The receipt of a unit whose job is over and that may still change. */
  receiptOf(unit: UnitId): string | undefined {
    return this.#pending.get(unit)?.receipt
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
        const unit = this.#open.get(effect.job)?.units.get(effect.unit)
        if (unit) unit.check = checkDocument(effect.check)
        else this.#amend(effect.unit, { check: checkDocument(effect.check) })
        return
      }
      case 'finalize-unit': {
        const unit = this.#open.get(effect.job)?.units.get(effect.unit)
        if (unit?.status === 'provisional') unit.status = 'final'
        this.#pending.delete(effect.unit)
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
    const verification = weakest(units)
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

  #settle(e: Extract<Effect, { type: 'settle-unit' }>): void {
    this.#open.get(e.job)?.units.set(e.unit, {
      unit: e.unit,
      first: e.choice ?? e.first,
      count: e.choice === null ? e.count : 1,
      volunteer: e.identity,
      output: e.output,
      root: e.root,
      assignment: e.assignment,
      input: e.input,
      signature: e.signature,
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
    if (!open) {
      this.#amend(unit, { corrected })
      // A trusted engine's answer does not change any more, and nothing else is told of this unit.
      this.#pending.delete(unit)
      return
    }
    if (settled) open.units.set(unit, replaced(settled, corrected))
    if (tokens && choice !== null) open.tokens[choice] = tokens
  }

  #finish(job: JobId): void {
    const open = this.#open.get(job)
    if (!open) return
    this.#open.delete(job)
    const { life, policy, lottery } = this.#host
    const { id, spec, tokens } = open
    const units = [...open.units.values()].sort((a, b) => a.first - b.first)
    if (spec.kind === 'generate') for (const unit of units) unit.tokens = tokens[unit.first] ?? []
    for (const { unit, status } of units)
      if (status === 'provisional') this.#pending.set(unit as UnitId, { receipt: id, amendment: {} })
    const kept: Kept = {
      life,
      doneAt: Date.now(),
      request: requestDocument(spec),
      units,
      policy: policyDocument(policy),
      lottery: lottery(),
    }
    this.#keep(id, JSON.stringify(kept))
  }

  #amend(unit: UnitId, amendment: Amendment): void {
    const pending = this.#pending.get(unit)
    if (!pending) return
    Object.assign(pending.amendment, amendment)
    this.#keep(`${pending.receipt}/${unit}`, JSON.stringify(pending.amendment))
  }

  #keep(id: string, json: string): void {
    this.#fresh.set(id, json)
    void this.#host.recorder.document('receipt', id, json).then(() => {
      if (this.#fresh.get(id) === json) this.#fresh.delete(id)
    })
  }

  /** The units with what became known since. */
  async #current(id: string, { life, doneAt, units, policy }: Kept): Promise<ReceiptUnit[]> {
    const amendments = new Map<string, Amendment>()
    const add = (name: string, json: string): void => {
      if (name.startsWith(`${id}/`)) amendments.set(name.slice(id.length + 1), JSON.parse(json) as Amendment)
    }
    for (const { id: name, json } of await this.#host.records.documents('receipt', `${id}/`, units.length))
      add(name, json)
    for (const [name, json] of this.#fresh) add(name, json)
    const isOld = life !== this.#host.life && Date.now() - doneAt > policy.window_ms
    return units.map((unit) => {
      const { check = unit.check, corrected } = amendments.get(unit.unit) ?? {}
      if (corrected) return replaced({ ...unit, check }, corrected)
      // What the core no longer holds open in this life is final; what an earlier life left open becomes so with time.
      const isOpen = life === this.#host.life ? this.#pending.has(unit.unit as UnitId) : !isOld
      const status = unit.status === 'provisional' && !isOpen ? 'final' : unit.status
      return { ...unit, check, status }
    })
  }
}

function replaced(unit: ReceiptUnit, corrected: NonNullable<Amendment['corrected']>): ReceiptUnit {
  const { volunteer, output, root, assignment, signature } = unit
  return {
    ...unit,
    ...corrected,
    signature: null,
    status: 'corrected',
    check: { kind: 'trusted', rate: unit.check.rate, by: [corrected.volunteer] },
    replaced: { volunteer, output, root, assignment, signature },
  }
}

const checkDocument = ({ kind, rate, by }: UnitCheck): ReceiptUnit['check'] => ({ kind, rate, by: [...by] })

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

const ORDER = ['unverified', 'sampled', 'audited', 'replicated', 'trusted'] as const

/** What was done for the unit that least was done for. */
function weakest(units: readonly ReceiptUnit[]): Receipt['verification'] {
  const done = units.map(({ check: { kind, rate } }) =>
    kind === 'none' || kind === 'pending' ? (rate > 0 ? 'sampled' : 'unverified') : kind,
  )
  return ORDER.find((kind) => done.includes(kind)) ?? 'unverified'
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
