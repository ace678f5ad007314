/** Running a range of blocks on its own: activations in, activations out. This is what a shard does. */
import type { Model, Row } from './model.ts'

/**
 * Plays blocks [start, end) over `rows`. Where start > 0, `activations` is the residual stream i32[rows, width] that the stage
 * before returned; the result is the same for the stage after. The last stage's result may be followed by finish().
 */
export async function runStage(
  model: Model,
  rows: readonly Row[],
  activations?: Int32Array,
): Promise<Int32Array> {
  const counts = { rows: rows.length, picks: 0, segments: 0 }
  model.writeRows(rows, counts)
  if (activations) model.writeWords('x', activations)
  model.program.run(['body'], counts)
  return model.readInts('x', rows.length * model.spec.width)
}

/** Logits i32 Q16 [picks, vocab] of these rows of the last stage's run. */
export async function finishStage(model: Model, picks: readonly number[]): Promise<Int32Array> {
  const counts = { rows: picks.length, picks: picks.length, segments: 0 }
  model.writeRows([], counts)
  model.writeWords('picks', Uint32Array.from(picks))
  model.program.run(['logits'], counts)
  return model.readInts('logits', picks.length * model.spec.vocab)
}
