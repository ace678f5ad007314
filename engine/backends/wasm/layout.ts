/**
 * Where everything lies in a Program's linear memory: barrier words, steps as the kernels read them (assembly/index.ts), each
 * thread's scratch, then the buffers. Laid out once at load(); nothing moves afterwards.
 */
import type { BufferSpec, Counts, Recording, Step } from '../../recording.ts'
import type { Params } from '../../../shaders/kernel.ts'
import { DTYPE_BYTES, stride } from '../../../shaders/kernel.ts'
import type { KernelName } from '../../../shaders/kernels.ts'
import type { Packing } from './variant.ts'
import { FOURS_OFFSET, PAIRS } from './variant.ts'

/** A step's words: kernel, domain, work per row, then the kernel's own. */
const stepBytes = 128
const stepHeader = 3
/** The words that threads share, and no buffer at address 0. */
export const headBytes = 64
/** Kernels read whole vectors: up to this far behind a buffer's last value. */
const slack = 64
const memoryMax = 2 ** 32
const domains = { rows: 0, picks: 1, segments: 2 } as const

interface Signature {
  number: number
  params: readonly string[]
  slots: readonly string[]
  /** Bytes of scratch a thread needs. */
  scratch: (p: Params, recording: Recording, step: Step) => number
  /** Rough multiply-adds per row, to judge whether waking other threads pays. */
  work: (p: Params) => number
}

const rowScratch = (p: Params): number => 4 * stride(p.d!) + slack

/** The order in which each kernel's function reads its params and buffers. */
const signatures: Record<KernelName, Signature> = {
  embed: {
    number: 0,
    params: ['d', 'from', 'count', 'packed'],
    slots: ['rows', 'table', 'scale', 'positions', 'out'],
    scratch: rowScratch,
    work: (p) => 4 * p.d!,
  },
  gather: { number: 1, params: ['d'], slots: ['x', 'picks', 'out'], scratch: () => 0, work: (p) => p.d! },
  rmsnorm_quant: {
    number: 2,
    params: ['d', 'epsM', 'epsK', 'a15', 'plane', 'layer', 'layers'],
    slots: ['x', 'gain', 'q', 's', 'rows', 'trace'],
    scratch: rowScratch,
    work: (p) => 16 * p.d!,
  },
  layernorm_quant: {
    number: 3,
    params: ['d', 'epsM', 'epsK', 'cM', 'cE', 'a15', 'plane', 'layer', 'layers'],
    slots: ['x', 'gain', 'bias', 'y', 'q', 's', 'rows', 'trace'],
    scratch: rowScratch,
    work: (p) => 32 * p.d!,
  },
  quant: {
    number: 4,
    params: ['d', 'a15', 'plane'],
    slots: ['x', 'q', 's'],
    scratch: rowScratch,
    work: (p) => 8 * p.d!,
  },
  linear: {
    number: 5,
    params: ['k', 'n', 'outFrom', 'outStride', 'mode', 'act', 'a15', 'plane', 'packed'],
    slots: ['q', 's', 'w', 'ws', 'bias', 'table', 'out'],
    scratch: (p, { max }, { domain }) => linearScratch(p.k!, max[domain]),
    work: (p) => p.k! * p.n!,
  },
  heads: {
    number: 6,
    params: ['heads', 'kvHeads', 'headDim', 'rope', 'qkNorm', 'epsM', 'epsK'],
    slots: ['rows', 'qkv', 'ropeTable', 'norm', 'q', 'qs', 'k', 'v', 'kvs'],
    scratch: (p) => 4 * stride(p.headDim!) + slack,
    work: (p) => 16 * (p.heads! + 2 * p.kvHeads!) * p.headDim!,
  },
  attention: {
    number: 7,
    params: ['heads', 'kvHeads', 'headDim', 'scoreM', 'scoreE', 'packed'],
    slots: ['rows', 'q', 'qs', 'k', 'v', 'kvs', 'exp2', 'out'],
    scratch: (p, recording, step) => attentionScratch(stride(p.headDim!), stride(kvRows(p, recording, step))),
    work: (p) => 256 * p.heads! * p.headDim!,
  },
  pool: {
    number: 8,
    params: ['d', 'mean', 'unit'],
    slots: ['x', 'segments', 'out'],
    scratch: rowScratch,
    work: (p) => 64 * p.d!,
  },
  sample: {
    number: 9,
    params: ['vocab', 'capacity'],
    slots: ['logits', 'exp2', 'records', 'rows', 'out'],
    scratch: (p) => 2048 + 12 * p.vocab! + slack,
    work: (p) => 4 * p.vocab!,
  },
  digest: {
    number: 10,
    params: ['d', 'layer', 'layers'],
    slots: ['x', 'rows', 'trace'],
    scratch: () => 0,
    work: (p) => 4 * p.d!,
  },
}

