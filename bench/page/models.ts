/** The page's half of `bench model`: prepare, check the answer, time. */

import type { ModelContestant, ModelTask, PreparedModel } from '../contestants/model.ts'
import { interleave } from './timing.ts'
import type { Effort, Timing } from './timing.ts'

export interface ModelOutcome {
  ours: Timing[]
  peers: Timing[]
  absent: Record<string, string>
  /** Ours that answered wrongly or failed. */
  wrong: Record<string, string>
  /** Tokens or texts one run makes. */
  work: number
}

/** A contestant this many times slower than the fastest of its side, warm, is left out of the interleaved rounds … */
const HOPELESS = 5
/** … and this many times slower at its very first run, before engines tier up, it is not even warmed. */
const HOPELESS_COLD = 20

/** Who was hopeless at a kind of task is not asked again for a longer one of the same kind. */
const givenUp = new Map<string, string>()

interface Entrant {
  contestant: ModelContestant
  prepared: PreparedModel
  /** The last run. */
  ms: number
}

type Fate = { entrant: Entrant } | { absent: string } | { wrong: string }

async function enter(
  contestant: ModelContestant,
  task: ModelTask,
  best: number,
  warmMs: number,
  race: string,
): Promise<Fate> {
  const key = `${race} ${task.kind} ${contestant.name}`
  const earlier = givenUp.get(key)
  if (earlier !== undefined) return { absent: earlier }
  let prepared: PreparedModel | null = null
  const leave = async (fate: Fate): Promise<Fate> => {
    await prepared?.dispose()
    return fate
  }
  try {
    prepared = await contestant.prepare(task)
    let ms = await prepared.run(1)
    const wrong = prepared.wrong()
    if (wrong !== null) return await leave({ wrong })
    const until = performance.now() + warmMs
    let limit = HOPELESS_COLD
    while (ms <= limit * best && performance.now() < until) {
      ms = await prepared.run(1)
      limit = Number.POSITIVE_INFINITY
    }
    if (ms <= HOPELESS * best) return { entrant: { contestant, prepared, ms } }
    const why = `right, but ${(ms / best).toFixed(1)} times slower than the fastest of its side: not timed further`
    givenUp.set(key, why)
    return await leave({ absent: why })
  } catch (error) {
    return leave({ wrong: error instanceof Error ? error.message : String(error) })
  }
}

export async function runModelTask(
  task: ModelTask,
  ours: readonly ModelContestant[],
  peers: readonly ModelContestant[],
  effort: Effort,
  only: string | null,
): Promise<ModelOutcome> {
  const absent: Record<string, string> = {}
  const wrong: Record<string, string> = {}
  const sides: Entrant[][] = []
  for (const side of [ours, peers]) {
    const entrants: Entrant[] = []
    for (const contestant of side) {
      if (only !== null && !contestant.name.includes(only)) continue
      const best = Math.min(...entrants.map(({ ms }) => ms))
      const fate = await enter(contestant, task, best, effort.warmMs / 2, only ?? 'all')
      if ('entrant' in fate) entrants.push(fate.entrant)
      else if ('absent' in fate) absent[contestant.name] = fate.absent
      else (side === ours ? wrong : absent)[contestant.name] = fate.wrong
    }
    sides.push(entrants)
  }
  const [mine = [], theirs = []] = sides
  const all = [...mine, ...theirs]
  const work = Math.max(0, ...all.map(({ prepared }) => prepared.work()))
  const timed = all.map(({ contestant, prepared }) => ({
    name: contestant.name,
    run: (n: number) => prepared.run(n),
  }))
  const timings = await interleave(timed, effort)
  for (const { prepared } of all) await prepared.dispose()
  return { ours: timings.slice(0, mine.length), peers: timings.slice(mine.length), absent, wrong, work }
}
