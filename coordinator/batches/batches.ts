/** Runs every open batch of the store beside each other, from where its stored rows end, and tells who watches. */
import type { Progress, Runner } from '../api/batches.ts'
import { askAgain } from './again.ts'
import { BatchRun } from './run.ts'
import type { RunHost } from './run.ts'
import type { BatchRecord } from '../store/store.ts'

export interface BatchesHost extends Omit<RunHost, 'onChange'> {
  /** A batch reached its last status, durably. */
  onOver?: (batch: BatchRecord) => void
}

/** After trouble with the disk, or a fault of ours. */
const AGAIN_MS = 5_000

const IDLE: Progress = { rowsPerS: 0, etaMs: null, volunteers: 0 }

export class BatchRunner implements Runner {
  readonly #host: BatchesHost
  readonly #runs = new Map<string, BatchRun>()
  readonly #watchers = new Map<string, Set<() => void>>()
  #isStopped = false

  constructor(host: BatchesHost) {
    this.#host = host
  }

  /** Goes on with what an earlier life left open. Rejects with StoreError. */
  async recover(): Promise<void> {
    for (const { id } of await this.#host.store.openBatches()) this.start(id)
  }

  start = (batch: string): void => {
    if (this.#isStopped || this.#runs.has(batch)) return
    const run = new BatchRun(batch, { ...this.#host, onChange: () => this.#tell(batch) })
    this.#runs.set(batch, run)
    void run.over.then((record) => {
      this.#runs.delete(batch)
      this.#tell(batch)
      if (record) this.#host.onOver?.(record)
      else setTimeout(() => this.start(batch), AGAIN_MS).unref()
    })
  }

  cancel = async (batch: string): Promise<BatchRecord | null> => {
    const { store, now } = this.#host
    const at = { cancelling: now() }
    const record = await store.changeBatch(batch, { status: 'cancelling', at }, ['validating', 'in_progress'])
    if (!record) return null
    this.#tell(batch)
    this.#runs.get(batch)?.end('cancelled')
    return record
  }

  progress = (batch: string): Progress => this.#runs.get(batch)?.progress() ?? IDLE

  watch = (batch: string, onChange: () => void): (() => void) => {
    let watchers = this.#watchers.get(batch)
    if (!watchers) this.#watchers.set(batch, (watchers = new Set()))
    watchers.add(onChange)
    return () => {
      watchers.delete(onChange)
      if (watchers.size === 0 && this.#watchers.get(batch) === watchers) this.#watchers.delete(batch)
    }
  }

  /** An answer that was stored proved to be wrong: the rows it was given to are asked again. */
  correct = async (receipt: string): Promise<void> => {
    const { store, onFault } = this.#host
    // What ended in this turn is on its way to the store.
    await new Promise(setImmediate)
    for (const row of await store.rowsOf(receipt))
      try {
        await askAgain(this.#host, row)
        this.#tell(row.batch)
      } catch (error) {
        onFault(error, row.batch)
      }
  }

  /** Gives nothing more to the network. What it has is stored as it comes, until `stop`. */
  drain(): void {
    this.#isStopped = true
    for (const run of this.#runs.values()) run.end('drained')
  }

  /** What is not answered yet stays open for the next life. */
  async stop(): Promise<void> {
    this.#isStopped = true
    for (const run of this.#runs.values()) run.end('stopped')
    await Promise.all([...this.#runs.values()].map((run) => run.over))
  }

  #tell(batch: string): void {
    for (const onChange of this.#watchers.get(batch) ?? []) onChange()
  }
}
