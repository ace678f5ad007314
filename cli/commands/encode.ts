/** `chorale embed` and `chorale classify`: a row per text. */
import type { Command } from 'commander'
import { classify, embed, embeddingBits, LOGIT_BITS } from '../../engine/encoder.ts'
import { ModelError } from '../../engine/weights/errors.ts'
import { texts } from '../inputs.ts'
import { loadModel, openModel } from '../open.ts'
import type { Opened } from '../open.ts'
import { compute, integer } from '../options.ts'
import type { ComputeOptions } from '../options.ts'
import { Rows } from '../rows.ts'
import type { RowsOptions } from '../rows.ts'
import { Talk } from '../talk.ts'
import { ask, classifyRemote, embedRemote, remoteOf } from './ask.ts'
import type { AskOptions } from './ask.ts'

interface EncodeOptions extends ComputeOptions, AskOptions, RowsOptions {
  truncate?: boolean
}

/** Texts per call to the engine: enough to fill its batches, little enough to print as it goes. */
const BATCH = 64
const truncate = ['--truncate', "cut texts that are longer than the model's context"] as const

const output = ['-o, --output <file>', 'write rows there, and how far it is to stderr'] as const
const resume = ['--resume', 'go on with --output where an earlier run ended'] as const

export function addEmbed(program: Command): void {
  ask(
    compute(
      program
        .command('embed <model> [text...]')
        .summary('turn texts into vectors')
        .description(
          'Prints one row per text: its vector as tab-separated numbers, or with --json an object. One argument that names a file gives its lines; - or none reads lines from stdin.',
        ),
    ),
  )
    .option(...truncate)
    .option(...output)
    .option(...resume)
    .addHelpText(
      'after',
      `
Examples:
  chorale embed intents-3m "what's the weather like" "will it rain"
  chorale embed intents-3m questions.txt > vectors.tsv
  chorale embed intents-3m --json -o vectors.jsonl --resume questions.txt
  chorale embed intents-3m --json - < questions.txt`,
    )
    .action(async (name: string, given: string[], options: EncodeOptions) => {
      const talk = new Talk(options)
      const inputs = await texts(given)
      const { backend, threads, truncate: cut } = options
      const remote = remoteOf(options, { backend, threads, truncate: cut })
      if (remote)
        return withRows(talk, inputs, options, (out) => embedRemote(remote, name, inputs, talk, out))
      const opened = await openModel(name, ['embed', 'classify'], talk)
      await eachBatch(opened, inputs, options, talk, async (out, model, batch, from) => {
        const unit = 2 ** embeddingBits(model)
        // Eight digits name one integer of the 2^24 a unit vector is made of.
        const rows = (await embed(model, batch)).map((row) =>
          Array.from(row, (v) => Number((v / unit).toFixed(8))),
        )
        await out.write(rows.map((embedding, i) => talk.json
          ? JSON.stringify({ index: from + i, text: inputs[from + i], tokens: batch[i]!.length, embedding })
          : embedding.join('\t'))) // prettier-ignore
      })
    })
}

export function addClassify(program: Command): void {
  ask(
    compute(
      program
        .command('classify <model> [text...]')
        .summary('choose a label for texts')
        .description(
          'Prints one row per text: label and probability, tab-separated, the likeliest first; with --json an object. One argument that names a file gives its lines; - or none reads lines from stdin.',
        ),
    ),
  )
    .option('--top <n>', 'how many labels', integer(1), 1)
    .option(...truncate)
    .option(...output)
    .option(...resume)
    .addHelpText(
      'after',
      `
Examples:
  chorale classify intents-3m "play some jazz"
  chorale classify intents-3m --top 3 --json requests.txt`,
    )
    .action(async (name: string, given: string[], options: EncodeOptions & { top: number }) => {
      const talk = new Talk(options)
      const inputs = await texts(given)
      const { backend, threads, truncate: cut } = options
      const remote = remoteOf(options, { backend, threads, truncate: cut })
      if (remote)
        return withRows(talk, inputs, options, (out) =>
          classifyRemote(remote, name, inputs, options.top, talk, out),
        )
      const opened = await openModel(name, ['classify'], talk)
      const names = opened.pack.manifest.spec.labels!
      await eachBatch(opened, inputs, options, talk, async (out, model, batch, from) => {
        const rows = (await classify(model, batch)).map((logits) =>
          ranked(logits, names).slice(0, options.top),
        )
        await out.write(rows.map((labels, i) => talk.json
          ? JSON.stringify({ index: from + i, text: inputs[from + i], tokens: batch[i]!.length, labels })
          : labels.map(({ label, probability }) => `${label}\t${probability.toFixed(4)}`).join('\t'))) // prettier-ignore
      })
    })
}

async function eachBatch(
  { pack, tokenizer }: Opened,
  inputs: readonly string[],
  options: EncodeOptions,
  talk: Talk,
  work: (
    out: Rows,
    model: Awaited<ReturnType<typeof loadModel>>['model'],
    batch: Uint32Array[],
    from: number,
  ) => Promise<void>,
): Promise<void> {
  // prettier-ignore
  const { context } = pack.manifest.spec
  if (inputs.length === 0) return
  const encode = (text: string, i: number): Uint32Array => {
    const ids = tokenizer.encode(text, options.truncate ? { tokensMax: context } : {})
    if (ids.length <= context) return ids
    throw new ModelError('context-exceeded', {
      what: `text ${i + 1} has ${ids.length} tokens, and the model takes ${context}`, todo: 'Shorten it, or cut it with --truncate',
    }) // prettier-ignore
  }
  await withRows(talk, inputs, options, async (out) => {
    const { model, close } = await loadModel(pack, options)
    try {
      for (let from = out.before; from < inputs.length; from += BATCH)
        await work(out, model, inputs.slice(from, from + BATCH).map((text, i) => encode(text, from + i)), from) // prettier-ignore
    } finally {
      await close()
    }
  })
}

async function withRows(
  talk: Talk,
  inputs: readonly string[],
  options: EncodeOptions,
  work: (out: Rows) => Promise<void>,
): Promise<void> {
  const out = await Rows.open(talk, inputs, options)
  try {
    await work(out)
  } finally {
    await out.close()
  }
}

/** Softmax of Q16 logits, for people: the order is the integers', ties by index. */
function ranked(logits: Int32Array, names: readonly string[]): Array<{ label: string; probability: number }> {
  const max = logits.reduce((m, v) => Math.max(m, v), -(2 ** 31))
  const weights = Array.from(logits, (v) => Math.exp((v - max) / 2 ** LOGIT_BITS))
  const total = weights.reduce((a, b) => a + b, 0)
  return Array.from(logits, (_, i) => i)
    .sort((a, b) => logits[b]! - logits[a]! || a - b)
    .map((i) => ({ label: names[i]!, probability: Number((weights[i]! / total).toFixed(6)) }))
}
