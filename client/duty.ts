/**
 * The power limit: after each burst of work the engine rests long enough that busy ÷ (busy + idle) keeps to the limit.
 * Rests are saved up until a timer can keep them, and a timer that came late counts.
 */
export interface Clock {
  now(): number
  sleep(ms: number): Promise<void>
}

/** A shorter rest is postponed: timers are no finer, and a burst of tokens should not wait for each. */
const restMsMin = 8
/** What a late timer rested too much may be made up for, at most; longer was sleep, not rest. */
const creditMsMax = 200
const windowMs = 10_000

export class Duty {
  /** 0 < limit ≤ 1. */
  limit: number
  readonly #clock: Clock
  #owedMs = 0
  /** Bursts of the last ten seconds: when they ended and how long they took. */
  #bursts: { at: number; busyMs: number }[] = []

  constructor(limit: number, clock: Clock) {
    this.limit = limit
    this.#clock = clock
  }

  /** To be awaited after `busyMs` of work. */
  async rest(busyMs: number): Promise<void> {
    const now = this.#clock.now()
    this.#bursts.push({ at: now, busyMs })
    if (this.#bursts.length > 64 && this.#bursts[0]!.at < now - windowMs) this.#forget(now)
    if (this.limit >= 1) {
      this.#owedMs = 0
      return
    }
    this.#owedMs += busyMs * (1 / this.limit - 1)
    if (this.#owedMs < restMsMin) return
    await this.#clock.sleep(this.#owedMs)
    this.#owedMs = Math.max(-creditMsMax, this.#owedMs - (this.#clock.now() - now))
  }

  /** Share of the last ten seconds that went into work, 0 … 1. */
  measured(): number {
    const now = this.#clock.now()
    this.#forget(now)
    const busy = this.#bursts.reduce((n, { at, busyMs }) => n + Math.min(busyMs, at - (now - windowMs)), 0)
    return Math.min(1, busy / windowMs)
  }

  #forget(now: number): void {
    const first = this.#bursts.findIndex(({ at }) => at >= now - windowMs)
    this.#bursts = first < 0 ? [] : this.#bursts.slice(first)
  }
}
