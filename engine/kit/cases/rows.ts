/** embed, gather, pool: what moves whole rows. */
import type { Case } from '../play.ts'
import type { Draw } from '../draw.ts'

export function* rowCases(draw: (stream: string) => Draw): Generator<Case> {
  for (const [n, d, vocab] of [
    [1, 1, 1],
    [3, 5, 7],
    [2, 16, 33],
    [9, 31, 40],
    [33, 64, 100],
    [5, 384, 61],
  ] as const)
    // prettier-ignore
    for (const withPositions of [true, false]) {
      const name = `${n}x${d} of ${vocab} ids${withPositions ? ' + positions' : ''}`
      const r = draw(name)
      // A table part in the middle: ids below and above it must leave their rows alone.
      const from = withPositions ? 0 : 3
      const rows = r.u32s(4 * (1 + n))
      rows.set([n, 1, 1, 0])
      for (let t = 0; t < n; t++) rows.set([r.int(0, vocab + from + 2), r.int(0, 4)], 4 + 4 * t)
      const scale = withPositions ? r.scales(vocab, -12, 31) : r.scales(vocab, -128, 127)
      yield {
        kernel: 'embed', name, domain: 'rows', n, params: { d, from, count: vocab },
        slots: {
          rows: { data: rows, kind: 'input' },
          table: { data: r.rows8(vocab, d), k: d },
          scale: { data: scale, kind: 'constant' },
          positions: withPositions ? { data: r.i32(5 * d, 2 ** 31 - 1), kind: 'constant' } : null,
          out: { data: r.i32((n + 1) * d), out: true },
        },
      } // prettier-ignore
    }

  for (const [n, d] of [
    [1, 1],
    [2, 7],
    [5, 64],
    [17, 33],
    [3, 384],
  ] as const) {
    const name = `${n} of 19 rows x${d}`
    const r = draw(name)
    yield {
      kernel: 'gather', name, domain: 'picks', n, params: { d },
      slots: {
        x: { data: r.i32(19 * d, 2 ** 31 - 1) },
        picks: { data: Uint32Array.from({ length: n }, () => r.int(0, 18)), kind: 'input' },
        out: { data: r.i32((n + 1) * d), out: true },
      },
    } // prettier-ignore
  }

  for (const [n, d] of [
    [1, 1],
    [2, 3],
    [3, 16],
    [7, 31],
    [8, 384],
  ] as const)
    for (const mean of [0, 1])
      for (const unit of [0, 1]) {
        const name = `${n} segments x${d}${mean ? ', mean' : ', first'}${unit ? ', unit' : ''}`
        const r = draw(name)
        const segments = new Uint32Array(2 * n)
        let total = 0
        for (let s = 0; s < n; s++) {
          const length = s === 0 ? 1 : r.int(1, 13)
          segments.set([total, length], 2 * s)
          total += length
        }
        const x = r.residual(total, d)
        yield {
          kernel: 'pool', name, domain: 'segments', n, params: { d, mean, unit },
          slots: {
            x: { data: x },
            segments: { data: segments, kind: 'input' },
            out: { data: r.i32((n + 1) * d), out: true },
          },
        } // prettier-ignore
      }
}
