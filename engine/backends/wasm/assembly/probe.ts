/** What the relaxed dot gives on this engine, for engine/backends/wasm/variant.ts to compare with what it must be. */
import { dot } from './tiles-relaxed'

/** out[i] (4 i32) = relaxed dot of x[i] and w[i] (16 bytes each), added to out[i]. */
export function probe(x: usize, w: usize, out: usize, count: i32): void {
  if (!ASC_FEATURE_RELAXED_SIMD) return
  for (let i = 0; i < count << 4; i += 16)
    v128.store(out + i, dot(v128.load(out + i), v128.load(x + i), v128.load(w + i)))
}
