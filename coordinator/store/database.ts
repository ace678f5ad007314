/** The one connection: opened, checked, migrated; groups of operations in one transaction each. Runs in the store's thread. */
import { mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import type { SQLInputValue, StatementSync } from 'node:sqlite'
import type { Digest } from '../../protocol/index.ts'
import { blobFile, syncFolder, writeBlob } from './blobs.ts'
import { asStoreError, isTrouble } from './faults.ts'
import { APPLICATION_ID, STEPS } from './schema.ts'
import { StoreError } from './store.ts'
import type { StoreErrorCode } from './store.ts'

export const DATABASE = 'chorale.db'
export const BLOBS = 'blobs'
/** Texts of more bytes than this become blobs. */
export const INLINE_MAX = 64 * 1024
/** Databases up to this size are read through before they are trusted: ~0.2 s. */
const CHECKED_BYTES = 64 * 1024 * 1024
/** The log is folded into the database when it has this many pages (8 KiB): less often than SQLite's own 1000, since it stalls writers. */
const CHECKPOINT_PAGES = 4_000

export type Value = SQLInputValue
export type Cells = Record<string, string | number | null>

/** A call that arrived, and what came of it. */
export interface Call {
  method: string
  args: readonly unknown[]
  /** Never refused for lack of space: tried again. */
  isPatient: boolean
}
export type Reply =
  { value: unknown } | { code: StoreErrorCode; message: string } | { again: true; message: string }

export class Database {
  readonly #db: DatabaseSync
  readonly #statements = new Map<string, StatementSync>()
  readonly folder: string

  /** Throws StoreError: `in_use`, `newer`, `corrupt`, `io`, `disk_full`. */
  constructor(folder: string) {
    this.folder = folder
    const file = path.join(folder, DATABASE)
    try {
      mkdirSync(folder, { recursive: true, mode: 0o700 })
      this.#db = new DatabaseSync(file, { timeout: 0 })
      try {
        this.#open(file)
      } catch (error) {
        this.#db.close()
        throw error
      }
    } catch (error) {
      const known = asStoreError(error, file)
      throw known.code === 'in_use' ? new StoreError('in_use', inUse(folder), { cause: error }) : known
    }
  }

  #open(file: string): void {
    // Exclusive and in this order: the lock is taken by the first read, so nothing else gets between check and use.
    this.#db.exec('PRAGMA locking_mode = EXCLUSIVE')
    const isNew = this.#number('PRAGMA schema_version') === 0
    // An empty file is one whose maker was killed; with anything in it, it should have been ours.
    if (isNew && statSync(file).size === 0)
      this.#db.exec(`PRAGMA page_size = 8192; PRAGMA application_id = ${APPLICATION_ID}`)
    else if (this.#number('PRAGMA application_id') !== APPLICATION_ID)
      throw new StoreError('corrupt', `${file} is no database of Chorale's. Choose another data folder.`)
    this.#db.exec(`
      PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = ${CHECKPOINT_PAGES};
      PRAGMA journal_size_limit = 67108864; PRAGMA cache_size = -65536; PRAGMA temp_store = MEMORY;`)
    const taken = this.#number('PRAGMA user_version')
    if (taken > STEPS.length)
      throw new StoreError(
        'newer',
        `${file} was written by a newer Chorale (data version ${taken}; this one knows ${STEPS.length}). Use that one, or another data folder.`,
      )
    if (!isNew && statSync(file).size <= CHECKED_BYTES) {
      const { quick_check: found } = this.get('PRAGMA quick_check(1)')!
      if (found !== 'ok') throw Object.assign(new Error(String(found)), { errcode: 11 })
    }
    // An empty step still writes: the lock is a writer's from here on.
    this.#db.exec('BEGIN IMMEDIATE')
    for (const step of STEPS.slice(taken)) this.#db.exec(step)
    this.#db.exec(`PRAGMA user_version = ${STEPS.length}; COMMIT`)
    if (isNew) syncFolder(this.folder)
    writeFileSync(path.join(this.folder, 'pid'), `${process.pid}\n`)
  }

  #number(sql: string): number {
    return Number(Object.values(this.get(sql)!)[0])
  }

  close(): void {
    this.#db.close()
  }

  /** One transaction, one sync. A call that fails is undone by itself; trouble with the disk undoes all. */
  runGroup(calls: readonly Call[], run: (call: Call) => unknown): Reply[] {
    try {
      this.#do('BEGIN')
      const replies = calls.map((call) => this.#runOne(call, run))
      this.#do('COMMIT')
      return replies
    } catch (error) {
      if (this.#db.isTransaction) this.#db.exec('ROLLBACK')
      return calls.map((call) => this.#withoutWriting(call, run, error))
    }
  }

  #runOne(call: Call, run: (call: Call) => unknown): Reply {
    this.#do('SAVEPOINT one')
    try {
      const value = run(call)
      this.#do('RELEASE one')
      return { value }
    } catch (error) {
      const known = asStoreError(error, path.join(this.folder, DATABASE))
      if (isTrouble(error) || known.code === 'corrupt' || !this.#db.isTransaction) throw error
      this.#db.exec('ROLLBACK TO one; RELEASE one')
      return { code: known.code, message: known.message }
    }
  }

  /** After a group failed: reading still works when writing does not. */
  #withoutWriting(call: Call, run: (call: Call) => unknown, error: unknown): Reply {
    const { code, message } = asStoreError(error, path.join(this.folder, DATABASE))
    if (call.isPatient && isTrouble(error)) return { again: true, message }
    try {
      this.#db.exec('PRAGMA query_only = ON')
      return { value: run(call) }
    } catch {
      return { code, message }
    } finally {
      this.#db.exec('PRAGMA query_only = OFF')
    }
  }

  get(sql: string, ...values: Value[]): Cells | undefined {
    return this.#statement(sql).get(...values) as Cells | undefined
  }

  all(sql: string, ...values: Value[]): Cells[] {
    return this.#statement(sql).all(...values) as Cells[]
  }

  iterate(sql: string, ...values: Value[]): Iterable<Cells> {
    return this.#statement(sql).iterate(...values) as Iterable<Cells>
  }

  /** Returns how many rows it changed. */
  run(sql: string, ...values: Value[]): number {
    return Number(this.#statement(sql).run(...values).changes)
  }

  /** What is said so often that it is read only once. */
  #do(sql: 'BEGIN' | 'COMMIT' | 'SAVEPOINT one' | 'RELEASE one'): void {
    this.#statement(sql).run()
  }

  #statement(sql: string): StatementSync {
    let statement = this.#statements.get(sql)
    if (!statement) this.#statements.set(sql, (statement = this.#db.prepare(sql)))
    return statement
  }

  /** Where a text goes: into its row, or into a blob of its own. */
  keep(text: string): { text: string; blob: null } | { text: null; blob: Digest } {
    // Characters are at most three bytes of UTF-8 each.
    if (text.length * 3 <= INLINE_MAX || Buffer.byteLength(text) <= INLINE_MAX) return { text, blob: null }
    return { text: null, blob: writeBlob(path.join(this.folder, BLOBS), Buffer.from(text)) }
  }

  kept(text: string | null, blob: string | null): string {
    return text ?? readFileSync(blobFile(path.join(this.folder, BLOBS), blob!), 'utf8')
  }

  /** A copy that is consistent in itself, of the database alone. */
  copyTo(file: string): void {
    this.#db.prepare('VACUUM INTO ?').run(file)
  }
}

function inUse(folder: string): string {
  let pid = ''
  try {
    pid = ` (process ${readFileSync(path.join(folder, 'pid'), 'utf8').trim()})`
  } catch {
    // Then without it.
  }
  return `Another coordinator${pid} has ${folder} open. Stop it first, or choose another data folder.`
}
