/** Who is owed what for which work: written as the core posts it, and gone on with after a restart. What must hold: audit.ts. */
import { createHmac } from 'node:crypto'
import { addTo, Audit, flawOf, hashOf, LedgerError } from './audit.ts'
import type { LedgerEntry, LedgerLine } from './audit.ts'
import { canonicalJson } from './canonical.ts'
import type { Json } from './canonical.ts'
import type { Checkpoint } from './compaction.ts'
import type { Posting } from '../core/events.ts'
import { isLimited } from './credits.ts'
import { sha256 } from './documents.ts'
import type { CoordinatorKey } from '../identity.ts'
import { GENESIS } from './records.ts'
import type { Recorder, Records } from './records.ts'
import type { LedgerHead, LedgerRecord } from '../store/store.ts'

/** Nobody else can make this signature, and it is made nowhere else. */
export const pepperOf = (key: CoordinatorKey): string => sha256(key.sign(Buffer.from('chorale payers 1\n')))

/** A kept snapshot of balances, so that a start need not read everything. */
const SNAPSHOT = '#balances'
const SNAPSHOT_ENTRIES = 2_000
const PAGE = 1_000
/** Payers whose published names are remembered. */
const NAMES_MAX = 10_000

interface Snapshot {
  head: LedgerHead
  balances: [string, number][]
  payers: [string, string][]
}

export class Ledger {
  readonly #records: Records
  readonly #recorder: Recorder
  readonly #pepper: string
  readonly #balances: Map<string, number>
  /** Who pays for each job that has something reserved, as published. */
  readonly #payers: Map<string, string>
  readonly #names = new Map<string, string>()
  #head: LedgerHead
  #snapshotAt: number

  private constructor(
    records: Records,
    recorder: Recorder,
    pepper: string,
    balances: Map<string, number>,
    payers: Map<string, string>,
    head: LedgerHead,
  ) {
    this.#records = records
    this.#recorder = recorder
    this.#pepper = pepper
    this.#balances = balances
    this.#payers = payers
    this.#head = head
    this.#snapshotAt = head.seq
  }

  /**
   * Goes on where the records end. Rejects with LedgerError where they do not add up.
   * @param pepper secret: payers' names (addresses among them) are published only as keyed hashes
   */
  static async open(records: Records, recorder: Recorder, pepper: string): Promise<Ledger> {
    const kept = await records.document('identity', SNAPSHOT)
    const {
      head,
      balances,
      payers: paying,
    } = kept ? (JSON.parse(kept.json) as Snapshot) : { head: GENESIS, balances: [], payers: [] }
    const payers = new Map(paying)
    const audit = new Audit(head, balances)
    for (;;) {
      const page = await records.ledger(audit.head.seq, PAGE)
      if (page.length === 0) break
      for (const { seq, prev, hash, json } of page) {
        const entry = JSON.parse(json) as LedgerEntry
        audit.add({ seq, prev, hash, entry })
        trackPayer(payers, entry, audit.balances)
      }
    }
    const ledger = new Ledger(records, recorder, pepper, audit.balances, payers, audit.head)
    ledger.#release()
    return ledger
  }

  /** Jobs end with the life they were accepted in: what is reserved for one of an earlier life goes back to who pays. */
  #release(): void {
    for (const [reserved, payer] of this.#payers) {
      const amount = this.#balances.get(reserved) ?? 0
      const lines = [
        { account: reserved, amount: -amount },
        { account: payer, amount },
      ]
      this.#post('release', lines, { job: reserved.slice('reserved:'.length) })
    }
  }

  get head(): LedgerHead {
    return this.#head
  }

  /** The last entry that is durable. */
  durableHead(): Promise<LedgerHead> {
    return this.#records.ledgerHead()
  }

  /** What is known without the entries up to now: a start needs none of them either. @param at unix seconds */
  checkpoint(at: number): Checkpoint {
    this.#snapshot()
    return { ...this.#head, at, balances: [...this.#balances] }
  }

  /** Of every account that is not at zero. */
  get balances(): Record<string, number> {
    return Object.fromEntries(this.#balances)
  }

  /** Throws LedgerError for what may not be: nothing of it is kept. */
  post({ kind, lines, job, unit, identity }: Omit<Posting, 'at'>): void {
    const published = lines.map(({ account, amount }) => ({ account: this.#public(account), amount }))
    this.#post(kind, published, { job, unit, identity })
  }

  #post(
    kind: Posting['kind'],
    lines: LedgerEntry['lines'],
    { job, unit, identity }: Pick<LedgerEntry, 'job' | 'unit' | 'identity'>,
  ): void {
    const { seq: last, hash: prev } = this.#head
    // In canonical order, which is then the quickest to write.
    const entry: LedgerEntry = { at: Date.now(), identity, job, kind, lines, seq: last + 1, unit }
    const why = flawOf(entry, this.#balances)
    if (why !== null) throw new LedgerError(entry.seq, why)
    const json = canonicalJson(entry as unknown as Json)
    const hash = hashOf(prev, json)
    for (const { account, amount } of entry.lines) addTo(this.#balances, account, amount)
    trackPayer(this.#payers, entry, this.#balances)
    this.#head = { seq: entry.seq, hash }
    this.#recorder.entry({ seq: entry.seq, prev, hash, json })
    if (entry.seq - this.#snapshotAt >= Math.max(SNAPSHOT_ENTRIES, this.#balances.size)) this.#snapshot()
  }

  #snapshot(): void {
    this.#snapshotAt = this.#head.seq
    const snapshot: Snapshot = {
      head: this.#head,
      balances: [...this.#balances],
      payers: [...this.#payers],
    }
    void this.#recorder.document('identity', SNAPSHOT, JSON.stringify(snapshot))
  }

  /** Entries after `after` as they are published. */
  async lines(after: number, limit: number): Promise<LedgerLine[]> {
    const records = await this.#records.ledger(after, limit)
    return records.map(lineOf)
  }

  /** By the name the core has for an account. */
  balanceOf(account: string): number {
    return this.#balances.get(this.#public(account)) ?? 0
  }

  /** A payer is told apart from others, and not told who it is. What has a limit is an account of its own kind: it may not owe. */
  #public(account: string): string {
    const known = this.#names.get(account)
    if (known !== undefined) return known
    const [, kind, payer] = /^(requester|granted):(.*)$/s.exec(account) ?? []
    if (payer === undefined) return account
    const shown = kind === 'requester' && isLimited(payer) ? 'credit' : kind
    const name = `${shown}:${createHmac('sha256', this.#pepper).update(payer).digest('base64url').slice(0, 22)}`
    if (this.#names.size >= NAMES_MAX) this.#names.clear()
    this.#names.set(account, name)
    return name
  }
}

const lineOf = ({ seq, prev, hash, json }: LedgerRecord): LedgerLine => ({
  seq,
  prev,
  hash,
  entry: JSON.parse(json) as LedgerEntry,
})

/** Notes who reserved for a job, until nothing is reserved for it. */
function trackPayer(
  payers: Map<string, string>,
  { kind, lines }: LedgerEntry,
  balances: ReadonlyMap<string, number>,
): void {
  const reserved = lines.find(({ account }) => account.startsWith('reserved:'))?.account
  if (reserved === undefined) return
  if (!balances.has(reserved)) payers.delete(reserved)
  else if (kind === 'reserve') payers.set(reserved, lines.find(({ amount }) => amount < 0)!.account)
}
