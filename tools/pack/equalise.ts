/**
 * Attention keeps queries, keys and values as 8-bit rows, one scale per head: a channel that is larger than its neighbours
 * takes their bits. What q·k and o·v compute does not change when a channel is divided by s on one side and multiplied by s
 * on the other, so s is chosen to leave the least rounding error, and folded into the weights.
 */
import type { ModelSpec } from '../../engine/models/spec.ts'

/** Factors on the rows of q, k and v, and on the columns of o. */
export interface HeadScales {
  /** f32[heads·headDim]; with q/k norms the same for every head, and on the norms' gains instead. */
  q: Float32Array
  /** f32[kvHeads·headDim] */
  k: Float32Array
  v: Float32Array
  /** f32[heads·headDim] */
  o: Float32Array
  /** Relative error energy of scores and of values before and after, for the curious. */
  scoreError: [number, number]
  valueError: [number, number]
}

/** Rows of q, k and v of a block as the float model has them: q and k behind norm and RoPE. */
export class HeadWatch {
  readonly #spec: ModelSpec
  readonly #rows = { q: [] as Float32Array[], k: [] as Float32Array[], v: [] as Float32Array[] }
  readonly #max: Record<'q' | 'k' | 'v', Float32Array>
  #seen = 0

  constructor(spec: ModelSpec) {
    this.#spec = spec
    const { heads, kvHeads, headDim } = spec
    this.#max = {
      q: new Float32Array(heads * headDim),
      k: new Float32Array(kvHeads * headDim),
      v: new Float32Array(kvHeads * headDim),
    }
  }

  /** q f32[rows, heads·headDim], k and v f32[rows, kvHeads·headDim]. */
  see(q: Float32Array, k: Float32Array, v: Float32Array, rows: number): void {
    for (let r = 0; r < rows; r++) {
      const at = this.#seen++
      for (const [name, values] of Object.entries({ q, k, v }) as Array<['q' | 'k' | 'v', Float32Array]>) {
        const n = values.length / rows
        const row = values.subarray(r * n, (r + 1) * n)
        const max = this.#max[name]
        for (let c = 0; c < n; c++) max[c] = Math.max(max[c]!, Math.abs(row[c]!))
        if (at < ROWS_KEPT) this.#rows[name].push(row.slice())
        else if (at % 7 === 0) this.#rows[name][(at / 7) % ROWS_KEPT] = row.slice()
      }
    }
  }

  /** @param oColumns energy of each column of o, f32[heads·headDim] */
  choose(oColumns: Float32Array): HeadScales {
    const { heads, kvHeads, headDim } = this.#spec
    const ones = (n: number): Float32Array => new Float32Array(n).fill(1)
    const scores = this.#chooseScores()
    const values = this.#chooseValues(oColumns)
    const perHead = (s: Float32Array): Float32Array =>
      Float32Array.from({ length: heads * headDim }, (_, i) => s[this.#kvChannel(i)]!)
    const s = scores.s ?? ones(kvHeads * headDim)
    const t = values.s ?? ones(kvHeads * headDim)
    return {
      q: perHead(s), k: s.map((x) => 1 / x), v: t.map((x) => 1 / x), o: perHead(t), scoreError: scores.error, valueError: values.error,
    } // prettier-ignore
  }

  /** The key or value channel that a query channel meets. */
  #kvChannel(i: number): number {
    const { heads, kvHeads, headDim } = this.#spec
    return Math.floor(Math.floor(i / headDim) / (heads / kvHeads)) * headDim + (i % headDim)
  }

  #chooseScores(): { s: Float32Array | null; error: [number, number] } {
    const { heads, kvHeads, headDim, rope, qkNorm } = this.#spec
    // The largest query that meets each key channel. RoPE turns channels i and i + headDim/2 into each other, and the gains of
    // q/k norms serve all heads: such channels need one s.
    const [q, k] = [new Float32Array(kvHeads * headDim), this.#max.k.slice()]
    for (let i = 0; i < heads * headDim; i++)
      q[this.#kvChannel(i)] = Math.max(q[this.#kvChannel(i)]!, this.#max.q[i]!)
    for (const max of [q, k]) {
      const groups = new Map<number, number>()
      const groupOf = (c: number): number => {
        const within = rope ? c % (headDim / 2) : c % headDim
        return qkNorm ? within : Math.floor(c / headDim) * headDim + within
      }
      for (let c = 0; c < max.length; c++)
        groups.set(groupOf(c), Math.max(groups.get(groupOf(c)) ?? 0, max[c]!))
      for (let c = 0; c < max.length; c++) max[c] = groups.get(groupOf(c))!
    }
    const before = this.#scoreError(null)
    let best: { s: Float32Array | null; error: number } = { s: null, error: before }
    // At 0.5 query and key are equally large, so neither grows past what the larger was.
    for (const strength of [0.25, 0.5]) {
      const s = k.map((x, c) => (x > 0 && q[c]! > 0 ? (x / q[c]!) ** strength : 1))
      const error = this.#scoreError(s)
      if (error < best.error * WORTH) best = { s, error }
    }
    return { s: best.s, error: [before, best.error] }
  }

  #chooseValues(oColumns: Float32Array): { s: Float32Array | null; error: [number, number] } {
    const { kvHeads, headDim } = this.#spec
    const columns = new Float32Array(kvHeads * headDim)
    for (let i = 0; i < oColumns.length; i++)
      columns[this.#kvChannel(i)] = columns[this.#kvChannel(i)]! + oColumns[i]!
    const before = this.#valueError(columns, null)
    let best: { s: Float32Array | null; error: number } = { s: null, error: before }
    for (const strength of [0.25, 0.5]) {
      const s = this.#max.v.map((x) => (x > 0 ? x ** strength : 1))
      const error = this.#valueError(columns, s)
      if (error < best.error * WORTH) best = { s, error }
    }
    return { s: best.s, error: [before, best.error] }
  }

  /** Error energy over energy of q·k, each kept query against each kept key. */
  #scoreError(s: Float32Array | null): number {
    const { heads, headDim } = this.#spec
    const scale = (row: Float32Array, f: (c: number) => number): Float32Array => row.map((x, c) => x * f(c))
    const qs = this.#rows.q.map((row) => (s ? scale(row, (c) => s[this.#kvChannel(c)]!) : row))
    const ks = this.#rows.k.map((row) => (s ? scale(row, (c) => 1 / s[c]!) : row))
    const [qr, kr] = [qs.map((row) => rounded(row, headDim)), ks.map((row) => rounded(row, headDim))]
    let [error, energy] = [0, 0]
    for (let h = 0; h < heads; h++) {
      const [a, b] = [h * headDim, this.#kvChannel(h * headDim)]
      for (let i = 0; i < qs.length; i++)
        for (let j = 0; j < ks.length; j += 3) {
          let [exact, approximate] = [0, 0]
          for (let c = 0; c < headDim; c++) {
            exact += qs[i]![a + c]! * ks[j]![b + c]!
            approximate += qr[i]![a + c]! * kr[j]![b + c]!
          }
          energy += exact * exact
          error += (approximate - exact) ** 2
        }
    }
    return energy === 0 ? 0 : error / energy
  }

  /** Error energy over energy of single values seen through o. */
  #valueError(columns: Float32Array, s: Float32Array | null): number {
    const { headDim } = this.#spec
    let [error, energy] = [0, 0]
    for (const row of this.#rows.v) {
      const scaled = s ? row.map((x, c) => x / s[c]!) : row
      const r = rounded(scaled, headDim)
      for (let c = 0; c < row.length; c++) {
        energy += row[c]! ** 2 * columns[c]!
        error += ((r[c]! - scaled[c]!) * (s ? s[c]! : 1)) ** 2 * columns[c]!
      }
    }
    return energy === 0 ? 0 : error / energy
  }
}

const ROWS_KEPT = 24
/** What must be left of the error, at most, for a change to be worth making: without outlier channels nothing is gained. */
export const WORTH = 0.7

/** Rows rounded to 8 bits, a scale per head. */
function rounded(row: Float32Array, headDim: number): Float32Array {
  const out = new Float32Array(row.length)
  for (let from = 0; from < row.length; from += headDim) {
    let max = 0
    for (let c = from; c < from + headDim; c++) max = Math.max(max, Math.abs(row[c]!))
    if (max > 0)
      for (let c = from; c < from + headDim; c++) out[c] = (Math.round((row[c]! * 127) / max) * max) / 127
  }
  return out
}
