/**
 * Text to token ids without stopping the world: short texts here, long ones in a thread. A prompt of 100,000 tokens takes
 * seconds, and meanwhile volunteers must be heard and streams must flow.
 */
import { Worker } from 'node:worker_threads'
import { ModelError } from '../engine/index.ts'
import type { EncodeOptions } from '../engine/tokenizer.ts'
import type { ModelErrorCode } from '../engine/weights/errors.ts'
import type { Served } from './models.ts'

/** Characters encoded on the spot: at most some tens of milliseconds. */
const HERE = 10_000
/** Characters waiting for the thread; more are refused. */
const WAITING_MAX = 64 * 1024 * 1024

export interface TokensRequest {
  id: number
  folder: string
  texts: readonly string[]
  options: EncodeOptions
}
export type TokensAnswer =
  | { id: number; ids: Uint32Array<ArrayBuffer>[] }
  | { id: number; code: ModelErrorCode | null; message: string; at: number }

/** A text that can't be encoded; `at` is its place among the texts. */
export class TextError extends Error {
  override name = 'TextError'
  readonly at: number
  constructor(message: string, at: number) {
    super(message)
    this.at = at
  }
}
/** More text is waiting than is held. */
export class TooMuchText extends Error {
  override name = 'TooMuchText'
}

interface Waiting {
  chars: number
  resolve: (ids: Uint32Array[]) => void
  reject: (error: Error) => void
}

export class Tokens {
  #worker: Worker | undefined
  #next = 0
  #chars = 0
  readonly #waiting = new Map<number, Waiting>()

  /** Rejects with TextError, TooMuchText. The model must have a tokenizer. */
  async encode(model: Served, texts: readonly string[], options: EncodeOptions = {}): Promise<Uint32Array[]> {
    const chars = texts.reduce((n, text) => n + text.length, 0)
    if (chars <= HERE)
      return texts.map((text, at) => encodeOne(() => model.tokenizer!.encode(text, options), at))
    if (this.#chars + chars > WAITING_MAX) throw new TooMuchText('too much text is waiting to be tokenised')
    this.#chars += chars
    this.#worker ??= this.#open()
    const id = this.#next++
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { chars, resolve, reject })
      this.#worker!.postMessage({ id, folder: model.folder, texts, options } satisfies TokensRequest)
    })
  }

  async close(): Promise<void> {
    await this.#worker?.terminate()
  }

  #open(): Worker {
    const worker = new Worker(new URL('./tokens-worker.ts', import.meta.url))
    // Waiting requests keep the process alive, an idle thread doesn't.
    worker.unref()
    worker.on('message', (answer: TokensAnswer) => {
      const waiting = this.#take(answer.id)
      if ('ids' in answer) waiting?.resolve(answer.ids)
      else waiting?.reject(answer.code ? new TextError(answer.message, answer.at) : new Error(answer.message))
    })
    const fail = (error: Error): void => {
      if (this.#worker === worker) this.#worker = undefined
      for (const id of this.#waiting.keys()) this.#take(id)?.reject(error)
    }
    worker.on('error', fail)
    worker.on('exit', () => fail(new Error('the tokenising thread ended')))
    return worker
  }

  #take(id: number): Waiting | undefined {
    const waiting = this.#waiting.get(id)
    this.#waiting.delete(id)
    this.#chars -= waiting?.chars ?? 0
    return waiting
  }
}

export function encodeOne<T>(encode: () => T, at: number): T {
  try {
    return encode()
  } catch (error) {
    throw error instanceof ModelError ? new TextError(error.message, at) : error
  }
}
