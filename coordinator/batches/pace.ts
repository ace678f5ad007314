/** How fast a batch goes: for its ETA, and for how many rows make a job of a useful size. */
import type { Progress } from '../api/batches.ts'
import type { JobReport } from '../jobs.ts'

/** Compute in one job: some units of a volunteer's second each, so that they share it; and not much to lose in a crash. */
const JOB_MS = 4_000
const ROWS_FIRST = 32
/** Writing so many answers down holds this thread for some 20 ms. */
const ROWS_MAX = 256
/** The last minute, in seconds. */
const SECONDS = 60
/** Names of volunteers remembered to count them. */
const VOLUNTEERS_MAX = 10_000

export class Pace {
  readonly #now: () => number
  readonly #began: number
  /** Rows of each second since the beginning, the last minute's of them. */
  readonly #counted = new Float64Array(SECONDS)
  #second = 0
  #msPerRow: number | undefined
  readonly #volunteers = new Set<string>()

  /** @param now monotonic milliseconds */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now
    this.#began = now()
  }

  /** A job said how long its rows took. Its report comes once per row, and says the same. */
  learn({ volunteers }: JobReport, rows: number): void {
    let [ms, items] = [0, 0]
    for (const one of volunteers) {
      ms += one.computeMs
      items += one.items
      if (this.#volunteers.size < VOLUNTEERS_MAX) this.#volunteers.add(one.volunteer)
    }
    if (!items || !rows) return
    this.#msPerRow ??= ms / items
    this.#msPerRow += (ms / items - this.#msPerRow) / 16
  }

  get rowsPerJob(): number {
    if (this.#msPerRow === undefined) return ROWS_FIRST
    return Math.max(1, Math.min(ROWS_MAX, Math.round(JOB_MS / Math.max(this.#msPerRow, 1e-3))))
  }

  /** Rows became durable. */
  count(rows: number): void {
    this.#advance()
    this.#counted[this.#second % SECONDS]! += rows
  }

  progress(left: number): Progress {
    this.#advance()
    const rows = this.#counted.reduce((n, one) => n + one, 0)
    const seconds = Math.max(1, Math.min(SECONDS, (this.#now() - this.#began) / 1000))
    const rowsPerS = rows / seconds
    return { rowsPerS, etaMs: rows ? (left / rowsPerS) * 1000 : null, volunteers: this.#volunteers.size }
  }

  /** Seconds that went by are emptied. */
  #advance(): void {
    const now = Math.floor((this.#now() - this.#began) / 1000)
    if (now - this.#second >= SECONDS) this.#counted.fill(0)
    else for (let i = this.#second + 1; i <= now; i++) this.#counted[i % SECONDS] = 0
    this.#second = Math.max(this.#second, now)
  }
}
