/** From what people call a model to an open pack: a folder, an embedded model, or an id of the Hub. Node only. */
import { createHash } from 'node:crypto'
import { mkdir, readFile, stat } from 'node:fs/promises'
import { basename, join, relative, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { packFolder as packSource } from '../engine/pack/folder.ts'
import { openPack } from '../engine/pack/reader.ts'
import type { Pack } from '../engine/pack/reader.ts'
import { ModelError, quote } from '../engine/weights/errors.ts'
import { openModelFolder } from '../engine/weights/huggingface.ts'
import { packsFolder } from './cache.ts'
import { hubFolder, parseHubId } from './hub.ts'
import type { HubProgress } from './hub.ts'
import { packFolder, PACKER_VERSION } from './pack/folder.ts'
import type { PackProgress } from './pack/folder.ts'

/** The models of this repository, trained for it: they work without a network. */
export const embedded = ['tales-3m', 'intents-3m'] as const
const modelsFolder = fileURLToPath(new URL('../models', import.meta.url))

export type ResolveProgress = ({ stage: 'downloading' } & HubProgress) | PackProgress

export interface ResolveOptions {
  onProgress?: (progress: ResolveProgress) => void
  signal?: AbortSignal
}

/**
 * An open pack for a pack folder, a Hugging Face folder, `tales-3m` or `intents-3m`, or `owner/name[@revision]` of the Hub.
 * What is not packed yet is packed into the cache (CHORALE_CACHE) first, once.
 * Throws ModelError and HubError; `file-missing` if the name is none of these.
 */
export async function resolveModel(name: string, options: ResolveOptions = {}): Promise<Pack> {
  return openPackFolder(await packedFolder(name, options))
}

export const openPackFolder = (path: string): Promise<Pack> => openPack(packSource(path))

/** The pack folder a name stands for, made if need be. */
export async function packedFolder(name: string, options: ResolveOptions = {}): Promise<string> {
  const { folder, label } = await modelFolder(name, options)
  if (await isFile(join(folder, 'manifest.json'))) return folder
  const out = join(packsFolder(), `${label.replace(/[^A-Za-z0-9._-]+/g, '--')}-${await folderKey(folder)}`)
  if (!(await isFile(join(out, 'manifest.json')))) {
    await mkdir(packsFolder(), { recursive: true }).catch((cause: unknown) => {
      throw new ModelError('file-unreadable', {
        file: packsFolder(), what: `the cache cannot be made (${(cause as Error).message})`, todo: 'Set CHORALE_CACHE to a folder you may write to',
      }, cause) // prettier-ignore
    })
    await packFolder(folder, { out, name: label, onProgress: options.onProgress, signal: options.signal })
  }
  return out
}

/** The model or pack folder a name stands for, downloaded if need be, and what people call it. */
export async function modelFolder(
  name: string,
  options: ResolveOptions = {},
): Promise<{ folder: string; label: string }> {
  const local = resolve(name)
  if (name !== '' && (await isFolder(local))) {
    // A folder of the same name as an embedded model, say `./tales-3m`, is the one that is meant only if it holds a model.
    const holds = (await isFile(join(local, 'manifest.json'))) || (await isFile(join(local, 'config.json')))
    if (holds) return { folder: local, label: basename(local) }
    if (!isEmbedded(name)) {
      throw new ModelError('file-missing', {
        file: name, what: 'it has neither manifest.json (a pack) nor config.json (a model)', todo: 'Name a model folder, or a folder made by `chorale pack`',
      }) // prettier-ignore
    }
  }
  if (isEmbedded(name)) return { folder: join(modelsFolder, name), label: name }
  const id = /^[.~/\\]/.test(name) ? null : parseHubId(name)
  if (id)
    return {
      folder: await hubFolder(id, (p) => options.onProgress?.({ stage: 'downloading', ...p })),
      label: id.repo,
    }
  throw new ModelError('file-missing', {
    what: `there is no model ${quote(name)}`,
    todo: `Name a folder, one of ${embedded.join(', ')}, or an id owner/name of the Hugging Face Hub`,
  })
}

/** First 16 hex digits of a hash over everything a pack is made from. Small files count by content, large ones by size and date. */
export async function folderKey(folder: string): Promise<string> {
  const model = await openModelFolder(folder)
  const { files } = model
  await model.close()
  const hash = createHash('sha256').update(`chorale-pack ${PACKER_VERSION}\n`)
  const extra = ['modules.json', '1_Pooling/config.json', 'sentence_bert_config.json', 'README.md'].map((f) =>
    join(folder, f),
  )
  const all = [
    files.config,
    files.generationConfig,
    files.tokenizer,
    files.tokenizerConfig,
    files.chatTemplate,
    ...files.weights,
    ...extra,
  ]
  for (const file of all) {
    const stats = file ? await stat(file).catch(() => null) : null
    if (!file || !stats) continue
    hash.update(`${relative(folder, file)} ${stats.size}\n`)
    if (stats.size <= CONTENT_BYTES) hash.update(await readFile(file))
    else hash.update(`${stats.mtimeMs}\n`)
  }
  return hash.digest('hex').slice(0, 16)
}

/** Files up to this size are hashed whole, in milliseconds: all of an embedded model's are. */
const CONTENT_BYTES = 32 * 1024 * 1024

const isEmbedded = (name: string): boolean => (embedded as readonly string[]).includes(name)
const isFile = (path: string): Promise<boolean> => stat(path).then((s) => s.isFile(), () => false) // prettier-ignore
const isFolder = (path: string): Promise<boolean> => stat(path).then((s) => s.isDirectory(), () => false) // prettier-ignore
