/** The ways to launch a kernel that has more than one, listed once; all give the same bytes, so speed alone chooses. */

export interface LinearVariant {
  shader: string
  /** Override constants beside the step's own. */
  constants: Record<string, number>
  /** Output columns and rows per workgroup. */
  columns: number
  rows: number
  /** Workgroup storage it takes. */
  storageBytes: number
}

/** linear over many rows (prompts, encoders): tiles. */
export const linearMany: Record<string, LinearVariant> = {
  // 4×4 outputs per thread in registers, operands straight from storage
  dot: { shader: 'linear', constants: { WG: 32 }, columns: 128, rows: 4, storageBytes: 0 },
  'dot-narrow': { shader: 'linear', constants: { WG: 8 }, columns: 32, rows: 4, storageBytes: 0 },
  // 64×64 outputs per workgroup, operands staged in its memory
  tile: { shader: 'linear_tile', constants: {}, columns: 64, rows: 64, storageBytes: 8192 },
  'tile-f32': { shader: 'linear_tile', constants: { F32: 1 }, columns: 64, rows: 64, storageBytes: 8192 },
  // as dot with 8×4 outputs, sums in exact f32
  f32: { shader: 'linear_f32', constants: { WG: 32 }, columns: 128, rows: 8, storageBytes: 0 },
  'f32-narrow': { shader: 'linear_f32', constants: { WG: 4 }, columns: 16, rows: 8, storageBytes: 0 },
}

/** linear over few rows (a decoder's next token): K split over a workgroup's threads. */
export const linearFew: Record<string, LinearVariant> = {
  row64: row(64, 1, false),
  row128: row(128, 1, false),
  row256: row(256, 1, false),
  'row64-f32': row(64, 1, true),
  'row128-f32': row(128, 1, true),
  // few, long workgroups, each of several panels: for SIMD lanes, where a barrier is dear
  'row16-f32': row(16, 8, true),
}

function row(threads: number, panels: number, f32: boolean): LinearVariant {
  return {
    shader: 'linear_row',
    constants: { WG: threads, PANELS: panels, F32: Number(f32) },
    columns: 16 * panels,
    rows: 1,
    storageBytes: 128 * panels,
  }
}

/** What was chosen for a device. */
export interface Choice {
  /** Keys of linearMany and linearFew. */
  many: string
  few: string
  /** Threads per workgroup where one handles separate values, a row, a head, a vocabulary. */
  valueThreads: number
  rowThreads: number
  headThreads: number
  vocabThreads: number
  /** Threads per workgroup of attention over many rows. */
  queryThreads: number
  /** Sums of attention in exact f32 (see shared/dot.wgsl). */
  f32: number
  /** Up to this many rows a step is launched its `few` way, and fused with its neighbours. */
  fewMax: number
}

export const gpuChoice: Choice = {
  many: 'tile',
  few: 'row64',
  valueThreads: 64,
  rowThreads: 64,
  headThreads: 32,
  vocabThreads: 256,
  queryThreads: 64,
  f32: 0,
  fewMax: 4,
}

/** SIMD lanes of a CPU: small workgroups, since every barrier splits the loop. */
export const softwareChoice: Choice = {
  many: 'f32-narrow',
  few: 'row16-f32',
  valueThreads: 64,
  rowThreads: 4,
  headThreads: 4,
  vocabThreads: 4,
  queryThreads: 16,
  f32: 1,
  fewMax: 4,
}
