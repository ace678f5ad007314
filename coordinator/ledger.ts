/**
 * Who is owed what for which work: double entries in a chain of hashes, so that nothing can be changed, left out or put in
 * between without every later hash showing it. hash = SHA-256(hash before ‖ canonical JSON of the entry), as text.
 */
import { createHmac } from 'node:crypto'
import { canonicalJson } from './canonical.ts'
import type { Json } from './canonical.ts'
import type { Checkpoint } from './compaction.ts'
import type { Posting } from './core/events.ts'
import { isLimited } from './credits.ts'
import { sha256 } from './documents.ts'
import type { CoordinatorKey } from './identity.ts'
import { GENESIS } from './records.ts'
import type { Recorder, Records } from './records.ts'
import type { LedgerHead, LedgerRecord } from './store/store.ts'

/** What is hashed. Amounts in standard units of 10^6 int8 multiply-accumulates. */
export interface LedgerEntry {
  seq: number
  /** Unix milliseconds. */
  at: number
  kind: Posting['kind']
  lines: { account: string; amount: number }[]
  job?: string
  unit?: string
  identity?: string
}

/** A line of GET /v1/ledger. */
export interface LedgerLine {
  seq: number
  prev: string
  hash: string
  entry: LedgerEntry
}

/** Nobody else can make this signature, and it is made nowhere else. */
export const pepperOf = (key: CoordinatorKey): string => sha256(key.sign(Buffer.from('chorale payers 1\n')))

