/**
 * How matrices lie on the device: panels of 16 rows; in a panel, 16-byte chunk after chunk of K, each with the 16 rows'
 * side by side, so that neighbours in N read neighbouring bytes. shaders/shared/panels.wgsl reads the same.
 */
import { stride } from '../../../shaders/kernel.ts'

export const PANEL = 16

/** Bytes a matrix takes on the device. */
export const matrixBytes = (rows: number, k: number): number => Math.ceil(rows / PANEL) * PANEL * stride(k)

/** Unpadded int8 rows of k values, from a panel's first row on, as whole panels. */
export function packPanels(bytes: Uint8Array, k: number): Uint8Array<ArrayBuffer> {
  const kp = stride(k)
  const rows = bytes.length / k
  const packed = new Uint8Array(matrixBytes(rows, k))
  const byWords = k % 4 === 0 && bytes.byteOffset % 4 === 0
  const from = byWords ? new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length >> 2) : null
  const to = new Uint32Array(packed.buffer)
  for (let row = 0; row < rows; row++) {
    const place = row % PANEL
    const start = (row - place) * kp + place * 16
    if (from) {
      const words = k >> 2
      const o = row * words
      const t = start >> 2
      for (let w = 0; w < words; w++) to[t + (w >> 2) * PANEL * 4 + (w & 3)] = from[o + w]!
    } else {
      for (let i = 0; i < k; i++) packed[start + (i >> 4) * PANEL * 16 + (i & 15)] = bytes[row * k + i]!
    }
  }
  return packed
}
