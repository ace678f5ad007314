/**
 * One batch from validation to its end. Rows go to the network in portions, as batch work, and each is over once its line is
 * durable: whatever this process had in its hands when it was killed is simply an open row for the next life.
 */
import type { RequesterId } from '../../protocol/index.ts'
import { encodeRows } from '../api/encoders.ts'
import type { Encoding } from '../api/encoders.ts'
import { groupOf, isEndpoint, perform, understand } from '../api/asks.ts'
import type { Ask } from '../api/asks.ts'
import type { ApiContext, Caller } from '../api/context.ts'
import type { Progress } from '../api/batches.ts'
import { ApiError } from '../api/errors.ts'
import { outputLine, refusedLine, rowRequestId, undoneLine } from '../api/outputs.ts'
import { bodyOf, validate } from '../api/validation.ts'
import { Pace } from './pace.ts'
import { FINAL } from '../store/store.ts'
import type { BatchRecord, Row, RowOutcome, Store } from '../store/store.ts'

export interface RunHost {
  context: ApiContext
  store: Store
  /** Stores outcomes in the transaction of the call of the core that brought them; resolves once they are durable. */
  record: (rows: readonly RowOutcome[]) => Promise<void>
  /** Unix seconds. */
  now: () => number
  /** Told of every durable change. */
  onChange: () => void
  /** A batch can't go on in this life: the disk, or a fault of ours. */
  onFault: (error: unknown, batch: string) => void
}

/** Rows read from the store at once. */
const PORTION = 256
/** Bytes of input read at once. */
const READ_BYTES = 4 * 1024 * 1024
/** With the network or on the way to the disk, per batch: enough for a thousand tabs, and 32 MiB of input. */
const ROWS_MAX = 16_384
const BYTES_MAX = 32 * 1024 * 1024
/** Rows are undone in such portions at the end. */
const UNDONE = 1_000
/** Understanding rows is work for this thread; others have a turn after so many milliseconds. */
const TURN_MS = 5
/** The machine's clock is looked at so often, and followed when it is off by as much. */
const CLOCK_MS = 60_000
/** The core keeps a job no longer than a day. */
const DAY_MS = 86_400_000
const RETRY_MS = 1_000

type End = 'cancelled' | 'expired' | 'drained' | 'stopped'

interface Item {
  row: Row
  ask: Ask
}

export class BatchRun {
  readonly #id: string
  readonly #host: RunHost
  readonly #pace = new Pace()
  /** Called when nobody wants what the network is at. */
  readonly #gone = new Set<() => void>()
  #end: End | null = null
  #left = 0
  #rows = 0
  #bytes = 0
  /** Wakes whoever waits for something to be over. */
  #wake: () => void = () => {}
  #expiry: NodeJS.Timeout | undefined
  /** On the monotonic clock: setting the machine's own while rows are computed ends none of them. Milliseconds. */
  #endsAt = Infinity
  /** The same on the machine's clock, as it is stored. Unix seconds. */
  #expiresAt = Infinity
  /** Resolves with the record once the batch is over; with null where another life must go on with it. */
  readonly over: Promise<BatchRecord | null>

