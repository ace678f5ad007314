/** Drives the page through the rows of `bench model`: our two models, whole, in one tab. */

import { existsSync } from 'node:fs'
import { readFile, readdir } from 'node:fs/promises'
import path from 'node:path'
import { openModelFolder } from '../../engine/weights/huggingface.ts'
import type { DecoderTask, EncoderTask, ModelTask } from '../contestants/model.ts'
import { exportBert } from '../exports/bert.ts'
import { exportGguf } from '../exports/gguf-llama.ts'
import type { BpeTokenizer } from '../exports/gguf-llama.ts'
import { FILE } from '../exports/linear.ts'
import type { Precision } from '../exports/linear.ts'
import { exportLlama } from '../exports/llama.ts'
import type { Context } from '../main.ts'
import type { Timing } from '../page/timing.ts'
import type { Row } from '../report.ts'
import { coldRows, sizeRow } from './cold.ts'
import { packedFolder } from '../../tools/models.ts'

interface DecoderReference {
  cases: { prompt: string; input_ids: number[]; greedy_ids: number[]; text: string }[]
}

interface EncoderReference {
  cases: { input_ids: number[]; top5: [label: string, logit: number][] }[]
}

const root = path.join(import.meta.dirname, '..', '..')

/** The model folder with its original weights: in the repository, or beside it while it is not. */
function folderOf(model: string): string {
  for (const parent of [path.join(root, 'models'), path.join(root, '..', 'shared', 'models')]) {
    if (existsSync(path.join(parent, model, 'model.safetensors'))) return path.join(parent, model)
  }
  throw new Error(`the weights of ${model} are neither in models/ nor in ../shared/models/`)
}

async function json<T>(model: string, file: string): Promise<T> {
  return JSON.parse(await readFile(path.join(folderOf(model), file), 'utf8')) as T
}

async function publish(context: Context, model: string): Promise<void> {
  const folder = folderOf(model)
  for (const file of ['config.json', 'generation_config.json', 'tokenizer.json', 'tokenizer_config.json']) {
    const from = path.join(folder, file)
    if (existsSync(from)) context.session.make(`models/${model}/${file}`, await readFile(from))
  }
  const { spec, weights, close } = await openModelFolder(folder)
  for (const precision of Object.keys(FILE) as Precision[]) {
    const bytes = await (spec.family === 'bert' ? exportBert : exportLlama)(spec, weights, precision)
    context.session.make(`models/${model}/onnx/${FILE[precision]}`, bytes)
  }
  if (spec.family === 'llama') {
    const bytes = await exportGguf(spec, weights, await json<BpeTokenizer>(model, 'tokenizer.json'))
    context.session.make(`models/${model}/model.gguf`, bytes)
  }
  await close()
  const pack = await packedFolder(folder)
  for (const file of await readdir(pack))
    context.session.make(`packs/${model}/${file}`, await readFile(path.join(pack, file)))
}

interface ModelRow {
  name: string
  shape: string
  unit: 'tok/s' | 'texts/s'
  task: ModelTask
  /** Only this backend, on both sides. */
  only: 'webgpu' | null
}

async function modelRows(): Promise<ModelRow[]> {
  const tales = (await json<DecoderReference>('tales-3m', 'reference.json')).cases[0]!
  const decoder = (newTokens: number): ModelRow => ({
    name: 'tales-3m decoder',
    shape: `${tales.input_ids.length}+${newTokens} tokens`,
    unit: 'tok/s',
    only: null,
    task: {
      kind: 'decoder',
      model: 'tales-3m',
      promptText: tales.prompt,
      prompt: tales.input_ids,
      newTokens,
      want: tales.greedy_ids,
      wantText: tales.text,
    } satisfies DecoderTask,
  })
  const intents = (await json<EncoderReference>('intents-3m', 'reference.json')).cases
  const { label2id } = await json<{ label2id: Record<string, number> }>('intents-3m', 'config.json')
  const encoder = (batch: number): ModelRow => {
    // In a batch peers pad everything to the longest text, so the one text of 64 tokens would flatter us: it stays out.
    const usual = intents.filter((it) => it.input_ids.length <= 32)
    const cases = batch === 1 ? intents : Array.from({ length: batch }, (_, i) => usual[i % usual.length]!)
    return {
      name: 'intents-3m encoder',
      shape: `b${batch}`,
      unit: 'texts/s',
      only: null,
      task: {
        kind: 'encoder',
        model: 'intents-3m',
        texts: cases.map((it) => it.input_ids),
        batch,
        want: cases.map((it) => label2id[it.top5[0]![0]]!),
      } satisfies EncoderTask,
    }
  }
  // The same adapter on both sides. Short, because the adapter may be a CPU in disguise.
  const onGpu = (row: ModelRow): ModelRow => ({ ...row, only: 'webgpu' })
  const few = encoder(1)
  const task = few.task as EncoderTask
  few.task = { ...task, texts: task.texts.slice(0, 4), want: task.want.slice(0, 4) }
  return [decoder(64), decoder(200), encoder(1), encoder(32), onGpu(decoder(16)), onGpu(few)]
}