export const hashOf = (prev: string, json: string): string => sha256(prev + json)

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
    about: Pick<LedgerEntry, 'job' | 'unit' | 'identity'>,
  ): void {
    const { seq: last, hash: prev } = this.#head
    const entry: LedgerEntry = { seq: last + 1, at: Date.now(), kind, lines, ...about }
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

/** A ledger that does not add up: at which entry, and why. */
export class LedgerError extends Error {
  override name = 'LedgerError'
  readonly seq: number

  constructor(seq: number, why: string) {
    super(`entry ${seq}: ${why}`)
    this.seq = seq
  }
}

/** What each kind of entry may move: from accounts of the first kinds to accounts of the second. */
const MOVES: Record<Posting['kind'], readonly [from: readonly string[], to: readonly string[]]> = {
  // What was granted can be taken back.
  grant: [
    ['granted', 'credit'],
    ['credit', 'granted'],
  ],
  reserve: [['requester', 'credit'], ['reserved']],
  release: [['reserved'], ['requester', 'credit']],
  // The operator pays for checks; what a trusted engine computes is its own at once.
  earn: [
    ['reserved', 'operator'],
    ['escrow', 'volunteer', 'owner'],
  ],
  vest: [['escrow'], ['volunteer']],
  reverse: [['escrow'], ['requester', 'credit', 'operator']],
  convict: [['escrow'], ['requester', 'credit', 'operator']],
}
/** Only who pays may owe, and no more than it was granted where it has a limit. */
const mayOwe = (account: string): boolean => /^(requester|granted|operator):/.test(account)

/** Reads a ledger from its beginning, or from a head with its balances, and believes nothing. */
export class Audit {
  readonly balances: Map<string, number>
  /** By unit and who was paid. */
  readonly earned = new Map<string, { amount: number; seq: number }>()
  /** Keys that are paid nothing any more. */
  readonly convicted = new Set<string>()
  /** Units that a requester paid for, and by which entry. */
  readonly #bought = new Map<string, number>()
  #head: LedgerHead

  constructor(head: LedgerHead = GENESIS, balances: Iterable<readonly [string, number]> = []) {
    this.#head = head
    this.balances = new Map(balances)
  }

  /** Goes on from what somebody else says was. Throws LedgerError where that can't be. */
  static from({ seq, hash, balances }: Omit<Checkpoint, 'at'>): Audit {
    if (!Array.isArray(balances)) throw new LedgerError(seq, 'it comes without balances')
    const audit = new Audit({ seq, hash }, balances)
    let sum = 0
    for (const [account, amount] of balances) {
      sum += amount
      if (!Number.isSafeInteger(amount) || (amount < 0 && !mayOwe(account)))
        throw new LedgerError(seq, `${account} would have ${amount}`)
    }
    if (sum !== 0) throw new LedgerError(seq, `its balances sum to ${sum}, not to 0`)
    return audit
  }

  get head(): LedgerHead {
    return this.#head
  }

  /** Throws LedgerError. */
  add(line: LedgerLine): void {
    const due = this.#head.seq + 1
    const bad = (why: string): never => {
      throw new LedgerError(due, why)
    }
    // It may come from a file.
    if (!isLine(line)) return bad('it is no entry of a ledger')
    const { seq, prev, hash, entry } = line
    if (seq !== due) bad(`it is numbered ${seq}`)
    if (prev !== this.#head.hash)
      bad(`it follows ${prev.slice(0, 12)}…, the one before is ${this.#head.hash.slice(0, 12)}…`)
    if (entry.seq !== seq) bad(`inside it is numbered ${entry.seq}`)
    if (hashOf(prev, canonicalJson(entry as unknown as Json)) !== hash)
      bad('its hash is not that of what it says')
    const why = flawOf(entry, this.balances)
    if (why !== null) bad(why)
    for (const { account, amount } of entry.lines) addTo(this.balances, account, amount)
    if (entry.kind === 'convict') this.convicted.add(entry.identity!)
    if (entry.kind === 'earn') this.#earn(entry, bad)
    this.#head = { seq, hash }
  }

  /** Each unit is bought once, and paid once to each who worked on it. */
  #earn({ seq, lines, unit, identity }: LedgerEntry, bad: (why: string) => never): void {
    if (unit === undefined || identity === undefined) return bad('it is earned for no unit, or by nobody')
    const before = this.earned.get(`${unit} ${identity}`)
    if (before) bad(`${unit} was paid to ${identity} before, by entry ${before.seq}`)
    const amount = lines.reduce((all, line) => all + Math.max(0, line.amount), 0)
    this.earned.set(`${unit} ${identity}`, { amount, seq })
    if (!lines.some((line) => line.account.startsWith('reserved:'))) return
    if (this.#bought.has(unit)) bad(`${unit} was paid for before, by entry ${this.#bought.get(unit)}`)
    this.#bought.set(unit, seq)
  }
}

/** What is wrong with an entry that would be the next; null for nothing. */
function flawOf({ kind, lines }: LedgerEntry, balances: ReadonlyMap<string, number>): string | null {
  if (!Object.hasOwn(MOVES, kind)) return `there is no kind ${kind}`
  const [from, to] = MOVES[kind]
  const after = new Map<string, number>()
  let sum = 0
  for (const { account, amount } of lines) {
    if (!Number.isSafeInteger(amount)) return `${amount} is no whole amount`
    const whose = account.slice(0, account.indexOf(':'))
    if (amount !== 0 && !(amount < 0 ? from : to).includes(whose))
      return `${kind} may not move ${amount} to ${account}`
    sum += amount
    after.set(account, (after.get(account) ?? balances.get(account) ?? 0) + amount)
  }
  for (const [account, balance] of after)
    if (balance < 0 && !mayOwe(account)) return `${account} would have ${balance}`
  return sum === 0 ? null : `its lines sum to ${sum}, not to 0`
}

function isLine(line: unknown): line is LedgerLine {
  const { prev, entry } = (line ?? {}) as Partial<LedgerLine>
  const lines = entry?.lines as unknown
  return (
    typeof prev === 'string' &&
    Array.isArray(lines) &&
    lines.every((one) => typeof (one as { account?: unknown } | null)?.account === 'string')
  )
}

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

function addTo(balances: Map<string, number>, account: string, amount: number): number {
  const balance = (balances.get(account) ?? 0) + amount
  // Every job has an account for a while.
  if (balance === 0) balances.delete(account)
  else balances.set(account, balance)
  return balance
}
