/** The part that chat and completions share: options → job → choices of text, streamed or whole. */
import { randomUUID } from 'node:crypto'
import { sliceLogprobs } from '../../protocol/index.ts'
import type { GenerateOptions, Logprobs } from '../../protocol/index.ts'
import type { JobReport } from '../jobs.ts'
import type { Served } from '../models.ts'
import { CHOICES_MAX } from './bodies.ts'
import type { SamplingBody } from './bodies.ts'
import { report, submitFor } from './context.ts'
import type { ApiContext, Caller } from './context.ts'
import { ApiError } from './errors.ts'
import type { EventStream } from './sse.ts'
import { ChoiceText } from './text.ts'

/** With every piece of a stream: how much was checked already. The last chunk's `volunteer` says whether it has become final. */
const provisional = ({ checked }: Choice): object => ({
  volunteer: { status: 'provisional', checked_tokens: checked },
})

/** One drawn token's text and log-probabilities (natural logarithms). */
export interface TokenLogprob {
  token: string
  logprob: number
  top: { token: string; logprob: number }[]
}
export type Finish = 'stop' | 'length'

export interface Usage {
  prompt_tokens: number
  completion_tokens: number
  total_tokens: number
}

/** How one of the two APIs writes what happens. All are JSON bodies. */
export interface Shape {
  /** A chunk before the first text of a choice, if there is one. */
  begin?: (choice: number) => object
  piece: (choice: number, text: string, logprobs: TokenLogprob[] | undefined) => object
  finish: (choice: number, finish: Finish) => object
  /** The chunk without choices that carries the usage. */
  usage: () => object
  whole: (choices: { text: string; finish: Finish; logprobs: TokenLogprob[] | undefined }[]) => object
}

export interface Generation {
  model: Served
  prompts: readonly Uint32Array[]
  body: SamplingBody
  maxTokens: number
  /** Alternatives to report per token; undefined: no log-probabilities. */
  logprobs: number | undefined
  /** Text before a choice's own: an echoed prompt. */
  prefix?: (choice: number) => string
  shape: Shape
}

interface Choice {
  text: ChoiceText
  tokenText: (id: number) => string
  parts: string[]
  logprobs: TokenLogprob[]
  /** Tokens drawn, up to the one that completed a stop string. */
  tokens: number
  /** The first so many were drawn again by somebody else, and came out the same. */
  checked: number
  finish: Finish | undefined
}

/** Throws ApiError for what can be told of a body before its job begins. */
export function checkGeneration({ model, body, prompts }: Generation): void {
  const n = body.n ?? 1
  if (n * prompts.length > CHOICES_MAX)
    throw new ApiError(
      'invalid_value',
      `'n': ${n} choices of ${prompts.length} prompts are more than ${CHOICES_MAX}.`,
      { param: 'n' },
    )
  if (body.stream_options && !body.stream)
    throw new ApiError('invalid_value', `'stream_options' is only for streams.`, { param: 'stream_options' })
  if (stopsOf(body).length && !model.tokenizer)
    throw new ApiError(
      'unsupported_parameter',
      `'stop': ${model.id} has no tokenizer, so its answers have no text.`,
      { param: 'stop' },
    )
}

const stopsOf = ({ stop }: SamplingBody): string[] =>
  stop == null ? [] : Array.isArray(stop) ? stop : [stop]

/**
 * Runs a generation that was checked. Resolves with the answer's body; with undefined where it was streamed, or nobody waits
 * for it any more. Rejects with ApiError.
 */
