/**
 * What is kept of the work done: receipts, evidence, the ledger. Records is the part of a Store (store/store.ts) that this takes;
 * without a data folder it is held in memory, bounded, and ends with the process.
 */
import type { Document, DocumentKind, LedgerHead, LedgerRecord, Settlement, Store } from './store/store.ts'
import { StoreError } from './store/store.ts'

export type Records = Pick<Store, 'settle' | 'ledgerHead' | 'ledger' | 'dropLedger' | 'document' | 'documents'>

/** Before the first entry. */
export const GENESIS: LedgerHead = { seq: 0, hash: '0'.repeat(64) }

/** Characters of documents, and entries of the ledger, that memory is spent on. */
const CHARS_MAX = 64 * 1024 * 1024
const ENTRIES_MAX = 200_000

export class MemoryRecords implements Records {
  readonly #documents = new Map<string, Document>()
  readonly #entries: LedgerRecord[] = []
  #head = GENESIS
  #chars = 0

  async settle({ entries = [], documents = [] }: Settlement): Promise<{ stored: number }> {
    for (const entry of entries) {
      if (entry.seq !== this.#head.seq + 1 || entry.prev !== this.#head.hash)
        throw new StoreError('conflict', `ledger entry ${entry.seq} does not follow ${this.#head.seq}`)
      this.#entries.push(entry)
      this.#head = { seq: entry.seq, hash: entry.hash }
    }
    if (this.#entries.length > ENTRIES_MAX) this.#entries.splice(0, ENTRIES_MAX / 10)
    for (const { kind, id, at, json } of documents) {
      const name = `${kind} ${id}`
      this.#chars += (json?.length ?? 0) - (this.#documents.get(name)?.json.length ?? 0)
      if (json === null) this.#documents.delete(name)
      else this.#documents.set(name, { id, at, json })
    }
    // The oldest receipts go first; all else is small, and wanted for as long as this lives.
    if (this.#chars > CHARS_MAX)
      for (const [name, { json }] of this.#documents) {
        if (this.#chars <= 0.9 * CHARS_MAX) break
        if (!name.startsWith('receipt ')) continue
        this.#documents.delete(name)
        this.#chars -= json.length
      }
    return { stored: 0 }
  }

  async ledgerHead(): Promise<LedgerHead> {
    return this.#head
  }

  async ledger(after: number, limit: number): Promise<LedgerRecord[]> {
    const first = this.#head.seq - this.#entries.length
    const from = Math.max(0, after - first)
    return this.#entries.slice(from, from + limit)
  }

  async dropLedger(to: number): Promise<void> {
    const first = this.#head.seq - this.#entries.length
    this.#entries.splice(0, Math.max(0, Math.min(to, this.#head.seq) - first))
  }

  async document(kind: DocumentKind, id: string): Promise<Document | null> {
    return this.#documents.get(`${kind} ${id}`) ?? null
  }

  async documents(kind: DocumentKind, after: string, limit: number): Promise<Document[]> {
    return [...this.#documents]
      .filter(([name, { id }]) => name.startsWith(`${kind} `) && id > after)
      .map(([, document]) => document)
      .sort((a, b) => (a.id < b.id ? -1 : 1))
      .slice(0, limit)
  }
}

/** Gathers what one call of the core brings about, and has it stored as a whole. */
export class Recorder {
  readonly #records: Records
  readonly #onFault: (error: unknown) => void
  #rows: NonNullable<Settlement['rows']>[number][] = []
  #entries: LedgerRecord[] = []
  /** By kind and id: of what one call writes twice only the last is wanted. */
  #documents = new Map<string, NonNullable<Settlement['documents']>[number]>()

  #next = Promise.withResolvers<void>()

  constructor(records: Records, onFault: (error: unknown) => void) {
    this.#records = records
    this.#onFault = onFault
  }

  entry(entry: LedgerRecord): void {
    this.#entries.push(entry)
  }

  /** Null: it is forgotten. Resolves once it is durable, or could not be kept (onFault was told). */
  document(kind: DocumentKind, id: string, json: string | null): Promise<void> {
    this.#documents.set(`${kind} ${id}`, { kind, id, json, at: Math.floor(Date.now() / 1000) })
    return this.#next.promise
  }

  /** Goes into the transaction of what the core did with it. Resolves as document() does. */
  row(row: NonNullable<Settlement['rows']>[number]): Promise<void> {
    this.#rows.push(row)
    return this.#next.promise
  }

  /** After each call of the core; resolves once it is durable. */
  async flush(): Promise<void> {
    const [rows, entries, documents] = [this.#rows, this.#entries, [...this.#documents.values()]]
    if (!rows.length && !entries.length && !documents.length) return
    this.#rows = []
    this.#entries = []
    this.#documents = new Map()
    const { resolve } = this.#next
    this.#next = Promise.withResolvers()
    await this.#records.settle({ rows, entries, documents }).catch(this.#onFault)
    resolve()
  }
}
