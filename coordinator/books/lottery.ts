/**
 * The secret that decides which answers are checked. Its hash is published before it is used and itself when its period is over,
 * so that anybody can see that nobody was singled out: see docs/trust.md §The lottery.
 */
import { createHash, randomBytes } from 'node:crypto'
import { lotteryDraw, lotteryStatement } from '../core/checks.ts'
import { sha256 } from './documents.ts'
import type { Recorder, Records } from './records.ts'

/** One secret lasts this long. */
export const PERIOD_MS = 3_600_000

export interface Period {
  period: number
  /** SHA-256 of the secret's 32 bytes. */
  commitment: string
  /** Unix seconds. */
  from: number
  until: number | null
  /** 32 bytes in hex; null while it is in use. */
  secret: string | null
}

interface Kept extends Omit<Period, 'secret'> {
  secret: string
}

/** Ids sort as numbers do. */
const idOf = (period: number): string => String(period).padStart(12, '0')

export class Lottery {
  readonly #records: Records
  readonly #recorder: Recorder
  #current: Kept
  /** Of this life, by period. */
  readonly #commitments = new Map<number, string>()

  private constructor(records: Records, recorder: Recorder, period: number) {
    this.#records = records
    this.#recorder = recorder
    this.#current = this.#draw(period)
  }

  /** Begins the period after the last one that was kept. */
  static async open(records: Records, recorder: Recorder): Promise<Lottery> {
    let last: Kept | undefined
    for (let after = ''; ;) {
      const page = await records.documents('lottery', after, 1000)
      if (page.length === 0) break
      after = page.at(-1)!.id
      last = JSON.parse(page.at(-1)!.json) as Kept
    }
    // The last one of an earlier life is over, whether it could say so or not.
    const lottery = new Lottery(records, recorder, (last?.period ?? 0) + 1)
    if (last?.until === null) lottery.#keep({ ...last, until: lottery.#current.from })
    return lottery
  }

  /** For the core alone. */
  get secret(): string {
    return this.#current.secret
  }

  /** What was promised of a period of this life. */
  commitmentOf(period: number): string | undefined {
    return this.#commitments.get(period)
  }

  get current(): Period {
    return { ...this.#current, secret: null }
  }

  /** The next period; its secret goes to the core in the same turn. */
  next(): void {
    const over = { ...this.#current, until: Math.floor(Date.now() / 1000) }
    this.#keep(over)
    this.#current = this.#draw(over.period + 1)
  }

  /** Periods that are over, after `after`, with their secrets. */
  async past(after: number, limit: number): Promise<Period[]> {
    const kept = await this.#records.documents('lottery', idOf(after), limit)
    return kept
      .map(({ json }) => JSON.parse(json) as Kept)
      .filter(({ period }) => period < this.#current.period)
  }

  #draw(period: number): Kept {
    const bytes = randomBytes(32)
    const kept = {
      period,
      commitment: sha256(bytes),
      from: Math.floor(Date.now() / 1000),
      until: null,
      secret: bytes.toString('hex'),
    }
    this.#keep(kept)
    this.#commitments.set(period, kept.commitment)
    return kept
  }

  #keep(period: Kept): void {
    void this.#recorder.document('lottery', idOf(period.period), JSON.stringify(period))
  }
}

/** The core's own rule, for whoever checks it once the secret is published. */
export function isDrawn(
  secret: string,
  { assignment, root }: { assignment: string; root: string | null },
  rate: number,
): boolean {
  const statement = lotteryStatement(secret, assignment, root ?? '')
  return lotteryDraw(createHash('sha256').update(statement).digest()) < rate
}
