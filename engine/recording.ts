/**
 * A Recording says what to compute, as data: the buffers a model needs and the kernels to launch over them, in order. A
 * backend plays it; it never knows what a model is. Everything static is in here (params, sizes, which buffer goes where);
 * what changes from run to run is only how many rows, picks and segments are present.
 */
import type { Dtype, Params } from '../shaders/kernel.ts'
import type { KernelName } from '../shaders/kernels.ts'

/** Which count a step runs over: token rows, rows picked for logits, or segments (whole sequences of an encoder). */
export type Domain = 'rows' | 'picks' | 'segments'
export type Counts = Record<Domain, number>

export interface BufferSpec {
  dtype: Dtype
  /** Elements. For a matrix rows·stride(k). */
  length: number
  /**
   * constant: filled once from the pack · matrix: the same, int8 rows of k values, whose storage order is the backend's own ·
   * input: written by the host between runs (rows, picks, segments, records) · cache: the KV cache · scratch: the rest.
   */
  kind: 'constant' | 'matrix' | 'input' | 'cache' | 'scratch'
  matrix?: { rows: number; k: number }
  /** Where a constant or matrix comes from: a tensor of the pack, and which of its rows. */
  source?: { tensor: string; from: number; to: number }
}

export interface Step {
  kernel: KernelName
  params: Params
  /** Kernel buffer name → buffer of the recording, or null where the variant has none. */
  buffers: Record<string, string | null>
  domain: Domain
}

export interface Recording {
  buffers: Record<string, BufferSpec>
  /** Lists of steps that are run by name: `body` (embedding and blocks), then what is wanted of the result. */
  sections: Record<string, Step[]>
  /** Most rows, picks and segments one run may have. */
  max: Counts
}
