/** Matrix product and norms of the float reference. Sums are float64, stored values float32. */

/** Rows of x worked on together, so that they stay in the processor's cache while the weights pass. */
const rowTile = 64

/** y[r, o] = Σ x[r, k] · w[o, k] + bias[o]. Shapes: x [rows, inner], w [out, inner], y [rows, out]; row-major. */
export function linear(
  y: Float32Array,
  x: Float32Array,
  w: Float32Array,
  bias: Float32Array | null,
  rows: number,
  out: number,
  inner: number,
): void {
  for (let tile = 0; tile < rows; tile += rowTile) {
    const end = Math.min(tile + rowTile, rows)
    let o = 0
    for (; o + 4 <= out; o += 4) {
      const w0 = o * inner,
        w1 = w0 + inner,
        w2 = w1 + inner,
        w3 = w2 + inner
      const b0 = bias ? bias[o]! : 0,
        b1 = bias ? bias[o + 1]! : 0,
        b2 = bias ? bias[o + 2]! : 0,
        b3 = bias ? bias[o + 3]! : 0
      let r = tile
      // Two rows by four outputs: eight sums in registers for six loads.
      for (; r + 2 <= end; r += 2) {
        const x0 = r * inner,
          x1 = x0 + inner
        let s00 = b0,
          s01 = b1,
          s02 = b2,
          s03 = b3,
          s10 = b0,
          s11 = b1,
          s12 = b2,
          s13 = b3
        for (let k = 0; k < inner; k++) {
          const a0 = x[x0 + k]!,
            a1 = x[x1 + k]!
          const c0 = w[w0 + k]!,
            c1 = w[w1 + k]!,
            c2 = w[w2 + k]!,
            c3 = w[w3 + k]!
          s00 += a0 * c0
          s01 += a0 * c1
          s02 += a0 * c2
          s03 += a0 * c3
          s10 += a1 * c0
          s11 += a1 * c1
          s12 += a1 * c2
          s13 += a1 * c3
        }
        const y0 = r * out + o,
          y1 = y0 + out
        y[y0] = s00
        y[y0 + 1] = s01
        y[y0 + 2] = s02
        y[y0 + 3] = s03
        y[y1] = s10
        y[y1 + 1] = s11
        y[y1 + 2] = s12
        y[y1 + 3] = s13
      }
      for (; r < end; r++) {
        for (let j = 0; j < 4; j++)
          y[r * out + o + j] = dot(x, r * inner, w, (o + j) * inner, inner, bias ? bias[o + j]! : 0)
      }
    }
    for (; o < out; o++) {
      for (let r = tile; r < end; r++)
        y[r * out + o] = dot(x, r * inner, w, o * inner, inner, bias ? bias[o]! : 0)
    }
  }
}

function dot(a: Float32Array, ai: number, b: Float32Array, bi: number, n: number, sum: number): number {
  for (let k = 0; k < n; k++) sum += a[ai + k]! * b[bi + k]!
  return sum
}

export interface NormWeights {
  gain: Float32Array
  bias: Float32Array | null
}

/** y = x / √(mean(x²) + eps) · gain, over each `n` values; y may be x. */
export function rmsNorm(y: Float32Array, x: Float32Array, { gain }: NormWeights, eps: number): void {
  const n = gain.length
  for (let at = 0; at < x.length; at += n) {
    let squares = 0
    for (let i = 0; i < n; i++) squares += x[at + i]! * x[at + i]!
    const scale = 1 / Math.sqrt(squares / n + eps)
    for (let i = 0; i < n; i++) y[at + i] = x[at + i]! * scale * gain[i]!
  }
}

/** y = (x - mean) / √(variance + eps) · gain + bias, over each `n` values; y may be x. */
export function layerNorm(y: Float32Array, x: Float32Array, { gain, bias }: NormWeights, eps: number): void {
  const n = gain.length
  for (let at = 0; at < x.length; at += n) {
    let sum = 0
    for (let i = 0; i < n; i++) sum += x[at + i]!
    const mean = sum / n
    let squares = 0
    for (let i = 0; i < n; i++) squares += (x[at + i]! - mean) ** 2
    const scale = 1 / Math.sqrt(squares / n + eps)
    for (let i = 0; i < n; i++) y[at + i] = (x[at + i]! - mean) * scale * gain[i]! + (bias ? bias[i]! : 0)
  }
}
