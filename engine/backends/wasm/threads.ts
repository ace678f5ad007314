/**
 * Threads that help their caller to play Programs. Each sits in Atomics.wait on a few shared words; a play is one increment
 * and one wake-up, without messages. Messages carry memories only (`attach`): a counter tells a thread to go back
 * to its event loop for them.
 */
import type { FromThread, ToThread } from './worker.ts'
import { MAIL, PLAYS, PROGRAM, SIGNAL, words } from './words.ts'

export interface Threads {
  /** Threads, the caller included. */
  readonly count: number
  /** Makes a Program's memory known; resolves when every thread is ready to play in it. */
  attach(id: number, memory: WebAssembly.Memory): Promise<void>
  detach(id: number): void
  /** Wakes the threads to assist the play in this Program's memory that is about to begin. */
  wake(id: number): void
  close(): Promise<void>
}

/** A thread broke while playing, or is gone; what it was playing means nothing. Load the recording again. */
export class ThreadFailed extends Error {
  override name = 'ThreadFailed'
}

/** A worker of either world, as far as it is needed here. */
interface Helper {
  post(message: ToThread): void
  onMessage(receive: (message: FromThread) => void, fail: (error: Error) => void): void
  /** Node only: whether a running thread keeps the process alive. */
  hold(alive: boolean): void
  end(): Promise<void>
}

const inNode = typeof process !== 'undefined' && Boolean(process.versions?.node)

/** True where memory can be shared and this very thread may block (not a page's main thread). */
export function canShare(): boolean {
  if (inNode) return true
  return globalThis.crossOriginIsolated === true && typeof globalThis.document === 'undefined'
}

/** @throws Error when a thread can't be started */
export async function openThreads(count: number, module: WebAssembly.Module): Promise<Threads> {
  const control = new Int32Array(new SharedArrayBuffer(words * 4))
  const helpers = Array.from({ length: count - 1 }, startHelper)
  const waiting = new Map<number, { left: number; done: () => void; fail: (error: Error) => void }>()
  /** Of the first thread that is no more. The others, and the caller, go on without it. */
  let lost: Error | undefined
  const lose = (error: Error): void => {
    lost = error
    waiting.forEach(({ fail }) => fail(error))
    waiting.clear()
  }
  const all = (id: number, message: ToThread): Promise<void> =>
    new Promise((done, fail) => {
      if (lost) return fail(lost)
      waiting.set(id, { left: helpers.length, done, fail })
      mail(message)
    })
  const mail = (message: ToThread): void => {
    Atomics.add(control, MAIL, 1)
    signal()
    for (const helper of helpers) helper.post(message)
  }
  const signal = (): void => {
    Atomics.add(control, SIGNAL, 1)
    Atomics.notify(control, SIGNAL)
  }
  for (const helper of helpers)
    helper.onMessage((message) => {
      const id = 'ready' in message ? message.ready : message.id
      const entry = waiting.get(id)
      if (!entry || ('ready' in message && --entry.left > 0)) return
      waiting.delete(id)
      if ('ready' in message) entry.done()
      else entry.fail(new ThreadFailed(`a WASM thread could not take part: ${message.failed}`))
    }, lose)
  const hold = async (work: Promise<void>): Promise<void> => {
    helpers.forEach((helper) => helper.hold(true))
    await work.finally(() => helpers.forEach((helper) => helper.hold(false)))
  }

  helpers.forEach((helper, i) => helper.post({ kind: 'start', thread: i + 1, control, module }))
  Atomics.add(control, MAIL, 1)
  await hold(new Promise((done, fail) => waiting.set(0, { left: helpers.length, done, fail })))

  return {
    count,
    attach: (id, memory) => hold(all(id, { kind: 'attach', id, memory })),
    detach: (id) => mail({ kind: 'detach', id }),
    wake(id) {
      Atomics.store(control, PROGRAM, id)
      Atomics.add(control, PLAYS, 1)
      signal()
    },
    async close() {
      await Promise.all(helpers.map((helper) => helper.end()))
    },
  }
}

function startHelper(): Helper {
  if (inNode) {
    const { Worker } = process.getBuiltinModule('node:worker_threads')
    const worker = new Worker(new URL('./worker.ts', import.meta.url))
    return {
      post: (message) => worker.postMessage(message),
      onMessage(receive, fail) {
        worker.on('message', receive)
        worker.on('error', (cause) => fail(new ThreadFailed('a WASM thread ended', { cause })))
      },
      hold: (alive) => (alive ? worker.ref() : worker.unref()),
      end: async () => void (await worker.terminate()),
    }
  }
  const worker = new Worker(new URL('./worker.ts', import.meta.url), { type: 'module' })
  return {
    post: (message) => worker.postMessage(message),
    onMessage(receive, fail) {
      worker.onmessage = ({ data }: MessageEvent<FromThread>) => receive(data)
      worker.onerror = (event) =>
        fail(new ThreadFailed(`a WASM thread ended: ${event.message || 'its script did not load'}`))
    },
    hold: () => {},
    end: async () => worker.terminate(),
  }
}
