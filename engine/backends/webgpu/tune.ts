/**
 * Chooses the linear variants for a device: each candidate must first give the twin's bytes on a small awkward case (drivers
 * do miscompile), then the fastest on a usual shape wins. All give the same bytes, so the choice is never part of a result.
 */
import type { Kernel } from '../../../shaders/kernel.ts'
import { stride } from '../../../shaders/kernel.ts'
import { linear } from '../../../shaders/linear.ts'
import { shaderSource } from '../../../shaders/source.ts'
import { packScale } from '../../../shaders/xn1.ts'
import type { Recording } from '../../recording.ts'
import type { Device } from './device.ts'
import { DeviceFault } from './errors.ts'
import { loadProgram, type WebgpuProgram } from './program.ts'
import { linearFew, linearMany, type Choice } from './variants.ts'

/** Somewhere to keep what was found, from one visit to the next. */
export interface Remember {
  get(key: string): Promise<string | undefined> | string | undefined
  set(key: string, value: string): Promise<void> | void
}

export interface Tuned {
  choice: Choice
  /** What was chosen and how; candidates that failed by name. */
  variants: Record<string, string>
}

/** Time spent on timing, in all; checks come on top. */
const BUDGET_MS = 1500

interface Class {
  key: 'many' | 'few'
  table: typeof linearMany
  /** Most promising first: what is not reached within the budget is not taken. */
  candidates: string[]
  /** Rows, K and N that are timed. */
  shape: readonly [number, number, number]
}

const gpuClasses: Class[] = [
  {
    key: 'many',
    table: linearMany,
    candidates: ['tile', 'dot', 'tile-f32', 'f32', 'dot-narrow'],
    shape: [256, 1024, 1024],
  },
  {
    key: 'few',
    table: linearFew,
    candidates: ['row64', 'row128', 'row64-f32', 'row256', 'row128-f32'],
    shape: [1, 2048, 4096],
  },
]

/** SwiftShader's compiler takes longer than a timing is worth: the first that passes is taken. */
const softwareClasses: Class[] = [
  { key: 'many', table: linearMany, candidates: ['f32-narrow', 'dot-narrow'], shape: [0, 0, 0] },
  { key: 'few', table: linearFew, candidates: ['row16-f32', 'row64'], shape: [0, 0, 0] },
]

/**
 * @param avoid variants that are no candidates, as `many tile`
 * @throws DeviceFault when no variant computes correctly
 */
export async function tune(
  device: Device,
  remember?: Remember,
  avoid: readonly string[] = [],
): Promise<Tuned> {
  const classes = (device.software ? softwareClasses : gpuClasses).map((one) => ({
    ...one,
    candidates: one.candidates.filter((name) => !avoid.includes(`${one.key} ${name}`)),
  }))
  const key = `webgpu ${device.description} ${kernelDigest(classes)}`
  const known = parse(await remember?.get(key), classes)
  if (known) {
    const variants = Object.fromEntries(
      Object.entries(known).map(([name, value]) => [name, `${value} (remembered)`]),
    )
    return { choice: withF32({ ...device.choice, ...known }), variants }
  }
  const variants: Record<string, string> = {}
  let choice = device.choice
  const deadline = performance.now() + BUDGET_MS
  for (const one of classes) {
    const failed: string[] = avoid.filter((name) => name.startsWith(`${one.key} `))
    const timed: Array<{ name: string; ms: number }> = []
    for (const name of one.candidates) {
      if (timed.length > 0 && (device.software || performance.now() > deadline)) break
      const trial = { ...choice, [one.key]: name, fewMax: one.key === 'few' ? 1024 : 0 }
      const problem = await disagreement(device, trial).catch((error: unknown) => String(error))
      if (problem) failed.push(`${name} (${problem.split('\n')[0]})`)
      else timed.push({ name, ms: device.software ? 0 : await time(device, trial, one.shape) })
    }
    const best = timed.toSorted((a, b) => a.ms - b.ms)[0]
    if (!best)
      throw new DeviceFault(
        `no variant of linear computes correctly on ${device.description}: ${failed.join('; ')}`,
      )
    choice = { ...choice, [one.key]: best.name }
    variants[one.key] = best.ms
      ? `${best.name} (${best.ms.toFixed(3)} ms of ${timed.length} timed)`
      : best.name
    if (failed.length) variants[`${one.key}-failed`] = failed.join('; ')
  }
  await remember?.set(key, JSON.stringify({ many: choice.many, few: choice.few }))
  return { choice: withF32(choice), variants }
}

/** Attention's dot products go the way that won for matrices. */
const withF32 = (choice: Choice): Choice => ({ ...choice, f32: linearFew[choice.few]!.constants.F32 ?? 0 })

function parse(text: string | undefined, classes: Class[]): Pick<Choice, 'many' | 'few'> | undefined {
  if (!text) return undefined
  try {
    const value: unknown = JSON.parse(text)
    if (typeof value !== 'object' || value === null) return undefined
    const found = value as Record<string, unknown>
    if (!classes.every(({ key, candidates }) => candidates.includes(found[key] as string))) return undefined
    return { many: found.many as string, few: found.few as string }
  } catch {
    return undefined // kept by another version, or damaged: time again
  }
}

