/** Runs the real command in a child process, with a cache of its own. */
import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const root = fileURLToPath(new URL('../../', import.meta.url))

export interface Ran {
  code: number | null
  stdout: string
  stderr: string
}

export interface Chorale {
  /** A folder for the test's own files. */
  folder: string
  cache: string
  run(
    args: readonly string[],
    options?: { input?: string | Uint8Array; env?: NodeJS.ProcessEnv; cwd?: string },
  ): Promise<Ran>
  start(args: readonly string[]): { child: ChildProcess; done: Promise<Ran> }
  remove(): void
}

export function chorale(): Chorale {
  const folder = mkdtempSync(join(tmpdir(), 'chorale-cli-'))
  const cache = join(folder, 'cache')
  const start = (
    args: readonly string[],
    env: NodeJS.ProcessEnv = {},
    cwd = folder,
  ): { child: ChildProcess; done: Promise<Ran> } => {
    const child = spawn(process.execPath, [join(root, 'bin/chorale.js'), ...args], {
      cwd, env: { ...process.env, CHORALE_CACHE: cache, CHORALE_DATA: join(folder, 'data'), HF_HUB_OFFLINE: '1', HF_HOME: join(folder, 'hf'), ...env },
    }) // prettier-ignore
    let [stdout, stderr] = ['', '']
    child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text))
    child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text))
    // A command that does not read stdin may end before it is written.
    child.stdin.on('error', () => {})
    return {
      child,
      done: new Promise((resolve) => child.on('close', (code) => resolve({ code, stdout, stderr }))),
    }
  }
  return {
    folder,
    cache,
    start,
    run(args, { input = '', env, cwd } = {}) {
      const { child, done } = start(args, env, cwd)
      child.stdin!.end(input)
      return done
    },
    remove: () => rmSync(folder, { recursive: true, force: true }),
  }
}
