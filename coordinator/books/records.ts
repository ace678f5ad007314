/** What is kept of the work done: receipts, evidence, the ledger. Records is the part of a Store (store/store.ts) that this takes. */
import type { DocumentKind, LedgerHead, LedgerRecord, Settlement, Store } from '../store/store.ts'

export type Records = Pick<
  Store,
  'settle' | 'ledgerHead' | 'ledger' | 'dropLedger' | 'document' | 'documents'
>

/** Before the first entry. */
export const GENESIS: LedgerHead = { seq: 0, hash: '0'.repeat(64) }

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
