/**
 * Text to token ids and back, over Hugging Face's own tokenizer and template libraries; runs in Node and browsers.
 * What this adds: refusals by name, exact truncation, and decoding piece by piece.
 */
import { Template } from '@huggingface/jinja'
import {
  ByteFallbackDecoder,
  SequenceDecoder,
  Tokenizer as HuggingFaceTokenizer,
} from '@huggingface/tokenizers'
import { ModelError, quote } from './weights/errors.ts'

export interface EncodeOptions {
  /** Add what the model expects around a text: `<s>`, or `[CLS]` and `[SEP]`. True by default. */
  special?: boolean
  /** Cut the text's own tokens at the end so that the whole, special tokens included, has at most this many. */
  tokensMax?: number
}

export interface ChatMessage {
  role: string
  content: string | null
  [key: string]: unknown
}

export interface ChatOptions {
  /** End with the beginning of an answer. True by default. */
  addGenerationPrompt?: boolean
  tools?: unknown[]
  /** More variables for the template, e.g. `enable_thinking`. */
  variables?: Record<string, unknown>
}

export interface Tokenizer {
  /** One more than the highest id the tokenizer can give. */
  readonly size: number
  /** The ids of a text. Throws ModelError `text-invalid`: a lone surrogate, or a character the vocabulary cannot express. */
  encode(text: string, options?: EncodeOptions): Uint32Array<ArrayBuffer>
  /**
   * The text of ids, special tokens left out; an id the tokenizer has no token for adds nothing. Unlike some Python settings,
   * spaces before punctuation are kept as decoded: cleaning them would make a streamed answer differ from the whole one.
   * Throws ModelError `token-invalid` for what is no token id of the model.
   */
  decode(ids: ArrayLike<number>): string
  /**
   * A decoder for ids that come one by one. `context`: the ids before the first, e.g. the prompt; they are not part of
   * the text, but decide whether it begins with a space.
   */
  stream(context?: ArrayLike<number>): StreamDecoder
  /** Whether the folder came with a chat template. */
  readonly hasChatTemplate: boolean
  /**
   * A conversation as the model's template writes it. Encode it with `special: false`: the template has the special tokens.
   * Throws ModelError `template-missing`, or `template-failed` with the template's own words.
   */
  chat(messages: readonly ChatMessage[], options?: ChatOptions): string
}

/** All pieces and the flush, joined, are `decode` of all ids. No piece has half a character. */
export interface StreamDecoder {
  /** The text that is certain now: possibly ''. */
  push(id: number): string
  /** What was held back: bytes that never became a character, as U+FFFD. */
  flush(): string
}

export interface OpenTokenizerOptions {
  /** The model's vocabulary: a tokenizer with an id outside it is refused. */
  vocab?: number
  /** `chat_template.jinja`; otherwise `chat_template` of the tokenizer config. */
  chatTemplate?: string | null
}

/**
 * @param tokenizerJson the parsed `tokenizer.json`
 * @param tokenizerConfig the parsed `tokenizer_config.json`, or null
 * Throws ModelError `tokenizer-invalid`, `tokenizer-mismatch`.
 */
export function openTokenizer(
  tokenizerJson: unknown,
  tokenizerConfig: unknown,
  options: OpenTokenizerOptions = {},
): Tokenizer {
  const todo = "Get a sound copy of the model's tokenizer files"
  if (!isObject(tokenizerJson))
    throw new ModelError('tokenizer-invalid', { file: 'tokenizer.json', what: 'it is not an object', todo })
  if (!isObject(tokenizerConfig ?? {}))
    throw new ModelError('tokenizer-invalid', {
      file: 'tokenizer_config.json',
      what: 'it is not an object',
      todo,
    })
  const config = (tokenizerConfig ?? {}) as Record<string, unknown>
  // The library guesses what a model of another type might be.
  const type = isObject(tokenizerJson.model) ? tokenizerJson.model.type : null
  if (!['BPE', 'WordPiece', 'Unigram', undefined].includes(type as string | undefined)) {
    const shown = quote(String(type))
    throw new ModelError('tokenizer-invalid', {
      file: 'tokenizer.json',
      what: `its model type ${shown} is not supported`,
      todo: 'Chorale reads BPE, WordPiece and Unigram',
    })
  }
  let inner: HuggingFaceTokenizer
  try {
    inner = new HuggingFaceTokenizer(tokenizerJson, config)
    keepByteOrderMarks(inner.decoder)
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause)
    throw new ModelError(
      'tokenizer-invalid',
      { file: 'tokenizer.json', what: `it is not understood (${quote(why)})`, todo },
      cause,
    )
  }
  return new LibraryTokenizer(inner, config, options)
}

