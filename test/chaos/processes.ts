/** Real processes to be killed: the coordinator as people start it, and volunteers beside it. */
import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { createServer } from 'node:net'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

export const COMMAND = join(import.meta.dirname, '../../bin/chorale.js')

/** What the shell limits before the command runs: open files. */
export interface Limits {
  files?: number
}

export async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  await new Promise((resolve) => server.close(resolve))
  return port
}

/** The last of what a process said, for when it goes wrong. */
function listen(child: ChildProcess, said: string[]): void {
  for (const stream of [child.stdout, child.stderr])
    stream?.on('data', (data: Buffer) => {
      said.push(data.toString())
      if (said.length > 50) said.shift()
    })
}

export class CoordinatorProcess {
  readonly url: string
  readonly #args: readonly string[]
  readonly said: string[] = []
  #child: ChildProcess | undefined
  /** Milliseconds from each start to the first answer. */
  readonly starts: number[] = []
  /** Ends nobody asked for. */
  readonly deaths: string[] = []
  #isExpected = false

  constructor(port: number, data: string, options: readonly string[]) {
    this.url = `http://127.0.0.1:${port}`
    this.#args = [COMMAND, 'serve', '--port', String(port), '--data', data, '--json', ...options]
  }

  spawn({ files }: Limits = {}): void {
    this.#isExpected = false
    const limits = files ? [`ulimit -n ${files}`] : []
    const child = limits.length
      ? spawn('bash', ['-c', `${limits.join(' && ')} && exec "$@"`, 'bash', process.execPath, ...this.#args])
      : spawn(process.execPath, this.#args)
    listen(child, this.said)
    child.once('exit', (code, signal) => {
      if (!this.#isExpected && this.#child === child)
        this.deaths.push(`it ended with ${signal ?? code}: ${this.said.join('').slice(-2_000)}`)
    })
    this.#child = child
  }

  /** Until it answers. Throws where it ends before, or takes a minute. */
  async serving(): Promise<void> {
    const began = performance.now()
    const child = this.#child!
    while (performance.now() - began < 60_000) {
      if (child.exitCode !== null || child.signalCode !== null)
        throw new Error(
          `the coordinator ended with ${child.exitCode ?? child.signalCode}: ${this.said.join('').slice(-2_000)}`,
        )
      const response = await fetch(`${this.url}/v1/models`, { signal: AbortSignal.timeout(5_000) }).catch(
        () => null,
      )
      if (response?.ok) {
        await response.arrayBuffer()
        return
      }
      await sleep(10)
    }
    throw new Error(`the coordinator did not answer within a minute: ${this.said.join('').slice(-2_000)}`)
  }

  async start(limits: Limits = {}): Promise<void> {
    const began = performance.now()
    this.spawn(limits)
    await this.serving()
    this.starts.push(performance.now() - began)
  }

  get pid(): number | undefined {
    return this.#child?.pid
  }

  signal(signal: 'SIGSTOP' | 'SIGCONT'): void {
    this.#child?.kill(signal)
  }

  /** Gone for good when this resolves, with its exit code. */
  end(signal: 'SIGKILL' | 'SIGTERM'): Promise<number | null> {
    this.#isExpected = true
    const child = this.#child!
    return new Promise((resolve) => {
      if (child.exitCode !== null || child.signalCode !== null) return resolve(child.exitCode)
      child.once('exit', (code) => resolve(code))
      child.kill(signal)
    })
  }
}

/** `chorale volunteer` on one thread, with a key of its own. */
export class VolunteerProcess {
  readonly #args: readonly string[]
  readonly #env: NodeJS.ProcessEnv
  #child: ChildProcess

  constructor(url: string, folder: string, name: string) {
    this.#args = [
      COMMAND, 'volunteer', '--node', '--backend', 'wasm', '--threads', '1', '--url', url, '--key', join(folder, `${name}.pem`), '--json',
    ] // prettier-ignore
    this.#env = process.env
    this.#child = this.#spawn()
  }

  #spawn(): ChildProcess {
    const child = spawn(process.execPath, this.#args, { stdio: 'ignore', env: this.#env })
    // One that gave up (refused, outdated) would leave the others alone.
    child.once('exit', () => setTimeout(() => child === this.#child && (this.#child = this.#spawn()), 500))
    return child
  }

  /** Another takes its place, with the same key. */
  kill(): void {
    this.#child.kill('SIGKILL')
  }

  end(): void {
    const child = this.#child
    child.removeAllListeners('exit')
    child.kill('SIGKILL')
  }
}
