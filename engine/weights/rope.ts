/** Rotary position frequencies, in float: the reference uses them as they are, the packer makes tables of them. */
import type { Rope } from '../models/spec.ts'

/**
 * Radians per position for each of the headDim/2 pairs (i, i + headDim/2): theta^(-2i/headDim), scaled.
 * Linear scaling divides by the factor. Llama 3 (Meta's `apply_scaling`) divides only the wavelengths too long for the original
 * context, leaves the short ones, and blends between.
 */
export function ropeFrequencies({ theta, scaling }: Rope, headDim: number): Float64Array {
  return Float64Array.from({ length: headDim / 2 }, (_, i) => {
    const f = theta ** ((-2 * i) / headDim)
    if (scaling === null) return f
    if (scaling.type === 'linear') return f / scaling.factor
    const { factor, lowFreqFactor, highFreqFactor, originalContext } = scaling
    const turns = (originalContext * f) / (2 * Math.PI)
    if (turns < lowFreqFactor) return f / factor
    if (turns > highFreqFactor) return f
    const blend = (turns - lowFreqFactor) / (highFreqFactor - lowFreqFactor)
    return ((1 - blend) * f) / factor + blend * f
  })
}
