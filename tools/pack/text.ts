/** The texts a model is watched on while it is packed, and the texts its quality is measured on: never the same ones. */
import { readFile } from 'node:fs/promises'
import type { ModelSpec } from '../../engine/models/spec.ts'
import type { Tokenizer } from '../../engine/tokenizer.ts'
import { textOfUtf8 } from '../../engine/tokenizer.ts'
import { ModelError } from '../../engine/weights/errors.ts'

export interface Sample {
  /** Token ids, one list per sequence. */
  calibration: Uint32Array[]
  heldOut: Uint32Array[]
  /** For people. */
  source: string
}

export interface SampleOptions {
  /** A UTF-8 file: paragraphs between blank lines, or else a text per line. Its last quarter is held out. */
  text?: string
  /** Tokens to calibrate on, and tokens to measure on. */
  tokens: number
  heldOutTokens: number
}

/** Longest sequence, in tokens: past this a longer one shows the calibration nothing new. */
const LENGTH_MAX = 256
/** Characters of a paragraph that are tokenised at once. */
const PARAGRAPH_MAX = 20_000

const builtIn = new URL('calibration.txt', import.meta.url)

/** Throws ModelError `file-unreadable`, `text-invalid`, `input-invalid` for a text file that cannot be used. */
export async function sampleTexts(
  spec: ModelSpec,
  tokenizer: Tokenizer | null,
  options: SampleOptions,
): Promise<Sample> {
  const longest = Math.min(spec.context, LENGTH_MAX)
  const lengthFor = (tokens: number): number => Math.min(longest, Math.max(16, Math.ceil(tokens / 4)))
  if (!tokenizer) {
    if (options.text !== undefined) {
      throw new ModelError('tokenizer-invalid', {
        what: 'the model has no tokenizer.json, so a text cannot be read', todo: 'Leave --text out, or add its tokenizer.json',
      }) // prettier-ignore
    }
    const draw = (tokens: number, seed: number): Uint32Array[] =>
      randomSequences(spec.vocab, tokens, lengthFor(tokens), seed)
    return {
      calibration: draw(options.tokens, 1), heldOut: draw(options.heldOutTokens, 2), source: 'random token ids (no tokenizer.json)',
    } // prettier-ignore
  }
  const paragraphs = split(await read(options.text))
  if (paragraphs.length < 4) {
    throw new ModelError('input-invalid', {
      file: options.text, what: `it has ${paragraphs.length} paragraphs or lines of text`, todo: 'Give at least four',
    }) // prettier-ignore
  }
  const isHeldOut = (i: number): boolean =>
    options.text === undefined ? i % 4 === 3 : i >= Math.floor((paragraphs.length * 3) / 4)
  const take = (heldOut: boolean, tokens: number): Uint32Array[] =>
    sequences(
      paragraphs.filter((_, i) => isHeldOut(i) === heldOut),
      spec,
      tokenizer,
      tokens,
      lengthFor(tokens),
    )
  return {
    calibration: take(false, options.tokens), heldOut: take(true, options.heldOutTokens), source: options.text ?? 'the built-in text',
  } // prettier-ignore
}

async function read(file: string | undefined): Promise<string> {
  let bytes: Uint8Array
  try {
    bytes = await readFile(file ?? builtIn)
  } catch (cause) {
    throw new ModelError(
      'file-unreadable',
      { file, what: (cause as Error).message, todo: 'Name a text file' },
      cause,
    )
  }
  return textOfUtf8(bytes)
}

function split(text: string): string[] {
  const clean = text.replace(/^\ufeff/, '').replace(/\r\n?/g, '\n')
  const blocks = /\n\s*\n/.test(clean.trim()) ? clean.split(/\n\s*\n/) : clean.split('\n')
  const paragraphs = blocks.map((b) => b.trim()).filter(Boolean)
  const pieces = new RegExp(`[^]{1,${PARAGRAPH_MAX}}`, 'gu')
  return paragraphs.flatMap((p) => (p.length <= PARAGRAPH_MAX ? [p] : (p.match(pieces) ?? [])))
}

/** Paragraphs from all over the text, in an order that does not depend on how many are wanted, until there are enough tokens. */
function sequences(
  paragraphs: string[],
  spec: ModelSpec,
  tokenizer: Tokenizer,
  tokens: number,
  length: number,
): Uint32Array[] {
  const chosen: Uint32Array[] = []
  let left = tokens
  for (const at of scattered(paragraphs.length)) {
    if (left <= 0) break
    const ids = encode(tokenizer, paragraphs[at]!, spec, length)
    // A few long paragraphs cut in pieces would crowd out the others: two pieces of each.
    for (const piece of spec.task === 'generate' ? pieces(ids, length, spec.bosId).slice(0, 2) : [ids]) {
      if (left <= 0 || piece.length === 0) break
      chosen.push(piece)
      left -= piece.length
    }
  }
  return chosen
}

/** A character the vocabulary lacks is no reason not to calibrate on the rest. */
function encode(tokenizer: Tokenizer, text: string, spec: ModelSpec, length: number): Uint32Array {
  try {
    return tokenizer.encode(text, spec.task === 'generate' ? {} : { tokensMax: length })
  } catch (error) {
    if (error instanceof ModelError && error.code === 'text-invalid') return new Uint32Array(0)
    throw error
  }
}

function pieces(ids: Uint32Array, length: number, bosId: number | null): Uint32Array[] {
  if (ids.length <= length) return ids.length > 1 ? [ids] : []
  const begin = ids[0] === bosId ? [ids[0]!] : []
  const found = [ids.slice(0, length)]
  for (let at = length; at + 16 <= ids.length; at += length - begin.length)
    found.push(Uint32Array.of(...begin, ...ids.slice(at, at + length - begin.length)))
  return found
}

/** 0 … n-1 in strides of about 0.618 n: neighbours come far apart. */
function scattered(n: number): number[] {
  const gcd = (a: number, b: number): number => (b === 0 ? a : gcd(b, a % b))
  let step = Math.max(1, Math.round(n * 0.618))
  while (gcd(step, n) !== 1) step++
  return Array.from({ length: n }, (_, i) => (i * step) % n)
}

/** The same ids everywhere for a seed (mulberry32). */
function randomSequences(vocab: number, tokens: number, length: number, seed: number): Uint32Array[] {
  let state = seed
  const next = (): number => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return (t ^ (t >>> 14)) >>> 0
  }
  return Array.from({ length: Math.ceil(tokens / length) }, () =>
    Uint32Array.from({ length }, () => next() % vocab),
  )
}
