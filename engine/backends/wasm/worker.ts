/** One thread: waits for a play or for mail, in Node (worker_threads) and in a browser (dedicated worker). */
import { BROKEN, DONE, MAIL, PLAYS, PROGRAM, SIGNAL, words } from './words.ts'

export type ToThread =
  | { kind: 'start'; thread: number; control: Int32Array; module: WebAssembly.Module }
  | { kind: 'attach'; id: number; memory: WebAssembly.Memory }
  | { kind: 'detach'; id: number }
/** The program that can be played now (0 after the start), or what went wrong. */
export type FromThread = { ready: number } | { failed: string; id: number }

/** The kernels' exports (assembly/index.ts). */
export interface Kernels {
  play(
    steps: number,
    count: number,
    rows: number,
    picks: number,
    segments: number,
    threads: number,
    scratch: number,
    scratchPerThread: number,
    shareFrom: number,
  ): number
  assist(thread: number): void
}

/** Looks at the signal this often before sleeping: the next section usually follows at once. */
const spins = 2000

const programs = new Map<number, { assist: Kernels['assist']; head: Int32Array }>()
let control: Int32Array = new Int32Array(words)
let module: WebAssembly.Module
let thread = 0
let mailRead = 0
let played = 0

const inNode = typeof process !== 'undefined' && Boolean(process.versions?.node)
const port = inNode ? process.getBuiltinModule('node:worker_threads').parentPort! : undefined
const post = (message: FromThread): void => (port ? port.postMessage(message) : self.postMessage(message))
if (port) port.on('message', receive)
else self.onmessage = ({ data }: MessageEvent<ToThread>) => receive(data)

function receive(message: ToThread): void {
  mailRead++
  if (message.kind === 'start') {
    ;({ control, module, thread } = message)
    post({ ready: 0 })
  } else if (message.kind === 'attach') {
    attach(message.id, message.memory)
  } else {
    programs.delete(message.id)
  }
  serve()
}

function attach(id: number, memory: WebAssembly.Memory): void {
  try {
    const { exports } = new WebAssembly.Instance(module, { env: { memory } })
    const head = new Int32Array(memory.buffer, 0, words)
    programs.set(id, { assist: exports.assist as Kernels['assist'], head })
    post({ ready: id })
  } catch (error) {
    post({ failed: String(error), id })
  }
}

/** Assists until there is mail; then the event loop delivers it to `receive`. */
function serve(): void {
  for (;;) {
    const signal = Atomics.load(control, SIGNAL)
    if (Atomics.load(control, MAIL) !== mailRead) return
    const plays = Atomics.load(control, PLAYS)
    if (plays !== played) {
      played = plays
      const id = Atomics.load(control, PROGRAM)
      const program = programs.get(id)
      try {
        program?.assist(thread)
      } catch (error) {
        // The caller sleeps on its parts: it must hear of this from the memory, not from a message.
        Atomics.store(program!.head, BROKEN, 1)
        Atomics.notify(program!.head, DONE)
        post({ failed: String(error), id })
      }
      continue
    }
    let spin = 0
    while (spin < spins && Atomics.load(control, SIGNAL) === signal) spin++
    if (spin === spins) Atomics.wait(control, SIGNAL, signal)
  }
}
