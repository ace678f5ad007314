/** Reads a ledger as somebody who believes nobody: the chain, every sum, every balance, and what receipts say was earned. */
import { flawOfReceipt } from '../coordinator/books/documents.ts'
import type { Checkpoint } from '../coordinator/books/compaction.ts'
import type { Receipt } from '../coordinator/books/documents.ts'
import { Audit, LedgerError } from '../coordinator/books/audit.ts'
import type { LedgerLine } from '../coordinator/books/audit.ts'
import { flawOfSeal } from '../coordinator/books/seal.ts'
import type { Sealed } from '../coordinator/books/seal.ts'

export interface LedgerHeadDocument extends Sealed {
  seq: number
  hash: string
}

/** GET /v1/ledger/checkpoint */
export type CheckpointDocument = Sealed & Checkpoint

export interface LedgerReport {
  ok: boolean
  /** The last one's number. */
  entries: number
  /** Entries up to this one are not here: the balances after it are the coordinator's signed word. */
  from: number
  head: string
  /** Sums of the balances by kind of account; all together are 0. */
  balances: Record<string, number>
  accounts: number
  /** Units paid, and of them how many a receipt given here is for. */
  earned: number
  backed: number
  /** Units of the receipts that are not paid in what is here, and may have been before. */
  unseen: number
  flaw: { entry: number | null; why: string } | null
}

export interface LedgerSources {
  lines: AsyncIterable<LedgerLine> | Iterable<LedgerLine>
  /** What the coordinator signed as its head: the chain must pass through it. */
  head?: LedgerHeadDocument
  /** What a ledger without its beginning goes on from; one with it has to agree. */
  checkpoint?: CheckpointDocument
  receipts?: readonly Receipt[]
}

export async function verifyLedger({
  lines,
  head,
  checkpoint,
  receipts = [],
}: LedgerSources): Promise<LedgerReport> {
  let audit = new Audit()
  let from = 0
  /** Heads that somebody signed, by their numbers. */
  const pins = new Map<number, { hash: string; by: string }[]>()
  const pin = (seq: number, hash: string, by: string): void =>
    void pins.set(seq, [...(pins.get(seq) ?? []), { hash, by }])
  const report: Reporter = (flaw, backed = 0, unseen = 0) => ({
    ok: flaw === null,
    entries: audit.head.seq,
    from,
    head: audit.head.hash,
    balances: byKind(audit.balances),
    accounts: audit.balances.size,
    earned: audit.earned.size,
    backed,
    unseen,
    flaw,
  })
  for (const [what, document] of Object.entries({ head, checkpoint })) {
    if (!document) continue
    const flaw =
      head && document.coordinator !== head.coordinator
        ? { field: 'coordinator', why: 'it is not the head’s' }
        : flawOfSeal(document)
    if (flaw) return report({ entry: null, why: `the signed ${what}: ${flaw.field}: ${flaw.why}` })
    pin(document.seq, document.hash, `the coordinator signed as its ${what}`)
  }
  for (const receipt of receipts) {
    const flaw = flawOfReceipt(receipt, head?.coordinator)
    if (flaw) return report({ entry: null, why: `receipt ${receipt.id}: ${flaw.field}: ${flaw.why}` })
    pin(receipt.ledger.seq, receipt.ledger.hash, `receipt ${receipt.id} names`)
  }
  /** A ledger that lacks its beginning is gone on with from the checkpoint. */
  const begin = (first: number | undefined): void => {
    if (checkpoint && first !== 1) {
      audit = Audit.from(checkpoint)
      from = checkpoint.seq
      for (const seq of pins.keys()) if (seq < from) pins.delete(seq)
    }
    check()
  }
  const check = (): void => {
    const { seq, hash } = audit.head
    const wrong = pins.get(seq)?.find((one) => one.hash !== hash)
    pins.delete(seq)
    if (wrong) throw new LedgerError(seq, `its hash is ${hash}, ${wrong.by} ${wrong.hash}`)
    if (checkpoint?.seq === seq && !isSame(audit.balances, new Map(checkpoint.balances)))
      throw new LedgerError(seq, 'the balances of the signed checkpoint are not those after it')
  }
  try {
    let hasBegun = false
    for await (const line of lines) {
      if (!hasBegun) begin(line?.seq)
      hasBegun = true
      audit.add(line)
      check()
    }
    if (!hasBegun) begin(undefined)
  } catch (error) {
    if (!(error instanceof LedgerError)) throw error
    return report({ entry: error.seq, why: error.message })
  }
  const [missing] = [...pins.keys()].sort((a, b) => a - b)
  if (missing !== undefined) {
    const why = `${pins.get(missing)![0]!.by} entry ${missing}, and the ledger ends at ${audit.head.seq}`
    return report({ entry: missing, why })
  }
  return backing(audit, receipts, from > 0, report)
}

type Reporter = (flaw: LedgerReport['flaw'], backed?: number, unseen?: number) => LedgerReport

const isSame = (a: ReadonlyMap<string, number>, b: ReadonlyMap<string, number>): boolean =>
  a.size === b.size && [...a].every(([account, amount]) => b.get(account) === amount)

/** Every unit of a receipt was paid to whom it names, and what it is worth; a convict may have been paid nothing. */
function backing(
  audit: Audit,
  receipts: readonly Receipt[],
  isPartial: boolean,
  report: Reporter,
): LedgerReport {
  let [backed, unseen] = [0, 0]
  for (const { id, units } of receipts)
    for (const { unit, volunteer, macs, replaced } of units) {
      const earner = replaced?.volunteer ?? volunteer
      const paid = audit.earned.get(`${unit} ${earner}`)
      if (!paid && audit.convicted.has(earner)) continue
      if (!paid && isPartial) unseen++
      else if (!paid)
        return report({ entry: null, why: `receipt ${id}: unit ${unit} was never paid to ${earner}` }, backed)
      else if (paid.amount !== macs) {
        const why = `it pays ${paid.amount} for unit ${unit}, receipt ${id} says ${macs}`
        return report({ entry: paid.seq, why }, backed)
      } else backed++
    }
  return report(null, backed, unseen)
}

function byKind(balances: ReadonlyMap<string, number>): Record<string, number> {
  const sums: Record<string, number> = {}
  for (const [account, amount] of balances) {
    const kind = account.slice(0, account.indexOf(':'))
    sums[kind] = (sums[kind] ?? 0) + amount
  }
  return sums
}
