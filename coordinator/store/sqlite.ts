/**
 * The store in SQLite: the database lives in a thread of its own, so that a slow disk never stalls a socket.
 * Whatever was called while one transaction ran goes into the next: the busier it is, the more share a sync.
 */
import { constants, copyFile, mkdir, readdir, rm } from 'node:fs/promises'
import path from 'node:path'
import { Worker } from 'node:worker_threads'
import type { Digest } from '../../protocol/index.ts'
import { blobFile, FileBlobs, syncFolder } from './blobs.ts'
import { BLOBS, DATABASE } from './database.ts'
import type { Call } from './database.ts'
import { asStoreError } from './faults.ts'
import type { Operations } from './operations.ts'
import type { FromThread, ToThread } from './sqlite-worker.ts'
import { StoreError } from './store.ts'
import type {
  ApiKeyRecord, BatchChange, BatchRecord, BatchStatus, Compacted, Counts, Document, DocumentKind, FileRecord,
  IdempotencyRecord, LedgerHead, LedgerRecord, NewRow, Page, Place, Retention, Row, RowOutcome, RowState, Settlement, Store, Tenant,
} from './store.ts' // prettier-ignore

/** Calls in one transaction; a row's outcome counts as one. */
const GROUP_MAX = 1_024
/** Beside the database, and meaning nothing to another run: who has it open, and its key for this machine's commands. */
const PASSING = /^(pid|running\.json)/
/** A full disk is tried again after this. */
const RETRY_MS = 250

export interface SqliteOptions {
  /** Told when writes must wait for the disk, and (null) when they no longer do. */
  onTrouble?: (message: string | null) => void
}

interface Pending extends Call {
  resolve: (value: never) => void
  reject: (error: StoreError) => void
}

type Methods = Pick<Operations, Exclude<keyof Operations, 'forget'>> & { copyTo: (file: string) => void }

/** Rejects with StoreError: `in_use`, `newer`, `corrupt`, `io`, `disk_full`; messages are for people. */
export async function openStore(folder: string, options: SqliteOptions = {}): Promise<SqliteStore> {
  const worker = new Worker(new URL('./sqlite-worker.ts', import.meta.url), { workerData: folder })
  const first = await new Promise<FromThread>((resolve, reject) => {
    worker.once('message', resolve)
    worker.once('error', reject)
  })
  if (first.type === 'failed') {
    await worker.terminate()
    throw new StoreError(first.code, first.message)
  }
  try {
    return new SqliteStore(folder, worker, new FileBlobs(path.join(folder, BLOBS)), options)
  } catch (error) {
    await worker.terminate()
    throw asStoreError(error, folder)
  }
}

export class SqliteStore implements Store {
  readonly blobs: FileBlobs
  readonly #folder: string
  readonly #worker: Worker
  readonly #onTrouble: (message: string | null) => void
  #queue: Pending[] = []
  #running: Pending[] = []
  #isBusy = false
  #isTroubled = false
  #isClosing = false
  #closed: (() => void) | undefined

