/** The store in SQLite: the laws of every store, and what is its own: files, locks, versions, damage, full disks. */
import { cpSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { openStore } from '../../coordinator/store/sqlite.ts'
import { laws } from './laws.ts'
import type { Subject } from './laws.ts'

const root = mkdtempSync(join(tmpdir(), 'chorale-store-'))
afterAll(() => rmSync(root, { recursive: true, force: true }))
let counter = 0
const fresh = (): string => join(root, String(counter++))

async function subject(folder = fresh()): Promise<Subject> {
  const store = await openStore(folder)
  return {
    store,
    // The files as they lie on the disk now are what a killed process leaves: no close, no checkpoint.
    crash: async () => {
      const copy = fresh()
      cpSync(folder, copy, { recursive: true })
      await store.close()
      return subject(copy)
    },
    end: () => store.close(),
  }
}

laws('SQLite', subject)

test('a second coordinator on the same data is told who has it', async () => {
  const folder = fresh()
  const store = await openStore(folder)
  await expect(openStore(folder)).rejects.toThrow(
    `Another coordinator (process ${process.pid}) has ${folder} open. Stop it first, or choose another data folder.`,
  )
  await store.close()
  await (await openStore(folder)).close()
})