/** The texts of the cold starts, one per model. */
const COLD = [
  { model: 'intents-3m', text: "what's the weather like in Paris tomorrow?" },
  { model: 'tales-3m', text: 'Once upon a time' },
]

const fastest = (list: readonly Timing[]) => list.toSorted((a, b) => a.ms - b.ms)[0] ?? null

/** @param rate pieces of work per second, of milliseconds */
const spread = ({ name, ms, p5, p95, rounds }: Timing, rate: (ms: number) => number): Row['all'][number] => ({
  name,
  value: rate(ms),
  p5: rate(p95),
  p95: rate(p5),
  rounds,
})

async function speedRow(context: Context, { name, shape, unit, task, only }: ModelRow): Promise<void> {
  const rounds = Math.min(context.options.rounds ?? 9, only === null ? 99 : 5)
  const effort = { warmMs: only === null ? 1000 : 200, turnMs: 150, rounds }
  const outcome = await context.session.call('model', task, effort, only)
  const rate = (ms: number) => (1000 * outcome.work) / ms
  const [mine, peer] = [fastest(outcome.ours), fastest(outcome.peers)]
  const row: Row = {
    name,
    shape,
    backend: only ?? (mine?.name.includes('webgpu') ? 'webgpu' : 'wasm'),
    unit,
    ours: mine === null ? null : rate(mine.ms),
    peer: peer === null ? null : rate(peer.ms),
    peerName: peer?.name ?? null,
    ratio: mine === null || peer === null ? null : peer.ms / mine.ms,
    gate: 1.3,
    aim: 2.5,
    all: [...outcome.ours, ...outcome.peers].map((one) => spread(one, rate)),
    absent: outcome.absent,
    wrong: outcome.wrong,
  }
  context.done(row)
}

/** What it costs to commit to an answer, of the whole unit: the same work with and without, in turn. */
async function commitmentRow(
  context: Context,
  { name, shape, unit, task }: ModelRow,
  backend: string,
): Promise<void> {
  // The difference is small: many short turns.
  const effort = { warmMs: 1000, turnMs: 60, rounds: context.options.rounds ?? 41 }
  const { ours, peers, absent, wrong, work } = await context.session.call('commitment', task, effort, backend)
  const rate = (ms: number) => (1000 * work) / ms
  const [mine, plain] = [ours[0], peers[0]]
  context.done({
    name: `${name}, commitment`,
    shape,
    backend,
    unit,
    ours: mine ? rate(mine.ms) : null,
    peer: plain ? rate(plain.ms) : null,
    peerName: 'the same without',
    ratio: mine && plain ? plain.ms / mine.ms : null,
    gate: 0.98,
    aim: 0.99,
    all: [...ours, ...peers].map((one) => spread(one, rate)),
    absent,
    wrong,
  })
}

/** A layer's dispatches are a count, so one figure is enough; the peer's is its whole token spread over the layers. */
async function dispatchRow(context: Context, task: DecoderTask): Promise<void> {
  const { layers } = await json<{ num_hidden_layers: number }>(task.model, 'config.json').then((it) => ({
    layers: it.num_hidden_layers,
  }))
  const { ours, peer, perLayer } = await context.session.call('dispatches', task)
  const whole = ({ name, dispatches, passes }: typeof ours) => ({
    name: `${name}: whole token, ${passes} compute pass${passes === 1 ? '' : 'es'}`,
    value: dispatches,
    p5: dispatches,
    p95: dispatches,
    rounds: 1,
  })
  const theirs = peer.dispatches / layers
  const row: Row = {
    name: `${task.model} dispatches`,
    shape: 'layer, token',
    backend: 'webgpu',
    unit: 'dispatches',
    ours: perLayer,
    peer: theirs,
    peerName: `${peer.name}, all of a token over ${layers} layers`,
    ratio: theirs / perLayer,
    gate: 6,
    aim: 4,
    gateOn: 'ours',
    all: [whole(ours), whole(peer)],
    absent: {},
    wrong: {},
  }
  context.done(row)
}

export async function runModels(context: Context): Promise<void> {
  const wanted = (title: string) => title.includes(context.options.only)
  const published = new Set<string>()
  const ready = async (model: string): Promise<void> => {
    if (published.has(model)) return
    published.add(model)
    await publish(context, model)
  }
  const all = await modelRows()
  for (const row of all) {
    if (!wanted(`${row.only ?? ''} ${row.name} ${row.shape}`)) continue
    await ready(row.task.model)
    await speedRow(context, row)
  }
  for (const row of all) {
    const backend = row.only ?? 'wasm'
    if (!wanted(`${backend} ${row.name}, commitment ${row.shape}`)) continue
    await ready(row.task.model)
    await commitmentRow(context, row, backend)
  }
  const decoder = all.map(({ task }) => task).find((task) => task.kind === 'decoder')
  if (context.session.adapter && decoder !== undefined && wanted(`webgpu ${decoder.model} dispatches`)) {
    await ready(decoder.model)
    await dispatchRow(context, decoder)
  }
  const cold = COLD.filter(({ model }) => wanted(`${model} cold start`))
  for (const { model } of cold) await ready(model)
  if (cold.length > 0) await coldRows(context, cold)
  if (wanted('engine + kernels')) await sizeRow(context)
}
