/** Embedding and classification on a loaded encoder: lists of token ids in, one row of integers each out. */
import type { Model, Row } from './model.ts'

/** Unit vectors are in Q24; vectors that are not normalised in the residual's binary point. */
export const embeddingBits = (model: Pick<Model, 'spec' | 'exact'>): number =>
  model.spec.normalize ? 24 : model.exact.residualBits
/** Class logits are in Q16. */
export const LOGIT_BITS = 16

/** One embedding per list, i32[width], see embeddingBits(). */
export const embed = (model: Model, batch: readonly ArrayLike<number>[]): Promise<Int32Array[]> =>
  encode(model, batch, 'embed', 'pooled', model.spec.width)

/** One row of class logits per list, i32[labels] in Q16. */
export const classify = (model: Model, batch: readonly ArrayLike<number>[]): Promise<Int32Array[]> =>
  encode(model, batch, 'classify', 'logits', model.spec.labels!.length)

async function encode(
  model: Model,
  batch: readonly ArrayLike<number>[],
  section: string,
  result: string,
  width: number,
): Promise<Int32Array[]> {
  // prettier-ignore
  const { max } = model.recording
  const outputs: Int32Array[] = []
  for (let at = 0; at < batch.length;) {
    const rows: Row[] = []
    const segments: number[] = []
    for (; at < batch.length && segments.length / 2 < max.segments; at++) {
      const ids = batch[at]!
      model.checkIds(ids, Math.min(model.context, max.rows))
      if (rows.length + ids.length > max.rows) break
      const base = rows.length
      segments.push(base, ids.length)
      for (let i = 0; i < ids.length; i++) rows.push({ id: ids[i]!, position: i, base, length: ids.length })
    }
    const counts = { rows: rows.length, picks: 0, segments: segments.length / 2 }
    model.writeRows(rows, counts)
    model.writeWords('segments', Uint32Array.from(segments))
    model.program.run(['body', section], counts)
    const values = await model.readInts(result, counts.segments * width)
    for (let s = 0; s < counts.segments; s++) outputs.push(values.slice(s * width, (s + 1) * width))
  }
  return outputs
}