export function answer(context: ApiContext, caller: Caller, g: Generation): Promise<object | undefined> {
  const { model, body, prompts, shape } = g
  const n = body.n ?? 1
  const options = optionsOf(g)
  const choices = prompts.flatMap((prompt) =>
    Array.from({ length: n }, () => newChoice(model, prompt, stopsOf(body))),
  )
  const wantsUsage = body.stream_options?.include_usage === true

  return new Promise((resolve, reject) => {
    let stream: EventStream | undefined
    let held: object | undefined

    const send = (chunk: object): void => stream!.send(wantsUsage ? { ...chunk, usage: null } : chunk)
    const emit = (index: number, text: string, logprobs: TokenLogprob[]): void => {
      const choice = choices[index]!
      choice.parts.push(text)
      if (stream && (text !== '' || logprobs.length))
        send({
          ...shape.piece(index, text, g.logprobs === undefined ? undefined : logprobs),
          ...provisional(choice),
        })
      choice.logprobs.push(...logprobs)
    }
    const finish = (index: number, reason: Finish): void => {
      choices[index]!.finish = reason
      if (!stream) return
      // The last one waits for the summary, which it carries.
      if (choices.every((choice) => choice.finish)) held = shape.finish(index, reason)
      else send(shape.finish(index, reason))
    }
    const usageOf = (): Usage => {
      const prompt_tokens = prompts.reduce((sum, prompt) => sum + prompt.length, 0)
      const completion_tokens = choices.reduce((sum, choice) => sum + choice.tokens, 0)
      return { prompt_tokens, completion_tokens, total_tokens: prompt_tokens + completion_tokens }
    }

    const handle = submitFor(
      caller,
      context.jobs,
      {
        kind: 'generate',
        model: model.digest,
        deadlineMs: body.volunteer?.deadline_ms ?? undefined,
        trust: body.volunteer?.trust ?? context.trust,
        choices: choices.map((_, i) => ({ prompt: prompts[Math.floor(i / n)]!, options: options(i % n) })),
      },
      {
        onAccepted: () => {
          if (!body.stream) return
          stream = caller.openStream()
          choices.forEach((_, i) => {
            if (shape.begin) send(shape.begin(i))
            const prefix = g.prefix?.(i)
            if (prefix) send(shape.piece(i, prefix, g.logprobs === undefined ? undefined : []))
          })
        },
        onRefused: (error) => reject(ApiError.ofJob(error)),
        onTokens: ({ choice: index, tokens, logprobs }) => {
          const choice = choices[index]!
          if (choice.finish) return
          const { text, detail } = read(model, choice, tokens, logprobs)
          emit(index, text, detail)
          if (!choice.text.isStopped) return
          finish(index, 'stop')
          handle.stopChoice(index)
        },
        onVerified: ({ choice: index, tokens }) => {
          const choice = choices[index]!
          if (choice.finish) return
          choice.checked = tokens
          if (stream) send({ ...shape.piece(index, '', undefined), ...provisional(choice) })
        },
        onCorrected: ({ choice: index, output }) => {
          if (index === null || output.kind !== 'generate') return
          const { parts, logprobs: toldOf, finish: ended } = choices[index]!
          const choice = newChoice(model, prompts[Math.floor(index / n)]!, stopsOf(body))
          choices[index] = choice
          const { text, detail } = read(model, choice, output.tokens, output.logprobs)
          const whole = ended ? text + choice.text.end() : text
          if (ended) choice.finish = choice.text.isStopped ? 'stop' : output.finish
          const told = stream ? parts.join('') : ''
          const toldDetail = stream ? detail.slice(0, toldOf.length) : []
          const isSameDetail = !stream || JSON.stringify(toldDetail) === JSON.stringify(toldOf)
          if (isSameDetail && (whole === told || (whole.startsWith(told) && !(stream && ended)))) {
            choice.parts.push(told)
            choice.logprobs.push(...toldDetail)
            emit(index, whole.slice(told.length), detail.slice(choice.logprobs.length))
          } else {
            // What was sent can't be taken back.
            stream!.fail(wrongStream(index, whole, told), caller.requestId)
            handle.cancel('what was streamed proved wrong')
            resolve(undefined)
          }
        },
        onChoice: ({ choice: index, finish: reason }) => {
          const choice = choices[index]!
          if (choice.finish) return
          emit(index, choice.text.end(), [])
          finish(index, choice.text.isStopped ? 'stop' : reason)
        },
        onDone: (summary: JobReport) => {
          const volunteer = report(context, summary)
          if (stream) {
            if (held) send(wantsUsage ? held : { ...held, volunteer })
            if (wantsUsage) stream.send({ ...shape.usage(), usage: usageOf(), volunteer })
            stream.end()
          } else {
            const texts = choices.map((c, i) => ({
              text: (g.prefix?.(i) ?? '') + c.parts.join(''),
              finish: c.finish!,
              logprobs: g.logprobs === undefined ? undefined : c.logprobs,
            }))
            return resolve({ ...shape.whole(texts), usage: usageOf(), volunteer })
          }
          resolve(undefined)
        },
        onFailed: (error) => {
          const failure = ApiError.ofJob(error)
          if (!stream) return reject(failure)
          stream.fail(failure, caller.requestId)
          resolve(undefined)
        },
      },
    )
    caller.onGone(() => resolve(undefined))
  })
}

