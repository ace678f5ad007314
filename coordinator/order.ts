/** What one connection says, heard in the order it was said, though some of it must be checked elsewhere first. */

/** Has a message checked; calls back with the verdict in a later turn. False: there is nothing to check. */
export type Check<Message> = (message: Message, onVerdict: (isGood: boolean) => void) => boolean

interface Waiting<Message> {
  message: Message
  bytes: number
  state: 'unchecked' | 'asked' | 'good' | 'bad'
}

export interface OrderHost<Message> {
  check: Check<Message>
  hear: (message: Message) => void
  /** A message was found bad; nothing behind it is heard. */
  onBad: (message: Message) => void
  /** Nothing waits any more; not called after clear(). */
  onEmpty: () => void
}

export class Order<Message> {
  readonly #host: OrderHost<Message>
  #waiting: Waiting<Message>[] = []
  /** Of the messages that wait. */
  bytes = 0

  constructor(host: OrderHost<Message>) {
    this.#host = host
  }

  get length(): number {
    return this.#waiting.length
  }

  push(message: Message, bytes: number): void {
    const one: Waiting<Message> = { message, bytes, state: 'unchecked' }
    this.#waiting.push(one)
    this.bytes += bytes
    this.#ask(one)
    this.#go()
  }

  /** Whatever waits is not heard any more. */
  clear(): void {
    this.#waiting = []
    this.bytes = 0
  }

  #ask(one: Waiting<Message>): void {
    if (one.state !== 'unchecked') return
    const isAsked = this.#host.check(one.message, (isGood) => {
      one.state = isGood ? 'good' : 'bad'
      if (this.#waiting.length) this.#go()
    })
    if (isAsked) one.state = 'asked'
  }

  #go(): void {
    const { hear, onBad, onEmpty } = this.#host
    for (;;) {
      const one = this.#waiting[0]
      if (!one) return onEmpty()
      // Where there was nothing to check when it came, there may be by now.
      this.#ask(one)
      if (one.state === 'asked') return
      this.#waiting.shift()
      this.bytes -= one.bytes
      if (one.state === 'bad') {
        this.clear()
        return onBad(one.message)
      }
      const all = this.#waiting
      hear(one.message)
      // What was heard may have ended it.
      if (this.#waiting !== all) return
    }
  }
}
