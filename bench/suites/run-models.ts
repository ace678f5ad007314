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
import { EFFORT } from '../page/timing.ts'
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
    if (existsSync(from)) context.make(`models/${model}/${file}`, await readFile(from))
  }
  const { spec, weights, close } = await openModelFolder(folder)
  for (const precision of Object.keys(FILE) as Precision[]) {
    const bytes = await (spec.family === 'bert' ? exportBert : exportLlama)(spec, weights, precision)
    context.make(`models/${model}/onnx/${FILE[precision]}`, bytes)
  }
  if (spec.family === 'llama') {
    const bytes = await exportGguf(spec, weights, await json<BpeTokenizer>(model, 'tokenizer.json'))
    context.make(`models/${model}/model.gguf`, bytes)
  }
  await close()
  const pack = await packedFolder(folder)
  for (const file of await readdir(pack))
    context.make(`packs/${model}/${file}`, await readFile(path.join(pack, file)))
}

interface ModelRow {
  name: string
  shape: string
  unit: 'tok/s' | 'texts/s'
  task: ModelTask
}

async function modelRows(): Promise<ModelRow[]> {
  const tales = (await json<DecoderReference>('tales-3m', 'reference.json')).cases[0]!
  const decoder = (newTokens: number): ModelRow => ({
    name: 'tales-3m decoder',
    shape: `${tales.input_ids.length}+${newTokens} tokens`,
    unit: 'tok/s',
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
      task: {
        kind: 'encoder',
        model: 'intents-3m',
        texts: cases.map((it) => it.input_ids),
        batch,
        want: cases.map((it) => label2id[it.top5[0]![0]]!),
      } satisfies EncoderTask,
    }
  }
  return [decoder(64), decoder(200), encoder(1), encoder(32)]
}

/** The texts of the cold starts, one per model. */
const COLD = [
  { model: 'intents-3m', text: "what's the weather like in Paris tomorrow?" },
  { model: 'tales-3m', text: 'Once upon a time' },
]

export async function runModels(context: Context): Promise<Row[]> {
  const rows: Row[] = []
  const published = new Set<string>()
  for (const { name, shape, unit, task } of await modelRows()) {
    if (!`${name} ${shape}`.includes(context.options.only)) continue
    if (!published.has(task.model)) {
      await publish(context, task.model)
      published.add(task.model)
    }
    const effort = { ...EFFORT, warmMs: 1000, turnMs: 150, rounds: context.options.rounds }
    const outcome = await context.call('model', task, effort)
    const rate = (ms: number) => (1000 * outcome.work) / ms
    const fastest = (list: typeof outcome.peers) => list.toSorted((a, b) => a.ms - b.ms)[0] ?? null
    const [mine, peer] = [fastest(outcome.ours), fastest(outcome.peers)]
    const row: Row = {
      name,
      shape,
      backend: mine?.name.includes('webgpu') ? 'webgpu' : 'wasm',
      unit,
      ours: mine === null ? null : rate(mine.ms),
      peer: peer === null ? null : rate(peer.ms),
      peerName: peer?.name ?? null,
      ratio: mine === null || peer === null ? null : peer.ms / mine.ms,
      gate: 1.3,
      aim: 2.5,
      all: [...outcome.ours, ...outcome.peers].map((one) => ({
        name: one.name,
        value: rate(one.ms),
        p5: rate(one.p95),
        p95: rate(one.p5),
        rounds: one.rounds,
      })),
      absent: mine === null ? { ...outcome.absent, ours: 'not there yet' } : outcome.absent,
    }
    rows.push(row)
    context.done(row)
  }
  const cold = COLD.filter(({ model }) => `${model} cold start`.includes(context.options.only))
  for (const { model } of cold) {
    if (published.has(model)) continue
    await publish(context, model)
    published.add(model)
  }
  if (cold.length > 0) rows.push(...(await coldRows(context, cold)))
  if ('engine + kernels'.includes(context.options.only)) rows.push(await sizeRow(context))
  return rows
}
