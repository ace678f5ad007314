/**
 * A backend computes: it turns a Recording into memory on some device and plays its sections. All backends give the same
 * bytes; they differ in speed only. `js` plays the kernels' definitions, `wasm` uses SIMD128 (and threads where there are
 * any), `webgpu` a GPU.
 */
import type { Counts, Recording } from '../recording.ts'

export type BackendName = 'js' | 'wasm' | 'webgpu'

export interface BackendInfo {
  name: BackendName
  /** What computes, for people: adapter and driver, or engine and threads. */
  description: string
  /** True where a GPU API is emulated on the CPU (SwiftShader, llvmpipe). */
  software: boolean
  threads: number
  /** Variant chosen per kernel class, where there is a choice. */
  variants: Record<string, string>
}

export interface Backend {
  readonly info: BackendInfo
  /**
   * Resolves with why, once the device has gone or refuses to go on; never for a backend that was closed. What ran is void:
   * open another backend and load again.
   */
  readonly lost: Promise<Error>
  /** Largest single buffer a kernel may bind, in bytes; matrices are split by rows to stay under it. */
  readonly bindingBytesMax: number
  /** Allocates a recording's buffers (zeroed) and prepares its kernels. */
  load(recording: Recording): Promise<Program>
  close(): Promise<void>
}

export interface Program {
  /**
   * Fills a constant or input buffer from `byteOffset` on. Takes effect in order with run(). The bytes may be reused by
   * the caller after the call returns.
   */
  write(buffer: string, byteOffset: number, bytes: Uint8Array): void
  /** Fills rows [row, row + bytes/k) of a matrix; `bytes` are unpadded int8 rows of k values. `row` is a multiple of 16. */
  writeMatrix(buffer: string, row: number, bytes: Uint8Array): void
  /** Plays sections one after the other over this many rows, picks and segments. Enqueues; does not wait. */
  run(sections: readonly string[], counts: Counts): void
  /** The bytes of a buffer once everything enqueued before has run. */
  read(buffer: string, byteOffset: number, byteLength: number): Promise<Uint8Array>
  /** Resolves when everything enqueued has run; rejects if the device was lost. */
  done(): Promise<void>
  /** Gives the memory back. */
  free(): void
}
