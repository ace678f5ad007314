/** The short version of `npm run chaos`: real processes, a few kills, and the auditor over the database. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, inject, test } from 'vitest'
import { chaos } from './world.ts'

test('a coordinator killed under load loses nothing it acknowledged, pays nothing twice, and its ledger adds up', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'chorale-chaos-'))
  try {
    const { faults, audit, kills } = await chaos({
      seed: inject('seed'),
      kills: 5,
      volunteers: 1,
      requesters: 2,
      rows: 100,
      calmMs: 1_000,
      folder,
      say: () => {},
    })
    const { lost, doubleCredits, ledgerFaults, differing, rows, entries } = audit
    expect({ faults, lost, doubleCredits, ledgerFaults, differing }).toEqual({
      faults: [], lost: [], doubleCredits: [], ledgerFaults: [], differing: [],
    }) // prettier-ignore
    // It would be easy to lose nothing of nothing.
    expect(rows).toBeGreaterThan(0)
    expect(entries).toBeGreaterThan(0)
    expect(Object.values(kills).reduce((n, one) => n + one, 0)).toBe(5)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
})
