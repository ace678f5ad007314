/** Where a coordinator keeps what must outlive it: its data folder, or one in the system's temporary place that goes with it. */
import { randomBytes } from 'node:crypto'
import { mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { DataError } from './identity.ts'
import { openStore } from './store/sqlite.ts'
import type { SqliteOptions, SqliteStore } from './store/sqlite.ts'

export interface Data {
  folder: string
  store: SqliteStore
  /** Waits for what was written. */
  close: () => Promise<void>
}

/** Rejects with StoreError, and DataError for a folder that can't be. @param folder made if absent */
export async function openData(folder: string | undefined, options: SqliteOptions = {}): Promise<Data> {
  if (folder !== undefined) {
    try {
      makeFolder(resolve(folder))
    } catch (error) {
      const why = (error as Error).message
      throw new DataError(`${folder} can't hold a coordinator's data (${why}). Choose another folder: --data DIR, or CHORALE_DATA.`) // prettier-ignore
    }
    const store = await openStore(folder, options)
    return { folder, store, close: () => store.close() }
  }
  const passing = await mkdtemp(join(tmpdir(), 'chorale-'))
  const forget = (): Promise<void> => rm(passing, { recursive: true, force: true, maxRetries: 3 })
  try {
    const store = await openStore(passing, options)
    return { folder: passing, store, close: () => store.close().then(forget) }
  } catch (error) {
    await forget()
    throw error
  }
}

/** Not mkdir's own `recursive`: it tries for ever where a folder that exists takes no others, as /proc. */
function makeFolder(folder: string): void {
  const found = statSync(folder, { throwIfNoEntry: false })
  if (found?.isDirectory()) return
  if (dirname(folder) !== folder) makeFolder(dirname(folder))
  mkdirSync(folder, { mode: 0o700 })
}

const RUNNING = 'running.json'

/** Who may read a coordinator's data is its operator: what commands need to ask the one that has the folder open. */
export interface Running {
  url: string
  pid: number
  /** An API key of every scope, for this run. */
  key: string
}

/** Writes it down for commands on this machine; nobody else can read it. Throws the system's error. */
export function announce(folder: string, url: string): Running & { withdraw: () => void } {
  const running: Running = { url, pid: process.pid, key: `chr_${randomBytes(32).toString('base64url')}` }
  const path = join(folder, RUNNING)
  // A new file: one that somebody else made would keep its owner and its permissions.
  const fresh = `${path}.${process.pid}`
  rmSync(fresh, { force: true })
  writeFileSync(fresh, JSON.stringify(running), { flag: 'wx', mode: 0o600 })
  renameSync(fresh, path)
  return { ...running, withdraw: () => rmSync(path, { force: true }) }
}

/** The coordinator that has this folder open; null if none says so, or it died without a word. */
export function runningIn(folder: string): Running | null {
  try {
    const running = JSON.parse(readFileSync(join(folder, RUNNING), 'utf8')) as Running
    process.kill(running.pid, 0)
    return running
  } catch {
    return null
  }
}
