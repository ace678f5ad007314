/** A named model, loaded onto a backend, with its tokenizer. */
import type { Backend } from '../engine/backends/backend.ts'
import { Model } from '../engine/model.ts'
import type { ModelOptions } from '../engine/model.ts'
import type { Pack } from '../engine/pack/reader.ts'
import { openTokenizer } from '../engine/tokenizer.ts'
import type { Tokenizer } from '../engine/tokenizer.ts'
import { ModelError } from '../engine/weights/errors.ts'
import type { Task } from '../engine/models/spec.ts'
import { openBackend } from '../tools/backends.ts'
import { resolveModel } from '../tools/models.ts'
import type { ComputeOptions } from './options.ts'
import type { Talk } from './talk.ts'

export interface Opened {
  pack: Pack
  tokenizer: Tokenizer
  /** generation_config.json, where the model has one. */
  generation: Record<string, unknown>
}

const commandFor: Record<Task, string> = {
  generate: 'chorale run',
  embed: 'chorale embed',
  classify: 'chorale classify',
}

/** Throws ModelError `input-invalid` if the model is for another task, `tokenizer-invalid` if it has no tokenizer. */
export async function openModel(name: string, tasks: readonly Task[], talk: Talk): Promise<Opened> {
  const pack = await resolveModel(name, { onProgress: talk.progress })
  const { spec, files, name: packed } = pack.manifest
  if (!tasks.includes(spec.task)) {
    const does = { generate: 'generates text', embed: 'makes embeddings', classify: 'classifies' }[spec.task]
    throw new ModelError('input-invalid', {
      what: `${packed} ${does}`,
      todo: `Use \`${commandFor[spec.task]}\`, or another model`,
    })
  }
  const json = async (file: string): Promise<unknown> =>
    Object.hasOwn(files, file)
      ? (JSON.parse(new TextDecoder().decode(await pack.file(file))) as unknown)
      : null
  const tokenizerJson = await json('tokenizer.json')
  if (tokenizerJson === null) {
    throw new ModelError('tokenizer-invalid', {
      what: `${packed} has no tokenizer`,
      todo: 'Add its tokenizer.json to the model folder and pack it again',
    })
  }
  const template = Object.hasOwn(files, 'chat_template.jinja')
    ? new TextDecoder().decode(await pack.file('chat_template.jinja'))
    : null
  const tokenizer = openTokenizer(tokenizerJson, await json('tokenizer_config.json'), {
    vocab: spec.vocab,
    chatTemplate: template,
  })
  return {
    pack,
    tokenizer,
    generation: ((await json('generation_config.json')) ?? {}) as Record<string, unknown>,
  }
}

export async function loadModel(
  pack: Pack,
  options: ComputeOptions & ModelOptions,
): Promise<{ model: Model; backend: Backend; close: () => Promise<void> }> {
  // prettier-ignore
  const backend = await openBackend({ name: options.backend, threads: options.threads })
  try {
    const model = await Model.open(pack, backend, options)
    return {
      model,
      backend,
      close: async () => {
        model.free()
        await backend.close()
      },
    }
  } catch (error) {
    await backend.close()
    throw error
  }
}
