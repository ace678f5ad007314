/**
 * Log-probabilities of drawn tokens, from exact logits. Integers again: doubles are used, but only their sums, products and
 * quotients, which IEEE 754 fixes to the last bit; Math.exp and Math.log may differ between engines and are not.
 *
 *   ln p(i) = (logit(i) − max) − 2^16 · ln Σ exp((logit(j) − max) / 2^16),  rounded half up, in Q16, over the whole vocabulary
 *
 * The distribution is the model's own: temperature, top-k and top-p are about drawing, not about this.
 */

// Written out: these very doubles are part of the definition.
// oxlint-disable-next-line approx-constant
const LOG2_E = 1.4426950408889634
// oxlint-disable-next-line approx-constant
const LN_2 = 0.6931471805599453

/** 2^-n, n = 0 … 63. */
const halves = Array.from({ length: 64 }, (_, n) => 1 / Number(1n << BigInt(n)))

/** e^-x for x ≥ 0, relative error below 1e-15; 0 from x = 44 on, where it cannot move a sum that holds a 1. */
function expMinus(x: number): number {
  const t = x * LOG2_E
  const n = Math.floor(t)
  if (n > 63) return 0
  const r = (t - n) * LN_2
  let sum = 1
  // Taylor, innermost first: r < 0.7, so r^17 / 17! < 1e-17.
  for (let k = 16; k >= 1; k--) sum = 1 - (r / k) * sum
  return sum * halves[n]!
}

/** ln s for s ≥ 1. */
function ln(s: number): number {
  let m = s
  let n = 0
  while (m >= 2) {
    m /= 2
    n++
  }
  // ln m = 2·artanh z with z ≤ 1/3: z^37 / 37 < 1e-19.
  const z = (m - 1) / (m + 1)
  const square = z * z
  let sum = 0
  for (let k = 35; k >= 1; k -= 2) sum = sum * square + 1 / k
  return n * LN_2 + 2 * z * sum
}

/**
 * Pairs (id, ln p in Q16) i32[1 + top][2]: the drawn token's, then the `top` likeliest, likeliest first, equal ones by id.
 * A vocabulary smaller than `top` repeats its last.
 * @param logits i32[vocab] in Q16
 */
export function logprobsOf(logits: Int32Array, drawn: number, top: number): Int32Array {
  let max = logits[0]!
  for (let i = 1; i < logits.length; i++) if (logits[i]! > max) max = logits[i]!
  let sum = 0
  for (let i = 0; i < logits.length; i++) sum += expMinus((max - logits[i]!) / 65536)
  const offset = 65536 * ln(sum)
  const pairs = new Int32Array(2 * (1 + top))
  const put = (at: number, id: number): void => {
    pairs[2 * at] = id
    pairs[2 * at + 1] = Math.floor(logits[id]! - max - offset + 0.5)
  }
  put(0, drawn)
  likeliest(logits, top).forEach((id, i) => put(1 + i, id))
  return pairs
}

function likeliest(logits: Int32Array, top: number): number[] {
  const best: number[] = []
  if (top === 0) return best
  for (let id = 0; id < logits.length; id++) {
    const value = logits[id]!
    if (best.length === top && value <= logits[best[top - 1]!]!) continue
    let at = best.length === top ? top - 1 : best.length
    for (; at > 0 && logits[best[at - 1]!]! < value; at--) best[at] = best[at - 1]!
    best[at] = id
  }
  while (best.length < top) best.push(best.at(-1)!)
  return best
}