class LibraryTokenizer implements Tokenizer {
  readonly size: number
  readonly #inner: HuggingFaceTokenizer
  readonly #config: Record<string, unknown>
  readonly #special = new Set<number>()
  readonly #vocab: number
  readonly #templateText: string | null
  #template: Template | null = null

  constructor(
    inner: HuggingFaceTokenizer,
    config: Record<string, unknown>,
    { vocab, chatTemplate }: OpenTokenizerOptions,
  ) {
    this.#inner = inner
    this.#config = config
    let size = 0
    for (const id of inner.get_vocab().values()) size = Math.max(size, id + 1)
    for (const [id, token] of inner.get_added_tokens_decoder()) {
      size = Math.max(size, id + 1)
      if (token.special) this.#special.add(id)
    }
    this.size = size
    if (vocab !== undefined && size > vocab) {
      throw new ModelError('tokenizer-mismatch', {
        file: 'tokenizer.json',
        what: `its highest id is ${size - 1} (${quote(inner.id_to_token(size - 1) ?? '')}), and the model's vocabulary ends at ${vocab - 1}`,
        todo: 'Tokenizer and weights are of different models: get both from one place',
      })
    }
    this.#vocab = vocab ?? size
    this.#templateText = chatTemplate ?? templateOf(config)
  }

  get hasChatTemplate(): boolean {
    return this.#templateText !== null
  }

  encode(text: string, { special = true, tokensMax }: EncodeOptions = {}): Uint32Array<ArrayBuffer> {
    checkText(text)
    const ids = this.#ids(text, special)
    if (tokensMax === undefined || ids.length <= tokensMax) return Uint32Array.from(ids)
    // Special tokens stay; the text between them gives way. What is special is what encoding without it lacks.
    const bare = special ? this.#ids(text, false) : ids
    const extra = ids.length - bare.length
    if (tokensMax < extra)
      throw new RangeError(`encode: tokensMax ${tokensMax} is less than the ${extra} special tokens`)
    const start =
      Array.from({ length: extra + 1 }, (_, at) => at).find((at) =>
        bare.every((id, i) => ids[at + i] === id),
      ) ?? 0
    return Uint32Array.from([
      ...ids.slice(0, start),
      ...bare.slice(0, tokensMax - extra),
      ...ids.slice(start + bare.length),
    ])
  }

  decode(ids: ArrayLike<number>): string {
    return this.#text(Array.from(ids).filter((id) => this.#shown(id)))
  }

  stream(context: ArrayLike<number> = []): StreamDecoder {
    // The last few tokens are enough: a decoder looks at most one token back, a character is at most four bytes.
    const tail: number[] = []
    for (let i = context.length - 1; i >= 0 && tail.length < 6; i--)
      if (this.#shown(context[i]!)) tail.unshift(context[i]!)
    return new PieceDecoder(
      tail,
      (ids) => this.#text(ids),
      (id) => this.#shown(id),
    )
  }

  chat(
    messages: readonly ChatMessage[],
    { addGenerationPrompt = true, tools, variables }: ChatOptions = {},
  ): string {
    if (this.#templateText === null) {
      throw new ModelError('template-missing', {
        file: 'tokenizer_config.json',
        what: 'the model has no chat template',
        todo: 'Use completions, or a model made for chat',
      })
    }
    try {
      this.#template ??= new Template(this.#templateText)
      return this.#template.render({
        ...this.#namedTokens(),
        tools: tools ?? null,
        ...variables,
        messages,
        add_generation_prompt: addGenerationPrompt,
      })
    } catch (cause) {
      const why = quote(cause instanceof Error ? cause.message : String(cause))
      const trouble = this.#template
        ? { what: `the chat template refused the messages: ${why}`, todo: 'Check their roles and order' }
        : {
            what: `the model's chat template can't be read: ${why}`,
            todo: 'Use completions, or a sound copy of the model',
          }
      throw new ModelError('template-failed', trouble, cause)
    }
  }

  #ids(text: string, special: boolean): number[] {
    const { ids } = this.#inner.encode(text, { add_special_tokens: special })
    // The library gives undefined for a token that is not there when there is no token for the unknown.
    if (ids.some((id) => !Number.isInteger(id))) {
      throw new ModelError('text-invalid', {
        what: 'the text has a character the vocabulary cannot express',
        todo: 'Leave it out',
      })
    }
    return ids
  }

  #text(ids: number[]): string {
    return ids.length === 0
      ? ''
      : this.#inner.decode(ids, { skip_special_tokens: false, clean_up_tokenization_spaces: false })
  }

  /** Whether an id adds to the text. */
  #shown(id: number): boolean {
    if (!Number.isInteger(id) || id < 0 || id >= this.#vocab) {
      throw new ModelError('token-invalid', {
        what: `${String(id)} is not a token id of a vocabulary of ${this.#vocab}`,
        todo: 'Check which model the ids are of',
      })
    }
    return !this.#special.has(id) && this.#inner.id_to_token(id) !== undefined
  }

  /** bos_token and the like, as templates use them; each a string or an object with `content`. */
  #namedTokens(): Record<string, string> {
    const named: Record<string, string> = {}
    for (const [key, value] of Object.entries(this.#config)) {
      const content = isObject(value) ? value.content : value
      if (/^(bos|eos|unk|sep|pad|cls|mask)_token$/.test(key) && typeof content === 'string')
        named[key] = content
    }
    return named
  }
}

