/**
 * Puts one model on one backend through everything that must not change a byte: batch size, prompt chunking, block splits,
 * takeover in mid-sequence. Breaking one of these laws throws; what is left is a digest per result, equal on all backends.
 * No test runner in here: it runs in Node and in a page alike.
 */
import type { Backend } from '../../engine/backends/backend.ts'
import { Decoder, generate, score } from '../../engine/decoder.ts'
import { classify, embed } from '../../engine/encoder.ts'
import { Model } from '../../engine/model.ts'
import type { ModelOptions } from '../../engine/model.ts'
import type { Pack } from '../../engine/pack/reader.ts'
import { sha256 } from '../../engine/pack/reader.ts'
import type { Sampling } from '../../engine/sampling.ts'
import { finishStage, runStage } from '../../engine/stage.ts'

export interface Exercise {
  prompts: number[][]
  /** Tokens generated per prompt. */
  tokens: number
  /** False: only what leaves a digest. A software GPU compiles half a minute for all the ways to come to the same bytes. */
  laws?: boolean
}

export type Digests = Record<string, string>

export const SAMPLINGS: Record<string, Sampling> = {
  greedy: {},
  'top-p': { temperature: 0.8, topP: 0.95, seed: 7n },
  'top-k': { temperature: 1.3, topK: 5, seed: 0xfedcba9876543210n, stream: 3 },
  hot: { temperature: 4, seed: 1, topK: 100, topP: 0.9 },
}

export async function exercise(backend: Backend, pack: Pack, work: Exercise): Promise<Digests> {
  return pack.manifest.spec.task === 'generate' ? exerciseDecoder(backend, pack, work) : exerciseEncoder(backend, pack, work)
}

async function using<T>(backend: Backend, pack: Pack, options: ModelOptions, use: (model: Model) => Promise<T>): Promise<T> {
  const model = await Model.open(pack, backend, options)
  try {
    return await use(model)
  } finally {
    model.free()
  }
}

/** The same backend on a device that binds no more than so many bytes at a time. */
const withBinding = (backend: Backend, bytes: number): Backend => ({
  info: backend.info,
  lost: backend.lost,
  bindingBytesMax: bytes,
  load: (recording) => backend.load(recording),
  close: () => backend.close(),
})

const bytesOf = (values: Int32Array): Uint8Array => new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
const hash = (values: Int32Array): Promise<string> => sha256(bytesOf(values))

function same(law: string, a: ArrayLike<number>, b: ArrayLike<number>): void {
  const at = Array.from(a).findIndex((v, i) => v !== b[i])
  if (at >= 0 || a.length !== b.length) throw new Error(`${law}: differs first at ${at} (${a[at]} and ${b[at]}; lengths ${a.length} and ${b.length})`)
}

async function generated(model: Model, prompts: number[][], tokens: number, sampling: Sampling): Promise<number[][]> {
  const ids: number[][] = prompts.map(() => [])
  for await (const drawn of generate(model, prompts.map((prompt) => ({ prompt, maxTokens: tokens, sampling })))) // prettier-ignore
    ids[drawn.index]!.push(drawn.id)
  return ids
}

