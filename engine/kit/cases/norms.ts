/** quant, rmsnorm_quant, layernorm_quant: rows to int8, with and without the low plane, keeping the trace and not; digest. */
import { stride } from '../../../shaders/kernel.ts'
import type { Case, Slot } from '../play.ts'
import type { Draw } from '../draw.ts'

const shapes = [[1, 1], [2, 3], [7, 8], [8, 15], [14, 16], [15, 17], [9, 97], [7, 128], [8, 384], [2, 2048], [1, 4099]] as const // prettier-ignore

export function* normCases(draw: (stream: string) => Draw): Generator<Case> {
  for (const [n, d] of shapes) {
    const r = draw(`digest ${n}x${d}`)
    const { params, slots } = traced(r, n, true)
    yield {
      kernel: 'digest', name: `${n}x${d}`, domain: 'rows', n, params: { d, ...params },
      slots: { x: { data: r.residual(n, d) }, ...slots },
    } // prettier-ignore
  }
  for (const [n, d] of shapes)
    for (const a15 of [0, 1]) {
      // Every way to keep the residual meets every way to quantise.
      const keeps = (d + a15) % 2 === 1
      const shape = `${n}x${d}${a15 ? ', a15' : ''}${keeps ? ', traced' : ''}`
      const plane = (n + 1) * stride(d)
      const outputs = (r: Draw): Record<'q' | 's', Slot> => ({
        q: { data: r.i8(plane * (1 + a15)), out: true },
        s: { data: r.u32s(n + 1), out: true },
      })
      const epsilon = (r: Draw) => ({ epsM: r.int(0, 65535), epsK: r.pick([-40, -9, 0, 5, 13, 26, 40]) })

      let r = draw(`quant ${shape}`)
      yield {
        kernel: 'quant', name: shape, domain: 'rows', n, params: { d, a15, plane },
        slots: { x: { data: r.residual(n, d) }, ...outputs(r) },
      } // prettier-ignore

      r = draw(`rmsnorm ${shape}`)
      let trace = traced(r, n, keeps)
      yield {
        kernel: 'rmsnorm_quant', name: shape, domain: 'rows', n, params: { d, ...epsilon(r), a15, plane, ...trace.params },
        slots: { x: { data: r.residual(n, d) }, gain: { data: r.i16(d), kind: 'constant' }, ...outputs(r), ...trace.slots },
      } // prettier-ignore

      for (const y of ['none', 'other', 'x'] as const) {
        r = draw(`layernorm ${shape} ${y}`)
        const c = { cM: r.int(32768, 65535), cE: r.pick([-20, 0, 8, 15, 24, 31, 60]) }
        const x = { data: r.residual(n, d), out: true } as const
        trace = traced(r, n, keeps)
        yield {
          kernel: 'layernorm_quant', name: `${shape}, y ${y}`, domain: 'rows', n,
          params: { d, ...epsilon(r), ...c, a15, plane, ...trace.params },
          slots: {
            x,
            gain: { data: r.i16(d), kind: 'constant' },
            bias: { data: r.i32(d, r.pick([2 ** 16, 2 ** 31 - 1])), kind: 'constant' },
            y: y === 'none' ? null : y === 'x' ? x : { data: r.i32((n + 1) * d), out: true },
            ...outputs(r),
            ...trace.slots,
          },
        } // prettier-ignore
      }
    }
}

/** What a step needs to keep a layer of a trace of three, its rows' places in no order. */
function traced(r: Draw, n: number, keeps: boolean): Pick<Case, 'params' | 'slots'> {
  if (!keeps) return { params: { layer: 0, layers: 0 }, slots: { rows: null, trace: null } }
  const rows = r.u32s(4 * (1 + n))
  const first = r.int(0, 5)
  for (let t = 0; t < n; t++) {
    const position = r.int(0, n - 1 - t)
    rows.set([position, first + n - 1 - t - position], 5 + 4 * t)
  }
  const trace = { data: r.u32s(3 * 4 * (first + n + 1)), out: true } as const
  return { params: { layer: r.int(0, 2), layers: 3 }, slots: { rows: { data: rows, kind: 'input' }, trace } }
}
