/** Where a coordinator keeps what must outlive it: its data folder, or one in the system's temporary place that goes with it. */
import { mkdirSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openStore } from './store/sqlite.ts'
import type { SqliteOptions, SqliteStore } from './store/sqlite.ts'

export interface Data {
  folder: string
  store: SqliteStore
  /** Waits for what was written. */
  close: () => Promise<void>
}

/** Rejects with StoreError. @param folder made if absent */
export async function openData(folder: string | undefined, options: SqliteOptions = {}): Promise<Data> {
  if (folder !== undefined) {
    mkdirSync(folder, { recursive: true, mode: 0o700 })
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
