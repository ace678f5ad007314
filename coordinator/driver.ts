/** Drives the core: one queue of events in, its effects out in order, one timer. The only place that knows both it and the clock. */
import type { Effect, Event } from './core/events.ts'

export interface Core {
  handle(event: Event, now: number): readonly Effect[]
  /** When it wants to be told that time has passed; Infinity for never. */
  wakeAt(): number
}

/** setTimeout counts in 32 bits. */
const TIMER_MS_MAX = 2 ** 31 - 1

export class Driver {
  readonly #core: Core
  readonly #perform: (effect: Effect) => void
  readonly #onFault: (error: unknown, what: string) => void
  readonly #now: () => number
  readonly #afterwards: () => void
  #queue: Event[] = []
  #isBusy = false
  #timer: NodeJS.Timeout | undefined
  #timerAt = Infinity
  #isStopped = false

  /**
   * @param perform runs one effect; events it submits are handled after all effects of this one
   * @param onFault told of an exception, and which event or effect it came with
   * @param now monotonic milliseconds, see clock.ts
   * @param afterwards once all that was submitted is handled
   */
  constructor(
    core: Core,
    perform: (effect: Effect) => void,
    onFault: (error: unknown, what: string) => void,
    now: () => number,
    afterwards: () => void = () => {},
  ) {
    this.#core = core
    this.#perform = perform
    this.#onFault = onFault
    this.#now = now
    this.#afterwards = afterwards
  }

  submit(event: Event): void {
    if (this.#isStopped) return
    this.#queue.push(event)
    if (this.#isBusy) return
    this.#isBusy = true
    // By index: a shift() per event would be quadratic in a burst.
    for (let i = 0; i < this.#queue.length; i++) this.#handle(this.#queue[i]!)
    this.#queue = []
    this.#isBusy = false
    this.#afterwards()
    this.#arm()
  }

  /** A fault of ours that one stranger's event brings out must not end the service for everybody else. */
  #handle(event: Event): void {
    let effects: readonly Effect[] = []
    try {
      effects = this.#core.handle(event, this.#now())
    } catch (error) {
      this.#onFault(error, event.type)
    }
    for (const effect of effects) {
      try {
        this.#perform(effect)
      } catch (error) {
        this.#onFault(error, effect.type)
      }
    }
  }

  stop(): void {
    this.#isStopped = true
    clearTimeout(this.#timer)
  }

  /** A timer that is too early costs one call; so it is only ever moved forward. */
  #arm(): void {
    const at = this.#core.wakeAt()
    if (at >= this.#timerAt || at === Infinity) return
    clearTimeout(this.#timer)
    this.#timerAt = at
    this.#timer = setTimeout(
      () => {
        this.#timerAt = Infinity
        // What sockets have to say comes before what time has to say.
        setImmediate(() => {
          if (this.#now() < at) this.#arm()
          else this.submit({ type: 'time-passed' })
        })
      },
      Math.min(TIMER_MS_MAX, Math.max(0, Math.ceil(at - this.#now()))),
    )
  }
}
