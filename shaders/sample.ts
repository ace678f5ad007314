import type { Kernel } from './kernel.ts'
import { exp2q, philox, umulhi } from './xn1.ts'

export type SampleParams = {
  vocab: number
  /** Ids kept per sequence in `out`. */
  capacity: number
}
/** Words of one sequence's sampling record. */
export const RECORD = {
  /** round(2^16·log2(e)/temperature), u32; 0 = greedy. */
  inverseTemperature: 0,
  /** 0 = all. */
  topK: 1,
  /** In 2^-16; 65536 = all. */
  topP: 2,
  seedLow: 3,
  seedHigh: 4,
  /** Which of the request's choices this is: the second word of the Philox counter. */
  stream: 5,
  /** Position of the token about to be drawn: the first word of the counter. */
  position: 6,
  /** Ids drawn so far. */
  drawn: 7,
  /** First KV row of the sequence. */
  base: 8,
  words: 12,
} as const
export interface SampleBuffers {
  logits: Int32Array // [n, V] Q16
  exp2: Int32Array // [257]
  records: Uint32Array // [n, RECORD.words]
  rows: Uint32Array // row r becomes (id, position, base, position + 1): the next step's input
  out: Uint32Array // [n, capacity] ids in the order drawn
}

/**
 * The next token of each sequence. Greedy: the largest logit, ties to the lowest id. Otherwise p = exp2q((max - logit)·1/T)
 * over the top-k by (logit falling, id rising), of these the shortest prefix holding top-p of the mass, drawn by
 * r = floor(philox·total / 2^32) over the kept ids in rising order.
 */
export const sample: Kernel<SampleParams, SampleBuffers> = {
  name: 'sample',
  run({ vocab, capacity }, { logits, exp2, records, rows, out }, n) {
    for (let r = 0; r < n; r++) {
      const o = r * RECORD.words
      const at = (word: number): number => records[o + word]!
      const row = logits.subarray(r * vocab, (r + 1) * vocab)
      const position = at(RECORD.position)
      let id = argmax(row)
      const inverse = at(RECORD.inverseTemperature)
      if (inverse) {
        const p = probabilities(row, row[id]!, inverse, exp2)
        const order = Array.from(row.keys()).sort((a, b) => row[b]! - row[a]! || a - b)
        const kept = at(RECORD.topK) ? order.slice(0, at(RECORD.topK)) : order
        const sum = (ids: number[]): number => ids.reduce((s, i) => s + p[i]!, 0)
        const target = Math.max(1, Math.ceil((sum(kept) * at(RECORD.topP)) / 65536))
        let size = 0
        for (let mass = 0; size < kept.length && mass < target; size++) mass += p[kept[size]!]!
        kept.length = size
        kept.sort((a, b) => a - b)
        const draw = umulhi(
          philox(position, at(RECORD.stream), at(RECORD.seedLow), at(RECORD.seedHigh)),
          sum(kept),
        )
        let mass = 0
        id = kept.find((i) => (mass += p[i]!) > draw)!
      }
      const drawn = at(RECORD.drawn)
      if (drawn < capacity) out[r * capacity + drawn] = id
      rows.set([id, position, at(RECORD.base), position + 1], 4 + 4 * r)
      records[o + RECORD.position] = position + 1
      records[o + RECORD.drawn] = drawn + 1
    }
  },
}

function argmax(row: Int32Array): number {
  let best = 0
  for (let i = 1; i < row.length; i++) if (row[i]! > row[best]!) best = i
  return best
}

function probabilities(row: Int32Array, max: number, inverse: number, exp2: Int32Array): Int32Array {
  return row.map((logit) => {
    const distance = (max - logit) >>> 0
    const high = umulhi(distance, inverse)
    const u = high >= 16 ? 0xffffffff : ((high << 16) | (Math.imul(distance, inverse) >>> 16)) >>> 0
    return exp2q(exp2, u)
  })
}
