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
/** What is measured: the last hundred tenths of a second. */
const slotMs = 100
const slots = 100

export class Duty {
  /** 0 < limit ≤ 1. */
  limit: number
  readonly #clock: Clock
  #owedMs = 0
  /** Milliseconds busy in a tenth of a second, and which tenth that was; in a ring. */
  readonly #busy = new Float64Array(slots)
  readonly #slot = new Float64Array(slots).fill(-1)

  constructor(limit: number, clock: Clock) {
    this.limit = limit
    this.#clock = clock
  }

  /** To be awaited after `busyMs` of work. */
  async rest(busyMs: number): Promise<void> {
    const now = this.#clock.now()
    this.#count(now, busyMs)
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
    const last = Math.floor(this.#clock.now() / slotMs)
    let busy = 0
    for (let i = 0; i < slots; i++) if (this.#slot[i]! > last - slots) busy += this.#busy[i]!
    return Math.min(1, busy / (slots * slotMs))
  }

  /** Spreads a burst that ended now over the slots it took. */
  #count(now: number, busyMs: number): void {
    let left = Math.min(busyMs, slots * slotMs)
    let end = now
    while (left > 0) {
      const slot = Math.ceil(end / slotMs) - 1
      const part = Math.min(left, end - slot * slotMs)
      const i = ((slot % slots) + slots) % slots
      if (this.#slot[i] !== slot) {
        this.#slot[i] = slot
        this.#busy[i] = 0
      }
      this.#busy[i]! += part
      left -= part
      end = slot * slotMs
    }
  }
}
