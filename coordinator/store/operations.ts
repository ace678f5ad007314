/** Every call of the store in SQL, one method each, synchronous; database.ts puts transactions around them. */
import type { Digest } from '../../protocol/index.ts'
import type { Cells, Database } from './database.ts'
import { ROWS_PER_BATCH } from './schema.ts'
import { FINAL, StoreError } from './store.ts'
import type {
  ApiKeyRecord, BatchChange, BatchRecord, BatchStatus, Compacted, Counts, Document, DocumentKind, FileRecord,
  IdempotencyRecord, LedgerHead, LedgerRecord, NewRow, Page, Place, Retention, Row, RowOutcome, RowState, Settlement, Tenant,
} from './store.ts' // prettier-ignore

/** The hash before the first entry. */
export const LEDGER_START: Digest = '0'.repeat(64)

const DONE = 1
const FAILED = 2
const STATES: readonly RowState[] = ['open', 'done', 'failed']
/** Bytes of lines in one answer. */
const PAGE_BYTES = 4 * 1024 * 1024
/** Rows deleted in one go, so that others are not kept waiting. */
const SWEEP_ROWS = 2_000

export class Operations {
  readonly #db: Database
  /** Numbers of batches by their id, to save a look-up per row. */
  readonly #numbers = new Map<string, number>()

  constructor(db: Database) {
    this.#db = db
  }