  constructor(folder: string, worker: Worker, blobs: FileBlobs, { onTrouble }: SqliteOptions) {
    this.#folder = folder
    this.#worker = worker
    this.blobs = blobs
    this.#onTrouble = onTrouble ?? (() => {})
    worker.on('message', (message: FromThread) => this.#hear(message))
    worker.on('error', (error) => this.#die(asStoreError(error, folder)))
    worker.on('exit', () => this.#die(new StoreError('closed', `The store in ${folder} is closed.`)))
  }

  /** What must be kept waits for the disk to take it. */
  get isTroubled(): boolean {
    return this.#isTroubled
  }

  get backlog(): number {
    return this.#queue.length + this.#running.length
  }

  #call<Name extends keyof Methods>(
    method: Name,
    args: Parameters<Methods[Name]>,
    isPatient = false,
  ): Promise<ReturnType<Methods[Name]>> {
    if (this.#isClosing)
      return Promise.reject(new StoreError('closed', `The store in ${this.#folder} is closed.`))
    return new Promise((resolve, reject) => {
      this.#queue.push({ method, args, isPatient, resolve, reject })
      if (this.#isBusy) return
      this.#isBusy = true
      // What is called in one go shares a transaction.
      queueMicrotask(() => this.#next())
    })
  }

  #next(): void {
    let end = this.#queue.findIndex(({ method }) => method === 'copyTo')
    if (end === 0) end = 1
    this.#running = this.#queue.splice(0, end > 0 ? Math.min(end, GROUP_MAX) : GROUP_MAX)
    this.#isBusy = this.#running.length > 0
    if (!this.#isBusy) return this.#endClose()
    const calls = this.#running.map(({ method, args, isPatient }) => ({ method, args, isPatient }))
    this.#worker.postMessage({ type: 'calls', calls } satisfies ToThread)
  }

  #hear(message: FromThread): void {
    if (message.type !== 'replies') return
    const { replies } = message
    const again: Pending[] = []
    let trouble: string | null = null
    this.#running.forEach((pending, i) => {
      const reply = replies[i]!
      if ('value' in reply) pending.resolve(reply.value as never)
      else if ('code' in reply) pending.reject(new StoreError(reply.code, reply.message))
      else if (this.#isClosing) pending.reject(new StoreError('disk_full', reply.message))
      else {
        again.push(pending)
        trouble = reply.message
      }
    })
    this.#running = []
    this.#tell(trouble)
    if (!again.length) return this.#next()
    this.#queue.unshift(...again)
    setTimeout(() => this.#next(), RETRY_MS)
  }

  #tell(trouble: string | null): void {
    if ((trouble !== null) === this.#isTroubled) return
    this.#isTroubled = trouble !== null
    this.#onTrouble(trouble)
  }

  #endClose(): void {
    if (this.#closed) this.#worker.postMessage({ type: 'close' } satisfies ToThread)
  }

  #die(error: StoreError): void {
    this.#isClosing = true
    for (const { reject } of [...this.#running.splice(0), ...this.#queue.splice(0)]) reject(error)
    this.#closed?.()
  }

  async close(): Promise<void> {
    if (this.#isClosing) return
    this.#isClosing = true
    await new Promise<void>((resolve) => {
      this.#closed = resolve
      if (!this.#isBusy) this.#endClose()
    })
  }

  createFile = (file: FileRecord): Promise<void> => this.#call('createFile', [file])
  file = (id: string): Promise<FileRecord | null> => this.#call('file', [id])
  files = (tenant: Tenant, page: Page & { purpose?: string }): Promise<FileRecord[]> =>
    this.#call('files', [tenant, page])
  deleteFile = (id: string): Promise<boolean> => this.#call('deleteFile', [id])

  createBatch = (batch: BatchRecord): Promise<void> => this.#call('createBatch', [batch])
  batch = (id: string): Promise<BatchRecord | null> => this.#call('batch', [id])
  batches = (tenant: Tenant, page: Page): Promise<BatchRecord[]> => this.#call('batches', [tenant, page])
  openBatches = (): Promise<BatchRecord[]> => this.#call('openBatches', [])
  changeBatch = (
    id: string,
    change: BatchChange,
    from?: readonly BatchStatus[],
  ): Promise<BatchRecord | null> => this.#call('changeBatch', [id, change, from])

  addRows = (batch: string, rows: readonly NewRow[]): Promise<void> => this.#call('addRows', [batch, rows])
  clearRows = (batch: string): Promise<void> => this.#call('clearRows', [batch])
  rows = (batch: string, query: { from?: number; limit: number; state?: RowState }): Promise<Row[]> =>
    this.#call('rows', [batch, query])
  place = (batch: string, state: 'done' | 'failed', byte: number): Promise<Place> =>
    this.#call('place', [batch, state, byte])
  rowsOf = (receipt: string): Promise<(Row & { batch: string })[]> => this.#call('rowsOf', [receipt])
  counts = (batch: string): Promise<Counts> => this.#call('counts', [batch])
  correctRow = (outcome: RowOutcome): Promise<boolean> => this.#call('correctRow', [outcome], true)

  settle = (settlement: Settlement): Promise<{ stored: number }> => this.#call('settle', [settlement], true)
  ledgerHead = (): Promise<LedgerHead> => this.#call('ledgerHead', [])
  ledger = (after: number, limit: number): Promise<LedgerRecord[]> => this.#call('ledger', [after, limit])
  dropLedger = (to: number): Promise<void> => this.#call('dropLedger', [to])
  document = (kind: DocumentKind, id: string): Promise<Document | null> => this.#call('document', [kind, id])
  documents = (kind: DocumentKind, after: string, limit: number): Promise<Document[]> =>
    this.#call('documents', [kind, after, limit])

  createKey = (key: ApiKeyRecord): Promise<void> => this.#call('createKey', [key])
  keyByHash = (hash: Digest): Promise<ApiKeyRecord | null> => this.#call('keyByHash', [hash])
  keys = (): Promise<ApiKeyRecord[]> => this.#call('keys', [])
  revokeKey = (id: string, at: number): Promise<boolean> => this.#call('revokeKey', [id, at])
  claim = (record: IdempotencyRecord, freshAfter: number): Promise<IdempotencyRecord | null> =>
    this.#call('claim', [record, freshAfter])
  answered = (tenant: Tenant, key: string, answer: IdempotencyRecord['answer']): Promise<void> =>
    this.#call('answered', [tenant, key, answer])

  async compact(retention: Retention): Promise<Compacted> {
    const all: Compacted = { batches: 0, files: 0, receipts: 0, claims: 0, blobs: 0 }
    for (;;) {
      const { isOver, ...part } = await this.#call('compact', [retention])
      for (const name of Object.keys(part) as (keyof Compacted)[]) all[name] += part[name]
      if (isOver) break
    }
    const used = new Set(await this.#call('blobsInUse', []))
    all.blobs = await this.blobs.sweep((digest) => used.has(digest))
    return all
  }

  async backup(folder: string): Promise<void> {
    try {
      await mkdir(folder, { recursive: false, mode: 0o700 })
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw asStoreError(error, folder)
      throw new StoreError('conflict', `${folder} exists already: name a folder that does not.`)
    }
    try {
      // In one breath: what the copy refers to is what is in use right before it, and blobs never change.
      const [used] = await Promise.all([
        this.#call('blobsInUse', []),
        this.#call('copyTo', [path.join(folder, DATABASE)]),
      ])
      const [from, to] = [path.join(this.#folder, BLOBS), path.join(folder, BLOBS)]
      for (const digest of used) {
        await mkdir(path.dirname(blobFile(to, digest)), { recursive: true })
        await copyFile(blobFile(from, digest), blobFile(to, digest), constants.COPYFILE_FICLONE)
      }
      // The coordinator's key and whatever else lies beside the database, but for what is only true of this run.
      for (const entry of await readdir(this.#folder, { withFileTypes: true }))
        if (entry.isFile() && !entry.name.startsWith(DATABASE) && !PASSING.test(entry.name))
          await copyFile(path.join(this.#folder, entry.name), path.join(folder, entry.name))
      syncFolder(folder)
    } catch (error) {
      await rm(folder, { recursive: true, force: true })
      throw asStoreError(error, folder)
    }
  }
}
