/**
 * What outlives the coordinator: one interface, any database behind it (sqlite.ts here; test/store/model.ts is the definition).
 *
 * A write's promise resolves once it is durable, and reads see only durable writes. Writes take effect in the order they
 * were called, each whole or not at all. Times are unix seconds unless the name says Ms. Errors: StoreError.
 */
import type { Digest, Trust } from '../../protocol/index.ts'

export type StoreErrorCode =
  /** Another coordinator has this data open. */
  | 'in_use'
  /** The database was written by a newer version. */
  | 'newer'
  /** The database's bytes are damaged. */
  | 'corrupt'
  /** No space left, or a file-size limit; nothing of the write was kept. */
  | 'disk_full'
  /** No more files can be opened, or another trouble with files; the message is the system's. */
  | 'io'
  /** An id that exists already, or a ledger entry that does not follow the last one. */
  | 'conflict'
  | 'closed'

export class StoreError extends Error {
  override name = 'StoreError'
  readonly code: StoreErrorCode
  constructor(code: StoreErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
  }
}

/** Whose it is: an API key's tenant, or `public` where the API is open. */
export type Tenant = string

export interface FileRecord {
  /** `file-…` */
  id: string
  tenant: Tenant
  filename: string
  purpose: 'batch' | 'batch_output'
  bytes: number
  /** Of its content, in blobs. */
  digest: Digest
  createdAt: number
  expiresAt: number | null
}

export type BatchStatus =
  | 'validating'
  | 'in_progress'
  | 'finalizing'
  | 'completed'
  | 'failed'
  | 'expired'
  | 'cancelling'
  | 'cancelled'

export const FINAL: readonly BatchStatus[] = ['completed', 'failed', 'expired', 'cancelled']

export interface BatchFault {
  code: string
  message: string
  param: string | null
  /** From 1; null when it is about the whole file. */
  line: number | null
}

export interface BatchRecord {
  /** `batch_…` */
  id: string
  tenant: Tenant
  endpoint: string
  /** As the rows ask for it; null until validated. */
  model: string | null
  trust: Trust
  inputFile: string
  /** The input's bytes: kept for the batch's life, even when its file is deleted. */
  input: Digest
  status: BatchStatus
  /** Rows accepted; 0 until validated. */
  total: number
  createdAt: number
  /** Rows that are not done then are `batch_expired`. */
  expiresAt: number
  /** When each status began. */
  at: Partial<Record<BatchStatus, number>>
  errors: readonly BatchFault[]
  metadata: Readonly<Record<string, string>> | null
  /** Ids under which its output and error lines can be read (they need no FileRecord while the batch runs). */
  outputFile: string | null
  errorFile: string | null
  /** Anything the API keeps with it: webhook, window, output expiry. */
  extra: Readonly<Record<string, unknown>>
}
/** What may change of a batch. */
export type BatchChange = Partial<
  Pick<
    BatchRecord,
    'model' | 'status' | 'total' | 'expiresAt' | 'at' | 'errors' | 'outputFile' | 'errorFile' | 'extra'
  >
>

/** A row as accepted: where its line lies in the batch's input. */
export interface NewRow {
  /** Line of the input, from 0; blank lines count, so indices may have gaps. */
  index: number
  customId: string
  /** Bytes of the input. */
  offset: number
  bytes: number
}
export type RowState = 'open' | 'done' | 'failed'
/** What became of a row. `line` is its whole line of the output or error file, JSON without the newline. */
export interface RowOutcome {
  batch: string
  index: number
  state: 'done' | 'failed'
  line: string
  /** Of the answer; null when there is none. */
  receipt: string | null
}
export interface Row extends NewRow {
  state: RowState
  line: string | null
  receipt: string | null
}
/**
 * A byte's place in a batch's output or error file: the lines of its done or failed rows, each with a newline, in the order of
 * their indices, and none behind a row that is still open: so no line ever changes its place.
 */
export interface Place {
  /** Of the row whose line holds the byte; null at the file's end and behind it. */
  index: number | null
  /** Where that line begins, or the file ends. */
  start: number
  /** Of the file so far, bytes. */
  size: number
}
export interface Counts {
  /** Rows accepted so far. */
  total: number
  done: number
  failed: number
  /** Bytes of their lines, newlines included. */
  doneBytes: number
  failedBytes: number
}

/** One entry of the hash chain (see coordinator/books/audit.ts): `seq` counts from 1 without gaps, `prev` is the hash before. */
export interface LedgerRecord {
  seq: number
  prev: Digest
  hash: Digest
  /** Canonical JSON: what was hashed. */
  json: string
}
export interface LedgerHead {
  seq: number
  hash: Digest
}
/** JSON kept under an id; written again, it is replaced. */
export interface Document {
  id: string
  json: string
  at: number
}
/** `claim`: an answer that may still be found wrong. */
export type DocumentKind = 'receipt' | 'evidence' | 'identity' | 'lottery' | 'claim'

/** Everything one call of the core brought about: stored in one transaction. */
export interface Settlement {
  /** A row that has an outcome already keeps it; one that was never accepted, or is forgotten, is left out. */
  rows?: readonly RowOutcome[]
  /** Must follow the ledger's head, in order. */
  entries?: readonly LedgerRecord[]
  /** Without JSON: it is forgotten. */
  documents?: readonly (Omit<Document, 'json'> & { kind: DocumentKind; json: string | null })[]
}

