/** Embedding and classification on a loaded encoder: lists of token ids in, one row of integers each out. */
import { DIGEST_WORDS } from '../shaders/digest.ts'
import type { Model, Row } from './model.ts'

/** Unit vectors are in Q24; vectors that are not normalised in the residual's binary point. */
export const embeddingBits = (model: Pick<Model, 'spec' | 'exact'>): number =>
  model.spec.normalize ? 24 : model.exact.residualBits
/** Class logits are in Q16. */
export const LOGIT_BITS = 16

type Batch = readonly ArrayLike<number>[]

/**
 * One embedding per list, i32[width], see embeddingBits().
 * @param trace gets each list's digests as Model.readTrace() gives them; the model must have been opened with `commit`
 */
export const embed = (model: Model, batch: Batch, trace?: Uint32Array[]): Promise<Int32Array[]> =>
  encode(model, batch, 'embed', 'pooled', model.spec.width, trace)

/** One row of class logits per list, i32[labels] in Q16. */
export const classify = (model: Model, batch: Batch, trace?: Uint32Array[]): Promise<Int32Array[]> =>
  encode(model, batch, 'classify', 'logits', model.spec.labels!.length, trace)

async function encode(
  model: Model,
  batch: Batch,
  section: string,
  result: string,
  width: number,
  trace: Uint32Array[] | undefined,
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
    const [values, digests] = await Promise.all([
      model.readInts(result, counts.segments * width),
      trace && model.readTrace(0, rows.length),
    ])
    for (let s = 0; s < counts.segments; s++) {
      outputs.push(values.slice(s * width, (s + 1) * width))
      const [base, length] = [segments[2 * s]!, segments[2 * s + 1]!]
      const words = DIGEST_WORDS * model.traceLayers
      if (digests) trace!.push(digests.subarray(base * words, (base + length) * words))
    }
  }
  return outputs
}
