/** Our engine on a whole model: the packed form of the same weights, through the engine's own door. */

import type { BackendName } from '../../engine/backends/backend.ts'
import { openCommit } from '../../engine/commitment.ts'
import type { Commit } from '../../engine/commitment.ts'
import { generate } from '../../engine/decoder.ts'
import { classify } from '../../engine/encoder.ts'
import { Model } from '../../engine/model.ts'
import { openPack } from '../../engine/pack/reader.ts'
import { wordBytes } from '../../engine/units.ts'
import { packAt } from '../page/pack-at.ts'
import { OUR_BACKENDS, ourBackend } from './backends.ts'
import { wrongAnswer } from './model.ts'
import type { DecoderTask, EncoderTask, ModelContestant, PreparedModel } from './model.ts'

/** Tokens drawn between two looks at them: peers do not stream here either. */
const STEPS_PER_READ = 16

/**
 * What a volunteer does at a unit's end: the answer's digest, which every answer has, and where it commits to it leaves and root.
 * @param trace of a model that keeps one  @param answer ids, or rows of values
 */
function finish(
  commit: Commit,
  model: Model,
  trace: readonly Uint32Array[],
  answer: readonly ArrayLike<number>[],
): void {
  const keeps = model.traceLayers > 0
  commit(keeps ? trace : [], keeps ? model.traceLayers : 1, wordBytes(answer))
}

function decoder(model: Model, task: DecoderTask, commit: Commit): PreparedModel {
  let answer: number[] = []
  return {
    async run(n) {
      const start = performance.now()
      for (let i = 0; i < n; i++) {
        answer = []
        const requests = [{ prompt: task.prompt, maxTokens: task.newTokens }]
        for await (const { id } of generate(model, requests, { stepsPerRead: STEPS_PER_READ }))
          answer.push(id)
        // The last token is drawn and not read.
        const keeps = model.traceLayers > 0
        const trace = keeps ? [await model.readTrace(0, task.prompt.length + answer.length - 1)] : []
        finish(commit, model, trace, [answer])
      }
      return performance.now() - start
    },
    work: () => answer.length,
    wrong: () => wrongAnswer(task, answer, false),
    dispose: async () => model.free(),
  }
}

function encoder(model: Model, task: EncoderTask, commit: Commit): PreparedModel {
  const { texts, batch } = task
  const calls: number[][][] = []
  for (let from = 0; from < texts.length; from += batch) calls.push(texts.slice(from, from + batch))
  let logits: Int32Array[] = []
  return {
    async run(n) {
      const start = performance.now()
      for (let i = 0; i < n; i++) {
        logits = []
        for (const call of calls) {
          const trace: Uint32Array[] = []
          logits.push(...(await classify(model, call, model.traceLayers > 0 ? trace : undefined)))
          finish(commit, model, trace, logits.slice(-call.length))
        }
      }
      return performance.now() - start
    },
    work: () => logits.length,
    wrong: () =>
      wrongAnswer(
        task,
        logits.map((row) => row.indexOf(row.reduce((a, b) => Math.max(a, b)))),
        false,
      ),
    dispose: async () => model.free(),
  }
}

/** @param commits keeps the trace and makes a root of it, as volunteers do for everything they answer */
function contestant(backend: BackendName, commits = false): ModelContestant {
  return {
    name: `chorale ${backend}${commits ? ', committing' : ''}`,
    async prepare(task) {
      const pack = await openPack(packAt(task.model))
      const rows = task.kind === 'encoder' && task.batch > 1 ? { rows: 512 } : {}
      const model = await Model.open(pack, await ourBackend(backend), { ...rows, commit: commits })
      const commit = await openCommit()
      return task.kind === 'decoder' ? decoder(model, task, commit) : encoder(model, task, commit)
    },
  }
}

export const ourModels: readonly ModelContestant[] = OUR_BACKENDS.map((name) => contestant(name))
export const ourCommitting: readonly ModelContestant[] = OUR_BACKENDS.map((name) => contestant(name, true))