/** Takes in tokens up to the one that completes a stop string: the text that is certain now, and its log-probabilities. */
function read(
  { core: { endIds } }: Served,
  choice: Choice,
  tokens: ArrayLike<number>,
  logprobs: Logprobs | undefined,
): { text: string; detail: TokenLogprob[] } {
  let text = ''
  const detail: TokenLogprob[] = []
  for (let i = 0; i < tokens.length && !choice.text.isStopped; i++) {
    const id = tokens[i]!
    choice.tokens++
    text += choice.text.push(id)
    // An end token is no text; its probability is nobody's.
    if (logprobs && !endIds.includes(id)) detail.push(logprobOf(choice.tokenText, logprobs, i))
  }
  return { text, detail }
}

/** @param right text, where `told` was streamed */
function wrongStream(index: number, right: string, told: string): ApiError {
  let same = 0
  while (same < told.length && told[same] === right[same]) same++
  return new ApiError(
    'verification_failed',
    `A check found that a volunteer had answered wrongly: of the ${told.length} characters streamed of choice ${index}, only the first ${same} are the right answer's. Ask again.`,
  )
}

function newChoice(model: Served, prompt: Uint32Array, stops: readonly string[]): Choice {
  // Without a tokenizer there is no text; the ids can be had as log-probabilities.
  const decoder = model.tokenizer?.stream(prompt) ?? { push: () => '', flush: () => '' }
  return {
    text: new ChoiceText(decoder, stops),
    tokenText: tokenTexts(model, prompt),
    parts: [],
    logprobs: [],
    tokens: 0,
    checked: 0,
    finish: undefined,
  }
}

/** A caller's words, the model's own defaults where it says nothing, and a seed: options per choice of one prompt. */
function optionsOf({
  model: { defaults },
  body,
  maxTokens,
  logprobs,
}: Generation): (stream: number) => GenerateOptions {
  const seed = body.seed == null ? newSeed() : BigInt.asUintN(64, BigInt(body.seed))
  const sampling = {
    temperature: body.temperature ?? defaults.temperature,
    topP: body.top_p ?? defaults.topP,
    topK: body.volunteer?.top_k ?? defaults.topK,
    seed: String(seed),
  }
  return (stream) => ({ maxTokens, sampling: { ...sampling, stream }, logprobs })
}

/** 64 random bits. Node keeps a supply for randomUUID(), where randomBytes() asks the system each time. */
function newSeed(): bigint {
  const id = randomUUID()
  return BigInt(`0x${id.slice(0, 8)}${id.slice(-8)}`)
}

/** A token's text as it reads behind another: alone, it would lose the space it begins with. */
function tokenTexts({ tokenizer }: Served, before: Uint32Array): (id: number) => string {
  const known = new Map<number, string>()
  return (id) => {
    let text = known.get(id)
    if (text === undefined) {
      const decoder = tokenizer?.stream(before)
      text = decoder ? decoder.push(id) + decoder.flush() : String(id)
      known.set(id, text)
    }
    return text
  }
}

function logprobOf(textOf: (id: number) => string, logprobs: Logprobs, index: number): TokenLogprob {
  const { top, values } = sliceLogprobs(logprobs, index, index + 1)
  const pair = (i: number): { token: string; logprob: number } => ({
    token: textOf(values[2 * i]!),
    logprob: values[2 * i + 1]! / 65536,
  })
  return { ...pair(0), top: Array.from({ length: top }, (_, i) => pair(1 + i)) }
}
