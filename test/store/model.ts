/** What a store is, in plain maps: the definition that every real one must agree with. Nothing outlives it. */
import { createHash } from 'node:crypto'
import { LEDGER_START } from '../../coordinator/store/operations.ts'
import { FINAL, StoreError } from '../../coordinator/store/store.ts'
import type {
  ApiKeyRecord, BatchChange, BatchRecord, BatchStatus, Blobs, BlobWriter, Compacted, Counts, Document, DocumentKind,
  FileRecord, IdempotencyRecord, LedgerHead, LedgerRecord, NewRow, Page, Place, Retention, Row, RowOutcome, RowState, Settlement, Store,
} from '../../coordinator/store/store.ts' // prettier-ignore

interface BatchState {
  record: BatchRecord
  rows: Map<number, NewRow & { outcome?: RowOutcome }>
}

const bytesOf = (outcomes: readonly RowOutcome[]): number =>
  outcomes.reduce((n, { line }) => n + Buffer.byteLength(line) + 1, 0)

function conflict(message: string): never {
  throw new StoreError('conflict', message)
}

function paged<T extends { id: string }>(all: T[], { after, limit, order }: Page): T[] {
  const list = order === 'asc' ? all : all.toReversed()
  if (after === undefined) return list.slice(0, limit)
  const at = list.findIndex(({ id }) => id === after)
  return at < 0 ? [] : list.slice(at + 1, at + 1 + limit)
}

export class ModelStore implements Store {
  readonly blobs = new ModelBlobs()
  readonly backlog = 0
  #files: FileRecord[] = []
  #batches: BatchState[] = []
  #ledger: LedgerRecord[] = []
  /** Entries that are listed no more. */
  #dropped = 0
  #documents = new Map<string, Document & { kind: DocumentKind }>()
  #keys: ApiKeyRecord[] = []
  #claims = new Map<string, IdempotencyRecord>()

