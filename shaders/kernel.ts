/**
 * What a kernel is: a name, the integers and buffers it takes, and `run`, its definition in plain loops. A WGSL file or a
 * WASM export of the same name must give the same bytes; test/shaders holds them to it.
 *
 * Conventions every kernel keeps
 * - n is the number of rows (or picks, or segments) actually present; buffers may be larger.
 * - K padded: int8 rows that meet in a dot product are stored `stride(K)` bytes apart, the tail zero.
 * - `rows` is u32[4·(1 + rowsMax)]: a header (rows, picks, segments, 0), then per row (token id, position, base, length): the
 *   row's own key goes to KV row base + position, and it attends to KV rows base … base + length - 1. That one record
 *   carries causality, batching and padding: a row never sees another sequence.
 * - Scales are packed u32, see xn1.ts. Buffers absent in a variant are null.
 */
export type Params = Record<string, number>
export type Bytes = Int8Array | Int16Array | Int32Array | Uint32Array
export type Dtype = 'i8' | 'i16' | 'i32' | 'u32'
export const DTYPE_BYTES: Record<Dtype, number> = { i8: 1, i16: 2, i32: 4, u32: 4 }

export interface Kernel<P extends Params = Params, B = Record<string, Bytes | null>> {
  name: string
  run(params: P, buffers: B, n: number): void
}

/** Bytes between int8 rows of K values: the next multiple of 16. */
export const stride = (k: number): number => (k + 15) & ~15
