/** What takes part in a kernel benchmark: ours and everybody else's, behind the same three methods. */

import type { Problem } from '../page/problem.ts'

/** A problem loaded into one engine, ready to be run again and again. */
export interface Prepared {
  /** Milliseconds for `n` runs of the whole problem (all its `copies`), completion included. */
  run(n: number): Promise<number>
  /**
   * What the timed code computed for `problem.corner`: the products of the integers, as floats where the engine computes in
   * floats. Read after at least one `run`.
   */
  corner(): Promise<Float64Array>
  dispose(): void
}

export interface Contestant {
  /** Package and operator, as a reader would look it up. */
  name: string
  arithmetic: 'int8' | 'f32'
  /** Largest error of the corner, relative to its largest value. Integer products must be exact: 0. */
  tolerance: number
  prepare(problem: Problem): Promise<Prepared>
}
