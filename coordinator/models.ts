/** The models a coordinator serves: an open pack each, with what the API needs of it (tokenizer, defaults, labels). */
import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { embeddingBits, LOGIT_BITS, ModelError, openPack, openTokenizer } from '../engine/index.ts'
import type { Pack, Tokenizer } from '../engine/index.ts'
import { macsOf } from '../engine/macs.ts'
import { packFolder } from '../engine/pack/folder.ts'
import { textOfUtf8 } from '../engine/tokenizer.ts'
import type { ModelDigest } from '../protocol/index.ts'
import type { ServedModel } from './core/events.ts'

/** What the model's own generation_config.json asks for where a caller says nothing. */
export interface GenerationDefaults {
  temperature: number
  topP: number
  topK: number
  maxTokens: number | undefined
}

export interface Served {
  /** What callers name it by; its digest works as well. */
  id: string
  digest: ModelDigest
  /** Of its pack. */
  folder: string
  pack: Pack
  /** Null for a model that came without one: it takes token ids only. */
  tokenizer: Tokenizer | null
  defaults: GenerationDefaults
  labels: readonly string[] | null
  /** Unix seconds. */
  created: number
  license: string | null
  core: ServedModel
}

/** Throws ModelError. @param folder of a pack */
export async function openServed(folder: string): Promise<Served> {
  const pack = await openPack(packFolder(folder))
  const { manifest } = pack
  const { spec } = manifest
  const digest = pack.digest as ModelDigest
  const json = async (name: string): Promise<unknown> =>
    Object.hasOwn(manifest.files, name) ? parseJson(name, await pack.file(name)) : null
  const [tokenizerJson, tokenizerConfig, generationConfig] = await Promise.all(
    ['tokenizer.json', 'tokenizer_config.json', 'generation_config.json'].map(json),
  )
  const template = Object.hasOwn(manifest.files, 'chat_template.jinja')
    ? textOfUtf8(await pack.file('chat_template.jinja'))
    : null
  for (const [name, { bytes: size }] of Object.entries(manifest.files)) await checkFile(folder, name, size)
  const widths = widthsOf(pack)
  const bytes = Object.values(manifest.files).reduce((n, file) => n + file.bytes, 0)
  return {
    id: manifest.name,
    digest,
    folder,
    pack,
    tokenizer: tokenizerJson
      ? openTokenizer(tokenizerJson, tokenizerConfig, { vocab: spec.vocab, chatTemplate: template })
      : null,
    defaults: defaultsOf(generationConfig),
    labels: spec.labels,
    created: Math.floor((await stat(join(folder, 'manifest.json'))).mtimeMs / 1000),
    license: manifest.license,
    core: {
      digest,
      name: manifest.name,
      task: spec.task,
      path: `/models/${digest}`,
      bytes,
      context: spec.context,
      vocab: spec.vocab,
      endIds: spec.eosIds,
      ...widths,
      layers: spec.layers,
      macs: macsOf(spec),
      owners: manifest.owners,
    },
  }
}

/** Its bytes are hashed by whoever loads them; that a file is there, and whole, is known before anybody is promised it. */
async function checkFile(folder: string, name: string, size: number): Promise<void> {
  const file = join(folder, name)
  const found = await stat(file).then(
    (stats) => stats.size,
    (error: Error) => error.message,
  )
  if (found === size) return
  throw new ModelError(typeof found === 'number' ? 'file-truncated' : 'file-unreadable', {
    file,
    what: typeof found === 'number' ? `it has ${found} bytes, the manifest says ${size}` : found,
    todo: 'Get the pack again, or pack the model again',
  })
}

/** Shape of one result row per kind; a classifier embeds as well. */
function widthsOf({ manifest: { spec, exact } }: Pack): Pick<ServedModel, 'width' | 'bits' | 'embed'> {
  if (spec.task === 'generate') return { width: 0, bits: 0 }
  const embed = { width: spec.width, bits: embeddingBits({ spec, exact }) }
  return spec.task === 'embed' ? embed : { width: spec.labels!.length, bits: LOGIT_BITS, embed }
}

/** Models by the names callers use. */
export class Catalog {
  readonly all: readonly Served[]
  readonly #byName = new Map<string, Served>()

  /** Throws ModelError if two different models have one name, or none is given. */
  constructor(models: readonly Served[]) {
    if (models.length === 0)
      throw new ModelError('file-missing', {
        what: 'no model to serve',
        todo: 'Name at least one with --models',
      })
    const unique = new Map<string, Served>()
    for (const model of models) {
      const other = this.#byName.get(model.id)
      if (other && other.digest !== model.digest) {
        throw new ModelError('input-invalid', {
          what: `two different models are called ${JSON.stringify(model.id)}`,
          todo: 'Pack one of them under another name (chorale pack --name)',
        })
      }
      unique.set(model.digest, model)
      this.#byName.set(model.id, model)
      this.#byName.set(model.digest, model)
    }
    this.all = [...unique.values()]
  }

  get(name: string): Served | undefined {
    return this.#byName.get(name)
  }
}

function parseJson(name: string, bytes: Uint8Array): unknown {
  try {
    return JSON.parse(textOfUtf8(bytes))
  } catch (cause) {
    throw new ModelError(
      'json-invalid',
      { file: name, what: 'it is not JSON', todo: 'Pack the model again' },
      cause,
    )
  }
}

/** Values out of range count as absent: a model's file is no caller who could be told. */
function defaultsOf(config: unknown): GenerationDefaults {
  const given = (typeof config === 'object' && config !== null ? config : {}) as Record<string, unknown>
  const within = (name: string, low: number, high: number): number | undefined => {
    const value = given[name]
    return typeof value === 'number' && value >= low && value <= high ? value : undefined
  }
  const isGreedy = given.do_sample === false
  return {
    temperature: isGreedy ? 0 : (within('temperature', 0, 100) ?? 1),
    topP: within('top_p', 0, 1) ?? 1,
    topK: Math.floor(within('top_k', 0, 2 ** 31) ?? 0),
    maxTokens: Math.floor(within('max_new_tokens', 1, 2 ** 31) ?? 0) || undefined,
  }
}
