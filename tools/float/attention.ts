/** Rotary positions and attention of the float reference, one sequence at a time. */

/** Turn each pair (i, i + headDim/2) of every head by position · frequency (the layout of Hugging Face's llama weights). */
export function rotate(
  x: Float32Array,
  rows: number,
  heads: number,
  headDim: number,
  frequencies: Float64Array,
): void {
  const half = headDim / 2
  for (let t = 0; t < rows; t++) {
    for (let i = 0; i < half; i++) {
      const cos = Math.cos(t * frequencies[i]!)
      const sin = Math.sin(t * frequencies[i]!)
      for (let h = 0; h < heads; h++) {
        const at = (t * heads + h) * headDim + i
        const a = x[at]!,
          b = x[at + half]!
        x[at] = a * cos - b * sin
        x[at + half] = b * cos + a * sin
      }
    }
  }
}

/**
 * out[t, h] = Σ softmax(q[t, h] · k[j, h'] / √headDim) · v[j, h'], over j ≤ t if causal, else over all j.
 * q, out: [rows, heads, headDim]; k, v: [rows, kvHeads, headDim]; query head h reads key head h' = ⌊h · kvHeads / heads⌋.
 */
export function attend(
  out: Float32Array,
  q: Float32Array,
  k: Float32Array,
  v: Float32Array,
  rows: number,
  heads: number,
  kvHeads: number,
  headDim: number,
  causal: boolean,
): void {
  const weight = new Float64Array(rows)
  const sum = new Float64Array(headDim)
  const group = heads / kvHeads
  const scale = 1 / Math.sqrt(headDim)
  for (let h = 0; h < heads; h++) {
    const kv = Math.floor(h / group) * headDim
    const stride = kvHeads * headDim
    for (let t = 0; t < rows; t++) {
      const at = (t * heads + h) * headDim
      const n = causal ? t + 1 : rows
      let max = -Infinity
      for (let j = 0; j < n; j++) {
        const kj = j * stride + kv
        let s = 0
        for (let i = 0; i < headDim; i++) s += q[at + i]! * k[kj + i]!
        weight[j] = s * scale
        max = Math.max(max, s * scale)
      }
      let total = 0
      sum.fill(0)
      for (let j = 0; j < n; j++) {
        const p = Math.exp(weight[j]! - max)
        const vj = j * stride + kv
        total += p
        for (let i = 0; i < headDim; i++) sum[i] = sum[i]! + p * v[vj + i]!
      }
      for (let i = 0; i < headDim; i++) out[at + i] = sum[i]! / total
    }
  }
}
