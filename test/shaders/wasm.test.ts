/** The WASM backend gives the twins' bytes, whatever the number of threads. */
import { expect, inject, test } from 'vitest'
import { openWasm } from '../../engine/backends/wasm.ts'
import { conform } from './conformance.ts'

test.each([1, 2, 3])(
  'every kernel, every awkward case: the same bytes with %i threads',
  async (threads) => {
    const backend = await openWasm({ threads })
    try {
      const { seed, cases, failures } = await conform(backend, { seed: inject('seed') })
      expect(failures, `SEED=${seed} repeats this`).toEqual([])
      expect(cases).toBeGreaterThan(250)
    } finally {
      await backend.close()
    }
  },
  60_000,
)
