/** What a unit is worth, in standard units of 10^6 int8 multiply-accumulates rounded up: the core's own rule, for whoever checks it. */
import type { UnitInput } from '../../protocol/index.ts'
import type { ServedModel } from '../core/events.ts'
import { macsOfRows, macsOfText } from '../core/ledger.ts'

/** @param macs of the model, engine/macs.ts  @param drawn tokens of a text */
export function worthOf(
  macs: ServedModel['macs'],
  { kind, inputs, generate }: UnitInput,
  drawn: number,
): number {
  const model = { macs } as ServedModel
  if (kind !== 'generate') return macsOfRows(model, inputs)
  return macsOfText(model, inputs[0]!.length - (generate?.replay ?? 0), drawn)
}
