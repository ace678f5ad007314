/** What is past its time is deleted, a little at a time, so that a coordinator can run for years. */
import type { Log } from './log.ts'
import type { Compacted, Store } from './store/store.ts'

const DAY_S = 86_400
/** Receipts outlast the work they are about: somebody may ask for them much later. Evidence is kept for good, and the ledger unless its operator says otherwise. */
export const RETENTION = { batchesS: 30 * DAY_S, receiptsS: 400 * DAY_S, idempotencyS: DAY_S }

const FIRST_MS = 60_000
const EVERY_MS = 3_600_000
/** A clock that was wrong for an hour shall not cost what is kept for years: it is believed a day an hour at most. */
const SPEED_MAX = 24
const TIDIED = '#tidied'

export interface TidyOptions {
  store: Store
  log: Log
  /** Unix seconds. */
  now: () => number
  /** Resolves with how many entries it forgot. */
  compactLedger?: () => Promise<number>
  /** Monotonic milliseconds. */
  real?: () => number
}

/** Returns what ends it. */
export function keepTidy(options: TidyOptions): () => void {
  const { log } = options
  const tidy = tidier(options)
  const run = (): void => {
    tidy()
      .then((gone) => {
        if (Object.values(gone).some((n) => n > 0)) log.info(gone, 'deleted what was past its time')
      })
      .catch((err: unknown) => log.warn({ err }, 'could not delete what is past its time'))
      .finally(() => {
        timer = setTimeout(run, EVERY_MS)
        timer.unref()
      })
  }
  let timer = setTimeout(run, FIRST_MS)
  timer.unref()
  return () => clearTimeout(timer)
}

/** Deletes what is past its time whenever it is called. Rejects with StoreError. */
export function tidier({ store, log, now, compactLedger, real = () => performance.now() }: TidyOptions) {
  let at = real()
  return async (): Promise<Compacted & { entries: number }> => {
    const kept = await store.document('identity', TIDIED)
    const passedS = (real() - at) / 1000
    at = real()
    const time = Math.floor(Math.min(now(), kept ? kept.at + SPEED_MAX * passedS : Infinity))
    if (now() - time > DAY_S)
      log.warn(
        { clock: isoOf(now()), deletedBy: isoOf(time) },
        'this machine was off for days, or its clock was set ahead: what is past its time is deleted later',
      )
    const counts = await store.compact({ ...RETENTION, now: time })
    await store.settle({ documents: [{ kind: 'identity', id: TIDIED, at: time, json: '{}' }] })
    return { ...counts, entries: (await compactLedger?.()) ?? 0 }
  }
}

const isoOf = (unix: number): string => new Date(unix * 1000).toISOString()
