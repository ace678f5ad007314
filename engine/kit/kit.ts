/**
 * The admission kit: known answers of every kernel, of layers and of two tiny models. A backend computes for others only
 * after it has given them all: drivers do miscompile. Inputs are drawn here; known.json holds a digest per answer, written by
 * make.ts from the kernels' definitions.
 */
import type { Backend } from '../backends/backend.ts'
import { sha256 } from '../pack/reader.ts'
import type { Kernel } from '../../shaders/kernel.ts'
import { cases, nameOf } from './cases/index.ts'
import known from './known.json' with { type: 'json' }
import { layerShapes, playNormAndLinear } from './layer.ts'
import { playReader, playWriter } from './model.ts'
import { differences, play, playTwin } from './play.ts'
import type { Case, Difference, Outputs } from './play.ts'

/** Names the answers: another kit, another admission. */
export const KIT_VERSION: string = known.version

export interface Failure {
  /** The kernel; `model` where each kernel alone is right. */
  kernel: string
  /** Which of the known answers was missed. */
  name: string
  /** Over how many rows, where it is known. */
  rows?: number
  /** What came instead. */
  detail: string
}

export interface KitReport {
  cases: number
  ms: number
  /** The first answer that was missed, none where the backend is right. */
  failure?: Failure
}

/** Something with a known answer. */
export interface Question {
  kernel: string
  name: string
  ask(backend: Backend): Promise<Outputs>
  /** Where the definition says what a wrong answer should have been. */
  explain?(got: Outputs): Promise<Difference[]>
}

const SEED = 1
/** Few rows are launched in other ways than many, by shaders that are compiled anyway. */
const FEW = 3
/** Asked together: shaders compile side by side. */
const TOGETHER = 8

/** All there could be, in the order in which a failure says most. */
export function* questions(): Generator<Question> {
  for (const one of cases(SEED)) {
    const counts = one.n > FEW ? [one.n, FEW] : [one.n]
    yield {
      kernel: one.kernel,
      name: nameOf(one),
      ask: (backend) => play(backend, one, counts),
      explain: (got) => explain(one, counts, got),
    }
  }
  for (const shape of layerShapes) {
    const name = `norm and linear: ${shape.norm}, a15 ${shape.a15}`
    yield { kernel: 'linear', name, ask: (backend) => playNormAndLinear(backend, shape, SEED) }
  }
  yield { kernel: 'model', name: 'model: prompt and draw', ask: (backend) => playWriter(backend, SEED) }
  yield { kernel: 'model', name: 'model: embed and classify', ask: (backend) => playReader(backend, SEED) }
}

/** Enough of a SHA-256 to tell accidents: nobody gains by passing with a wrong answer. */
export async function digestOf(outputs: Outputs): Promise<string> {
  const parts = [...outputs.values()]
  const all = new Uint8Array(parts.reduce((n, part) => n + part.length, 0))
  let at = 0
  for (const part of parts) {
    all.set(part, at)
    at += part.length
  }
  return (await sha256(all)).slice(0, 16)
}

/**
 * Asks a backend everything in known.json, up to the first wrong answer. Throws what is about the device and not about what
 * it computes: DeviceLost, OutOfDeviceMemory.
 */
export async function admit(backend: Backend): Promise<KitReport> {
  const start = performance.now()
  const answers: Readonly<Record<string, string>> = known.answers
  const report = (n: number, failure?: Failure): KitReport => ({ cases: n, ms: performance.now() - start, failure }) // prettier-ignore
  let asked = 0
  let batch: Question[] = []
  const check = async (): Promise<Failure | undefined> => {
    const found = await Promise.all(
      batch.map((question) => missed(backend, question, answers[question.name]!)),
    )
    asked += batch.length
    batch = []
    return found.find(Boolean)
  }
  for (const question of questions()) {
    if (!(question.name in answers)) continue
    if (batch.push(question) < TOGETHER) continue
    const failure = await check()
    if (failure) return report(asked, failure)
  }
  return report(asked + batch.length, await check())
}

async function missed(backend: Backend, question: Question, expected: string): Promise<Failure | undefined> {
  const { kernel, name } = question
  try {
    const got = await question.ask(backend)
    if ((await digestOf(got)) === expected) return undefined
    const found = (await question.explain?.(got)) ?? []
    return { kernel, name, rows: found[0]?.rows, detail: found.map(({ text }) => text).join('; ') || 'another answer' } // prettier-ignore
  } catch (error) {
    if (/^(DeviceLost|OutOfDeviceMemory)$/.test((error as Error).name)) throw error
    return { kernel, name, detail: String(error) }
  }
}

/** By the definition itself, which is fetched only when there is something to explain. */
async function explain(one: Case, counts: readonly number[], got: Outputs): Promise<Difference[]> {
  const { kernels } = await import('../../shaders/kernels.ts')
  return differences(one, playTwin(one, kernels[one.kernel] as unknown as Kernel, counts), got)
}