/** FNV-1a over the texts of the kernels to choose from. */
function kernelDigest(classes: Class[]): string {
  const shaders = new Set(classes.flatMap(({ table }) => Object.values(table).map(({ shader }) => shader)))
  let h = 0x811c9dc5
  for (const text of Array.from(shaders, shaderSource))
    for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193)
  return (h >>> 0).toString(16)
}

/** A linear step alone, A15 and with a bias where it is to be checked. */
function recordingOf(rows: number, k: number, n: number, check: boolean): Recording {
  const a15 = Number(check)
  const plane = rows * stride(k)
  return {
    buffers: {
      q: { dtype: 'i8', kind: 'scratch', length: 2 * plane },
      s: { dtype: 'u32', kind: 'scratch', length: rows },
      w: { dtype: 'i8', kind: 'matrix', length: n * stride(k), matrix: { rows: n, k } },
      ws: { dtype: 'u32', kind: 'constant', length: n },
      bias: { dtype: 'i32', kind: 'constant', length: n },
      out: { dtype: 'i32', kind: 'scratch', length: rows * n },
    },
    sections: {
      only: [
        {
          kernel: 'linear',
          domain: 'rows',
          params: { k, n, outFrom: 0, outStride: n, mode: 0, act: 0, a15, plane },
          buffers: { q: 'q', s: 's', w: 'w', ws: 'ws', bias: 'bias', table: null, out: 'out' },
        },
      ],
    },
    max: { rows, picks: 1, segments: 1 },
  }
}

/** Fills it with what a fixed generator draws; weights are never all alike, nor zero. */
function fill(
  program: WebgpuProgram,
  rows: number,
  k: number,
  n: number,
): Record<string, Int8Array | Int32Array | Uint32Array> {
  let state = 1
  const draw = (): number => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0)
  const i8 = (length: number): Int8Array => Int8Array.from({ length }, () => ((draw() >>> 8) % 255) - 127)
  const scales = (length: number): Uint32Array =>
    Uint32Array.from({ length }, () => packScale(32768 + ((draw() >>> 8) & 32767), 16 + ((draw() >>> 8) & 3)))
  const kp = stride(k)
  const padded = (count: number): Int8Array => {
    const data = i8(count * kp)
    for (let r = 0; r < count; r++) data.fill(0, r * kp + k, r * kp + kp)
    return data
  }
  const q = padded(2 * rows)
  const w = padded(n)
  const data = {
    q,
    s: scales(rows),
    w,
    ws: scales(n),
    bias: Int32Array.from({ length: n }, () => draw() | 0),
  }
  for (const [name, values] of Object.entries(data)) {
    const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
    if (name !== 'w') {
      program.write(name, 0, bytes)
      continue
    }
    const plain = new Uint8Array(n * k)
    for (let r = 0; r < n; r++) plain.set(bytes.subarray(r * kp, r * kp + k), r * k)
    program.writeMatrix(name, 0, plain)
  }
  return data
}

/** How a variant's bytes differ from the twin's; undefined when they don't. */
async function disagreement(device: Device, choice: Choice): Promise<string | undefined> {
  // Not a multiple of anything, and K above the 1024 products f32 holds.
  const [rows, k, n] = [19, 1061, 37] as const
  const recording = recordingOf(rows, k, n, true)
  const program = await loadProgram(device, recording, choice)
  try {
    const data = fill(program, rows, k, n)
    const expected = new Int32Array(rows * n)
    const { params } = recording.sections.only![0]!
    ;(linear as unknown as Kernel).run(params, { ...data, table: null, out: expected }, rows)
    program.run(['only'], { rows, picks: 0, segments: 0 })
    const bytes = await program.read('out', 0, 4 * expected.length)
    const got = new Int32Array(bytes.buffer, bytes.byteOffset, expected.length)
    const first = expected.findIndex((value, i) => value !== got[i])
    return first < 0 ? undefined : `output ${first} is ${got[first]}, not ${expected[first]}`
  } finally {
    program.free()
  }
}

/** Milliseconds of one run: best of three batches, long enough for a coarse clock. */
async function time(
  device: Device,
  choice: Choice,
  [rows, k, n]: readonly [number, number, number],
): Promise<number> {
  const program = await loadProgram(device, recordingOf(rows, k, n, false), choice)
  try {
    fill(program, rows, k, n)
    const counts = { rows, picks: 0, segments: 0 }
    const batch = async (runs: number): Promise<number> => {
      const start = performance.now()
      for (let i = 0; i < runs; i++) program.run(['only'], counts)
      await program.done()
      return (performance.now() - start) / runs
    }
    await batch(2)
    const runs = Math.max(2, Math.min(100, Math.ceil(20 / (await batch(4)))))
    return Math.min(await batch(runs), await batch(runs), await batch(runs))
  } finally {
    program.free()
  }
}
