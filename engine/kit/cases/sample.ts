/** sample: greedy and drawn, all cuts, with ties and flat or hopeless distributions. */
import { RECORD } from '../../../shaders/sample.ts'
import type { Case } from '../play.ts'
import type { Draw } from '../draw.ts'
import { exp2Table } from '../draw.ts'

const kinds = ['usual', 'ties', 'flat', 'peaked', 'extreme'] as const

export function* sampleCases(draw: (stream: string) => Draw): Generator<Case> {
  for (const vocab of [1, 2, 7, 97, 260, 1031, 4096, 20011])
    for (const kind of kinds) {
      const name = `${vocab} ids, ${kind}`
      const r = draw(name)
      const n = vocab > 5000 ? 4 : 9
      const capacity = 3
      const records = new Uint32Array(n * RECORD.words)
      for (let s = 0; s < n; s++) {
        const o = s * RECORD.words
        // The first is greedy; then every cut alone and together.
        records[o + RECORD.inverseTemperature] =
          s === 0 ? 0 : r.pick([1, 94548, 118185, 65536 * 30, 0xffffffff])
        records[o + RECORD.topK] = r.pick([0, 0, 1, 2, 40, vocab, vocab + 5])
        records[o + RECORD.topP] = r.pick([65536, 65536, 0, 1, 6554, 58982, 65535])
        records.set([r.u32(), r.u32(), r.int(0, 3), r.int(0, 4000), s % 5, r.int(0, 999)], o + RECORD.seedLow)
      }
      yield {
        kernel: 'sample', name: `${n} rows of ${name}`, domain: 'picks', n, params: { vocab, capacity },
        slots: {
          logits: { data: logitsOf(r, n * vocab, kind) },
          exp2: { data: exp2Table(), kind: 'constant' },
          records: { data: records, kind: 'input', out: true },
          rows: { data: r.u32s(4 * (1 + n)), kind: 'input', out: true },
          out: { data: r.u32s((n + 1) * capacity), out: true },
        },
      } // prettier-ignore
    }
}

function logitsOf(r: Draw, length: number, kind: (typeof kinds)[number]): Int32Array {
  if (kind === 'flat') return new Int32Array(length).fill(r.int(-9, 9) << 16)
  if (kind === 'ties') return Int32Array.from({ length }, () => r.int(-3, 3) << 16)
  if (kind === 'extreme') return r.i32(length, 2 ** 31 - 1)
  const logits = Int32Array.from({ length }, () => (r.int(-400, 400) * r.int(0, 2000)) | 0)
  if (kind === 'peaked') for (let i = 0; i < length; i += 211) logits[i] = 2 ** 22
  return logits
}
