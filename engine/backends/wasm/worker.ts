/** One thread: waits for a play or for mail, in Node (worker_threads) and in a browser (dedicated worker). */
import { argumentsFrom, MAIL, PLAYS, SIGNAL, words } from './words.ts'

export type ToThread =
  | { kind: 'start'; thread: number; threads: number; control: Int32Array; module: WebAssembly.Module }
  | { kind: 'attach'; id: number; memory: WebAssembly.Memory }
  | { kind: 'detach'; id: number }
/** The program that can be played now; 0 after the start. */
export interface FromThread {
  ready: number
}

/** The kernels' one export (assembly/index.ts). */
export type Play = (
  steps: number,
  count: number,
  rows: number,
  picks: number,
  segments: number,
  thread: number,
  threads: number,
  scratch: number,
) => void

/** Looks at the signal this often before sleeping: the next section usually follows at once. */
const spins = 2000

const programs = new Map<number, Play>()
let control: Int32Array = new Int32Array(words)
let module: WebAssembly.Module
let thread = 0
let threads = 1
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
    ;({ control, module, thread, threads } = message)
    post({ ready: 0 })
  } else if (message.kind === 'attach') {
    const instance = new WebAssembly.Instance(module, { env: { memory: message.memory } })
    programs.set(message.id, instance.exports.play as Play)
    post({ ready: message.id })
  } else {
    programs.delete(message.id)
  }
  serve()
}

/** Plays until there is mail; then the event loop delivers it to `receive`. */
function serve(): void {
  for (;;) {
    const signal = Atomics.load(control, SIGNAL)
    if (Atomics.load(control, MAIL) !== mailRead) return
    const plays = Atomics.load(control, PLAYS)
    if (plays !== played) {
      played = plays
      const at = (i: number): number => control[argumentsFrom + i]!
      const play = programs.get(at(0))!
      play(at(1), at(2), at(3), at(4), at(5), thread, threads, at(6) + thread * at(7))
      continue
    }
    let spin = 0
    while (spin < spins && Atomics.load(control, SIGNAL) === signal) spin++
    if (spin === spins) Atomics.wait(control, SIGNAL, signal)
  }
}