export interface ApiKeyRecord {
  id: string
  tenant: Tenant
  name: string
  /** SHA-256 of the key, hex: the key itself is shown once and kept nowhere. */
  hash: Digest
  /** The first letters, to recognise it by. */
  prefix: string
  scopes: readonly string[]
  createdAt: number
  expiresAt: number | null
  revokedAt: number | null
  /** Weight in fair share, quotas. */
  extra: Readonly<Record<string, unknown>>
}

export interface IdempotencyRecord {
  tenant: Tenant
  key: string
  /** SHA-256 of method, path and body. */
  request: Digest
  createdAt: number
  /** Null while the first request with this key is still being answered. */
  answer: { status: number; headers: Readonly<Record<string, string>>; body: string } | null
}

export interface Page {
  /** Id of the last one seen; entries after it in the order asked for. */
  after?: string
  limit: number
  /** By creation; default newest first. */
  order?: 'asc' | 'desc'
}

export interface Store {
  readonly blobs: Blobs
  /** Writes called and not yet durable: the measure for backpressure. */
  readonly backlog: number

  createFile(file: FileRecord): Promise<void>
  file(id: string): Promise<FileRecord | null>
  files(tenant: Tenant, page: Page & { purpose?: string }): Promise<FileRecord[]>
  /** Its bytes stay as long as a batch needs them. False if there is none. */
  deleteFile(id: string): Promise<boolean>

  createBatch(batch: BatchRecord): Promise<void>
  batch(id: string): Promise<BatchRecord | null>
  batches(tenant: Tenant, page: Page): Promise<BatchRecord[]>
  /** Those that are not over, oldest first, of every tenant. */
  openBatches(): Promise<BatchRecord[]>
  /**
   * Only if its status is one of `from` (default: any). A new status is entered in `at` with the time given in `change.at`.
   * Returns the batch after it, or null when there is none or its status is another.
   */
  changeBatch(id: string, change: BatchChange, from?: readonly BatchStatus[]): Promise<BatchRecord | null>

  /** While validating. An index or customId twice: `conflict`, and none of these rows is kept. */
  addRows(batch: string, rows: readonly NewRow[]): Promise<void>
  /** Forgets a batch's rows, to validate it again. Only while validating. */
  clearRows(batch: string): Promise<void>
  /** By index, from `from` on; in one state or all. Fewer than `limit` when they are large. */
  rows(batch: string, query: { from?: number; limit: number; state?: RowState }): Promise<Row[]>
  /** Where one reads a batch's output or error file from this byte on. */
  place(batch: string, state: 'done' | 'failed', byte: number): Promise<Place>
  /** Done rows whose answer has this receipt. */
  rowsOf(receipt: string): Promise<(Row & { batch: string })[]>
  counts(batch: string): Promise<Counts>
  /** A later check found a done row's answer wrong: its line and receipt are replaced where it stands. False if it is not done. */
  correctRow(outcome: RowOutcome): Promise<boolean>

  /** Returns which rows it stored: those that were open. Never fails for lack of space: it waits for space, and all others behind it. */
  settle(settlement: Settlement): Promise<{ stored: number }>

  ledgerHead(): Promise<LedgerHead>
  /** Entries after `after`, in order. */
  ledger(after: number, limit: number): Promise<LedgerRecord[]>
  /** Forgets entries up to `to`, but never the head: the last of them is what the next one follows, and is listed no more. */
  dropLedger(to: number): Promise<void>

  document(kind: DocumentKind, id: string): Promise<Document | null>
  /** In the order of their ids, after `after`. */
  documents(kind: DocumentKind, after: string, limit: number): Promise<Document[]>

  createKey(key: ApiKeyRecord): Promise<void>
  keyByHash(hash: Digest): Promise<ApiKeyRecord | null>
  keys(): Promise<ApiKeyRecord[]>
  /** False if there is none, or it was revoked before. */
  revokeKey(id: string, at: number): Promise<boolean>

  /** Claims a key for a request: null if it was free or older than `freshAfter`, else what is there. */
  claim(record: IdempotencyRecord, freshAfter: number): Promise<IdempotencyRecord | null>
  /** The answer to keep under a claimed key; null gives the key back. */
  answered(tenant: Tenant, key: string, answer: IdempotencyRecord['answer']): Promise<void>

  /** Deletes what is past its time: see Retention. */
  compact(retention: Retention): Promise<Compacted>
  /** A copy of everything, consistent in itself, as a new folder that can be opened as data. `conflict` if it exists. */
  backup(folder: string): Promise<void>
  /** Waits for what was called before. */
  close(): Promise<void>
}

export interface Retention {
  now: number
  /** Batches that are over go with their rows, this long after their end. (Files go at their expiresAt, or never.) */
  batchesS: number
  receiptsS: number
  idempotencyS: number
}
export interface Compacted {
  batches: number
  files: number
  receipts: number
  claims: number
  blobs: number
}

/** Bytes by their SHA-256: written once, never changed. */
export interface Blobs {
  /** Streams bytes in; they exist once finish() resolved. */
  create(): Promise<BlobWriter>
  /** Bytes [start, end); rejects with `io` if there is none. */
  read(digest: Digest, start?: number, end?: number): AsyncIterable<Uint8Array>
  has(digest: Digest): Promise<boolean>
}
export interface BlobWriter {
  write(bytes: Uint8Array): Promise<void>
  finish(): Promise<{ digest: Digest; bytes: number }>
  /** Forgets what was written; after finish() it does nothing. */
  abort(): Promise<void>
}
