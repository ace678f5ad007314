/** What is past its time is deleted, a little at a time, so that a coordinator can run for years. */
import type { Log } from './log.ts'
import type { Store } from './store/store.ts'

const DAY_S = 86_400
/** Receipts outlast the work they are about: somebody may ask for them much later. Evidence is kept for good, and the ledger unless its operator says otherwise. */
export const RETENTION = { batchesS: 30 * DAY_S, receiptsS: 400 * DAY_S, idempotencyS: DAY_S }

const FIRST_MS = 60_000
const EVERY_MS = 3_600_000

/** Returns what ends it. @param compactLedger resolves with how many entries it forgot */
export function keepTidy(
  store: Store,
  log: Log,
  now: () => number,
  compactLedger: () => Promise<number> = async () => 0,
): () => void {
  let timer = setTimeout(tidy, FIRST_MS)
  timer.unref()
  function tidy(): void {
    store
      .compact({ ...RETENTION, now: now() })
      .then(async (counts) => {
        const gone = { ...counts, entries: await compactLedger() }
        if (Object.values(gone).some((n) => n > 0)) log.info(gone, 'deleted what was past its time')
      })
      .catch((err: unknown) => log.warn({ err }, 'could not delete what is past its time'))
      .finally(() => {
        timer = setTimeout(tidy, EVERY_MS)
        timer.unref()
      })
  }
  return () => clearTimeout(timer)
}