/** By the same rule as `linear` in assembly/linear.ts: a block of rows, widened, with its scales and sums. */
function linearScratch(k: number, rows: number): number {
  const kp = stride(k)
  const block = Math.min(400, Math.max(20, Math.floor((192 * 1024) / (2 * kp) / 20) * 20))
  return block * (8 + 8 + 64) + 256 + Math.min(block, rows) * kp * 2 + slack
}

/** By the same rule as `attend` in assembly/attention.ts: a tile of 12 queries, all its scores and a panel of values. */
function attentionScratch(sd: number, keys: number): number {
  const queries = 12
  const fixed = queries * (64 + 8 + 128) + Math.max(8 * sd, 16 * keys) + 3 * queries * sd
  return fixed + 8 * keys + queries * keys * (2 + 4) + slack
}

function kvRows(p: Params, { buffers }: Recording, { buffers: bound }: Step): number {
  const kvs = bound.kvs
  return kvs ? Math.ceil(buffers[kvs]!.length / (2 * p.kvHeads!)) : 0
}

export interface Place {
  at: number
  bytes: number
  spec: BufferSpec
}

export interface Section {
  /** Address of its first step, and how many. */
  at: number
  steps: number
  /** About the multiply-adds it takes. */
  work: (counts: Counts) => number
}

export interface Layout {
  bytes: number
  buffers: Map<string, Place>
  sections: Map<string, Section>
  scratch: { at: number; perThread: number }
  /** Writes the steps; the memory is zero otherwise. */
  writeSteps: (memory: ArrayBufferLike) => void
}

/**
 * @throws TypeError naming the step when a param or buffer is missing or of the wrong kind
 * @throws RangeError when all buffers together pass the 4 GiB that WASM can address
 */
