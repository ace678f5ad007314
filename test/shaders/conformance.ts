/**
 * Holds a backend to the kernels' twins, byte for byte: every kernel, over shapes and values chosen to be awkward, each as
 * a Recording of one step. No test runner in here, so the same suite runs in Node and in a page.
 */
import type { Backend } from '../../engine/backends/backend.ts'
import { cases, nameOf } from '../../engine/kit/cases/index.ts'
import { differences, play, playTwin } from '../../engine/kit/play.ts'
import type { Kernel } from '../../shaders/kernel.ts'
import type { KernelName } from '../../shaders/kernels.ts'
import { kernels } from '../../shaders/kernels.ts'

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
  /** Only one case in so many; the seed says which. */
  every?: number
  onCase?: (name: string) => void
}

/** Plays the chosen cases on a backend and compares. A case that throws is a failure of that case, not of the suite. */
export async function conform(backend: Backend, choice: Choice): Promise<Report> {
  const report: Report = { seed: choice.seed, cases: 0, failures: [] }
  let index = 0
  for (const one of cases(choice.seed)) {
    const name = nameOf(one)
    if (choice.kernels && !choice.kernels.includes(one.kernel)) continue
    if (choice.match && !name.includes(choice.match)) continue
    if ((index++ + choice.seed) % (choice.every ?? 1)) continue
    choice.onCase?.(name)
    report.cases++
    const expected = playTwin(one, kernels[one.kernel] as unknown as Kernel)
    const problems = await play(backend, one).then(
      (got) => differences(one, expected, got).map(({ text }) => text),
      (error: unknown) => [String(error)],
    )
    report.failures.push(...problems.map((problem) => `${name}: ${problem}`))
  }
  if (report.cases === 0) report.failures.push('no case was chosen')
  return report
}
