/**
 * Holds a backend to the kernels' twins, byte for byte: every kernel, over shapes and values chosen to be awkward, each as
 * a Recording of one step. No test runner in here, so the same suite runs in Node and in a page.
 *
 * Every buffer a step touches is filled first (outputs with noise) and compared whole afterwards: what a kernel must not
 * write is tested too. So `write` is used on scratch and cache buffers as well.
 */
import type { Backend } from '../../engine/backends/backend.ts'
import type { Counts, Domain, Recording } from '../../engine/recording.ts'
import type { Bytes, Dtype, Kernel, Params } from '../../shaders/kernel.ts'
import { stride } from '../../shaders/kernel.ts'
import type { KernelName } from '../../shaders/kernels.ts'
import { kernels } from '../../shaders/kernels.ts'
import { Draw } from './draw.ts'
import { attentionCases, headsCases } from './cases/attention.ts'
import { linearCases } from './cases/linear.ts'
import { normCases } from './cases/norms.ts'
import { rowCases } from './cases/rows.ts'
import { sampleCases } from './cases/sample.ts'

export interface Slot {
  data: Bytes
  /** Values per row, where the slot is a matrix of int8 rows stored stride(k) apart. */
  k?: number
  kind?: 'constant' | 'input' | 'cache' | 'scratch'
  /** Compared with the twin's afterwards. */
  out?: true
}

export interface Case {
  kernel: KernelName
  /** What is awkward about it, with the shape. */
  name: string
  params: Params
  domain: Domain
  n: number
  slots: Record<string, Slot | null>
}

export interface Report {
  seed: number
  cases: number
  /** One line per case that differs: which buffer, how many elements, the first of them. */
  failures: string[]
}

export interface Choice {
  /** Repeats a run; every case draws from its own stream of it. */
  seed: number
  kernels?: readonly KernelName[]
  /** Only cases whose `kernel: name` contains this. */
  match?: string
  onCase?: (name: string) => void
}

/** All cases, in a fixed order; data are drawn when a case is reached. */
export function* cases(seed: number): Generator<Case> {
  for (const make of [rowCases, normCases, linearCases, headsCases, attentionCases, sampleCases])
    yield* make((stream) => new Draw(seed, stream))
}

/** Plays the chosen cases on a backend and compares. A case that throws is a failure of that case, not of the suite. */
export async function conform(backend: Backend, choice: Choice): Promise<Report> {
  const report: Report = { seed: choice.seed, cases: 0, failures: [] }
  for (const one of cases(choice.seed)) {
    const name = `${one.kernel}: ${one.name}`
    if (choice.kernels && !choice.kernels.includes(one.kernel)) continue
    if (choice.match && !name.includes(choice.match)) continue
    choice.onCase?.(name)
    report.cases++
    const problems = await play(backend, one).catch((error: unknown) => [String(error)])
    report.failures.push(...problems.map((problem) => `${name}: ${problem}`))
  }
  if (report.cases === 0) report.failures.push('no case was chosen')
  return report
}

/** The case as the Recording a backend gets. */
export function recordingOf({ kernel, params, domain, n, slots }: Case): Recording {
  const max: Counts = { rows: 1, picks: 1, segments: 1, [domain]: n }
  const buffers: Recording['buffers'] = {}
  for (const [slot, { data, k, kind }] of buffersOf(slots)) {
    const base = { dtype: dtypeOf(data), length: data.length }
    buffers[slot] = k
      ? { ...base, kind: 'matrix', matrix: { rows: data.length / stride(k), k } }
      : { ...base, kind: kind ?? 'scratch' }
  }
  buffers.rows ??= { dtype: 'u32', length: 4 * (1 + max.rows), kind: 'input' }
  const names = new Map([...buffersOf(slots)].map(([slot, value]) => [value, slot]))
  const bound = Object.fromEntries(
    Object.entries(slots).map(([slot, value]) => [slot, value ? names.get(value)! : null]),
  )
  return { buffers, sections: { only: [{ kernel, params, buffers: bound, domain }] }, max }
}

/** One buffer per distinct Slot, named by the first that has it: the same object twice is one buffer bound twice. */
function buffersOf(slots: Case['slots']): Map<string, Slot> {
  const buffers = new Map<string, Slot>()
  const seen = new Set<Slot>()
  for (const [slot, value] of Object.entries(slots)) {
    if (!value || seen.has(value)) continue
    seen.add(value)
    buffers.set(slot, value)
  }
  return buffers
}

async function play(backend: Backend, one: Case): Promise<string[]> {
  const copies = new Map([...buffersOf(one.slots).values()].map((slot) => [slot, slot.data.slice()]))
  const expected = Object.fromEntries(
    Object.entries(one.slots).map(([slot, value]) => [slot, value ? copies.get(value)! : null]),
  )
  ;(kernels[one.kernel] as unknown as Kernel).run(one.params, expected, one.n)

  const recording = recordingOf(one)
  const program = await backend.load(recording)
  try {
    if (!one.slots.rows) {
      const header = Uint32Array.of(recording.max.rows, recording.max.picks, recording.max.segments, 0)
      program.write('rows', 0, bytesOf(header))
    }
    for (const [slot, value] of buffersOf(one.slots)) {
      if (!value.k) program.write(slot, 0, bytesOf(value.data))
      else {
        // In two parts, as weights arrive.
        const plain = unpadded(value.data as Int8Array, value.k)
        const cut = Math.min(16, plain.length / value.k)
        program.writeMatrix(slot, 0, plain.subarray(0, cut * value.k))
        if (plain.length > cut * value.k) program.writeMatrix(slot, 16, plain.subarray(cut * value.k))
      }
    }
    program.run(['only'], recording.max)
    await program.done()
    const problems: string[] = []
    for (const [slot, value] of buffersOf(one.slots)) {
      if (!value.out) continue
      const got = await program.read(slot, 0, value.data.byteLength)
      const problem = difference(expected[slot]!, got)
      if (problem) problems.push(`${slot}${problem}`)
    }
    return problems
  } finally {
    program.free()
  }
}

function difference(expected: Bytes, got: Uint8Array): string | undefined {
  if (got.byteLength !== expected.byteLength)
    return ` has ${got.byteLength} bytes, not ${expected.byteLength}`
  const Values = expected.constructor as new (buffer: ArrayBufferLike) => Bytes
  const values = new Values(got.slice().buffer)
  let wrong = 0
  let first = -1
  for (let i = 0; i < expected.length; i++) {
    if (values[i] === expected[i]) continue
    if (wrong++ === 0) first = i
  }
  if (wrong)
    return `[${first}] is ${values[first]}, not ${expected[first]} (${wrong} of ${expected.length} differ)`
}

const bytesOf = (data: Bytes): Uint8Array => new Uint8Array(data.buffer, data.byteOffset, data.byteLength)

function unpadded(data: Int8Array, k: number): Uint8Array {
  const rows = data.length / stride(k)
  const plain = new Int8Array(rows * k)
  for (let r = 0; r < rows; r++) plain.set(data.subarray(r * stride(k), r * stride(k) + k), r * k)
  return bytesOf(plain)
}

function dtypeOf(data: Bytes): Dtype {
  if (data instanceof Int8Array) return 'i8'
  if (data instanceof Int16Array) return 'i16'
  return data instanceof Int32Array ? 'i32' : 'u32'
}