  constructor(id: string, host: RunHost) {
    this.#id = id
    this.#host = host
    this.over = this.#live()
      .catch(async (error: unknown) => {
        if (this.#end !== 'stopped') host.onFault(error, id)
        // What is under way is stored as it comes: a job that is cancelled is paid for as well.
        this.end('drained')
        await this.#until(() => this.#rows === 0)
        return null
      })
      .finally(() => clearTimeout(this.#expiry))
  }

  /** Expired and cancelled batches end; drained and stopped ones wait for another life. */
  end(how: End): void {
    if (this.#end === null || how === 'stopped') this.#end = how
    if (how !== 'drained') for (const gone of this.#gone) gone()
    this.#wake()
  }

  progress(): Progress {
    return this.#pace.progress(this.#left)
  }

  async #live(): Promise<BatchRecord | null> {
    const { store, context, onChange } = this.#host
    let batch = await store.batch(this.#id)
    if (batch) {
      this.#expiresAt = batch.expiresAt
      this.#endsAt = performance.now() + (batch.expiresAt - this.#host.now()) * 1000
      this.#watchClock()
    }
    if (batch?.status === 'validating') {
      await validate(context, store, batch).catch((error: unknown) => {
        // Cancelled meanwhile: a batch that is not being validated takes no rows.
        if (this.#end !== 'cancelled') throw error
      })
      batch = await store.batch(this.#id)
      onChange()
    }
    if (!batch || FINAL.includes(batch.status)) return batch
    if (batch.status === 'cancelling') this.end('cancelled')
    const { total, done, failed } = await store.counts(this.#id)
    this.#left = total - done - failed
    if (batch.status === 'in_progress') await this.#feed(batch)
    return this.#finish(batch)
  }

  #watchClock(): void {
    const ms = this.#msLeft()
    if (ms <= 0) return this.end('expired')
    this.#followClock()
    this.#expiry = setTimeout(() => this.#watchClock(), Math.min(ms, CLOCK_MS))
    this.#expiry.unref()
  }

  /** Where the machine's clock was set, the batch's end moves along: for whoever looks at it, and for the next life. */
  #followClock(): void {
    const before = this.#expiresAt
    const expiresAt = Math.round(this.#host.now() + this.#msLeft() / 1000)
    if (Math.abs(expiresAt - before) * 1000 < CLOCK_MS) return
    this.#expiresAt = expiresAt
    // Tried again with the next rows.
    this.#host.store.changeBatch(this.#id, { expiresAt }).catch(() => (this.#expiresAt = before))
  }

  #msLeft(): number {
    return this.#endsAt - performance.now()
  }

  async #feed(batch: BatchRecord): Promise<void> {
    const { store } = this.#host
    let group: Item[] = []
    let name: string | null = null
    const send = (): void => {
      if (group.length) void this.#send(batch, group)
      group = []
    }
    let turn = performance.now()
    try {
      for (let from = 0; this.#end === null;) {
        const rows = await store.rows(this.#id, { from, limit: PORTION, state: 'open' })
        if (rows.length === 0) break
        from = rows.at(-1)!.index + 1
        for await (const { row, text } of this.#read(batch, rows)) {
          if (this.#rows >= ROWS_MAX || this.#bytes >= BYTES_MAX) {
            send()
            await this.#until(() => this.#rows < ROWS_MAX && this.#bytes < BYTES_MAX)
          }
          if (this.#end !== null) break
          if (performance.now() - turn > TURN_MS) {
            await new Promise(setImmediate)
            turn = performance.now()
          }
          this.#rows++
          this.#bytes += row.bytes
          const ask = await this.#understand(batch, row, text)
          if (!ask) continue
          const itsName = groupOf(ask)
          if (itsName !== name || itsName === null) send()
          name = itsName
          group.push({ row, ask })
          if (itsName === null || inputsOf(group) >= this.#pace.rowsPerJob) send()
        }
      }
      if (this.#end === null) send()
    } finally {
      this.#letGo(group)
    }
    await this.#until(() => this.#rows === 0)
  }

  /** Rows with their lines; neighbours are read together. */
  async *#read(batch: BatchRecord, rows: readonly Row[]): AsyncGenerator<{ row: Row; text: string }> {
    for (let i = 0; i < rows.length;) {
      const { offset } = rows[i]!
      let next = i + 1
      while (next < rows.length && rows[next]!.offset + rows[next]!.bytes - offset <= READ_BYTES) next++
      const parts: Uint8Array[] = []
      const last = rows[next - 1]!
      for await (const part of this.#host.store.blobs.read(batch.input, offset, last.offset + last.bytes))
        parts.push(part)
      const bytes = Buffer.concat(parts)
      for (; i < next; i++) {
        const row = rows[i]!
        const at = row.offset - offset
        yield { row, text: bytes.toString('utf8', at, at + row.bytes) }
      }
    }
  }

  /** What a row asks for; null when it is over already, since it can't be understood. */
  async #understand({ endpoint }: BatchRecord, row: Row, text: string): Promise<Ask | null> {
    const requestId = rowRequestId(this.#id, row.index)
    if (!isEndpoint(endpoint)) throw new TypeError(`${this.#id} is for ${endpoint}, which is no endpoint`)
    try {
      return await understand(this.#host.context, endpoint, bodyOf(text), requestId)
    } catch (error) {
      if (!(error instanceof ApiError)) {
        this.#forget([row])
        throw error
      }
      void this.#keep([row], [refusedLine(requestId, row.customId, error)], 'failed', null)
      return null
    }
  }

  /** To the network, until it answers or the batch ends. Resolves when these rows are over, or given up for this life. */
  async #send(batch: BatchRecord, items: readonly Item[]): Promise<void> {
    const rows = items.map(({ row }) => row)
    for (;;) {
      if (this.#end !== null) return this.#letGo(items)
      try {
        const bodies = await this.#compute(batch, items)
        if (!bodies) return this.#letGo(items)
        const lines = bodies.map((body, i) =>
          outputLine(rowRequestId(this.#id, rows[i]!.index), rows[i]!.customId, body),
        )
        return await this.#keep(rows, lines, 'done', receiptOf(bodies[0]!))
      } catch (error) {
        if (!(error instanceof ApiError)) {
          this.#host.onFault(error, this.#id)
          return this.#letGo(items)
        }
        if (error.code === 'draining' || error.code === 'cancelled') return this.#letGo(items)
        const isBusy =
          ['overloaded', 'rate_limited', 'no_capacity'].includes(error.code) ||
          // Rows under way may need less than they reserve.
          (error.code === 'insufficient_credits' && error.retryMs !== undefined)
        if (isBusy || (error.code === 'deadline_exceeded' && !hasDeadline(items[0]!.ask))) {
          await this.#pause(error.retryMs ?? RETRY_MS)
          continue
        }
        // One of them is to blame, and the others shall not suffer for it.
        if (items.length > 1) {
          await Promise.all(items.map((item) => this.#send(batch, [item])))
          return
        }
        const [row] = rows as [Row]
        const line = refusedLine(rowRequestId(this.#id, row.index), row.customId, error)
        return this.#keep(rows, [line], 'failed', null)
      }
    }
  }

  /** The answers' bodies; null when nobody waits for them any more. Rejects with ApiError. */
  async #compute(batch: BatchRecord, items: readonly Item[]): Promise<object[] | null> {
    const began = new Set<() => void>()
    const caller: Caller = {
      requestId: rowRequestId(this.#id, items[0]!.row.index),
      requester: (batch.extra.requester ?? `tenant:${batch.tenant}`) as RequesterId,
      weight: batch.extra.weight as number | undefined,
      priority: 'batch',
      trust: batch.trust,
      deadlineMs: Math.max(1, Math.min(DAY_MS, this.#msLeft())),
      mayWait: true,
      onGone: (callback) => {
        began.add(callback)
        this.#gone.add(callback)
      },
      openStream: () => {
        throw new TypeError('a row of a batch has no stream')
      },
    }
    try {
      const encodings = items.flatMap(({ ask }) => ('encoding' in ask ? [this.#timed(ask.encoding)] : []))
      if (encodings.length) return await encodeRows(this.#host.context, caller, encodings)
      const body = await perform(this.#host.context, caller, items[0]!.ask)
      return body ? [body] : null
    } finally {
      for (const callback of began) this.#gone.delete(callback)
    }
  }

  #timed(encoding: Encoding): Encoding {
    return {
      ...encoding,
      answer: (values, report) => {
        this.#pace.learn(report, encoding.rows.length)
        return encoding.answer(values, report)
      },
    }
  }

  async #keep(
    rows: readonly Row[],
    lines: readonly string[],
    state: 'done' | 'failed',
    receipt: string | null,
  ): Promise<void> {
    const outcomes = rows.map(({ index }, i) => ({ batch: this.#id, index, state, line: lines[i]!, receipt }))
    await this.#host.record(outcomes)
    this.#followClock()
    this.#left -= rows.length
    this.#pace.count(rows.length)
    this.#host.onChange()
    this.#forget(rows)
  }

  #letGo(items: readonly Item[]): void {
    this.#forget(items.map(({ row }) => row))
  }

  #forget(rows: readonly Row[]): void {
    this.#rows -= rows.length
    for (const { bytes } of rows) this.#bytes -= bytes
    this.#wake()
  }

  async #until(isSo: () => boolean): Promise<void> {
    while (!isSo()) await new Promise<void>((resolve) => (this.#wake = resolve))
  }

  /** Ends early when the batch does. */
  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const done = (): void => {
        clearTimeout(timer)
        this.#gone.delete(done)
        resolve()
      }
      const timer = setTimeout(done, ms)
      this.#gone.add(done)
    })
  }

  async #finish(batch: BatchRecord): Promise<BatchRecord | null> {
    const { store, now } = this.#host
    const end = this.#end
    if (end === 'drained' || end === 'stopped') return null
    if (end === null) {
      const { total, done, failed } = await store.counts(this.#id)
      // Rows that were let go of after a fault are another life's.
      if (done + failed < total) return null
      const at = { finalizing: now(), completed: now() }
      return store.changeBatch(this.#id, { status: 'completed', at })
    }
    const code = end === 'expired' ? 'batch_expired' : 'batch_cancelled'
    if (batch.at.in_progress !== undefined) await this.#undo(code)
    return store.changeBatch(this.#id, { status: end, at: { [end]: now() } })
  }

  /** What is open now stays undone. */
  async #undo(code: 'batch_expired' | 'batch_cancelled'): Promise<void> {
    for (;;) {
      const rows = await this.#host.store.rows(this.#id, { limit: UNDONE, state: 'open' })
      if (rows.length === 0) return
      await this.#host.record(
        rows.map(({ index, customId }) => ({
          batch: this.#id,
          index,
          state: 'failed',
          line: undoneLine(rowRequestId(this.#id, index), customId, code),
          receipt: null,
        })),
      )
      this.#left -= rows.length
      this.#host.onChange()
    }
  }
}

const hasDeadline = (ask: Ask): boolean =>
  'encoding' in ask
    ? ask.encoding.deadlineMs !== undefined
    : ask.generation.body.volunteer?.deadline_ms != null

const inputsOf = (items: readonly Item[]): number =>
  items.reduce((n, { ask }) => n + ('encoding' in ask ? ask.encoding.rows.length : 1), 0)

function receiptOf(body: object): string | null {
  const { volunteer } = body as { volunteer?: { receipt?: string | null } }
  return volunteer?.receipt ?? null
}
