/** The page's half of `bench model`: prepare, check the answer, time. */

import type { ModelContestant, ModelTask, PreparedModel } from '../contestants/model.ts'
import { wrongAnswer } from '../contestants/model.ts'
import { transformersJs } from '../contestants/transformers.ts'
import { interleave } from './timing.ts'
import type { Effort, Timing } from './timing.ts'

export interface ModelOutcome {
  ours: Timing[]
  peers: Timing[]
  absent: Record<string, string>
  /** Tokens or texts one run makes. */
  work: number
}

/** A contestant this many times slower than the best is left out of the interleaved rounds: it can't be the best peer. */
const HOPELESS = 3

export async function runModelTask(
  task: ModelTask,
  ours: readonly ModelContestant[],
  effort: Effort,
): Promise<ModelOutcome> {
  const absent: Record<string, string> = {}
  const ready: { contestant: ModelContestant; prepared: PreparedModel; ms: number }[] = []
  for (const contestant of [...ours, ...transformersJs]) {
    try {
      const prepared = await contestant.prepare(task)
      await prepared.run(1)
      const wrong = wrongAnswer(task, prepared.answer(), contestant.exact)
      if (wrong !== null) {
        await prepared.dispose()
        throw new Error(`wrong answer: ${wrong}`)
      }
      // Engines tier up: a cold run says nothing about speed.
      const warm = performance.now() + effort.warmMs / 3
      let ms = await prepared.run(1)
      while (performance.now() < warm) ms = await prepared.run(1)
      ready.push({ contestant, prepared, ms })
    } catch (error) {
      absent[contestant.name] = error instanceof Error ? error.message : String(error)
    }
  }
  const work = Math.max(...ready.map(({ prepared }) => prepared.answer().length))
  const isOurs = (contestant: ModelContestant) => ours.includes(contestant)
  const best = Math.min(...ready.filter(({ contestant }) => !isOurs(contestant)).map(({ ms }) => ms))
  const racing = ready.filter(({ contestant, ms, prepared }) => {
    if (isOurs(contestant) || ms <= HOPELESS * best) return true
    absent[contestant.name] = `${(ms / best).toFixed(1)} times slower than the fastest peer: checked, timed once`
    void prepared.dispose()
    return false
  })
  const timed = racing.map(({ contestant, prepared }) => ({ name: contestant.name, run: (n: number) => prepared.run(n) }))
  const timings = await interleave(timed, effort)
  for (const { prepared } of racing) await prepared.dispose()
  return {
    ours: timings.filter((_, i) => isOurs(racing[i]!.contestant)),
    peers: timings.filter((_, i) => !isOurs(racing[i]!.contestant)),
    absent,
    work,
  }
}
