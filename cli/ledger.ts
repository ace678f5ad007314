/** Reads a ledger as somebody who believes nobody: the chain, every sum, every balance, and what receipts say was earned. */
import { flawOfReceipt } from '../coordinator/documents.ts'
import type { Receipt } from '../coordinator/documents.ts'
import { Audit, LedgerError } from '../coordinator/ledger.ts'
import type { LedgerLine } from '../coordinator/ledger.ts'
import { flawOfSeal } from '../coordinator/seal.ts'
import type { Sealed } from '../coordinator/seal.ts'

export interface LedgerHeadDocument extends Sealed {
  seq: number
  hash: string
}

export interface LedgerReport {
  ok: boolean
  entries: number
  head: string
  /** Sums of the balances by kind of account; all together are 0. */
  balances: Record<string, number>
  accounts: number
  /** Units paid, and of them how many a receipt given here is for. */
  earned: number
  backed: number
  flaw: { entry: number | null; why: string } | null
}

export interface LedgerSources {
  lines: AsyncIterable<LedgerLine> | Iterable<LedgerLine>
  /** What the coordinator signed as its head: the chain must pass through it. */
  head?: LedgerHeadDocument
  receipts?: readonly Receipt[]
}

export async function verifyLedger({ lines, head, receipts = [] }: LedgerSources): Promise<LedgerReport> {
  const audit = new Audit()
  /** Heads that somebody signed, by their numbers. */
  const pins = new Map<number, { hash: string; by: string }[]>()
  const pin = (seq: number, hash: string, by: string): void =>
    void pins.set(seq, [...(pins.get(seq) ?? []), { hash, by }])
  const report = (flaw: LedgerReport['flaw'], backed: number): LedgerReport => ({
    ok: flaw === null,
    entries: audit.head.seq,
    head: audit.head.hash,
    balances: byKind(audit.balances),
    accounts: audit.balances.size,
    earned: audit.earned.size,
    backed,
    flaw,
  })
  if (head) {
    const flaw = flawOfSeal(head)
    if (flaw) return report({ entry: null, why: `the signed head: ${flaw.field}: ${flaw.why}` }, 0)
    pin(head.seq, head.hash, 'the coordinator signed')
  }
  for (const receipt of receipts) {
    const flaw = flawOfReceipt(receipt, head?.coordinator)
    if (flaw) return report({ entry: null, why: `receipt ${receipt.id}: ${flaw.field}: ${flaw.why}` }, 0)
    pin(receipt.ledger.seq, receipt.ledger.hash, `receipt ${receipt.id} names`)
  }
  const check = (): string | null => {
    const wrong = pins.get(audit.head.seq)?.find(({ hash }) => hash !== audit.head.hash)
    pins.delete(audit.head.seq)
    return wrong ? `its hash is ${audit.head.hash}, ${wrong.by} ${wrong.hash}` : null
  }
  try {
    let why = check()
    for await (const line of lines) {
      if (why !== null) break
      audit.add(line)
      why = check()
    }
    if (why !== null) return report({ entry: audit.head.seq, why }, 0)
  } catch (error) {
    if (!(error instanceof LedgerError)) throw error
    return report({ entry: error.seq, why: error.message }, 0)
  }
  const [missing] = [...pins.keys()].sort((a, b) => a - b)
  if (missing !== undefined)
    return report(
      {
        entry: missing,
        why: `${pins.get(missing)![0]!.by} entry ${missing}, and the ledger ends at ${audit.head.seq}`,
      },
      0,
    )
  return backing(audit, receipts, report)
}

/** Every unit of a receipt was paid to whom it names, and what it is worth; a convict may have been paid nothing. */
function backing(
  audit: Audit,
  receipts: readonly Receipt[],
  report: (flaw: LedgerReport['flaw'], backed: number) => LedgerReport,
): LedgerReport {
  let backed = 0
  for (const { id, units } of receipts)
    for (const { unit, volunteer, macs, replaced } of units) {
      const earner = replaced?.volunteer ?? volunteer
      const paid = audit.earned.get(`${unit} ${earner}`)
      if (!paid && audit.convicted.has(earner)) continue
      if (!paid)
        return report({ entry: null, why: `receipt ${id}: unit ${unit} was never paid to ${earner}` }, backed)
      if (paid.amount !== macs) {
        const why = `it pays ${paid.amount} for unit ${unit}, receipt ${id} says ${macs}`
        return report({ entry: paid.seq, why }, backed)
      }
      backed++
    }
  return report(null, backed)
}

function byKind(balances: ReadonlyMap<string, number>): Record<string, number> {
  const sums: Record<string, number> = {}
  for (const [account, amount] of balances) {
    const kind = account.slice(0, account.indexOf(':'))
    sums[kind] = (sums[kind] ?? 0) + amount
  }
  return sums
}
