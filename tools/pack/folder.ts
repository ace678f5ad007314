/** From a model folder to a pack: read, watch on text, quantise, write, and measure what it cost. */
import { readFile } from 'node:fs/promises'
import { basename, join, resolve } from 'node:path'
import { packFolder as packSource } from '../../engine/pack/folder.ts'
import type { Manifest } from '../../engine/pack/manifest.ts'
import { openPack } from '../../engine/pack/reader.ts'
import { openTokenizer } from '../../engine/tokenizer.ts'
import type { Tokenizer } from '../../engine/tokenizer.ts'
import { ModelError } from '../../engine/weights/errors.ts'
import { openModelFolder } from '../../engine/weights/huggingface.ts'
import type { ModelFolder } from '../../engine/weights/huggingface.ts'
import { openFastestOnCpu } from '../backends.ts'
import { calibrate } from './calibrate.ts'
import type { Calibration } from './calibrate.ts'
import { measureQuality, readLabels } from './quality.ts'
import type { Quality } from './quality.ts'
import { writePack } from './pack.ts'
import { sampleTexts } from './text.ts'

/** Goes into the cache's keys: raise it when the same model would give other bytes (test/pack/digests.test.ts sees it). */
export const PACKER_VERSION = 2

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
  /** Who made it, and their shares of what its work earns. */
  owners?: Manifest['owners']
  /** Text file to calibrate and measure on, instead of the built-in text. */
  text?: string
  /** Tokens to calibrate on; by default what takes a minute or so. */
  tokens?: number
  /** Measure the pack against the float model on held-out text; it costs about as much as calibration. */
  quality?: boolean
  /** File of labelled texts, for a classifier's accuracy. */
  labels?: string
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
  quality: Quality | null
}

/** Multiply-adds the float reference is given for calibration: about a minute of plain JavaScript. */
const CALIBRATION_WORK = 60e9
const TOKENS_MAX = 768
/** Float logits held while quality is measured: 256 MB. */
const LOGITS_MAX = 64e6

const tokensFor = (folder: ModelFolder): number =>
  Math.round(Math.max(16, Math.min(TOKENS_MAX, CALIBRATION_WORK / parameters(folder))))

/**
 * Packs a Hugging Face folder. Leaves the finished pack, or nothing.
 * Throws the ModelErrors of openModelFolder, sampleTexts and PackWriter, and `saturation`; or the signal's reason.
 */
export async function packFolder(path: string, options: PackFolderOptions): Promise<Packed> {
  const folder = await openModelFolder(path)
  try {
    const { spec } = folder
    const tokenizer = await folderTokenizer(folder)
    const tokens = options.tokens ?? tokensFor(folder)
    const labelled = options.labels === undefined ? undefined : await readLabels(options.labels)
    // As many held-out tokens again, if their logits are not too much to hold.
    const heldOutTokens = Math.min(Math.max(tokens, tokensFor(folder)), Math.ceil(LOGITS_MAX / spec.vocab))
    const sample = await sampleTexts(spec, tokenizer, { text: options.text, tokens, heldOutTokens })
    const report = (stage: PackProgress['stage']) => (done: number, of: number) => {
      options.signal?.throwIfAborted()
      options.onProgress?.({ stage, done, of })
    }
    const calibration = await calibrate(folder, sample.calibration, report('calibrating'))
    const { manifest, digest, bytes } = await writePack(folder, {
      out: options.out, name: options.name ?? basename(resolve(path)), license: await licenseOf(path), owners: options.owners, calibration, onProgress: report('quantising'),
    }) // prettier-ignore
    let quality: Quality | null = null
    if (options.quality) {
      const backend = await openFastestOnCpu()
      try {
        const pack = await openPack(packSource(options.out), digest)
        quality = await measureQuality(
          folder,
          pack,
          backend,
          { heldOut: sample.heldOut, labelled, tokenizer },
          report('measuring'),
        )
      } finally {
        await backend.close()
      }
    }
    return {
      path: resolve(options.out),
      manifest,
      digest,
      bytes,
      source: sample.source,
      calibration,
      quality,
    }
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
      throw new ModelError(
        'json-invalid',
        { file, what: 'it is not JSON', todo: 'Get a sound copy of it' },
        cause,
      )
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
