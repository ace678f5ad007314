/** What a caller asks of sampling, and the integers the sampling kernel reads. */
import { RECORD } from '../shaders/sample.ts'
import { ModelError } from './weights/errors.ts'

export interface Sampling {
  /** 0 is greedy. */
  temperature?: number
  /** 0 is all. */
  topK?: number
  /** 1 is all. */
  topP?: number
  /** Up to 64 bits. The same seed gives the same tokens, on any device, from any position on. */
  seed?: bigint | number
  /** Which of several choices for one prompt this is. */
  stream?: number
}

/** Throws ModelError `input-invalid`, naming the option. */
export function samplingRecord(s: Sampling, position: number, base: number): Uint32Array {
  const temperature = within('temperature', s.temperature ?? 0, 0, 100)
  const topP = within('topP', s.topP ?? 1, 0, 1)
  const topK = within('topK', s.topK ?? 0, 0, 2 ** 31)
  const stream = within('stream', s.stream ?? 0, 0, 2 ** 32 - 1)
  if (!Number.isInteger(topK)) refuse('topK', topK, 'a whole number')
  if (typeof s.seed === 'number' && !Number.isSafeInteger(s.seed))
    refuse('seed', s.seed, 'a whole number, or a BigInt')
  const seed = BigInt.asUintN(64, BigInt(s.seed ?? 0))
  const record = new Uint32Array(RECORD.words)
  record[RECORD.inverseTemperature] =
    temperature === 0 ? 0 : Math.max(1, Math.min(2 ** 32 - 1, Math.round((65536 * Math.LOG2E) / temperature)))
  record[RECORD.topK] = topK
  record[RECORD.topP] = Math.max(1, Math.round(topP * 65536))
  record[RECORD.seedLow] = Number(seed & 0xffffffffn)
  record[RECORD.seedHigh] = Number(seed >> 32n)
  record[RECORD.stream] = stream
  record[RECORD.position] = position
  record[RECORD.base] = base
  return record
}

function within(name: string, value: number, low: number, high: number): number {
  if (!(value >= low && value <= high)) refuse(name, value, `between ${low} and ${high}`)
  return value
}

function refuse(name: string, value: number, wanted: string): never {
  throw new ModelError('input-invalid', { what: `${name} is ${value}`, todo: `Give ${wanted}` })
}
