/** The WASM backend gives the twins' bytes, whatever the number of threads and whichever instruction multiplies. */
import { expect, inject, test } from 'vitest'
import type { Backend, Program } from '../../engine/backends/backend.ts'
import { openWasm } from '../../engine/backends/wasm.ts'
import { conform } from './conformance.ts'

test.each([
  [1, 'best'],
  [2, 'best'],
  [3, 'best'],
  [1, 'dot_i16x8'],
  [2, 'dot_i16x8'],
] as const)(
  'every kernel, every awkward case: the same bytes with %i threads, %s products',
  async (threads, products) => {
    const backend = await openWasm({ threads, products, shareFrom: 0 })
    try {
      expect(backend.info.threads).toBe(threads)
      const { seed, cases, failures } = await conform(backend, { seed: inject('seed') })
      expect(failures, `SEED=${seed} repeats this`).toEqual([])
      expect(cases).toBeGreaterThan(250)
    } finally {
      await backend.close()
    }
  },
  60_000,
)

test('a thread count that is none is refused by name', async () => {
  await expect(openWasm({ threads: 0 })).rejects.toThrow(
    /threads is 0; it must be a whole number from 1 to 16/,
  )
  await expect(openWasm({ threads: 1.5 })).rejects.toThrow(/threads is 1.5/)
})

/** One embed step: each row copies position `positions[row]` of a table of one. */
async function embedding(backend: Backend, positions: number[]): Promise<Program> {
  const n = positions.length
  const d = 16
  const program = await backend.load({
    buffers: {
      rows: { dtype: 'u32', length: 4 * (1 + n), kind: 'input' },
      table: { dtype: 'i8', length: d, kind: 'constant' },
      scale: { dtype: 'u32', length: 1, kind: 'constant' },
      positions: { dtype: 'i32', length: d, kind: 'constant' },
      out: { dtype: 'i32', length: n * d, kind: 'scratch' },
    },
    sections: {
      body: [
        {
          kernel: 'embed',
          params: { d, from: 0, count: 1 },
          buffers: { rows: 'rows', table: 'table', scale: 'scale', positions: 'positions', out: 'out' },
          domain: 'rows',
        },
      ],
    },
    max: { rows: n, picks: 1, segments: 1 },
  })
  const words = [n, 1, 1, 0, ...positions.flatMap((position) => [0, position, 0, 1])]
  program.write('rows', 0, new Uint8Array(Uint32Array.from(words).buffer))
  return program
}

test.each([2, 3])(
  'a kernel that traps on any of %i threads is an error with a name, not a wait; the backend lives on',
  async (threads) => {
    const backend = await openWasm({ threads, shareFrom: 0 })
    const rows = 100_000
    const counts = { rows, picks: 1, segments: 1 }
    const good = Array.from({ length: rows }, () => 0)
    // Position 2^25, of 64 bytes each, lies 2 GiB beyond. Which thread takes the row is the machine's choice: until both
    // the caller and another have hit it.
    const seen = new Set<string>()
    for (let round = 0; round < 400 && seen.size < 2; round++) {
      const broken = await embedding(backend, good.with((round * 26_501) % rows, 2 ** 25))
      const run = (): void => broken.run(['body'], counts)
      let error: unknown
      try {
        run()
      } catch (thrown) {
        error = thrown
      }
      expect(error).toMatchObject({ name: 'ThreadFailed' })
      seen.add((error as Error).message)
      expect(run).toThrow(/load the recording again/)
      broken.free()
    }
    expect([...seen].sort()).toEqual([
      'in section body a WASM thread broke',
      'section body broke: RuntimeError: memory access out of bounds',
    ])
    const whole = await embedding(backend, good)
    whole.run(['body'], counts)
    expect(await whole.read('out', 0, 4)).toEqual(new Uint8Array(4))
    await backend.close()
  },
  60_000,
)

test('a recording is refused with the step and the param or buffer that is wrong', async () => {
  const backend = await openWasm({ threads: 1 })
  const buffers = {
    x: { dtype: 'i32', length: 16, kind: 'scratch' },
    q: { dtype: 'i8', length: 16, kind: 'scratch' },
  } as const
  const max = { rows: 1, picks: 1, segments: 1 }
  const load = (params: Record<string, number>, bound: Record<string, string | null>) =>
    backend.load({
      buffers,
      sections: { body: [{ kernel: 'quant', params, buffers: bound, domain: 'rows' }] },
      max,
    })
  const params = { d: 16, a15: 0, plane: 0 }
  await expect(load({ d: 16, a15: 0 }, { x: 'x', q: 'q', s: 'x' })).rejects.toThrow(
    'a quant step of section body has no whole number as param plane',
  )
  await expect(load(params, { x: 'x', q: 'q' })).rejects.toThrow('says nothing about buffer s')
  await expect(load(params, { x: 'x', q: 'q', s: 'nowhere' })).rejects.toThrow(
    'binds s to nowhere, which is no buffer',
  )
  const program = await load(params, { x: 'x', q: 'q', s: 'x' })
  expect(() => program.write('x', 60, new Uint8Array(8))).toThrow('x has 64 bytes; [60, 68) is outside')
  expect(() => program.run(['head'], max)).toThrow('the recording has no section head')
  expect(() => program.run(['body'], { ...max, rows: 2 })).toThrow(/2 rows.*more than the recording's 1/)
  program.free()
  expect(() => program.run(['body'], max)).toThrow('this Program was freed')
  await backend.close()
})

test('more than WebAssembly can address is refused before any memory is taken', async () => {
  const backend = await openWasm({ threads: 1 })
  const matrix = { rows: 2 ** 19, k: 4096 }
  const spec = { dtype: 'i8', length: matrix.rows * matrix.k, kind: 'matrix', matrix } as const
  const recording = { buffers: { a: spec, b: spec }, sections: {}, max: { rows: 1, picks: 1, segments: 1 } }
  await expect(backend.load(recording)).rejects.toThrow('buffers need 4.00 GiB, and WASM addresses 4')
  await backend.close()
})
