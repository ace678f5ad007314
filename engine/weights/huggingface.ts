/** A model folder as the Hugging Face libraries save it: config, tokenizer, safetensors. Node only. */
import { join } from 'node:path'
import type { ModelSpec } from '../models/spec.ts'
import { isObject, readConfig } from './config.ts'
import type { ConfigFiles, Json } from './config.ts'
import { isFile, openFile, readText, readTextIfThere } from './disk.ts'
import { ModelError } from './errors.ts'
import { mapTensors } from './logical.ts'
import type { ModelTensors } from './logical.ts'
import { findDuplicateKey, openSafetensors, openSharded } from './safetensors.ts'
import type { TensorSource } from './safetensors.ts'

/** Paths; null where the folder has none. */
export interface ModelFiles {
  config: string
  generationConfig: string | null
  tokenizer: string | null
  tokenizerConfig: string | null
  /** `chat_template.jinja`; older folders have the template in `tokenizer_config.json`. */
  chatTemplate: string | null
  /** One `model.safetensors`, or the shards in the order of their first tensor. */
  weights: string[]
}

export interface ModelFolder {
  spec: ModelSpec
  /** The weights as stored. */
  tensors: TensorSource
  /** The weights under one set of names for all families. */
  weights: ModelTensors
  files: ModelFiles
  close(): Promise<void>
}

/**
 * Open a model folder: config understood, every weight found and of the right shape, no weight read yet. Close it when done.
 * Rejects with a ModelError: those of `readConfig`, `mapTensors`, `openSafetensors` and `openSharded`, and `file-missing`,
 * `file-unreadable`, `json-invalid`.
 */
export async function openModelFolder(path: string): Promise<ModelFolder> {
  const config = await readObject(join(path, 'config.json'), true)
  const files: ConfigFiles = {
    config: config!,
    generation: await readObject(join(path, 'generation_config.json')),
    sentence: await readObject(join(path, 'sentence_bert_config.json')),
    ...(await readModules(path)),
  }
  const model = readConfig(files, join(path, 'config.json'))
  const tensors = await openWeights(path)
  try {
    const { spec, bias, tiedIfHeadless } = model
    if (tiedIfHeadless && !tensors.has('lm_head.weight')) spec.tied = true
    const weights = mapTensors(spec, bias, tensors)
    const there = async (name: string): Promise<string | null> =>
      (await isFile(join(path, name))) ? join(path, name) : null
    return {
      spec,
      tensors,
      weights,
      files: {
        config: join(path, 'config.json'),
        generationConfig: files.generation ? join(path, 'generation_config.json') : null,
        tokenizer: await there('tokenizer.json'),
        tokenizerConfig: await there('tokenizer_config.json'),
        chatTemplate: await there('chat_template.jinja'),
        weights: [...new Set(tensors.names().map((name) => tensors.info(name).file))],
      },
      close: () => tensors.close(),
    }
  } catch (error) {
    await tensors.close()
    throw error
  }
}

/** `model.safetensors`, or `model.safetensors.index.json` and its shards. */
async function openWeights(path: string): Promise<TensorSource> {
  const one = join(path, 'model.safetensors')
  const index = join(path, 'model.safetensors.index.json')
  try {
    return await openSafetensors(await openFile(one))
  } catch (error) {
    if (!(error instanceof ModelError) || error.code !== 'file-missing') throw error
    const text = await readTextIfThere(index)
    if (text !== null) return openSharded(text, index, (shard) => openFile(join(path, shard)))
    throw new ModelError(
      'file-missing',
      {
        file: path,
        what: 'it has neither model.safetensors nor model.safetensors.index.json',
        todo: 'Download the weights as safetensors; .bin and .gguf are not read',
      },
      error,
    )
  }
}

async function readModules(path: string): Promise<Pick<ConfigFiles, 'modules' | 'pooling'>> {
  const file = join(path, 'modules.json')
  const modules = await readJson(file)
  if (modules === undefined) return {}
  if (!Array.isArray(modules))
    throw new ModelError('config-invalid', { file, what: 'it is not a list', todo: 'Get a sound copy of it' })
  return { modules: modules as unknown[], pooling: await readObject(join(path, '1_Pooling', 'config.json')) }
}

async function readObject(file: string, required = false): Promise<Json | null> {
  const value = await readJson(file, required)
  if (value === undefined) return null
  if (!isObject(value))
    throw new ModelError('config-invalid', {
      file,
      what: 'it is not an object',
      todo: 'Get a sound copy of it',
    })
  return value
}

/** Undefined if there is no such file, unless it is required. */
async function readJson(file: string, required = false): Promise<unknown> {
  const text = required ? await readText(file, 10_000_000) : await readTextIfThere(file, 10_000_000)
  if (text === null) return undefined
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (cause) {
    throw new ModelError(
      'json-invalid',
      { file, what: 'it is not JSON', todo: 'Get a sound copy of it' },
      cause,
    )
  }
  const twice = findDuplicateKey(text)
  if (twice !== null)
    throw new ModelError('config-invalid', {
      file,
      what: `it says ${JSON.stringify(twice)} twice`,
      todo: 'Keep one',
    })
  return value
}
