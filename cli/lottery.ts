/** The lottery drawn again: whether each part of a receipt had to be checked, from the secret that is published when its hour is over. */
import { sha256 } from '../coordinator/books/documents.ts'
import type { Receipt, ReceiptUnit } from '../coordinator/books/documents.ts'
import { isDrawn } from '../coordinator/books/lottery.ts'
import type { Period } from '../coordinator/books/lottery.ts'
import type { Flaw } from '../coordinator/books/seal.ts'
import { UsageError } from './errors.ts'
import { Remote } from './remote.ts'

/** A period's secret, in hex; null while it is not published. */
export type SecretOf = (period: number) => Promise<string | null>

export interface Redrawn {
  /** Of each unit; null where nobody can tell yet. */
  isDue: (boolean | null)[]
  flaw: Flaw | null
  notes: string[]
}

/** What of it had to be checked. The flaw: a check that was drawn and neither made, nor said to be given up; or a broken promise. */
export async function redraw(receipt: Receipt, secretOf: SecretOf | undefined): Promise<Redrawn> {
  const result: Redrawn = { isDue: [], flaw: null, notes: [] }
  const secrets = new Map<number, string | null>()
  for (const [i, { period, commitment }] of receipt.lottery.entries()) {
    if (!receipt.units.some(({ check }) => check.period === period && isByLot(check))) continue
    const secret = secretOf ? await secretOf(period) : null
    secrets.set(period, secret)
    if (secret === null) {
      if (secretOf)
        result.notes.push(
          `The secret of period ${period} of the lottery is not yet published: what it drew can be checked after its hour.`,
        )
    } else if (sha256(Buffer.from(secret, 'hex')) !== commitment)
      result.flaw ??= {
        field: `lottery.${i}.commitment`,
        why: `the secret published for period ${period} is not the one that was promised`,
      }
  }
  for (const [i, unit] of receipt.units.entries()) {
    const isDue = isObliged(unit, secrets.get(unit.check.period) ?? null)
    result.isDue.push(isDue)
    if (!isDue) continue
    const { kind, rate } = unit.check
    if (kind === 'none')
      result.flaw ??= {
        field: `units.${i}.check`,
        why: `the lottery drew it (rate ${rate}), and no check was made`,
      }
    if (kind === 'pending') result.notes.push(`units.${i}: drawn; its check is not done yet.`)
    if (kind === 'abandoned')
      result.notes.push(`units.${i}: drawn; its check was given up, for want of somebody who could make it.`)
  }
  return result
}

/** Neither certain nor impossible. */
const isByLot = ({ rate }: ReceiptUnit['check']): boolean => rate > 0 && rate < 1

/** docs/trust.md §The lottery. Of what was replaced, it is the first answer that was drawn. */
function isObliged({ check, replaced, ...unit }: ReceiptUnit, secret: string | null): boolean | null {
  if (!isByLot(check)) return check.rate >= 1
  if (secret === null) return null
  return isDrawn(secret, replaced ?? unit, check.rate)
}

/** From a coordinator. Rejects with RemoteError. */
export const secretsAt =
  (url: string): SecretOf =>
  async (period) => {
    const path = `/v1/lottery?after=${period - 1}&limit=1`
    return secretIn((await new Remote({ url }).get<{ past: Period[] }>(path)).past, period)
  }

/** From what `GET /v1/lottery` answered. Throws UsageError where it is something else. @param name of the file */
export function secretsIn(json: unknown, name: string): SecretOf {
  const past = (json as { past?: unknown } | null)?.past
  if (!Array.isArray(past)) throw new UsageError(`${name} is not what GET /v1/lottery answers`)
  return (period) => Promise.resolve(secretIn(past as Period[], period))
}

const secretIn = (past: readonly Period[], wanted: number): string | null =>
  past.find(({ period }) => period === wanted)?.secret ?? null
