/** What packing cost: the pack on an exact backend against the original model in float, on text that calibration did not see. */
import { readFile } from 'node:fs/promises'
import type { Backend } from '../../engine/backends/backend.ts'
import { score } from '../../engine/decoder.ts'
import { classify, embed } from '../../engine/encoder.ts'
import { Model } from '../../engine/model.ts'
import type { Pack } from '../../engine/pack/reader.ts'
import type { Tokenizer } from '../../engine/tokenizer.ts'
import { textOfUtf8 } from '../../engine/tokenizer.ts'
import { ModelError, quote } from '../../engine/weights/errors.ts'
import type { ModelFolder } from '../../engine/weights/huggingface.ts'
import { FloatModel, lossOf } from '../float/model.ts'

export interface Quality {
  /** Held-out tokens, and sequences they are in. */
  tokens: number
  sequences: number
  /** What computed the exact side. */
  backend: string
  /** Decoders: nats per token. */
  loss?: { float: number; exact: number; relative: number }
  /** Share of positions (decoders) or texts (classifiers) where both choose the same token or label. */
  top1?: number
  /** Encoders: between the two embeddings of a text. */
  cosine?: { min: number; mean: number }
  /** Classifiers, with labels given: share of right answers. */
  accuracy?: { float: number; exact: number; count: number }
  /** What is worse than this project allows itself, in words; empty is well. */
  misses: string[]
}

/** The bars of this project: relative loss, top-1 agreement, cosine, accuracy in share. */
const BARS = { loss: 0.005, top1: 0.97, cosine: 0.999, accuracy: 0.002 }
/** Agreement on fewer positions than this is not judged. */
const POSITIONS_MIN = 100

export interface LabelledText {
  text: string
  label: string
}

export async function measureQuality(
  folder: ModelFolder,
  pack: Pack,
  backend: Backend,
  inputs: {
    heldOut: readonly Uint32Array[]
    labelled?: readonly LabelledText[]
    tokenizer: Tokenizer | null
  },
  onProgress: (done: number, of: number) => void = () => {},
): Promise<Quality> {
  // prettier-ignore
  const { spec } = folder
  const { heldOut } = inputs
  const longest = heldOut.reduce((m, ids) => Math.max(m, ids.length), 1)
  const model = await Model.open(pack, backend, {
    context: spec.task === 'generate' ? longest : spec.context,
    scoring: spec.task === 'generate',
  })
  try {
    const quality: Quality = {
      tokens: heldOut.reduce((n, ids) => n + ids.length, 0), sequences: heldOut.length, backend: backend.info.description, misses: [],
    } // prettier-ignore
    if (spec.task === 'generate') await measureDecoder(folder, model, heldOut, quality, onProgress)
    else await measureEncoder(folder, model, heldOut, quality, onProgress)
    if (inputs.labelled) {
      if (!inputs.tokenizer)
        throw new ModelError('tokenizer-invalid', {
          what: 'labels need a tokenizer, and the model has none',
          todo: 'Leave --labels out',
        })
      quality.accuracy = await measureAccuracy(folder, model, inputs.tokenizer, inputs.labelled)
    }
    judge(quality)
    return quality
  } finally {
    model.free()
  }
}

async function measureDecoder(
  folder: ModelFolder,
  model: Model,
  heldOut: readonly Uint32Array[],
  quality: Quality,
  onProgress: (done: number, of: number) => void,
): Promise<void> {
  // prettier-ignore
  const { vocab } = folder.spec
  const floats = await FloatModel.streamed(folder, heldOut, {
    logits: 'all',
    onLayer: (done, of) => onProgress(done, of + heldOut.length),
  })
  let [float, exact, same, predicted, positions] = [0, 0, 0, 0, 0]
  for (const [s, ids] of heldOut.entries()) {
    const a = floats[s]!.logits!
    const b = Float32Array.from(await score(model, ids), (v) => v / 65536)
    for (let t = 0; t < ids.length; t++) {
      const [fa, fb] = [a.subarray(t * vocab, (t + 1) * vocab), b.subarray(t * vocab, (t + 1) * vocab)]
      same += Number(argmax(fa) === argmax(fb))
      positions++
      if (t + 1 === ids.length) continue
      float += lossOf(fa, ids[t + 1]!)
      exact += lossOf(fb, ids[t + 1]!)
      predicted++
    }
    onProgress(folder.spec.layers + 1 + s + 1, folder.spec.layers + 1 + heldOut.length)
  }
  quality.loss = { float: float / predicted, exact: exact / predicted, relative: exact / float - 1 }
  quality.top1 = same / positions
}

