/** Everything that is kept of the work done, behind the core's effects: receipts, ledger, evidence, keys, the lottery. */
import type { Effect, Event } from '../core/events.ts'
import { POLICY } from '../core/policy.ts'
import type { Policy, Restore } from '../core/policy.ts'
import { Evidences } from './evidence.ts'
import type { CoordinatorKey } from '../identity.ts'
import { Ledger, pepperOf } from './ledger.ts'
import type { Log } from '../log.ts'
import { Lottery } from './lottery.ts'
import { Provisional } from './provisional.ts'
import { Receipts } from './receipts.ts'
import { Recorder } from './records.ts'
import type { Records } from './records.ts'

/** Keys' counts are written at most this often; what a crash loses of them makes its key check a little more. */
const KEYS_MS = 1_000

export interface BooksOptions {
  records: Records
  key: CoordinatorKey
  policy?: Partial<Policy>
  /** What people call a model. */
  nameOf: (digest: string) => string
  log: Log
}

/** A key as kept. */
interface KeyRecord {
  accepted: number
  checked: number
  isConvicted: boolean
}

export class Books {
  readonly recorder: Recorder
  readonly ledger: Ledger
  readonly lottery: Lottery
  readonly provisional: Provisional
  readonly receipts: Receipts
  readonly evidences: Evidences
  /** For the core. */
  readonly restore: Restore
  readonly #log: Log
  readonly #keys = new Map<string, KeyRecord>()
  readonly #convicted = new Set<string>()
  readonly #timer: NodeJS.Timeout

  private constructor(
    parts: Pick<
      Books,
      'recorder' | 'ledger' | 'lottery' | 'provisional' | 'receipts' | 'evidences' | 'restore'
    >,
    log: Log,
  ) {
    this.recorder = parts.recorder
    this.ledger = parts.ledger
    this.lottery = parts.lottery
    this.provisional = parts.provisional
    this.receipts = parts.receipts
    this.evidences = parts.evidences
    this.restore = parts.restore
    this.#log = log
    for (const { identity, isConvicted } of this.restore.identities ?? [])
      if (isConvicted) this.#convicted.add(identity)
    this.#timer = setInterval(() => void this.flush(true), KEYS_MS)
    this.#timer.unref()
  }

  /** Reads what an earlier life kept. Rejects with LedgerError, StoreError. */
  static async open({ records, key, policy, nameOf, log }: BooksOptions): Promise<Books> {
    const recorder = new Recorder(records, (err) => log.error({ err }, 'what was done could not be kept'))
    const lottery = await Lottery.open(records, recorder)
    const ledger = await Ledger.open(records, recorder, pepperOf(key))
    const { provisional, claims } = await Provisional.open(records, recorder)
    const receipts = new Receipts({
      records,
      recorder,
      key,
      provisional,
      policy: { ...POLICY, ...policy },
      nameOf,
      commitmentOf: (period) => lottery.commitmentOf(period),
      ledgerHead: () => records.ledgerHead(),
    })
    const evidences = new Evidences(records, recorder, key)
    const restore = { identities: await keysOf(records), balances: ledger.balances, claims }
    await recorder.flush()
    return new Books({ recorder, ledger, lottery, provisional, receipts, evidences, restore }, log)
  }

  /** To be told of events before the core is. */
  note(event: Event): void {
    if (event.type === 'job-submitted') this.receipts.begin(event.job)
    if (event.type === 'job-cancelled') this.receipts.drop(event.job)
  }

  /** To be told of effects before anybody else is. */
  perform(effect: Effect): void {
    this.receipts.perform(effect)
    switch (effect.type) {
      case 'post':
        return this.ledger.post(effect.entry)
      case 'settle-unit':
      case 'check-unit':
        this.#remember(effect.identity, { ...effect.record, isConvicted: false })
        return
      case 'convict': {
        const id = this.evidences.convict(effect)
        this.#remember(effect.identity, { accepted: 0, checked: 0, isConvicted: true })
        this.#log.warn(
          { key: effect.identity, evidence: id },
          'convicted: an answer under this key was proven wrong',
        )
        return
      }
      default:
    }
  }

  /** After every call of the core. @param withKeys counts of keys too, which may lag behind */
  async flush(withKeys = false): Promise<void> {
    if (withKeys) {
      for (const [id, record] of this.#keys)
        void this.recorder.document('identity', id, JSON.stringify(record))
      this.#keys.clear()
    }
    await this.recorder.flush()
  }

  async close(): Promise<void> {
    clearInterval(this.#timer)
    await this.flush(true)
  }

  /** Its earlier answers are computed again after a conviction: what is found then reopens nothing. */
  #remember(identity: string, record: KeyRecord): void {
    if (identity === 'house' || this.#convicted.has(identity)) return
    if (!record.isConvicted) return void this.#keys.set(identity, record)
    this.#convicted.add(identity)
    this.#keys.delete(identity)
    void this.recorder.document('identity', identity, JSON.stringify(record))
  }
}

async function keysOf(records: Records): Promise<NonNullable<Restore['identities']>> {
  const identities: NonNullable<Restore['identities']>[number][] = []
  for (let after = ''; ;) {
    const page = await records.documents('identity', after, 1_000)
    if (page.length === 0) return identities
    after = page.at(-1)!.id
    for (const { id, json } of page)
      if (!id.startsWith('#')) identities.push({ identity: id, ...(JSON.parse(json) as KeyRecord) })
  }
}
