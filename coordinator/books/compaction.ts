/**
 * A ledger grows by about a kilobyte a job, for good. An operator who says so keeps it whole only from a checkpoint on: the balances
 * after an entry, under the coordinator's signature. What led there is written to a file first, which adds up to the same balances:
 * whoever has it can prove a checkpoint wrong.
 */
import { createWriteStream } from 'node:fs'
import { rename } from 'node:fs/promises'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import type { Ledger } from './ledger.ts'
import type { Recorder, Records } from './records.ts'

export interface Checkpoint {
  /** The last entry in it. */
  seq: number
  hash: string
  /** Unix seconds. */
  at: number
  balances: readonly (readonly [account: string, amount: number])[]
}

/** `last` is what the ledger begins with; `next` will be, when it is old enough. */
interface Kept {
  last: Checkpoint | null
  next: Checkpoint
}

const KEPT = '#checkpoint'
const PAGE = 1_000
/** Forgotten at once: the store has other things to do. */
const STEP = 10_000

/** What the ledger begins with; null while it is whole. */
export async function lastCheckpoint(records: Records): Promise<Checkpoint | null> {
  return (await keptIn(records))?.last ?? null
}

async function keptIn(records: Records): Promise<Kept | null> {
  const document = await records.document('identity', KEPT)
  return document && (JSON.parse(document.json) as Kept)
}

export interface Compaction {
  ledger: Ledger
  records: Records
  recorder: Recorder
  /** Where entries are written before they are forgotten: `ledger-FIRST-LAST.jsonl`. */
  folder: string
  /** Entries are kept at least so long, and at most twice. */
  ageS: number
  /** Unix seconds. */
  now: () => number
}

/** To be called now and then. Resolves with how many entries it forgot. May be cut off anywhere, and is done again. */
export async function compactLedger({ ledger, records, recorder, folder, ageS, now }: Compaction): Promise<number> {
  let kept = await keptIn(records)
  if (!kept && ledger.head.seq === 0) return 0
  if (!kept || now() - kept.next.at >= ageS) {
    if (kept) await write(kept, records, folder)
    kept = { last: kept?.next ?? null, next: ledger.checkpoint(now()) }
    void recorder.document('identity', KEPT, JSON.stringify(kept))
    await recorder.flush()
  }
  const { last } = kept
  const first = (await records.ledger(0, 1))[0]?.seq ?? Infinity
  if (last) for (let to = first; to <= last.seq; to += STEP) await records.dropLedger(Math.min(to + STEP - 1, last.seq))
  return Math.max(0, (last?.seq ?? 0) + 1 - first)
} // prettier-ignore

/** As GET /v1/ledger gives them. */
async function write({ last, next }: Kept, records: Records, folder: string): Promise<void> {
  if (next.seq === last?.seq) return
  const file = join(folder, `ledger-${(last?.seq ?? 0) + 1}-${next.seq}.jsonl`)
  async function* lines(): AsyncGenerator<string> {
    for (let after = last?.seq ?? 0; after < next.seq;) {
      const page = await records.ledger(after, Math.min(PAGE, next.seq - after))
      for (const { seq, prev, hash, json } of page) yield `{"seq":${seq},"prev":"${prev}","hash":"${hash}","entry":${json}}\n`
      after = page.at(-1)!.seq
    }
  }
  await pipeline(Readable.from(lines()), createWriteStream(`${file}.part`, { mode: 0o600, flush: true }))
  await rename(`${file}.part`, file)
} // prettier-ignore
