/** A coordinator with the embedded models on a free port, and volunteers in processes of their own. */
import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { join } from 'node:path'
import OpenAI from 'openai'
import { startCoordinator } from '../../coordinator/main.ts'
import type { CoordinatorOptions, RunningCoordinator } from '../../coordinator/main.ts'
import { packedFolder } from '../../tools/models.ts'
import type { StrangerOptions } from './stranger.ts'

export interface Served extends RunningCoordinator {
  openai: OpenAI
  post: (path: string, body: unknown, headers?: Record<string, string>) => Promise<Response>
}

export async function serve(options: Partial<CoordinatorOptions> = {}): Promise<Served> {
  const models = await Promise.all(['tales-3m', 'intents-3m'].map((name) => packedFolder(name)))
  const running = await startCoordinator({
    models,
    port: 0,
    house: false,
    trust: 'fast',
    logLevel: 'silent',
    ...options,
  })
  return {
    ...running,
    openai: new OpenAI({ baseURL: `${running.url}/v1`, apiKey: 'none', maxRetries: 0 }),
    post: (path, body, headers) =>
      fetch(`${running.url}${path}`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', ...headers },
        body: typeof body === 'string' ? body : JSON.stringify(body),
      }),
  }
}

export interface Spawned {
  process: ChildProcess
  /** SIGKILL: no goodbye. */
  kill: () => void
}

/** Resolves when it has loaded every model. */
export async function spawnStranger(url: string, options: StrangerOptions = {}): Promise<Spawned> {
  const child = spawn(
    process.execPath,
    [join(import.meta.dirname, 'stranger.ts'), url, JSON.stringify(options)],
    {
      stdio: ['ignore', 'pipe', 'inherit'],
    },
  )
  await new Promise<void>((resolve, reject) => {
    child.stdout!.once('data', () => resolve())
    child.once('exit', (code) => reject(new Error(`the volunteer ended with ${code} before it was ready`)))
  })
  return { process: child, kill: () => void child.kill('SIGKILL') }
}

/** Until `check` holds; fails loudly rather than hanging. */
export async function eventually(check: () => boolean | Promise<boolean>, what: string): Promise<void> {
  for (let i = 0; i < 1000; i++) {
    if (await check()) return
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
  throw new Error(`it did not come about: ${what}`)
}
