/**
 * The time the core is told. It leaves out what this process slept through: while the event loop is stuck (ten thousand
 * requests in one turn, a stopped process, a suspended machine) volunteers' frames lie unread in their sockets, and time that
 * nobody could be heard in must not count as their silence.
 */

/** One turn of the event loop counts at most this, however long it took. */
const TURN_MS_MAX = 1_000
const BEAT_MS = 1_000
/** A beat that is later than this says that the process stood still. */
const LATE_MS = 2_000

export class Clock {
  readonly #real: () => number
  readonly #afterTurn: (callback: () => void) => void
  readonly #beat: NodeJS.Timeout
  #asleep = 0
  /** Real time at which this turn of the event loop first asked. */
  #turn: number | undefined
  #lastBeat: number

  /**
   * @param real monotonic milliseconds
   * @param afterTurn calls back once sockets have been read: Node's setImmediate
   */
  constructor(
    real: () => number = () => performance.now(),
    afterTurn: (callback: () => void) => void = (callback) => void setImmediate(callback),
  ) {
    this.#real = real
    this.#afterTurn = afterTurn
    this.#lastBeat = this.now()
    this.#beat = setInterval(() => this.beat(), BEAT_MS)
    this.#beat.unref()
  }

  /** Milliseconds; never goes back. */
  now = (): number => {
    const real = this.#real()
    if (this.#turn === undefined) {
      this.#turn = real
      this.#afterTurn(() => {
        this.#asleep += Math.max(0, this.#real() - this.#turn! - TURN_MS_MAX)
        this.#turn = undefined
      })
    }
    return Math.min(real, this.#turn + TURN_MS_MAX) - this.#asleep
  }

  /** Called every second. Timers come before sockets in a turn, so this is the first to learn of a standstill. */
  beat(): void {
    const late = this.#real() - this.#asleep - this.#lastBeat - BEAT_MS
    if (late > LATE_MS) {
      this.#asleep += late
      // The turn that is on was measured with the old offset.
      if (this.#turn !== undefined) this.#turn = this.#real()
    }
    this.#lastBeat = this.#real() - this.#asleep
  }

  stop(): void {
    clearInterval(this.#beat)
  }
}
