/** Rows of a page visited again, everything cached: time to the first result, and what had to be loaded for it. */

import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { gzipSync } from 'node:zlib'
import { bundle } from '../bundle.ts'
import type { Context } from '../main.ts'
import type { ColdTask } from '../page/cold.ts'
import { quantile } from '../page/timing.ts'
import { IMPORT_MAP } from '../session.ts'
import type { Row } from '../report.ts'

const PLACE = 'cold/'

interface Visitor {
  name: string
  page: string
  runtime: ColdTask['runtime']
}

const VISITORS: Visitor[] = [
  { name: 'chorale wasm', page: 'ours', runtime: 'stock' },
  { name: 'transformers.js wasm fp32', page: 'peer', runtime: 'stock' },
  { name: 'transformers.js wasm fp32, WASM-only runtime', page: 'peer', runtime: 'lean' },
]

/** Publishes the two pages; `importMap` is what the peer's modules need. */
async function publishPages(context: Context): Promise<void> {
  const made = await bundle(
    { ours: 'bench/page/cold-ours.ts', peer: 'bench/page/cold-peer.ts' },
    `/made/${PLACE}`,
  )
  for (const { file, bytes } of made) context.session.make(PLACE + file, bytes)
  for (const name of ['ours', 'peer']) {
    const script = `<script type="module" src="/made/${PLACE}${name}.js"></script>`
    const html = `<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,">${IMPORT_MAP}${script}`
    context.session.make(`${PLACE}${name}.html`, new TextEncoder().encode(html))
  }
}

/** Needs the models published already. */
export async function coldRows(
  context: Context,
  tasks: readonly { model: string; text: string }[],
): Promise<void> {
  await publishPages(context)
  for (const { model, text } of tasks) {
    const samples = new Map<string, number[]>()
    const absent: Record<string, string> = {}
    const wrong: Record<string, string> = {}
    const answers = new Map<string, string>()
    const rounds = Math.min(context.options.rounds ?? 7, 7)
    // Round 0 fills the caches and is not counted.
    for (let round = 0; round <= rounds; round++) {
      for (const { name, page, runtime } of VISITORS) {
        if (absent[name] !== undefined || wrong[name] !== undefined) continue
        const query = new URLSearchParams({ model, text, runtime, threads: String(context.options.threads) })
        const result = await context.session.visit(`/made/${PLACE}${page}.html?${query}`)
        if ('error' in result) (page === 'ours' ? wrong : absent)[name] = result.error
        else if (round === 0) answers.set(name, result.answer.trim())
        else samples.set(name, [...(samples.get(name) ?? []), result.ms])
      }
    }
    const [mine, ...theirs] = VISITORS.map(({ name }) => answers.get(name))
    const differing = theirs.find((it) => it !== undefined && it !== mine)
    if (mine !== undefined && differing !== undefined) {
      wrong[VISITORS[0]!.name] = `it says ${JSON.stringify(mine)}, the peer ${JSON.stringify(differing)}`
    }
    const all = VISITORS.filter(({ name }) => samples.has(name)).map(({ name }) => {
      const sorted = samples.get(name)!.toSorted((a, b) => a - b)
      return {
        name,
        value: quantile(sorted, 0.5),
        p5: quantile(sorted, 0.05),
        p95: quantile(sorted, 0.95),
        rounds: sorted.length,
      }
    })
    const ours = all.find(({ name }) => name === VISITORS[0]!.name)?.value ?? null
    const peer = all.filter(({ name }) => name !== VISITORS[0]!.name).toSorted((a, b) => a.value - b.value)[0]
    const row: Row = {
      name: `${model} cold start`,
      shape: 'cached',
      backend: 'wasm',
      unit: 'ms',
      ours,
      peer: peer?.value ?? null,
      peerName: peer?.name ?? null,
      ratio: ours === null || peer === undefined ? null : peer.value / ours,
      gate: 1.5,
      aim: 4,
      all,
      absent,
      wrong,
    }
    context.done(row)
  }
}

/** Engine and kernels of all backends, gzipped, beside the smallest runtime of the peer that can do the same on the CPU. */
export async function sizeRow(context: Context): Promise<void> {
  const made = await bundle({ engine: 'engine/index.ts' }, '/')
  const kB = (bytes: number) => bytes / 1000
  const ort = ['ort.wasm.bundle.min.mjs', 'ort-wasm-simd-threaded.wasm']
  let peer = 0
  for (const file of ort) {
    peer += gzipSync(await readFile(path.join(context.peers, 'onnxruntime-web', 'dist', file)), {
      level: 9,
    }).length
  }
  const ours = made.reduce((sum, it) => sum + it.gzipped, 0)
  const row: Row = {
    name: 'engine + kernels',
    shape: 'gzipped',
    backend: 'all',
    unit: 'kB',
    ours: kB(ours),
    peer: kB(peer),
    peerName: `onnxruntime-web ${ort.join(' + ')}`,
    ratio: peer / ours,
    gate: 150,
    aim: 60,
    gateOn: 'ours',
    all: made.map((it) => ({
      name: it.file,
      value: kB(it.gzipped),
      p5: kB(it.gzipped),
      p95: kB(it.gzipped),
      rounds: 1,
    })),
    absent: {},
    wrong: {},
  }
  context.done(row)
}