  async createFile(file: FileRecord): Promise<void> {
    if (this.#files.some(({ id }) => id === file.id)) conflict('a file twice')
    this.#files.push(file)
  }
  async file(id: string): Promise<FileRecord | null> {
    return this.#files.find((file) => file.id === id) ?? null
  }
  async files(tenant: string, page: Page & { purpose?: string }): Promise<FileRecord[]> {
    const { after, purpose } = page
    const all = this.#files.filter((f) => f.tenant === tenant && (!purpose || f.purpose === purpose))
    if (after === undefined || all.some(({ id }) => id === after)) return paged(all, page)
    // The last one seen may be another tenant's or of another purpose: its place still counts.
    const at = this.#files.findIndex(({ id }) => id === after)
    if (at < 0) return []
    const place = (file: FileRecord): number => this.#files.indexOf(file)
    const rest = all.filter((file) => (page.order === 'asc' ? place(file) > at : place(file) < at))
    return paged(rest, { ...page, after: undefined })
  }
  async deleteFile(id: string): Promise<boolean> {
    const at = this.#files.findIndex((file) => file.id === id)
    if (at >= 0) this.#files.splice(at, 1)
    return at >= 0
  }

  async createBatch(record: BatchRecord): Promise<void> {
    if (this.#state(record.id)) conflict('a batch twice')
    this.#batches.push({ record, rows: new Map() })
  }
  async batch(id: string): Promise<BatchRecord | null> {
    return this.#state(id)?.record ?? null
  }
  async batches(tenant: string, page: Page): Promise<BatchRecord[]> {
    return paged(this.#batches.map(({ record }) => record).filter((one) => one.tenant === tenant), page) // prettier-ignore
  }
  async openBatches(): Promise<BatchRecord[]> {
    return this.#batches.map(({ record }) => record).filter(({ status }) => !FINAL.includes(status))
  }
  async changeBatch(
    id: string,
    change: BatchChange,
    from?: readonly BatchStatus[],
  ): Promise<BatchRecord | null> {
    const state = this.#state(id)
    if (!state || (from && !from.includes(state.record.status))) return null
    state.record = { ...state.record, ...change, at: { ...state.record.at, ...change.at } }
    return state.record
  }

  async addRows(batch: string, rows: readonly NewRow[]): Promise<void> {
    const state = this.#validating(batch)
    const all = [...state.rows.values(), ...rows]
    if (new Set(all.map(({ index }) => index)).size < all.length) conflict('an index twice')
    if (new Set(all.map(({ customId }) => customId)).size < all.length) conflict('a custom_id twice')
    for (const row of rows) state.rows.set(row.index, row)
  }
  async clearRows(batch: string): Promise<void> {
    this.#validating(batch).rows.clear()
  }
  async rows(
    batch: string,
    { from = 0, limit, state }: { from?: number; limit: number; state?: RowState },
  ): Promise<Row[]> {
    const found = this.#state(batch)
    if (!found) return []
    return [...found.rows.values()]
      .sort((a, b) => a.index - b.index)
      .filter((row) => row.index >= from && (!state || state === (row.outcome?.state ?? 'open')))
      .slice(0, limit)
      .map(({ index }) => row(found, index))
  }
  async place(batch: string, state: 'done' | 'failed', byte: number): Promise<Place> {
    const rows = [...(this.#state(batch)?.rows.values() ?? [])].sort((a, b) => a.index - b.index)
    const open = rows.findIndex(({ outcome }) => !outcome)
    const readable = (open < 0 ? rows : rows.slice(0, open)).filter(({ outcome }) => outcome!.state === state)
    const size = bytesOf(readable.map(({ outcome }) => outcome!))
    let stop = 0
    for (const { index, outcome } of readable) {
      const start = stop
      stop += bytesOf([outcome!])
      if (stop > byte) return { index, start, size }
    }
    return { index: null, start: size, size }
  }
  async rowsOf(receipt: string): Promise<(Row & { batch: string })[]> {
    return this.#batches.flatMap((state) =>
      [...state.rows.values()]
        .filter(({ outcome }) => outcome?.receipt === receipt && outcome.state === 'done')
        .sort((a, b) => a.index - b.index)
        .map(({ index }) => ({ ...row(state, index), batch: state.record.id })),
    )
  }
  async counts(batch: string): Promise<Counts> {
    const rows = [...(this.#state(batch)?.rows.values() ?? [])]
    const [done, failed] = (['done', 'failed'] as const).map((s) =>
      rows.flatMap(({ outcome }) => (outcome?.state === s ? [outcome] : [])),
    )
    return {
      total: rows.length,
      done: done!.length,
      failed: failed!.length,
      doneBytes: bytesOf(done!),
      failedBytes: bytesOf(failed!),
    }
  }
  async correctRow({ batch, index, line, receipt }: RowOutcome): Promise<boolean> {
    const outcome = this.#state(batch)?.rows.get(index)?.outcome
    if (outcome?.state !== 'done') return false
    Object.assign(outcome, { line, receipt })
    return true
  }

  async settle({ rows = [], entries = [], documents = [] }: Settlement): Promise<{ stored: number }> {
    let head = await this.ledgerHead()
    for (const entry of entries) {
      if (entry.seq !== head.seq + 1 || entry.prev !== head.hash) conflict('not the next entry')
      head = entry
    }
    let stored = 0
    for (const outcome of rows) {
      const state = this.#state(outcome.batch)
      const row = state?.rows.get(outcome.index)
      if (!state || !row || row.outcome) continue
      row.outcome = { ...outcome }
      stored++
    }
    this.#ledger.push(...entries)
    for (const { json, ...one } of documents) {
      const name = `${one.kind} ${one.id}`
      if (json === null) this.#documents.delete(name)
      else this.#documents.set(name, { ...one, json })
    }
    return { stored }
  }

  async ledgerHead(): Promise<LedgerHead> {
    const { seq, hash } = this.#ledger.at(-1) ?? { seq: 0, hash: LEDGER_START }
    return { seq, hash }
  }
  async ledger(after: number, limit: number): Promise<LedgerRecord[]> {
    const from = Math.max(after, this.#dropped)
    return this.#ledger.slice(from, from + limit)
  }
  async dropLedger(to: number): Promise<void> {
    const last = Math.min(to, this.#ledger.length)
    if (last > 1) this.#dropped = Math.max(this.#dropped, last)
  }
  async document(kind: DocumentKind, id: string): Promise<Document | null> {
    return (await this.documents(kind, '', Infinity)).find((one) => one.id === id) ?? null
  }
  async documents(kind: DocumentKind, after: string, limit: number): Promise<Document[]> {
    return [...this.#documents.values()]
      .filter((one) => one.kind === kind && one.id > after)
      .sort((a, b) => (a.id < b.id ? -1 : 1))
      .slice(0, limit)
      .map(({ id, at, json }) => ({ id, at, json }))
  }

  async createKey(key: ApiKeyRecord): Promise<void> {
    if (this.#keys.some(({ id, hash }) => id === key.id || hash === key.hash)) conflict('a key twice')
    this.#keys.push(key)
  }
  async keyByHash(hash: string): Promise<ApiKeyRecord | null> {
    return this.#keys.find((key) => key.hash === hash) ?? null
  }
  async keys(): Promise<ApiKeyRecord[]> {
    return this.#keys.slice()
  }
  async revokeKey(id: string, at: number): Promise<boolean> {
    const index = this.#keys.findIndex((key) => key.id === id && key.revokedAt === null)
    if (index >= 0) this.#keys[index] = { ...this.#keys[index]!, revokedAt: at }
    return index >= 0
  }

  async claim(record: IdempotencyRecord, freshAfter: number): Promise<IdempotencyRecord | null> {
    const name = JSON.stringify([record.tenant, record.key])
    const known = this.#claims.get(name)
    if (known && known.createdAt >= freshAfter) return known
    this.#claims.set(name, { ...record, answer: null })
    return null
  }
  async answered(tenant: string, key: string, answer: IdempotencyRecord['answer']): Promise<void> {
    const name = JSON.stringify([tenant, key])
    const known = this.#claims.get(name)
    if (answer && known) this.#claims.set(name, { ...known, answer })
    else if (known?.answer === null) this.#claims.delete(name)
  }

  async compact({ now, batchesS, receiptsS, idempotencyS }: Retention): Promise<Compacted> {
    const before = [this.#batches.length, this.#files.length, this.#documents.size, this.#claims.size]
    this.#batches = this.#batches.filter(({ record: { status, at, createdAt } }) => {
      return !FINAL.includes(status) || (at[status] ?? createdAt) > now - batchesS
    })
    this.#files = this.#files.filter(({ expiresAt }) => expiresAt === null || expiresAt > now)
    for (const [id, { kind, at }] of this.#documents)
      if (kind === 'receipt' && at <= now - receiptsS) this.#documents.delete(id)
    for (const [id, { createdAt }] of this.#claims)
      if (createdAt <= now - idempotencyS) this.#claims.delete(id)
    const after = [this.#batches.length, this.#files.length, this.#documents.size, this.#claims.size]
    const [batches, files, receipts, claims] = before.map((n, i) => n - after[i]!) as [
      number,
      number,
      number,
      number,
    ]
    return { batches, files, receipts, claims, blobs: 0 }
  }

  async backup(): Promise<void> {
    throw new StoreError('io', 'a model of a store has nothing to copy')
  }
  async close(): Promise<void> {}

  #state(batch: string): BatchState | undefined {
    return this.#batches.find(({ record }) => record.id === batch)
  }
  #validating(batch: string): BatchState {
    const state = this.#state(batch)
    return state?.record.status === 'validating' ? state : conflict('not validating')
  }
}

function row({ rows }: BatchState, index: number): Row {
  const { outcome, customId, offset, bytes } = rows.get(index)!
  const { state = 'open' as const, line = null, receipt = null } = outcome ?? {}
  return { index, customId, offset, bytes, state, line, receipt }
}

class ModelBlobs implements Blobs {
  readonly #all = new Map<string, Buffer>()

  async create(): Promise<BlobWriter> {
    const parts: Uint8Array[] = []
    let isOver = false
    return {
      write: async (bytes) => void parts.push(bytes.slice()),
      finish: async () => {
        if (isOver) throw new StoreError('closed', 'over')
        isOver = true
        const whole = Buffer.concat(parts)
        const digest = createHash('sha256').update(whole).digest('hex')
        this.#all.set(digest, whole)
        return { digest, bytes: whole.length }
      },
      abort: async () => void (isOver = true),
    }
  }
  async *read(digest: string, start = 0, end = Infinity): AsyncGenerator<Uint8Array> {
    const whole = this.#all.get(digest)
    if (!whole) throw new StoreError('io', 'no such blob')
    if (start < Math.min(end, whole.length)) yield whole.subarray(start, Math.min(end, whole.length))
  }
  async has(digest: string): Promise<boolean> {
    return this.#all.has(digest)
  }
}
