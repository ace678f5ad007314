/**
 * The house: the coordinator's own engine, in a thread of its own, which the core treats as one more volunteer, asked last.
 * Same messages as everybody, without a socket. A crash costs its units a re-dispatch and nothing else.
 */
import { availableParallelism } from 'node:os'
import { Worker } from 'node:worker_threads'
import type { FromCoordinator, FromVolunteer, VolunteerId } from '../protocol/index.ts'
import type { Event, Hello } from './core/events.ts'
import type { Log } from './log.ts'
import { newVolunteerId } from './sockets.ts'

export interface HouseSetup {
  models: readonly { digest: string; folder: string }[]
  threads: number
  concurrency: number
}

/** What the thread says: hello first, then what any volunteer says; and notes for the log. */
export type FromHouse = FromVolunteer | { type: 'note'; text: string }

/** After a crash it starts again after a second; after each further one in a row, after twice as long, up to a minute. */
const RESTART_MS = 1_000
const RESTART_MS_MAX = 60_000

export class House {
  readonly #setup: HouseSetup
  readonly #submit: (event: Event) => void
  readonly #onJoin: (volunteer: VolunteerId, hello: Hello) => void
  readonly #log: Log
  #worker: Worker | undefined
  #volunteer: VolunteerId | undefined
  #restart: NodeJS.Timeout | undefined
  #isClosed = false
  #restartMs = RESTART_MS

  constructor(
    models: HouseSetup['models'],
    submit: (event: Event) => void,
    onJoin: (volunteer: VolunteerId, hello: Hello) => void,
    log: Log,
  ) {
    // Half of the cores: the other half serve.
    this.#setup = { models, threads: Math.max(1, Math.min(8, availableParallelism() >> 1)), concurrency: 4 }
    this.#submit = submit
    this.#onJoin = onJoin
    this.#log = log
    this.#start()
  }

  /** Whether a message for this volunteer is for the house. */
  is(volunteer: VolunteerId): boolean {
    return volunteer === this.#volunteer
  }

  send(message: FromCoordinator): void {
    // Answered here: the thread may be deep in a kernel, and if it dies we are told.
    if (message.type === 'ping') this.#receive({ type: 'pong', nonce: message.nonce })
    else this.#worker?.postMessage(message)
  }

  async close(): Promise<void> {
    this.#isClosed = true
    clearTimeout(this.#restart)
    await this.#worker?.terminate()
  }

  /** The core let it go: begin anew, as after a crash. */
  restart(): void {
    this.#volunteer = undefined
    void this.#worker?.terminate()
  }

  #start(): void {
    const worker = new Worker(new URL('./house-worker.ts', import.meta.url), { workerData: this.#setup })
    this.#worker = worker
    worker.on('message', (message: FromHouse) => this.#receive(message))
    worker.on('error', (error) => this.#log.error({ err: error }, 'the house failed'))
    worker.on('exit', () => {
      if (this.#isClosed) return
      const volunteer = this.#volunteer
      this.#volunteer = undefined
      if (volunteer) this.#submit({ type: 'volunteer-left', volunteer, reason: 'the house failed' })
      this.#restart = setTimeout(() => this.#start(), this.#restartMs)
      this.#restartMs = Math.min(RESTART_MS_MAX, 2 * this.#restartMs)
    })
  }

  #receive(message: FromHouse): void {
    if (this.#isClosed) return
    if (message.type === 'note') return void this.#log.warn(message.text)
    if (message.type === 'result') this.#restartMs = RESTART_MS
    if (message.type === 'hello') {
      const volunteer = newVolunteerId()
      this.#volunteer = volunteer
      this.#onJoin(volunteer, message)
      this.#submit({
        type: 'volunteer-joined',
        volunteer,
        hello: message,
        network: 'house',
        isHouse: true,
        rttMs: 0,
      })
    } else if (this.#volunteer) {
      this.#submit({ type: 'message-received', volunteer: this.#volunteer, message })
    }
  }
}