export function layOut(recording: Recording, threads: number, packing: Packing): Layout {
  let end = headBytes
  const take = (bytes: number): number => {
    const at = end
    end = Math.ceil((end + bytes) / 64) * 64
    return at
  }
  const sections = new Map<string, Section>()
  let scratchBytes = 0
  for (const [name, steps] of Object.entries(recording.sections)) {
    const perCount: Counts = { rows: 0, picks: 0, segments: 0 }
    for (const { kernel, params, domain } of steps) perCount[domain] += signatures[kernel]?.work(params) ?? 0
    const work = ({ rows, picks, segments }: Counts): number =>
      rows * perCount.rows + picks * perCount.picks + segments * perCount.segments
    sections.set(name, { at: take(steps.length * stepBytes), steps: steps.length, work })
    for (const step of steps) {
      check(step, name, recording)
      scratchBytes = Math.max(scratchBytes, signatures[step.kernel].scratch(step.params, recording, step))
    }
  }
  const perThread = Math.ceil(scratchBytes / 64) * 64
  const scratch = { at: take(perThread * threads), perThread }
  const buffers = new Map<string, Place>()
  for (const [name, spec] of Object.entries(recording.buffers)) {
    const bytes = spec.matrix ? packedBytes(spec.matrix) : spec.length * DTYPE_BYTES[spec.dtype]
    buffers.set(name, { at: take(bytes + slack), bytes, spec })
  }
  if (end > memoryMax) {
    throw new RangeError(
      `the recording's buffers need ${(end / 2 ** 30).toFixed(2)} GiB, and WASM addresses 4: load fewer blocks or a shorter context`,
    )
  }

  const writeSteps = (memory: ArrayBufferLike): void => {
    for (const [name, steps] of Object.entries(recording.sections))
      steps.forEach((step, i) => {
        const words = new Uint32Array(memory, sections.get(name)!.at + i * stepBytes, stepBytes / 4)
        const { number, params, slots, work } = signatures[step.kernel]
        const slot = step.kernel === 'linear' ? 'w' : 'table'
        // Attention packs its own panels as matrices are packed.
        const packed =
          step.kernel === 'attention' || recording.buffers[step.buffers[slot] ?? '']?.kind === 'matrix'
            ? packing
            : 0
        words.set([number, domains[step.domain], Math.min(work(step.params), 0x7fffffff)])
        params.forEach((name, j) => (words[stepHeader + j] = name === 'packed' ? packed : step.params[name]!))
        slots.forEach((slot, j) => {
          const buffer = step.buffers[slot]
          words[stepHeader + params.length + j] = buffer ? buffers.get(buffer)!.at : 0
        })
      })
  }
  return { bytes: end, buffers, sections, scratch, writeSteps }
}

function check(step: Step, section: string, { buffers }: Recording): void {
  const where = `a ${step.kernel} step of section ${section}`
  const signature = signatures[step.kernel]
  if (!signature) throw new TypeError(`${where}: there is no such kernel`)
  for (const name of signature.params)
    if (name !== 'packed' && !Number.isInteger(step.params[name]))
      throw new TypeError(`${where} has no whole number as param ${name}`)
  for (const slot of signature.slots) {
    const name = step.buffers[slot]
    if (name === undefined) throw new TypeError(`${where} says nothing about buffer ${slot}`)
    if (name !== null && !buffers[name])
      throw new TypeError(`${where} binds ${slot} to ${name}, which is no buffer`)
  }
  if (step.kernel === 'linear' && buffers[step.buffers.w!]?.kind !== 'matrix')
    throw new TypeError(`${where} needs a buffer of kind matrix as w`)
}

/**
 * A matrix is stored in panels of 8 rows, [pair of k][row] of 2 bytes or [four of k][row] of 4: what both the matrix-vector
 * and the matrix-matrix tiles read front to back. The last panel is filled up with rows that are never looked at.
 */
export const packedBytes = ({ rows, k }: { rows: number; k: number }): number =>
  Math.ceil(rows / 8) * 8 * stride(k)

/** Copies unpadded rows of k values to rows [row, …) of a packed matrix at `target`. */
export function packRows(
  target: Uint8Array,
  row: number,
  k: number,
  bytes: Uint8Array,
  packing: Packing,
): void {
  const kp = stride(k)
  const rows = bytes.length / k
  const run = packing === PAIRS ? 2 : 4
  const flip = packing === FOURS_OFFSET ? 128 : 0
  const whole = k - (k % run)
  for (let r = 0; r < rows; r++) {
    let to = ((row + r) >> 3) * 8 * kp + ((row + r) & 7) * run
    const start = r * k
    if (run === 2) {
      for (let i = start; i < start + whole; i += 2, to += 16) {
        target[to] = bytes[i]!
        target[to + 1] = bytes[i + 1]!
      }
    } else {
      for (let i = start; i < start + whole; i += 4, to += 32) {
        target[to] = bytes[i]! ^ flip
        target[to + 1] = bytes[i + 1]! ^ flip
        target[to + 2] = bytes[i + 2]! ^ flip
        target[to + 3] = bytes[i + 3]! ^ flip
      }
    }
    for (let i = start + whole; i < start + k; i++, to++) target[to] = bytes[i]! ^ flip
  }
}