  createFile(file: FileRecord): void {
    const { id, tenant, purpose, digest, expiresAt } = file
    this.#db.run(
      'INSERT INTO files(id, tenant, purpose, digest, expires, json) VALUES (?, ?, ?, ?, ?, ?)',
      id, tenant, purpose, digest, expiresAt, JSON.stringify(file),
    ) // prettier-ignore
  }

  file(id: string): FileRecord | null {
    return parsed(this.#db.get('SELECT json FROM files WHERE id = ?', id))
  }

  files(tenant: Tenant, { after, limit, order, purpose }: Page & { purpose?: string }): FileRecord[] {
    const isUp = order === 'asc'
    const from =
      after === undefined ? null : (this.#db.get('SELECT seq FROM files WHERE id = ?', after)?.seq ?? -1)
    if (from === -1) return []
    return this.#db
      .all(
        `SELECT json FROM files WHERE tenant = ?1 AND (?2 IS NULL OR seq ${isUp ? '>' : '<'} ?2) AND (?3 IS NULL OR purpose = ?3)
         ORDER BY seq ${isUp ? 'ASC' : 'DESC'} LIMIT ?4`,
        tenant,
        from,
        purpose ?? null,
        limit,
      ) // prettier-ignore
      .map((cells) => parsed<FileRecord>(cells)!)
  }

  deleteFile(id: string): boolean {
    return this.#db.run('DELETE FROM files WHERE id = ?', id) > 0
  }

  createBatch(batch: BatchRecord): void {
    const { id, tenant, input, status } = batch
    this.#db.run(
      'INSERT INTO batches(id, tenant, input, status, is_open, json) VALUES (?, ?, ?, ?, ?, ?)',
      id, tenant, input, status, FINAL.includes(status) ? 0 : 1, JSON.stringify(batch),
    ) // prettier-ignore
  }

  batch(id: string): BatchRecord | null {
    return parsed(this.#db.get('SELECT json FROM batches WHERE id = ?', id))
  }

  batches(tenant: Tenant, { after, limit, order }: Page): BatchRecord[] {
    const isUp = order === 'asc'
    const from = after === undefined ? null : (this.#number(after) ?? -1)
    if (from === -1) return []
    return this.#db
      .all(
        `SELECT json FROM batches WHERE tenant = ?1 AND (?2 IS NULL OR seq ${isUp ? '>' : '<'} ?2)
         ORDER BY seq ${isUp ? 'ASC' : 'DESC'} LIMIT ?3`,
        tenant,
        from,
        limit,
      ) // prettier-ignore
      .map((cells) => parsed<BatchRecord>(cells)!)
  }

  openBatches(): BatchRecord[] {
    return this.#db
      .all('SELECT json FROM batches WHERE is_open = 1 ORDER BY seq')
      .map((cells) => parsed<BatchRecord>(cells)!)
  }

  changeBatch(id: string, change: BatchChange, from?: readonly BatchStatus[]): BatchRecord | null {
    const batch = this.batch(id)
    if (!batch || (from && !from.includes(batch.status))) return null
    const changed = { ...batch, ...change, at: { ...batch.at, ...change.at } }
    const { status, at } = changed
    const isOver = FINAL.includes(status)
    this.#db.run(
      'UPDATE batches SET json = ?, status = ?, is_open = ?, ended = ? WHERE id = ?',
      JSON.stringify(changed), status, isOver ? 0 : 1, isOver ? (at[status] ?? batch.createdAt) : null, id,
    ) // prettier-ignore
    return changed
  }

  addRows(batch: string, rows: readonly NewRow[]): void {
    const number = this.#validating(batch)
    for (const { index, customId, offset, bytes } of rows)
      this.#db.run(
        'INSERT INTO rows(id, batch, custom_id, offset, bytes) VALUES (?, ?, ?, ?, ?)',
        idOf(number, index), number, customId, offset, bytes,
      ) // prettier-ignore
    this.#db.run('UPDATE batches SET accepted = accepted + ? WHERE seq = ?', rows.length, number)
  }

  clearRows(batch: string): void {
    const number = this.#validating(batch)
    for (const table of ['outcomes', 'rows']) this.#db.run(`DELETE FROM ${table} WHERE batch = ?`, number)
    this.#db.run(
      'UPDATE batches SET accepted = 0, done = 0, failed = 0, done_bytes = 0, failed_bytes = 0 WHERE seq = ?',
      number,
    )
  }

  rows(batch: string, { from = 0, limit, state }: { from?: number; limit: number; state?: RowState }): Row[] {
    const number = this.#number(batch)
    if (number === undefined) return []
    const which = { all: '', open: 'AND o.id IS NULL', done: 'AND o.state = 1', failed: 'AND o.state = 2' }
    return this.#page(
      `SELECT ${ROW} FROM rows r LEFT JOIN outcomes o ON o.id = r.id
       WHERE r.id >= ? AND r.id < ? ${which[state ?? 'all']} ORDER BY r.id LIMIT ?`,
      [idOf(number, from), idOf(number + 1, 0), limit],
    )
  }

  place(batch: string, state: 'done' | 'failed', byte: number): Place {
    const number = this.#number(batch)
    if (number === undefined) return { index: null, start: 0, size: 0 }
    const [low, high, which] = [idOf(number, 0), idOf(number + 1, 0), STATES.indexOf(state)]
    const { total, done, failed, doneBytes, failedBytes } = this.counts(batch)
    const bytes = state === 'done' ? doneBytes : failedBytes
    const isWhole = done + failed === total
    const first = (sql: string, ...values: number[]): number => this.#db.get(sql, low, high, ...values)!.id as number
    if (isWhole && byte === 0 && bytes > 0) {
      const id = first('SELECT id FROM outcomes WHERE id >= ? AND id < ? AND state = ? ORDER BY id LIMIT 1', which)
      return { index: id - low, start: 0, size: bytes }
    }
    // Only indices of outcomes are read, not their lines.
    const open = isWhole ? high : first(
      `SELECT id FROM rows WHERE id >= ?1 AND id < ?2
         AND id NOT IN (SELECT id FROM outcomes INDEXED BY outcomes_in_order WHERE batch = ?3) ORDER BY id LIMIT 1`,
      number,
    )
    // Where lines begin in the order stored says how long they are.
    const { id, start, size } = this.#db.get(
      `WITH
         stored AS (
           SELECT id, lead(start, 1, ?1) OVER (ORDER BY start) - start AS bytes FROM outcomes WHERE batch = ?2 AND state = ?3),
         file AS (SELECT id, bytes, sum(bytes) OVER (ORDER BY id) AS stop FROM stored WHERE id < ?4)
       SELECT min(id) FILTER (WHERE stop > ?5) AS id, min(stop - bytes) FILTER (WHERE stop > ?5) AS start,
         coalesce(sum(bytes), 0) AS size FROM file`,
      bytes, number, which, open, byte,
    ) as Record<string, number | null>
    return { index: id === null ? null : id! - low, start: start ?? size!, size: size! }
  } // prettier-ignore

  rowsOf(receipt: string): (Row & { batch: string })[] {
    return this.#db
      .all(
        `SELECT b.id AS named, ${ROW} FROM outcomes o JOIN rows r ON r.id = o.id JOIN batches b ON b.seq = o.batch
         WHERE o.receipt = ? AND o.state = 1 ORDER BY o.id`,
        receipt,
      )
      .map((cells) => ({ ...this.#row(cells), batch: cells.named as string }))
  }

  counts(batch: string): Counts {
    const cells = this.#db.get(
      'SELECT accepted, done, failed, done_bytes, failed_bytes FROM batches WHERE id = ?',
      batch,
    )
    if (!cells) return { total: 0, done: 0, failed: 0, doneBytes: 0, failedBytes: 0 }
    const { accepted, done, failed, done_bytes, failed_bytes } = cells as Record<string, number>
    return {
      total: accepted!,
      done: done!,
      failed: failed!,
      doneBytes: done_bytes!,
      failedBytes: failed_bytes!,
    }
  }

  correctRow({ batch, index, line, receipt }: RowOutcome): boolean {
    const number = this.#number(batch)
    if (number === undefined) return false
    const id = idOf(number, index)
    const old = this.#db.get('SELECT start, line, blob FROM outcomes WHERE id = ? AND state = ?', id, DONE)
    if (!old) return false
    const { text, blob } = this.#db.keep(line)
    this.#db.run('UPDATE outcomes SET line = ?, blob = ?, receipt = ? WHERE id = ?', text, blob, receipt, id)
    const longer =
      lineBytes(line) - lineBytes(this.#db.kept(old.line as string | null, old.blob as string | null))
    this.#db.run(
      'UPDATE outcomes SET start = start + ? WHERE batch = ? AND state = ? AND start > ?',
      longer, number, DONE, old.start!,
    ) // prettier-ignore
    this.#db.run('UPDATE batches SET done_bytes = done_bytes + ? WHERE seq = ?', longer, number)
    return true
  }

  settle({ rows = [], entries = [], documents = [] }: Settlement): { stored: number } {
    const stored = this.#settleRows(rows)
    if (entries.length) this.#append(entries)
    for (const { kind, id, at, json } of documents) {
      if (json === null) {
        this.#db.run('DELETE FROM documents WHERE kind = ? AND id = ?', kind, id)
        continue
      }
      const { text, blob } = this.#db.keep(json)
      this.#db.run(
        `INSERT INTO documents(kind, id, at, json, blob) VALUES (?, ?, ?, ?, ?)
         ON CONFLICT DO UPDATE SET at = excluded.at, json = excluded.json, blob = excluded.blob`,
        kind, id, at, text, blob,
      ) // prettier-ignore
    }
    return { stored }
  }

  /** Returns how many of them were accepted and open: those have their outcome now. */
  #settleRows(rows: readonly RowOutcome[]): number {
    let stored = 0
    // What a batch comes to is read once and written once.
    const batches = new Map<number, Record<'done' | 'failed' | 'done_bytes' | 'failed_bytes', number>>()
    for (const { batch, index, state, line, receipt } of rows) {
      const number = this.#number(batch)
      if (number === undefined) continue
      let sums = batches.get(number)
      if (!sums) {
        sums = this.#db.get(
          'SELECT done, failed, done_bytes, failed_bytes FROM batches WHERE seq = ?',
          number,
        ) as typeof sums & {}
        batches.set(number, sums)
      }
      const { text, blob } = this.#db.keep(line)
      const isStored = this.#db.run(
        `INSERT INTO outcomes(id, batch, state, start, receipt, line, blob)
         SELECT id, batch, ?, ?, ?, ?, ? FROM rows WHERE id = ? ON CONFLICT(id) DO NOTHING`,
        state === 'done' ? DONE : FAILED, sums[`${state}_bytes`], receipt, text, blob, idOf(number, index),
      ) // prettier-ignore
      if (!isStored) continue
      stored++
      sums[state]++
      sums[`${state}_bytes`] += lineBytes(line)
    }
    for (const [number, { done, failed, done_bytes, failed_bytes }] of batches)
      this.#db.run(
        'UPDATE batches SET done = ?, failed = ?, done_bytes = ?, failed_bytes = ? WHERE seq = ?',
        done, failed, done_bytes, failed_bytes, number,
      ) // prettier-ignore
    return stored
  }

  #append(entries: readonly LedgerRecord[]): void {
    let head = this.ledgerHead()
    for (const { seq, prev, hash, json } of entries) {
      if (seq !== head.seq + 1 || prev !== head.hash)
        throw new StoreError(
          'conflict',
          `Ledger entry ${seq} does not follow entry ${head.seq} (${head.hash}).`,
        )
      this.#db.run('INSERT INTO ledger(seq, hash, json) VALUES (?, ?, ?)', seq, hash, json)
      head = { seq, hash }
    }
  }

  ledgerHead(): LedgerHead {
    const cells = this.#db.get('SELECT seq, hash FROM ledger ORDER BY seq DESC LIMIT 1')
    return cells ? { seq: cells.seq as number, hash: cells.hash as string } : { seq: 0, hash: LEDGER_START }
  }

  ledger(after: number, limit: number): LedgerRecord[] {
    // What is kept of what was dropped, so that the next one has something to follow.
    const link = this.#db.get('SELECT MIN(seq) AS seq FROM ledger HAVING seq > 1')?.seq as number | undefined
    const from = Math.max(after, link ?? 0)
    let prev = this.#db.get('SELECT hash FROM ledger WHERE seq = ?', from)?.hash ?? LEDGER_START
    return this.#db
      .all('SELECT seq, hash, json FROM ledger WHERE seq > ? ORDER BY seq LIMIT ?', from, limit)
      .map(({ seq, hash, json }) => {
        const record = { seq, prev, hash, json } as LedgerRecord
        prev = hash!
        return record
      })
  }

  dropLedger(to: number): void {
    this.#db.run('DELETE FROM ledger WHERE seq < min(?, (SELECT MAX(seq) FROM ledger))', to)
  }

  document(kind: DocumentKind, id: string): Document | null {
    const cells = this.#db.get('SELECT id, at, json, blob FROM documents WHERE kind = ? AND id = ?', kind, id)
    return cells ? this.#document(cells) : null
  }

  documents(kind: DocumentKind, after: string, limit: number): Document[] {
    return this.#db
      .all(
        'SELECT id, at, json, blob FROM documents WHERE kind = ? AND id > ? ORDER BY id LIMIT ?',
        kind,
        after,
        limit,
      )
      .map((cells) => this.#document(cells))
  }

  #document({ id, at, json, blob }: Cells): Document {
    return {
      id: id as string,
      at: at as number,
      json: this.#db.kept(json as string | null, blob as string | null),
    }
  }

  createKey(key: ApiKeyRecord): void {
    this.#db.run('INSERT INTO keys(id, hash, json) VALUES (?, ?, ?)', key.id, key.hash, JSON.stringify(key))
  }

  keyByHash(hash: Digest): ApiKeyRecord | null {
    return parsed(this.#db.get('SELECT json FROM keys WHERE hash = ?', hash))
  }

  keys(): ApiKeyRecord[] {
    return this.#db.all('SELECT json FROM keys ORDER BY seq').map((cells) => parsed<ApiKeyRecord>(cells)!)
  }

  revokeKey(id: string, at: number): boolean {
    const key = parsed<ApiKeyRecord>(this.#db.get('SELECT json FROM keys WHERE id = ?', id))
    if (!key || key.revokedAt !== null) return false
    this.#db.run('UPDATE keys SET json = ? WHERE id = ?', JSON.stringify({ ...key, revokedAt: at }), id)
    return true
  }

  claim(
    { tenant, key, request, createdAt }: IdempotencyRecord,
    freshAfter: number,
  ): IdempotencyRecord | null {
    const cells = this.#db.get('SELECT * FROM claims WHERE tenant = ? AND key = ?', tenant, key)
    if (cells && (cells.at as number) >= freshAfter) {
      const { status, headers, body, blob } = cells as Record<string, string | null>
      const answer =
        status === null
          ? null
          : { status: Number(status), headers: JSON.parse(headers!), body: this.#db.kept(body!, blob!) }
      return { tenant, key, request: cells.request as string, createdAt: cells.at as number, answer }
    }
    this.#db.run(
      'INSERT OR REPLACE INTO claims(tenant, key, at, request) VALUES (?, ?, ?, ?)', tenant, key, createdAt, request,
    ) // prettier-ignore
    return null
  }

  answered(tenant: Tenant, key: string, answer: IdempotencyRecord['answer']): void {
    if (!answer) {
      this.#db.run('DELETE FROM claims WHERE tenant = ? AND key = ? AND status IS NULL', tenant, key)
      return
    }
    const { text, blob } = this.#db.keep(answer.body)
    this.#db.run(
      'UPDATE claims SET status = ?, headers = ?, body = ?, blob = ? WHERE tenant = ? AND key = ?',
      answer.status, JSON.stringify(answer.headers), text, blob, tenant, key,
    ) // prettier-ignore
  }

  /** A part of the work at a time; `isOver` when nothing is left. Blobs are the caller's to sweep. */
  compact({ now, batchesS, receiptsS, idempotencyS }: Retention): Compacted & { isOver: boolean } {
    const files = this.#db.run('DELETE FROM files WHERE expires <= ?', now)
    const claims = this.#db.run('DELETE FROM claims WHERE at <= ?', now - idempotencyS)
    const receipts = this.#db.run(
      `DELETE FROM documents WHERE rowid IN (SELECT rowid FROM documents WHERE kind = 'receipt' AND at <= ? LIMIT ${SWEEP_ROWS})`,
      now - receiptsS,
    )
    const counted = { batches: 0, files, receipts, claims, blobs: 0 }
    const old = this.#db.get(
      'SELECT seq, id FROM batches WHERE is_open = 0 AND ended <= ? ORDER BY seq LIMIT 1',
      now - batchesS,
    )
    if (!old) return { ...counted, isOver: receipts < SWEEP_ROWS }
    const low = idOf(old.seq as number, 0)
    const high = idOf((old.seq as number) + 1, 0)
    for (const table of ['outcomes', 'rows']) {
      const some = `SELECT id FROM ${table} WHERE id >= ? AND id < ? LIMIT ${SWEEP_ROWS}`
      if (this.#db.run(`DELETE FROM ${table} WHERE id IN (${some})`, low, high) === SWEEP_ROWS)
        return { ...counted, isOver: false }
    }
    this.#db.run('DELETE FROM batches WHERE seq = ?', old.seq!)
    this.#numbers.delete(old.id as string)
    return { ...counted, batches: 1, isOver: false }
  }

  /** Digests of every blob that something refers to. */
  blobsInUse(): Digest[] {
    return this.#db
      .all(
        `SELECT digest AS blob FROM files UNION SELECT input FROM batches
         UNION SELECT blob FROM outcomes WHERE blob IS NOT NULL UNION SELECT blob FROM documents WHERE blob IS NOT NULL
         UNION SELECT blob FROM claims WHERE blob IS NOT NULL`,
      )
      .map(({ blob }) => blob as string)
  }

  #page(sql: string, values: (string | number)[]): Row[] {
    const page: Row[] = []
    let bytes = 0
    for (const cells of this.#db.iterate(sql, ...values)) {
      const row = this.#row(cells)
      bytes += row.line?.length ?? 0
      if (page.length && bytes > PAGE_BYTES) break
      page.push(row)
    }
    return page
  }

  #row(cells: Cells): Row {
    const { id, custom_id, offset, bytes, state, receipt, line, blob } = cells
    return {
      index: (id as number) % ROWS_PER_BATCH,
      customId: custom_id as string,
      offset: offset as number,
      bytes: bytes as number,
      state: STATES[(state as number | null) ?? 0]!,
      receipt: receipt as string | null,
      line: state === null ? null : this.#db.kept(line as string | null, blob as string | null),
    }
  }

  #number(batch: string): number | undefined {
    let number = this.#numbers.get(batch)
    if (number === undefined) {
      number = this.#db.get('SELECT seq FROM batches WHERE id = ?', batch)?.seq as number | undefined
      // A batch created in a group that is undone would leave a wrong number behind: those are asked for again.
      if (number !== undefined) this.#remember(batch, number)
    }
    return number
  }

  #remember(batch: string, number: number): void {
    if (this.#numbers.size > 1_000) this.#numbers.clear()
    this.#numbers.set(batch, number)
  }

  /** After a group was undone. */
  forget(): void {
    this.#numbers.clear()
  }

  #validating(batch: string): number {
    const cells = this.#db.get('SELECT seq, status FROM batches WHERE id = ?', batch)
    if (cells?.status !== 'validating') throw new StoreError('conflict', `${batch} is not being validated.`)
    return cells.seq as number
  }
}

const ROW = 'r.id, r.custom_id, r.offset, r.bytes, o.state, o.receipt, o.line, o.blob'
const idOf = (number: number, index: number): number => number * ROWS_PER_BATCH + index
const lineBytes = (line: string): number => Buffer.byteLength(line) + 1

function parsed<T>(cells: Cells | undefined): T | null {
  return cells ? (JSON.parse(cells.json as string) as T) : null
}
