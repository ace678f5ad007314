/**
 * Checks of volunteers' signatures in a thread of their own: 70 µs each would be a third of what this thread does for a result.
 * What is asked in one turn of the event loop goes there together; verdicts come in the order of the questions.
 */
import { Worker } from 'node:worker_threads'
import type { PublicKey, Signature } from '../protocol/index.ts'
import { importKey, isSignedBy } from './identity.ts'
import type { Log } from './log.ts'

/** Messages with the thread at once: one to work on, one to go on with. What is asked meanwhile goes into the next. */
const MESSAGES_MAX = 2

/** Many checks in one message: statements lie one behind the other, each up to its end. */
export interface ChecksAsked {
  keys: PublicKey[]
  signatures: Signature[]
  statements: Uint8Array<ArrayBuffer>
  ends: number[]
}
/** 1 where the signature is good, 0 elsewhere. */
export type ChecksAnswered = Uint8Array<ArrayBuffer>

interface Check {
  key: PublicKey
  statement: Uint8Array
  signature: Signature
  onVerdict: (isGood: boolean) => void
}

export class Signatures {
  readonly #log: Log
  #worker: Worker | undefined
  #asked: Check[] = []
  /** With the thread, as they were sent. */
  #sent: Check[][] = []
  /** Checks without a verdict. */
  backlog = 0

  constructor(log: Log) {
    this.#log = log
  }

  /** Whether `signature` is by the key over the statement. Calls back in a later turn; never after close(). */
  check(
    key: PublicKey,
    statement: Uint8Array,
    signature: Signature,
    onVerdict: (isGood: boolean) => void,
  ): void {
    this.#asked.push({ key, statement, signature, onVerdict })
    this.backlog++
    if (this.#asked.length === 1) setImmediate(() => this.#send())
  }

  close(): void {
    const worker = this.#worker
    this.#worker = undefined
    this.#asked = []
    this.#sent = []
    void worker?.terminate()
  }

  #send(): void {
    const checks = this.#asked
    if (!checks.length || this.#sent.length >= MESSAGES_MAX) return
    this.#asked = []
    this.#worker ??= this.#open()
    this.#sent.push(checks)
    let at = 0
    const message: ChecksAsked = {
      keys: checks.map(({ key }) => key),
      signatures: checks.map(({ signature }) => signature),
      statements: new Uint8Array(checks.reduce((n, { statement }) => n + statement.length, 0)),
      ends: checks.map(({ statement }) => (at += statement.length)),
    }
    for (const [i, { statement }] of checks.entries())
      message.statements.set(statement, message.ends[i]! - statement.length)
    this.#worker.postMessage(message, [message.statements.buffer])
  }

  #answer(checks: readonly Check[], verdicts: ChecksAnswered): void {
    this.backlog -= checks.length
    checks.forEach(({ onVerdict }, i) => onVerdict(verdicts[i] === 1))
  }

  #open(): Worker {
    const worker = new Worker(new URL('./signatures-worker.ts', import.meta.url))
    // Sockets keep the process alive, an idle thread doesn't.
    worker.unref()
    worker.on('message', (verdicts: ChecksAnswered) => {
      const checks = this.#sent.shift()
      if (!checks) return
      this.#send()
      this.#answer(checks, verdicts)
    })
    worker.on('error', (err) => this.#log.error({ err }, 'the thread that checks signatures failed'))
    worker.on('exit', () => {
      if (this.#worker !== worker) return
      this.#worker = undefined
      // What it had is checked here; the next ones get a new thread.
      for (const checks of this.#sent.splice(0)) this.#answer(checks, Uint8Array.from(checks, isGood))
      this.#send()
    })
    return worker
  }
}

function isGood({ key, statement, signature }: Check): number {
  const imported = importKey(key)
  return imported && isSignedBy(imported, statement, signature) ? 1 : 0
}