async function exerciseDecoder(backend: Backend, pack: Pack, { prompts, tokens, laws = true }: Exercise): Promise<Digests> {
  const { spec } = pack.manifest
  const out: Digests = {}
  const alone: Record<string, number[][]> = {}
  const context = Math.min(spec.context, Math.max(...prompts.map((p) => p.length)) + tokens + 1)
  await using(backend, pack, { context }, async (model) => {
    for (const [name, sampling] of Object.entries(SAMPLINGS)) {
      alone[name] = []
      for (const prompt of prompts) alone[name].push(...(await generated(model, [prompt], tokens, sampling)))
      out[name] = alone[name].map((ids) => ids.join(' ')).join(' | ')
    }
  })
  if (laws) await using(backend, pack, { context, sequences: prompts.length }, async (model) => {
    for (const [name, sampling] of Object.entries(SAMPLINGS)) {
      const together = await generated(model, prompts, tokens, sampling)
      together.forEach((ids, i) => same(`a batch changes no sequence (${name}, prompt ${i})`, alone[name]![i]!, ids))
    }
  })
  if (laws) await using(backend, pack, { context, rows: 3 }, async (model) => {
    // Another device takes over: the prompt and half the answer are all it knows.
    for (const [name, sampling] of Object.entries(SAMPLINGS)) {
      const whole = alone[name]![0]!
      const half = whole.length >> 1
      if (half === 0) continue
      const decoder = new Decoder(model)
      const taken = await decoder.add([...prompts[0]!, ...whole.slice(0, half)], sampling)
      while (taken.ids.length - prompts[0]!.length < whole.length) await decoder.advance(1)
      same(`takeover goes on with the same tokens (${name})`, [...prompts[0]!, ...whole], taken.ids)
    }
  })

  // A trace of its own for each way to come to the same sequence.
  const traced = (options: ModelOptions, go: (decoder: Decoder) => Promise<unknown>, slot = 0): Promise<Int32Array> =>
    using(backend, pack, { context, commit: true, ...options }, async (model) => {
      await go(new Decoder(model))
      const trace = await model.readTrace(slot * model.context, prompts[0]!.length + tokens - 1)
      return new Int32Array(trace.buffer, trace.byteOffset, trace.length)
    })
  const drawn = [...prompts[0]!, ...alone['top-p']![0]!]
  const isWhole = alone['top-p']![0]!.length === tokens
  const trace = await traced({}, async (decoder) => {
    await decoder.add(prompts[0]!, SAMPLINGS['top-p'])
    for (let i = 1; i < tokens; i++) await decoder.advance(1)
  })
  out.trace = await hash(trace)
  if (laws) {
    const crowd = { rows: 5, sequences: prompts.length }
    const inCrowd = await traced(crowd, async (decoder) => {
      for (const prompt of prompts.toReversed()) await decoder.add(prompt, SAMPLINGS['top-p'])
      await decoder.advance(tokens - 1)
    }, prompts.length - 1) // prettier-ignore
    same('company and chunks change no trace', trace, inCrowd)
  }
  if (laws && isWhole) {
    const replayed = await traced({ rows: 7 }, async (decoder) => {
      const sequence = await decoder.add(drawn, SAMPLINGS['top-p'], { replay: tokens })
      same('replay draws the same tokens', drawn, sequence.ids)
    })
    same('replay leaves the same trace', trace, replayed)
  }

  const text = [...prompts[0]!, ...alone.greedy![0]!]
  const logits = await using(backend, pack, { context, scoring: true }, (model) => score(model, text))
  out.logits = await hash(logits)
  if (laws) same('chunks of a prompt change no logit', logits, await using(backend, pack, { context, scoring: true, rows: 5 }, (model) => score(model, text)))
  if (laws) {
    // Three parts of the largest matrix: each part is kernels of its own to compile.
    const widest = Math.max(spec.vocab, spec.gated ? 2 * spec.ff : spec.ff)
    const narrow = withBinding(backend, Math.max(16, Math.ceil(widest / 3)) * ((spec.width + 15) & ~15))
    same('matrices split over small bindings change no logit', logits, await using(narrow, pack, { context, scoring: true }, (model) => score(model, text)))
  }
  const split = Math.ceil(spec.layers / 2)
  if (split < spec.layers) {
    const first = await Model.open(pack, backend, { context, blocks: [0, split], commit: true })
    const second = await Model.open(pack, backend, { context, blocks: [split, spec.layers], scoring: true, commit: true })
    const rows = text.slice(0, first.recording.max.rows).map((id, position) => ({ id, position, base: 0, length: position + 1 }))
    const between = await runStage(first, rows)
    await runStage(second, rows, between)
    const picks = rows.map((_, i) => i)
    same('a split between blocks changes no logit', logits.subarray(0, rows.length * spec.vocab), await finishStage(second, picks))
    out.activations = await hash(between)
    const whole = await Model.open(pack, backend, { context, commit: true })
    await runStage(whole, rows)
    same('the ranges’ traces side by side are the model’s', await traceOf(rows.length, whole), await traceOf(rows.length, first, second))
    for (const model of [whole, first, second]) model.free()
  }
  return out
}

async function exerciseEncoder(backend: Backend, pack: Pack, { prompts }: Exercise): Promise<Digests> {
  const { spec } = pack.manifest
  const out: Digests = {}
  const jobs = { embed, ...(spec.task === 'classify' ? { classify } : {}) }
  for (const [name, job] of Object.entries(jobs)) {
    const trace: Uint32Array[] = []
    const together = await using(backend, pack, { commit: true }, (model) => job(model, prompts, trace))
    out[name] = await hash(Int32Array.from(together.flatMap((row) => [...row])))
    out[`${name} trace`] = await hash(Int32Array.from(trace.flatMap((row) => [...row])))
    const rows = Math.max(...prompts.map((p) => p.length))
    await using(backend, pack, { rows, commit: true }, async (model) => {
      for (const [i, prompt] of prompts.entries()) {
        const alone: Uint32Array[] = []
        same(`a batch changes no row (${name} ${i})`, together[i]!, (await job(model, [prompt], alone))[0]!)
        same(`a batch changes no trace (${name} ${i})`, trace[i]!, alone[0]!)
      }
    })
  }
  const split = Math.ceil(spec.layers / 2)
  if (split < spec.layers) {
    const whole = await Model.open(pack, backend, { commit: true })
    const first = await Model.open(pack, backend, { blocks: [0, split], commit: true })
    const second = await Model.open(pack, backend, { blocks: [split, spec.layers], commit: true })
    const rows = prompts[0]!.map((id, position) => ({ id, position, base: 0, length: prompts[0]!.length }))
    const between = await runStage(first, rows)
    same('a split between blocks changes nothing', await runStage(whole, rows), await runStage(second, rows, between))
    out.activations = await hash(between)
    same('the ranges’ traces side by side are the model’s', await traceOf(rows.length, whole), await traceOf(rows.length, first, second))
    for (const model of [whole, first, second]) model.free()
  }
  return out
}

/** The traces of models that follow one another, joined position by position. */
async function traceOf(positions: number, ...models: Model[]): Promise<Int32Array> {
  const traces = await Promise.all(models.map((model) => model.readTrace(0, positions)))
  const joined: number[] = []
  for (let p = 0; p < positions; p++)
    for (const [i, trace] of traces.entries()) {
      const words = trace.length / positions
      if (words !== 4 * models[i]!.traceLayers) throw new Error(`a trace of ${trace.length} words for ${positions} positions`)
      joined.push(...trace.subarray(p * words, (p + 1) * words))
    }
  return Int32Array.from(joined)
}
