/**
 * Looks at the database itself once all is over, with nothing of the coordinator's: what was acknowledged must be there, once,
 * and every unit of credit must be accounted for.
 */
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import type { Acknowledged } from './load.ts'

export interface Audit {
  rows: number
  /** Acknowledged, and not there, or not as it was read. */
  lost: string[]
  /** A unit bought twice, or paid twice to one account; a row's work under two receipts, or bought and thrown away by a kill. */
  doubleCredits: string[]
  /** Where the chain, a sum or a balance goes wrong. */
  ledgerFaults: string[]
  /** The same question, and another answer. */
  differing: string[]
  entries: number
  earned: number
}

interface Entry {
  seq: number
  kind: string
  lines: { account: string; amount: number }[]
  unit?: string
}

const sha = (text: string): string => createHash('sha256').update(text).digest('hex')

export function audit(folder: string, batches: readonly Acknowledged[]): Audit {
  const db = new DatabaseSync(join(folder, 'chorale.db'), { readOnly: false })
  const found: Audit = {
    rows: 0, lost: [], doubleCredits: [], ledgerFaults: [], differing: [], entries: 0, earned: 0,
  } // prettier-ignore
  try {
    const { integrity_check } = db.prepare('PRAGMA integrity_check').get() as { integrity_check: string }
    if (integrity_check !== 'ok') found.lost.push(`the database is damaged: ${integrity_check}`)
    const bought = ledger(db, found)
    rows(db, batches, found)
    receipts(db, folder, bought, found)
  } finally {
    db.close()
  }
  return found
}

/** Replays the ledger. Returns what requesters paid, by unit. */
function ledger(db: DatabaseSync, found: Audit): Map<string, number> {
  const balances = new Map<string, number>()
  const bought = new Map<string, number>()
  const seen = new Set<string>()
  let [seq, prev] = [0, '0'.repeat(64)]
  for (const cells of db.prepare('SELECT seq, hash, json FROM ledger ORDER BY seq').iterate()) {
    const { hash, json } = cells as { hash: string; json: string }
    const entry = JSON.parse(json) as Entry
    seq++
    const bad = (why: string): void => void found.ledgerFaults.push(`entry ${seq}: ${why}`)
    if (cells.seq !== seq || entry.seq !== seq) bad(`it is numbered ${String(cells.seq)}`)
    if (sha(prev + json) !== hash) bad('its hash is not that of what it says')
    prev = hash
    let sum = 0
    for (const { account, amount } of entry.lines) {
      sum += amount
      const balance = (balances.get(account) ?? 0) + amount
      balances.set(account, balance)
      if (balance < 0 && !/^(requester|granted|operator):/.test(account)) bad(`${account} has ${balance}`)
      if (entry.kind !== 'earn') continue
      if (account.startsWith('reserved:')) {
        if (bought.has(entry.unit!)) found.doubleCredits.push(`entry ${seq}: ${entry.unit} was bought before`)
        bought.set(entry.unit!, -amount)
      }
      if (amount <= 0) continue
      const name = `${entry.unit} ${account}`
      if (seen.has(name)) found.doubleCredits.push(`entry ${seq}: ${name} was paid before`)
      seen.add(name)
      found.earned += amount
    }
    if (sum !== 0) bad(`its lines sum to ${sum}`)
  }
  found.entries = seq
  for (const [account, balance] of balances)
    if (account.startsWith('reserved:') && balance !== 0)
      found.ledgerFaults.push(`${account} still holds ${balance}, and nothing runs`)
  return bought
}

/** Every row of every acknowledged batch: done once, as it was read, and as every other answer to the same question. */
function rows(db: DatabaseSync, batches: readonly Acknowledged[], found: Audit): void {
  const answers = new Map<string, string>()
  for (const { id, endpoint, asked, read } of batches) {
    const stored = db
      .prepare(
        `SELECT r.custom_id AS name, o.state, o.line FROM batches b JOIN rows r ON r.batch = b.seq
         LEFT JOIN outcomes o ON o.id = r.id WHERE b.id = ?`,
      )
      .all(id) as { name: string; state: number | null; line: string | null }[]
    const status = db.prepare('SELECT status FROM batches WHERE id = ?').get(id)?.status
    if (status !== 'completed') found.lost.push(`${id} is ${String(status)}`)
    const byName = new Map(stored.map((row) => [row.name, row]))
    for (const [name, text] of asked) {
      found.rows++
      const row = byName.get(name)
      if (row?.state !== 1 || row.line === null) {
        found.lost.push(`${id} ${name}: ${row ? `state ${row.state}` : 'no such row'}`)
        continue
      }
      const before = read.get(name)
      if (before !== undefined && before !== row.line) found.lost.push(`${id} ${name}: it was read otherwise`)
      const { response } = JSON.parse(row.line) as {
        response: { body: { data?: unknown; choices?: unknown } }
      }
      const answer = JSON.stringify(response.body.data ?? response.body.choices)
      const question = `${endpoint} ${text}`
      const known = answers.get(question)
      if (known === undefined) answers.set(question, answer)
      else if (known !== answer) found.differing.push(`${id} ${name}: another answer to ${text}`)
    }
  }
}

/** Every receipt of a stored row is there, and what requesters paid for is its units: each once, for what it says, and no other. */
function receipts(db: DatabaseSync, folder: string, bought: Map<string, number>, found: Audit): void {
  const owner = new Map<string, string>()
  const convicts = new Set(
    db
      .prepare(`SELECT id FROM documents WHERE kind = 'identity' AND json LIKE '%"isConvicted":true%'`)
      .all()
      .map(({ id }) => id as string),
  )
  for (const cells of db
    .prepare('SELECT DISTINCT receipt FROM outcomes WHERE state = 1 AND receipt IS NOT NULL')
    .iterate()) {
    const receipt = cells.receipt as string
    const kept = db.prepare(`SELECT json, blob FROM documents WHERE kind = 'receipt' AND id = ?`).get(receipt)
    if (!kept) {
      found.lost.push(`${receipt}: rows name it, and it is not there`)
      continue
    }
    // A large one lies beside the database.
    const blob = kept.blob as string | null
    const json = (kept.json ??
      readFileSync(join(folder, 'blobs', blob!.slice(0, 2), blob!.slice(2)), 'utf8')) as string
    const { units } = JSON.parse(json) as {
      units: { unit: string; macs: number; volunteer: string; replaced?: { volunteer: string } }[]
    }
    for (const { unit, macs, volunteer, replaced } of units) {
      const other = owner.get(unit)
      if (other) found.doubleCredits.push(`${unit} is in ${other} and ${receipt}`)
      owner.set(unit, receipt)
      const paid = bought.get(unit)
      if (paid !== macs && !(paid === undefined && convicts.has(replaced?.volunteer ?? volunteer)))
        found.ledgerFaults.push(`${unit} of ${receipt} is worth ${macs}, and ${paid ?? 'nothing'} was paid`)
    }
  }
  for (const unit of bought.keys())
    if (!owner.has(unit)) found.doubleCredits.push(`${unit} was bought, and is in no row's receipt`)
}
