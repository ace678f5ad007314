/**
 * Our own linear kernel: a Recording of one step per copy, played by a backend as a model's would be, requantisation
 * included. The scales are chosen to be one, so that what comes out are the exact products.
 */

import type { BackendName } from '../../engine/backends/backend.ts'
import type { BufferSpec, Recording, Step } from '../../engine/recording.ts'
import { stride } from '../../shaders/kernel.ts'
import { ACT_NONE, STORE, linear } from '../../shaders/linear.ts'
import { packScale } from '../../shaders/xn1.ts'
import { CORNER } from '../page/problem.ts'
import type { Problem } from '../page/problem.ts'
import { OUR_BACKENDS, ourBackend } from './backends.ts'
import type { Contestant, Prepared } from './contestant.ts'

/** Two of these multiply to 1: 2^15·2^-15 each. */
const ONE = packScale(32768, 15)

const bytesOf = (data: Int8Array | Uint32Array): Uint8Array =>
  new Uint8Array(data.buffer, data.byteOffset, data.byteLength)

function recordingOf({ m, k, n, copies }: Problem): Recording {
  const kp = stride(k)
  const buffers: Record<string, BufferSpec> = {
    rows: { dtype: 'u32', length: 4 * (1 + m), kind: 'input' },
    q: { dtype: 'i8', length: m * kp, kind: 'input' },
    s: { dtype: 'u32', length: m, kind: 'input' },
    ws: { dtype: 'u32', length: n, kind: 'constant' },
  }
  const steps: Step[] = []
  for (let copy = 0; copy < copies; copy++) {
    buffers[`w${copy}`] = { dtype: 'i8', length: n * kp, kind: 'matrix', matrix: { rows: n, k } }
    buffers[`out${copy}`] = { dtype: 'i32', length: m * n, kind: 'scratch' }
    steps.push({
      kernel: 'linear',
      params: { k, n, outFrom: 0, outStride: n, mode: STORE, act: ACT_NONE, a15: 0, plane: 0 },
      buffers: { q: 'q', s: 's', w: `w${copy}`, ws: 'ws', bias: null, table: null, out: `out${copy}` },
      domain: 'rows',
    })
  }
  return { buffers, sections: { go: steps }, max: { rows: m, picks: 1, segments: 1 } }
}

/** Activations as the kernel wants them: rows `stride(k)` apart. */
function padded({ m, k, x }: Problem): Int8Array {
  const kp = stride(k)
  const q = new Int8Array(m * kp)
  for (let row = 0; row < m; row++) q.set(x.subarray(row * k, (row + 1) * k), row * kp)
  return q
}

/** The first copy's products by the kernel's definition. */
function byDefinition(problem: Problem, q: Int8Array): Int32Array {
  const { m, k, n, weights } = problem
  const kp = stride(k)
  const w = new Int8Array(n * kp)
  for (let row = 0; row < n; row++) w.set(weights[0]!.subarray(row * k, (row + 1) * k), row * kp)
  const out = new Int32Array(m * n)
  linear.run(
    { k, n, outFrom: 0, outStride: n, mode: STORE, act: ACT_NONE, a15: 0, plane: 0 },
    { q, s: new Uint32Array(m).fill(ONE), w, ws: new Uint32Array(n).fill(ONE), bias: null, table: null, out },
    m,
  )
  return out
}

function ourLinear(backend: BackendName): Contestant {
  return {
    name: `chorale ${backend} linear`,
    arithmetic: 'int8',
    tolerance: 0,
    async prepare(problem): Promise<Prepared> {
      const { m, n, copies, weights } = problem
      const recording = recordingOf(problem)
      const program = await (await ourBackend(backend)).load(recording)
      const q = padded(problem)
      program.write('rows', 0, bytesOf(Uint32Array.of(m, 0, 0, 0)))
      program.write('q', 0, bytesOf(q))
      program.write('s', 0, bytesOf(new Uint32Array(m).fill(ONE)))
      program.write('ws', 0, bytesOf(new Uint32Array(n).fill(ONE)))
      weights.forEach((w, copy) => program.writeMatrix(`w${copy}`, 0, bytesOf(w)))
      const counts = { rows: m, picks: 0, segments: 0 }
      program.run(['go'], counts)
      const got = new Int32Array((await program.read('out0', 0, 4 * m * n)).slice().buffer)
      const at = byDefinition(problem, q).findIndex((value, i) => value !== got[i])
      if (at >= 0)
        throw new Error(`wrong result: product ${at} of ${m * n} differs from the kernel's definition`)
      return {
        async run(turns) {
          const start = performance.now()
          for (let i = 0; i < turns; i++) program.run(['go'], counts)
          await program.done()
          return performance.now() - start
        },
        async corner() {
          const values = new Float64Array(copies * CORNER)
          for (let copy = 0; copy < copies; copy++) {
            const tail = await program.read(`out${copy}`, 4 * (m * n - CORNER), 4 * CORNER)
            values.set(new Int32Array(tail.slice().buffer), copy * CORNER)
          }
          return values
        },
        dispose: () => program.free(),
      }
    },
  }
}

export const ours: ReadonlyMap<BackendName, Contestant> = new Map(
  OUR_BACKENDS.map((name) => [name, ourLinear(name)]),
)
