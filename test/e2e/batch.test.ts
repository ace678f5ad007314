/** The short version of `npm run chaos -- --tabs`: every row once, in order, the bytes of an undisturbed run. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, inject, test } from 'vitest'
import { tabs } from '../chaos/tabs.ts'

test('a batch over tabs that come, go and crash, on a coordinator that is killed twice', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'chorale-tabs-'))
  const rows = 2_000
  try {
    const outcome = await tabs({
      seed: inject('seed'),
      rows,
      kills: 2,
      tabs: 2,
      withHouse: true,
      folder,
      say: () => {},
    })
    const { faults, audit, killedAt, undisturbed } = outcome
    const { lost, doubleCredits, ledgerFaults, differing, entries } = audit
    expect({ faults, lost, doubleCredits, ledgerFaults, differing }).toEqual({
      faults: [], lost: [], doubleCredits: [], ledgerFaults: [], differing: [],
    }) // prettier-ignore
    expect(outcome.ok).toBe(true)
    // It was killed while it worked, for tabs, and there is something in the ledger to be wrong.
    expect(killedAt).toHaveLength(2)
    for (const done of killedAt) expect(done).toBeLessThan(rows)
    expect(undisturbed.rowsBy.wasm).toBeGreaterThan(0)
    expect(entries).toBeGreaterThan(0)
  } finally {
    rmSync(folder, { recursive: true, force: true, maxRetries: 3 })
  }
})
