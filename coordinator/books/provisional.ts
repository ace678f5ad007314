/**
 * Answers that may still be found wrong: in which receipt each is, and what the coordinator's next life must know of it. Kept as
 * documents `claim` by unit, gone when the core says that nothing changes any more; `{unit}/check` is what was checked since.
 */
import type { UnitId } from '../../protocol/index.ts'
import type { JobSpec, KeptClaim, UnitCheck } from '../core/events.ts'
import type { ReceiptUnit } from './documents.ts'
import type { Recorder, Records } from './records.ts'

interface Kept extends Omit<KeptClaim, 'unit' | 'ageMs'> {
  receipt: string
  /** Unix milliseconds. */
  at: number
}

const PAGE = 1_000
const CHECK = '/check'

export class Provisional {
  readonly #recorder: Recorder
  /** The core bounds how many there are. */
  readonly #receipts = new Map<UnitId, string>()
  readonly #checked = new Set<UnitId>()

  private constructor(recorder: Recorder) {
    this.#recorder = recorder
  }

  /** With what an earlier life left. Rejects with StoreError. */
  static async open(
    records: Records,
    recorder: Recorder,
  ): Promise<{ provisional: Provisional; claims: KeptClaim[] }> {
    const provisional = new Provisional(recorder)
    const claims: KeptClaim[] = []
    const now = Date.now()
    for (let after = ''; ;) {
      const page = await records.documents('claim', after, PAGE)
      if (page.length === 0) return { provisional, claims }
      after = page.at(-1)!.id
      for (const { id, json } of page) {
        if (id.endsWith(CHECK)) {
          // It comes right behind its claim.
          provisional.#checked.add(id.slice(0, -CHECK.length) as UnitId)
          claims.at(-1)!.check = JSON.parse(json) as UnitCheck
          continue
        }
        const { receipt, at, ...kept } = JSON.parse(json) as Kept
        provisional.#receipts.set(id as UnitId, receipt)
        claims.push({ ...kept, unit: id as UnitId, ageMs: Math.max(0, now - at) })
      }
    }
  }

  has(unit: UnitId): boolean {
    return this.#receipts.has(unit)
  }

  /** Of a unit whose job is over. */
  receiptOf(unit: UnitId): string | undefined {
    return this.#receipts.get(unit)
  }

  /** @param paid of it in escrow  @param index which of its key's results it is */
  keep(
    receipt: string,
    { unit, volunteer: identity, assignment, root, check }: ReceiptUnit,
    { id: job, requester, model }: JobSpec,
    { index, paid }: { index: number; paid: number },
  ): void {
    this.#receipts.set(unit as UnitId, receipt)
    const kept = {
      receipt,
      at: Date.now(),
      job,
      requester,
      model,
      identity,
      assignment,
      root,
      check,
      paid,
      index,
    }
    void this.#recorder.document('claim', unit, JSON.stringify(kept satisfies Record<keyof Kept, unknown>))
  }

  check(unit: UnitId, check: UnitCheck): void {
    if (!this.has(unit)) return
    this.#checked.add(unit)
    void this.#recorder.document('claim', unit + CHECK, JSON.stringify(check))
  }

  forget(unit: UnitId): void {
    if (!this.#receipts.delete(unit)) return
    void this.#recorder.document('claim', unit, null)
    if (this.#checked.delete(unit)) void this.#recorder.document('claim', unit + CHECK, null)
  }
}