async function measureEncoder(
  folder: ModelFolder,
  model: Model,
  heldOut: readonly Uint32Array[],
  quality: Quality,
  onProgress: (done: number, of: number) => void,
): Promise<void> {
  // prettier-ignore
  const { spec } = folder
  const floats = await FloatModel.streamed(folder, heldOut, { onLayer: onProgress })
  if (spec.pooling) {
    const rows = await embed(model, heldOut)
    const cosines = rows.map((row, i) => cosine(row, floats[i]!.embedding!))
    quality.cosine = { min: Math.min(...cosines), mean: mean(cosines) }
  }
  if (spec.task === 'classify') {
    const rows = await classify(model, heldOut)
    quality.top1 = mean(rows.map((row, i) => Number(argmax(row) === argmax(floats[i]!.classLogits!))))
  }
}

async function measureAccuracy(
  folder: ModelFolder,
  model: Model,
  tokenizer: Tokenizer,
  labelled: readonly LabelledText[],
): Promise<NonNullable<Quality['accuracy']>> {
  // prettier-ignore
  const labels = folder.spec.labels
  if (!labels)
    throw new ModelError('input-invalid', {
      what: 'the model has no labels',
      todo: 'Leave --labels out, or pack a classifier',
    })
  const unknown = labelled.find(({ label }) => !labels.includes(label))
  if (unknown)
    throw new ModelError('input-invalid', {
      what: `the model has no label ${quote(unknown.label)}`,
      todo: `Its labels are ${quote(labels.join(', '))}`,
    })
  const batch = labelled.map(({ text }) => tokenizer.encode(text, { tokensMax: folder.spec.context }))
  const floats = await FloatModel.streamed(folder, batch)
  const exact = await classify(model, batch)
  const right = (at: (i: number) => number): number =>
    mean(labelled.map(({ label }, i) => Number(labels[at(i)] === label)))
  return {
    float: right((i) => argmax(floats[i]!.classLogits!)),
    exact: right((i) => argmax(exact[i]!)),
    count: labelled.length,
  }
}

function judge({ loss, top1, cosine, accuracy, tokens, misses }: Quality): void {
  if (loss && loss.relative > BARS.loss)
    misses.push(`the loss rose by ${percent(loss.relative)}, more than ${percent(BARS.loss)}`)
  if (top1 !== undefined && tokens >= POSITIONS_MIN && top1 < BARS.top1)
    misses.push(`top-1 agreement is ${percent(top1)}, less than ${percent(BARS.top1)}`)
  if (cosine && cosine.min < BARS.cosine)
    misses.push(`the least cosine is ${cosine.min.toFixed(5)}, less than ${BARS.cosine}`)
  if (accuracy && accuracy.float - accuracy.exact > BARS.accuracy)
    misses.push(
      `accuracy fell by ${percent(accuracy.float - accuracy.exact)}, more than ${percent(BARS.accuracy)}`,
    )
}

/** One JSON object {text, label} or one `text<TAB>label` per line. Throws ModelError `input-invalid`, naming the line. */
export async function readLabels(file: string): Promise<LabelledText[]> {
  let bytes: Uint8Array
  try {
    bytes = await readFile(file)
  } catch (cause) {
    throw new ModelError(
      'file-unreadable',
      { file, what: (cause as Error).message, todo: 'Name a file of labelled texts' },
      cause,
    )
  }
  const found: LabelledText[] = []
  for (const [i, line] of textOfUtf8(bytes).split(/\r?\n/).entries()) {
    if (line.trim() === '') continue
    const row = line.startsWith('{')
      ? parseRow(line)
      : { text: line.split('\t')[0], label: line.split('\t')[1]?.trim() }
    if (typeof row?.text !== 'string' || typeof row.label !== 'string') {
      throw new ModelError('input-invalid', {
        file, what: `line ${i + 1} is not a labelled text`, todo: 'Give {"text": …, "label": …} or text, a tab and the label, one per line',
      }) // prettier-ignore
    }
    found.push({ text: row.text, label: row.label })
  }
  if (found.length === 0)
    throw new ModelError('input-invalid', {
      file,
      what: 'it has no labelled text',
      todo: 'Give at least one line',
    })
  return found
}

function parseRow(line: string): { text?: unknown; label?: unknown } | null {
  try {
    return JSON.parse(line) as { text?: unknown; label?: unknown } | null
  } catch {
    return null
  }
}

export const percent = (share: number): string => `${(100 * share).toFixed(2)} %`

const mean = (values: number[]): number => values.reduce((a, b) => a + b, 0) / values.length

function argmax(row: Float32Array | Int32Array): number {
  let best = 0
  for (let i = 1; i < row.length; i++) if (row[i]! > row[best]!) best = i
  return best
}

function cosine(a: Int32Array, b: Float32Array): number {
  let [dot, aa, bb] = [0, 0, 0]
  for (let i = 0; i < a.length; i++) {
    dot += a[i]! * b[i]!
    aa += a[i]! * a[i]!
    bb += b[i]! * b[i]!
  }
  return aa === 0 || bb === 0 ? Number(aa === bb) : dot / Math.sqrt(aa * bb)
}
