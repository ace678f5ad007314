/** The same integers for every contestant, and the products they must find. */

export interface Shape {
  m: number
  k: number
  n: number
  /** Products per run, each with its own weights: run overhead vanishes, and weights come from memory where that is meant. */
  copies: number
}

export interface Problem extends Shape {
  /** Activations, [m, k], in -127..127. */
  x: Int8Array
  /** Weights, one [n, k] per copy (output channel major, as checkpoints have them), in -127..127. */
  weights: Int8Array[]
  /** The last `CORNER` products of the last row of every copy, [copies, CORNER]. */
  corner: Float64Array
}

export const CORNER = 8

/** xorshift32: the same numbers in every engine. */
function fill(length: number, seed: number): Int8Array {
  const values = new Int8Array(length)
  let s = seed | 0 || 1
  for (let i = 0; i < length; i++) {
    s ^= s << 13
    s ^= s >>> 17
    s ^= s << 5
    values[i] = (((s >>> 16) * 255) >>> 16) - 127
  }
  return values
}

export function makeProblem(shape: Shape, seed = 1): Problem {
  const { m, k, n, copies } = shape
  const x = fill(m * k, seed)
  const weights = Array.from({ length: copies }, (_, copy) => fill(n * k, seed + 7919 * (copy + 1)))
  const corner = new Float64Array(copies * CORNER)
  weights.forEach((w, copy) => {
    for (let c = 0; c < CORNER; c++) {
      let sum = 0
      const row = (n - CORNER + c) * k
      for (let i = 0; i < k; i++) sum += x[(m - 1) * k + i]! * w[row + i]!
      corner[copy * CORNER + c] = sum
    }
  })
  return { ...shape, x, weights, corner }
}

/** [n, k] → [k, n]. */
export function transpose(w: Int8Array, n: number, k: number): Int8Array {
  const t = new Int8Array(w.length)
  for (let row = 0; row < n; row++) for (let col = 0; col < k; col++) t[col * n + row] = w[row * k + col]!
  return t
}

/** Null when `got` is within `tolerance` of the products, otherwise what is wrong. */
export function disagreement(problem: Problem, got: Float64Array, tolerance: number): string | null {
  if (got.length !== problem.corner.length) return `${got.length} values instead of ${problem.corner.length}`
  let largest = 0
  for (const value of problem.corner) largest = Math.max(largest, Math.abs(value))
  for (let i = 0; i < got.length; i++) {
    const want = problem.corner[i]!
    // Written so that NaN fails.
    if (!(Math.abs(got[i]! - want) <= tolerance * largest)) {
      return `product ${i % CORNER} of copy ${Math.floor(i / CORNER)} is ${got[i]}, must be ${want}`
    }
  }
  return null
}
