/** Which kernels are compared, on which shapes, against whom, and what each comparison must show. */

import type { Shape } from '../page/problem.ts'

export interface KernelRow {
  name: string
  backend: 'wasm' | 'webgpu'
  shape: Shape
  /** Keys into the page's table of contestants; the best of them is the peer of the row. */
  peers: string[]
  /** Ours must be this many times as fast as the best of the peers. */
  gate: number
  aim: number
}

const GEMM: [m: number, k: number, n: number][] = [
  [128, 384, 384],
  [128, 384, 1536],
  [512, 512, 512],
]

function rows(): KernelRow[] {
  const all: KernelRow[] = []
  for (const [m, k, n] of GEMM) {
    const shape = { m, k, n, copies: 4 }
    const common = { backend: 'wasm', shape } as const
    const int8 = ['ort.u8i8', 'ort.s8i8', 'litert.int8']
    all.push({ ...common, name: 'int8 GEMM / int8', peers: int8, gate: 1.1, aim: 1.25 })
    all.push({ ...common, name: 'int8 GEMM / f32', peers: ['ort.f32', 'tfjs.f32'], gate: 2, aim: 2.7 })
  }
  // Weights far larger than any cache a tab may count on: every product streams its own 4 MB from memory.
  const matvec = { backend: 'wasm', shape: { m: 1, k: 2048, n: 2048, copies: 16 } } as const
  const nbits = ['ort.nbits32', 'ort.nbits128', 'ort.nbits32f']
  all.push({ ...matvec, name: 'int8 matvec / MatMulNBits', peers: nbits, gate: 20, aim: 60 })
  all.push({ ...matvec, name: 'int8 matvec / LiteRT', peers: ['litert.int8'], gate: 1.1, aim: 1.5 })
  for (const [m, k, n] of GEMM) {
    const shape = { m, k, n, copies: 1 }
    all.push({
      name: 'int8 GEMM / f32',
      backend: 'webgpu',
      shape,
      peers: ['ort.f32', 'tfjs.f32'],
      gate: 1,
      aim: 1.5,
    })
  }
  return all
}

export const KERNEL_ROWS: readonly KernelRow[] = rows()
