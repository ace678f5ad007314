/**
 * One engine per origin: a lock says who, a channel lets another tab ask for it. Nobody waits in the lock's queue: browsers
 * spare a tab from freezing while others wait for its lock, and that is not ours to exploit.
 */
const name = 'chorale-engine'
const pollMs = 150
/** A tab that sleeps can't hand over; after this its lock is taken. */
const patienceMs = 3_000

export class OneEngine {
  readonly #channel = new BroadcastChannel(name)
  #release: (() => void) | undefined

  /** @param onAsked another tab wants it: finish up, then call release(). Also called when the lock was taken. */
  constructor(onAsked: () => void) {
    this.#channel.onmessage = ({ data }: MessageEvent<string>) => {
      if (data === 'move' && this.#release) onAsked()
    }
    this.#onAsked = onAsked
  }
  readonly #onAsked: () => void

  /** True when this tab has it now. */
  acquire(options: { steal?: boolean } = {}): Promise<boolean> {
    return new Promise((done, fail) => {
      navigator.locks
        .request(name, options.steal ? { steal: true } : { ifAvailable: true }, (lock) => {
          if (!lock) {
            done(false)
            return undefined
          }
          return new Promise<void>((release) => {
            this.#release = release
            done(true)
          })
        })
        .catch((error: unknown) => {
          // Taken by another tab while we slept.
          if (this.#release) {
            this.#release = undefined
            this.#onAsked()
          } else fail(error as Error)
        })
    })
  }

  /** As acquire(), after a worker of this very tab was ended: it may hang, and then its lock is taken. */
  async acquireAgain(): Promise<boolean> {
    for (let waited = 0; waited < patienceMs; waited += pollMs) {
      if (await this.acquire()) return true
      await new Promise((done) => setTimeout(done, pollMs))
    }
    return this.acquire({ steal: true })
  }

  /** Asks whoever has it, and takes it in the end. */
  async moveHere(): Promise<void> {
    this.#channel.postMessage('move')
    for (let waited = 0; waited < patienceMs; waited += pollMs) {
      if (await this.acquire()) return
      await new Promise((done) => setTimeout(done, pollMs))
    }
    await this.acquire({ steal: true })
  }

  release(): void {
    this.#release?.()
    this.#release = undefined
  }
}
