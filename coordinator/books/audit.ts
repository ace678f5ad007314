/**
 * What must hold in a ledger, for whoever keeps one and whoever believes nobody: double entries in a chain of hashes, so that nothing
 * can be changed, left out or put in between without every later hash showing it.
 */
import { canonicalJson } from './canonical.ts'
import type { Json } from './canonical.ts'
import type { Checkpoint } from './compaction.ts'
import type { Posting } from '../core/events.ts'
import { sha256 } from './documents.ts'
import { GENESIS } from './records.ts'
import type { LedgerHead } from '../store/store.ts'

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

/** SHA-256 of the hash before and the entry as canonical JSON, as text. */
export const hashOf = (prev: string, json: string): string => sha256(prev + json)

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
export function flawOf({ kind, lines }: LedgerEntry, balances: ReadonlyMap<string, number>): string | null {
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

export function addTo(balances: Map<string, number>, account: string, amount: number): void {
  const balance = (balances.get(account) ?? 0) + amount
  // Every job has an account for a while.
  if (balance === 0) balances.delete(account)
  else balances.set(account, balance)
}
