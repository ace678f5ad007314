/** From a model folder to a pack: read, watch on text, quantise, write, and measure what it cost. */
import { readFile } from 'node:fs/promises'
import { basename, join, resolve } from 'node:path'
import type { Manifest } from '../../engine/pack/manifest.ts'
import { openTokenizer } from '../../engine/tokenizer.ts'
import type { Tokenizer } from '../../engine/tokenizer.ts'
import { ModelError } from '../../engine/weights/errors.ts'
import { openModelFolder } from '../../engine/weights/huggingface.ts'
import type { ModelFolder } from '../../engine/weights/huggingface.ts'
import { loadFloatModel } from '../float/model.ts'
import { calibrate } from './calibrate.ts'
import type { Calibration } from './calibrate.ts'
import { writePack } from './pack.ts'
import { sampleTexts } from './text.ts'

/** Goes into the cache's keys: raise it when the same model would give other bytes (test/pack/digests.test.ts sees it). */
export const PACKER_VERSION = 1

export interface PackProgress {
  stage: 'calibrating' | 'quantising' | 'measuring'
  done: number
  of: number
}

export interface PackFolderOptions {
  /** The pack's folder: made, or replaced if it is a pack. */
  out: string
  /** What people call the model; by default the folder's name. */
  name?: string
  /** Text file to calibrate and measure on, instead of the built-in text. */
  text?: string
  /** Tokens to calibrate on; by default what takes a minute or so. */
  tokens?: number
  onProgress?: (progress: PackProgress) => void
  signal?: AbortSignal
}

export interface Packed {
  path: string
  manifest: Manifest
  digest: string
  bytes: number
  /** What it was calibrated on. */
  source: string
  calibration: Calibration
}

/** Multiply-adds the float reference is given for calibration: about a minute of plain JavaScript. */
const CALIBRATION_WORK = 60e9

/**
 * Packs a Hugging Face folder. Leaves the finished pack, or nothing.
 * Throws the ModelErrors of openModelFolder, sampleTexts and PackWriter, and `saturation`; or the signal's reason.
 */
export async function packFolder(path: string, options: PackFolderOptions): Promise<Packed> {
  const folder = await openModelFolder(path)
  try {
    const { spec } = folder
    const tokenizer = await folderTokenizer(folder)
    const tokens = options.tokens ?? Math.round(Math.max(16, Math.min(2048, CALIBRATION_WORK / parameters(folder))))
    const sample = await sampleTexts(spec, tokenizer, { text: options.text, tokens, heldOutTokens: tokens })
    const model = await loadFloatModel(folder)
    const report = (stage: PackProgress['stage']) => (done: number, of: number) => {
      options.signal?.throwIfAborted()
      options.onProgress?.({ stage, done, of })
    }
    const calibration = await calibrate(spec, folder.weights, model, sample.calibration, report('calibrating'))
    const { manifest, digest, bytes } = await writePack(folder, {
      out: options.out, name: options.name ?? basename(resolve(path)), license: await licenseOf(path), calibration, onProgress: report('quantising'),
    }) // prettier-ignore
    return { path: resolve(options.out), manifest, digest, bytes, source: sample.source, calibration }
  } finally {
    await folder.close()
  }
}

/** The folder's tokenizer, or null if it has none. Throws ModelError `tokenizer-invalid`, `tokenizer-mismatch`, `json-invalid`. */
export async function folderTokenizer({ files, spec }: ModelFolder): Promise<Tokenizer | null> {
  if (!files.tokenizer) return null
  const json = async (file: string | null): Promise<unknown> => {
    if (!file) return null
    try {
      return JSON.parse(await readFile(file, 'utf8'))
    } catch (cause) {
      throw new ModelError('json-invalid', { file, what: 'it is not JSON', todo: 'Get a sound copy of it' }, cause)
    }
  }
  return openTokenizer(await json(files.tokenizer), await json(files.tokenizerConfig), {
    vocab: spec.vocab, chatTemplate: files.chatTemplate && (await readFile(files.chatTemplate, 'utf8')),
  }) // prettier-ignore
}

export function parameters({ tensors }: ModelFolder): number {
  return tensors.names().reduce((sum, name) => sum + tensors.info(name).shape.reduce((a, b) => a * b, 1), 0)
}

/** `license:` of the model card's front matter. */
async function licenseOf(path: string): Promise<string | null> {
  const card = await readFile(join(path, 'README.md'), 'utf8').catch(() => '')
  const front = /^---\n([^]*?)\n---/.exec(card)?.[1] ?? ''
  return /^license:\s*["']?([\w.+-]{1,100})/m.exec(front)?.[1] ?? null
}
