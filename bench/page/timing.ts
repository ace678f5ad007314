/** Interleaved timing: a, b, c, a, b, c … so that whatever else the machine does falls on everybody alike. */

export interface Timed {
  name: string
  run(n: number): Promise<number>
}

export interface Timing {
  name: string
  /** Milliseconds per run: the median of the rounds, and the rounds' 5th and 95th percentile. */
  ms: number
  p5: number
  p95: number
  rounds: number
  runsPerRound: number
}

export interface Effort {
  /** Each contestant is run alone this long before anything counts: engines tier up, pools spin up. */
  warmMs: number
  /** What one turn should take. */
  turnMs: number
  rounds: number
}

export const EFFORT: Effort = { warmMs: 400, turnMs: 40, rounds: 15 }

export function quantile(sorted: readonly number[], q: number): number {
  const at = (sorted.length - 1) * q
  const low = sorted[Math.floor(at)] ?? Number.NaN
  const high = sorted[Math.ceil(at)] ?? Number.NaN
  return low + (high - low) * (at - Math.floor(at))
}

/** Runs everybody in turn; returns one timing each, in the given order. */
export async function interleave(contestants: readonly Timed[], effort: Effort): Promise<Timing[]> {
  const runs: number[] = []
  for (const contestant of contestants) {
    let spent = 0
    let last = await contestant.run(1)
    spent += last
    while (spent < effort.warmMs) {
      last = await contestant.run(1)
      spent += last
    }
    runs.push(Math.max(1, Math.round(effort.turnMs / Math.max(last, 0.005))))
  }
  const samples: number[][] = contestants.map(() => [])
  for (let round = 0; round < effort.rounds; round++) {
    for (const [i, contestant] of contestants.entries())
      samples[i]!.push((await contestant.run(runs[i]!)) / runs[i]!)
  }
  return contestants.map((contestant, i) => {
    const sorted = samples[i]!.toSorted((a, b) => a - b)
    return {
      name: contestant.name,
      ms: quantile(sorted, 0.5),
      p5: quantile(sorted, 0.05),
      p95: quantile(sorted, 0.95),
      rounds: effort.rounds,
      runsPerRound: runs[i]!,
    }
  })
}
