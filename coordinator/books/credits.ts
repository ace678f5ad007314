/**
 * What tenants with a limit were granted, and what of it is left: balances of the ledger, so that they outlive the process with
 * every other entry. In standard units. Without a limit a tenant pays afterwards, if at all.
 */
import type { RequesterId } from '../../protocol/index.ts'
import { grantOf } from '../core/credit.ts'
import type { Ledger } from './ledger.ts'
import type { Recorder } from './records.ts'
import type { ApiKeyRecord } from '../store/store.ts'

/** Its name says whether a payer has a limit, wherever it is kept: a batch, a job, an entry of the ledger. */
const LIMITED = 'credit:'
export const isLimited = (payer: string): boolean => payer.startsWith(LIMITED)
/** Who pays for what is asked with a key. */
export const payerOf = ({ tenant, extra }: Pick<ApiKeyRecord, 'tenant' | 'extra'>): RequesterId =>
  `${extra.isLimited ? LIMITED : 'tenant:'}${tenant}` as RequesterId

export interface Credit {
  /** Null without a limit. */
  granted: number | null
  /** With what is reserved for requests that are not over. */
  used: number
  left: number | null
}

type Grant = (payer: RequesterId, amount: number) => Promise<void>

export class Credits {
  readonly #ledger: Pick<Ledger, 'balanceOf'>
  readonly #grant: Grant

  /** @param grant enters a grant into the ledger, and resolves once it is durable */
  constructor(ledger: Pick<Ledger, 'balanceOf'>, grant: Grant) {
    this.#ledger = ledger
    this.#grant = grant
  }

  /** Where no core runs. */
  static beside(ledger: Ledger, recorder: Recorder): Credits {
    return new Credits(ledger, (payer, amount) => {
      if (amount !== 0) ledger.post({ kind: 'grant', lines: grantOf(payer, amount) })
      return recorder.flush()
    })
  }

  of(payer: RequesterId): Credit {
    const left = this.#ledger.balanceOf(`requester:${payer}`)
    if (!isLimited(payer)) return { granted: null, used: 0 - left, left: null }
    const granted = 0 - this.#ledger.balanceOf(`granted:${payer}`)
    return { granted, used: granted - left, left }
  }

  /** @param amount below 0: taken back. False, and nothing is done, where there is no limit, less than that is left, or too much. */
  async grant(payer: RequesterId, amount: number): Promise<boolean> {
    const { granted, left } = this.of(payer)
    if (left === null || left + amount < 0 || !Number.isSafeInteger(granted! + amount)) return false
    await this.#grant(payer, amount)
    return true
  }
}
