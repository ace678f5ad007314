/** The activation functions in float64: the reference applies them, the packer makes tables of them. */
import type { Activation } from '../models/spec.ts'

const steps = 512
const reach = 6.5
let erfNodes: Float64Array | null = null

/** erf(x) = 2/√π · e^(-x²) · Σ 2ⁿx^(2n+1)/(2n+1)!! (Abramowitz & Stegun 7.1.6): all terms positive, so nothing cancels. */
function erfSeries(x: number): number {
  let term = x
  let sum = x
  for (let n = 1; term > sum * 1e-17; n++) {
    term *= (2 * x * x) / (2 * n + 1)
    sum += term
  }
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum
}

/** The error function to 1e-13: cubic Hermite interpolation of the series, whose derivative is known in closed form. */
export function erf(x: number): number {
  const nodes = (erfNodes ??= Float64Array.from({ length: reach * steps + 2 }, (_, i) =>
    erfSeries(i / steps),
  ))
  const a = Math.abs(x)
  if (!(a < reach)) return Math.sign(x)
  const i = Math.floor(a * steps)
  const t = a * steps - i
  const at = i / steps
  const slope = 2 / Math.sqrt(Math.PI) / steps
  const next = at + 1 / steps
  const d0 = slope * Math.exp(-at * at)
  const d1 = slope * Math.exp(-next * next)
  const y0 = nodes[i]!
  const rise = nodes[i + 1]! - y0
  const y = y0 + t * (d0 + t * (3 * rise - 2 * d0 - d1 + t * (d0 + d1 - 2 * rise)))
  return x < 0 ? -y : y
}

/** The function itself, R → R. */
export function activationOf(act: Activation): (x: number) => number {
  switch (act) {
    case 'silu':
      return (x) => x / (1 + Math.exp(-x))
    case 'gelu':
      return (x) => 0.5 * x * (1 + erf(x * Math.SQRT1_2))
    case 'gelu_tanh':
      return (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x * x * x)))
    case 'relu':
      return (x) => Math.max(x, 0)
    case 'tanh':
      return Math.tanh
  }
}