/**
 * Decodes a window (the ids of the last piece, then those since) and emits what the new ids added, so that each id costs the
 * same however long the text. An unfinished character decodes to one U+FFFD at the end, which waits for the rest.
 */
class PieceDecoder implements StreamDecoder {
  readonly #decode: (ids: number[]) => string
  readonly #shown: (id: number) => boolean
  #window: number[]
  /** How many ids of the window belong to earlier pieces. */
  #before: number
  /** The part of the window's text that is out already. */
  #out: string

  constructor(context: number[], decode: (ids: number[]) => string, shown: (id: number) => boolean) {
    this.#decode = decode
    this.#shown = shown
    this.#window = context
    this.#before = context.length
    this.#out = decode(context).replace(/\ufffd$/, '')
  }

  push(id: number): string {
    if (!this.#shown(id)) return ''
    this.#window.push(id)
    const text = this.#decode(this.#window)
    const half = text.endsWith('\ufffd')
    const certain = half ? text.slice(0, -1) : text
    const piece = certain.slice(this.#out.length)
    if (half || piece === '') {
      this.#out += piece
      return piece
    }
    this.#window = this.#window.slice(this.#before)
    this.#before = this.#window.length
    this.#out = this.#decode(this.#window)
    return piece
  }

  flush(): string {
    const piece = this.#decode(this.#window).slice(this.#out.length)
    this.#out += piece
    return piece
  }
}

/** The library's decoder of byte tokens drops U+FEFF at the start of a run of bytes; the original keeps it, and so must a stream. */
function keepByteOrderMarks(decoder: unknown): void {
  if (decoder instanceof ByteFallbackDecoder)
    Object.assign(decoder, { text_decoder: new TextDecoder('utf-8', { ignoreBOM: true }) })
  if (decoder instanceof SequenceDecoder) decoder.decoders.forEach(keepByteOrderMarks)
}

/** UTF-8 bytes as text. Throws ModelError `text-invalid`. */
export function textOfUtf8(bytes: Uint8Array): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch (cause) {
    throw new ModelError(
      'text-invalid',
      { what: 'the bytes are not UTF-8', todo: 'Send the text as UTF-8' },
      cause,
    )
  }
}

function checkText(text: string): void {
  if (text.isWellFormed()) return
  const at = [...text].findIndex((c) => !c.isWellFormed())
  throw new ModelError('text-invalid', {
    what: `character ${at} is half of a surrogate pair`,
    todo: 'Send well-formed Unicode',
  })
}

/** A template is a string, or a list of named ones of which "default" is meant. */
function templateOf(config: Record<string, unknown>): string | null {
  const given = config.chat_template
  if (typeof given === 'string') return given
  if (!Array.isArray(given)) return null
  const found = (given as unknown[]).filter(isObject).find((one) => one.name === 'default')
  return typeof found?.template === 'string' ? found.template : null
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
