/**
 * How matrices lie on the device: panels of 16 rows; in a panel, chunk after chunk of K, each with the 16 rows' words side
 * by side. shaders/shared/panels.wgsl reads the same. `chunk` is in words of 4 values: 4 for GPUs, 1 for SIMD lanes.
 */
import { stride } from '../../../shaders/kernel.ts'

export const PANEL = 16

/** Bytes a matrix takes on the device. */
export const matrixBytes = (rows: number, k: number): number => Math.ceil(rows / PANEL) * PANEL * stride(k)

/** Where row r of a panel lies among its 16. */
export const placeInPanel = (r: number, chunk: number): number =>
  chunk === 1 ? (r & 8) | ((r & 1) << 2) | ((r & 7) >> 1) : r

/** Unpadded int8 rows of k values, from a panel's first row on, as whole panels. */
export function packPanels(bytes: Uint8Array, k: number, chunk: number): Uint8Array<ArrayBuffer> {
  const kp = stride(k)
  const rows = bytes.length / k
  const packed = new Uint8Array(matrixBytes(rows, k))
  const whole = k % 4 === 0 && bytes.byteOffset % 4 === 0
  const from = whole ? new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length >> 2) : null
  const to = new Uint32Array(packed.buffer)
  for (let row = 0; row < rows; row++) {
    const start = (row - (row % PANEL)) * (kp >> 2) + placeInPanel(row % PANEL, chunk) * chunk
    if (from) {
      const words = k >> 2
      const o = row * words
      if (chunk === 1) for (let w = 0; w < words; w++) to[start + w * PANEL] = from[o + w]!
      else for (let w = 0; w < words; w++) to[start + (w >> 2) * PANEL * 4 + (w & 3)] = from[o + w]!
    } else {
      for (let i = 0; i < k; i++) {
        const w = i >> 2
        packed[4 * (start + Math.floor(w / chunk) * PANEL * chunk + (w % chunk)) + (i & 3)] =
          bytes[row * k + i]!
      }
    }
  }
  return packed
}
