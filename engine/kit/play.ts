/** A kernel alone, as a Recording of one step: what known answers and the tests of the kernels are made of. */
import type { Backend } from '../backends/backend.ts'
import type { Counts, Domain, Recording } from '../recording.ts'
import type { Bytes, Dtype, Kernel, Params } from '../../shaders/kernel.ts'
import { stride } from '../../shaders/kernel.ts'
import type { KernelName } from '../../shaders/kernels.ts'

export interface Slot {
  data: Bytes
  /** Values per row, where the slot is a matrix of int8 rows stored stride(k) apart. */
  k?: number
  kind?: 'constant' | 'input' | 'cache' | 'scratch'
  /** Compared afterwards. */
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

/** The bytes of each buffer that is compared, by slot. */
export type Outputs = Map<string, Uint8Array>

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

const comparedOf = (one: Case): Array<[string, Slot]> =>
  [...buffersOf(one.slots)].filter(([, { out }]) => out)

/**
 * What a backend makes of a case. Every buffer is filled first, outputs with noise: what must not be written shows too.
 * @param counts of rows to play it over, one after the other, each from the start; default all it has
 */
export async function play(
  backend: Backend,
  one: Case,
  counts: readonly number[] = [one.n],
): Promise<Outputs> {
  const recording = recordingOf(one)
  const program = await backend.load(recording)
  const fill = (slot: string, { data, k }: Slot): void => {
    if (!k) return program.write(slot, 0, bytesOf(data))
    // In two parts, as weights arrive.
    const plain = unpadded(data as Int8Array, k)
    const cut = Math.min(16, plain.length / k)
    program.writeMatrix(slot, 0, plain.subarray(0, cut * k))
    if (plain.length > cut * k) program.writeMatrix(slot, 16, plain.subarray(cut * k))
  }
  try {
    const outputs: Outputs = new Map()
    for (const [slot, value] of buffersOf(one.slots)) if (!value.out) fill(slot, value)
    for (const n of counts) {
      for (const [slot, value] of comparedOf(one)) fill(slot, value)
      const present = { ...recording.max, [one.domain]: n }
      const header = Uint32Array.of(present.rows, present.picks, present.segments, 0)
      if (!one.slots.rows) program.write('rows', 0, bytesOf(header))
      program.run(['only'], present)
      await program.done()
      for (const [slot, { data }] of comparedOf(one))
        outputs.set(`${slot} of ${n}`, await program.read(slot, 0, data.byteLength))
    }
    return outputs
  } finally {
    program.free()
  }
}

/** What the kernel's definition makes of it. */
export function playTwin(one: Case, kernel: Kernel, counts: readonly number[] = [one.n]): Outputs {
  const outputs: Outputs = new Map()
  for (const n of counts) {
    const copies = new Map([...buffersOf(one.slots).values()].map((slot) => [slot, slot.data.slice()]))
    const bound = Object.fromEntries(
      Object.entries(one.slots).map(([slot, value]) => [slot, value ? copies.get(value)! : null]),
    )
    kernel.run(one.params, bound, n)
    for (const [slot, value] of comparedOf(one)) outputs.set(`${slot} of ${n}`, bytesOf(copies.get(value)!))
  }
  return outputs
}

export interface Difference {
  /** Over how many rows it shows. */
  rows: number
  /** How many elements, and the first of them. */
  text: string
}

/** One for each buffer that differs. */
export function differences(one: Case, expected: Outputs, got: Outputs): Difference[] {
  return [...expected].flatMap(([name, bytes]) => {
    const [slot, n] = name.split(' of ') as [string, string]
    const problem = difference(one.slots[slot]!.data, bytes, got.get(name)!)
    return problem ? [{ rows: Number(n), text: `${slot}${problem}` }] : []
  })
}

function difference(like: Bytes, expected: Uint8Array, got: Uint8Array): string | undefined {
  if (got.byteLength !== expected.byteLength)
    return ` has ${got.byteLength} bytes, not ${expected.byteLength}`
  const Values = like.constructor as new (buffer: ArrayBufferLike) => Bytes
  const [right, values] = [new Values(expected.slice().buffer), new Values(got.slice().buffer)]
  let wrong = 0
  let first = -1
  for (let i = 0; i < right.length; i++) {
    if (values[i] === right[i]) continue
    if (wrong++ === 0) first = i
  }
  if (wrong) return `[${first}] is ${values[first]}, not ${right[first]} (${wrong} of ${right.length} differ)`
}

export const bytesOf = (data: Bytes): Uint8Array =>
  new Uint8Array(data.buffer, data.byteOffset, data.byteLength)

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
