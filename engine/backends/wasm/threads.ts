/**
 * Threads that play Programs together with their caller. Each sits in Atomics.wait on a few shared words; a play is one
 * increment and one wake-up, without messages. Messages carry memories only (`attach`): a counter tells a thread to go back
 * to its event loop for them.
 */
import type { FromThread, ToThread } from './worker.ts'
import { argumentsFrom, MAIL, PLAYS, SIGNAL, words } from './words.ts'

export interface Threads {
  /** Threads, the caller included. */
  readonly count: number
  /** Makes a Program's memory known; resolves when every thread is ready to play in it. */
  attach(id: number, memory: WebAssembly.Memory): Promise<void>
  detach(id: number): void
  /** Wakes the threads to call `play` with these arguments, each adding its own thread number and scratch. */
  play(id: number, args: readonly number[]): void
  close(): Promise<void>
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
  const failAll = (error: Error): void => waiting.forEach(({ fail }) => fail(error))
  const all = (id: number, message: ToThread): Promise<void> =>
    new Promise((done, fail) => {
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
    helper.onMessage(({ ready }) => {
      const entry = waiting.get(ready)
      if (entry && --entry.left === 0) {
        waiting.delete(ready)
        entry.done()
      }
    }, failAll)
  const hold = async (work: Promise<void>): Promise<void> => {
    helpers.forEach((helper) => helper.hold(true))
    await work.finally(() => helpers.forEach((helper) => helper.hold(false)))
  }

  helpers.forEach((helper, i) =>
    helper.post({ kind: 'start', thread: i + 1, threads: count, control, module }),
  )
  Atomics.add(control, MAIL, 1)
  await hold(new Promise((done, fail) => waiting.set(0, { left: helpers.length, done, fail })))

  return {
    count,
    attach: (id, memory) => hold(all(id, { kind: 'attach', id, memory })),
    detach: (id) => mail({ kind: 'detach', id }),
    play(id, args) {
      control[argumentsFrom] = id
      control.set(args, argumentsFrom + 1)
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
        worker.on('error', fail)
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
        fail(new Error(`a WASM thread failed: ${event.message || 'its script did not load'}`))
    },
    hold: () => {},
    end: async () => worker.terminate(),
  }
}
