/** What takes part in a whole-model benchmark. */

export interface DecoderTask {
  kind: 'decoder'
  model: string
  promptText: string
  /** Its token ids, `<s>` included. */
  prompt: number[]
  newTokens: number
  /** Greedy ids of a float64 pass, as many as are known. */
  want: number[]
  wantText: string
}

export interface EncoderTask {
  kind: 'encoder'
  model: string
  /** Token ids of each text, [CLS] and [SEP] included. */
  texts: number[][]
  /** Texts per call. */
  batch: number
  /** Class of each text by a float64 pass. */
  want: number[]
}

export type ModelTask = DecoderTask | EncoderTask

export interface PreparedModel {
  /** Milliseconds for `n` runs: one run is the whole task, ids in, ids or logits out and readable. */
  run(n: number): Promise<number>
  /** Tokens made or texts answered by the last run. */
  work(): number
  /** What is wrong with the last run's answer; null when it is right. */
  wrong(): string | null
  dispose(): Promise<void>
}

export interface ModelContestant {
  name: string
  prepare(task: ModelTask): Promise<PreparedModel>
}

/** Texts per call, padded with 0 to the longest of the call. */
export function batches({
  texts,
  batch,
}: EncoderTask): { ids: BigInt64Array; mask: BigInt64Array; dims: [number, number] }[] {
  const all = []
  for (let from = 0; from < texts.length; from += batch) {
    const rows = texts.slice(from, from + batch)
    const length = Math.max(...rows.map((row) => row.length))
    const ids = new BigInt64Array(rows.length * length)
    const mask = new BigInt64Array(rows.length * length)
    rows.forEach((row, r) => {
      row.forEach((id, i) => {
        ids[r * length + i] = BigInt(id)
        mask[r * length + i] = 1n
      })
    })
    all.push({ ids, mask, dims: [rows.length, length] as [number, number] })
  }
  return all
}

/** The index of the largest value of each row. */
export function classes(logits: Float32Array, rows: number): number[] {
  const width = logits.length / rows
  return Array.from({ length: rows }, (_, r) => {
    const row = logits.subarray(r * width, (r + 1) * width)
    return row.indexOf(row.reduce((a, b) => Math.max(a, b)))
  })
}

/**
 * Null when the answer will do, otherwise what is wrong with it. `exact`: weights and arithmetic are the original's, so the answer
 * must be too; otherwise it may stray late or rarely.
 */
export function wrongAnswer(task: ModelTask, answer: readonly number[], exact: boolean): string | null {
  const length = task.kind === 'decoder' ? Math.min(task.want.length, task.newTokens) : task.want.length
  if (answer.length < length) return `${answer.length} answers instead of ${length}`
  if (task.kind === 'decoder') {
    let same = 0
    while (same < length && answer[same] === task.want[same]) same++
    const needed = exact ? length : Math.min(8, length)
    return same >= needed
      ? null
      : `token ${same} is ${answer[same]}, the float64 pass says ${task.want[same]}`
  }
  const same = task.want.filter((label, i) => answer[i] === label).length
  return same >= (exact ? length : length * 0.9)
    ? null
    : `${length - same} of ${length} texts get another class`
}
