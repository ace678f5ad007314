/** `run`, `embed`, `classify` and `ls` with --url: the same verbs, computed by a coordinator's network. */
import type { Command } from 'commander'
import { Option } from 'commander'
import { UsageError } from '../errors.ts'
import { computedBy, Remote } from '../remote.ts'
import type { Report } from '../remote.ts'
import { patiently } from '../rows.ts'
import type { Rows } from '../rows.ts'
import { table } from '../talk.ts'
import type { Talk } from '../talk.ts'

export interface AskOptions {
  url?: string
  apiKey?: string
}

/** Adds --url and --api-key. */
export const ask = (command: Command): Command =>
  command
    .addOption(
      new Option('--url <url>', "ask a coordinator's network instead of computing here").env('CHORALE_URL'),
    )
    .addOption(new Option('--api-key <key>', 'sent along with --url').env('CHORALE_API_KEY'))

/** The coordinator to ask, or null to compute here. Throws UsageError for options that only mean something here. */
export function remoteOf({ url, apiKey }: AskOptions, local: Record<string, unknown> = {}): Remote | null {
  if (!url) return null
  if (!/^https?:\/\/./.test(url))
    throw new UsageError(`--url ${url} is no address. Give one like http://127.0.0.1:8080`)
  for (const [name, value] of Object.entries(local))
    if (value !== undefined && value !== 'auto')
      throw new UsageError(
        `--${name} is about computing here; with --url the volunteers choose. Leave it out`,
      )
  return new Remote({ url, apiKey: apiKey ?? process.env.OPENAI_API_KEY })
}

interface Ask {
  maxTokens: number
  temperature?: number
  topK?: number
  topP?: number
  seed: bigint
  n: number
  chat?: boolean
  stats?: boolean
}

interface Chunk {
  choices: { index: number; text?: string; delta?: { content?: string } }[]
  volunteer?: Report
}

export async function runRemote(
  remote: Remote,
  model: string,
  text: string,
  options: Ask,
  talk: Talk,
): Promise<void> {
  if (options.seed >= 2n ** 53n) throw new UsageError('--seed: over the API a seed has at most 53 bits')
  const common = {
    model,
    max_tokens: options.maxTokens,
    temperature: options.temperature,
    top_p: options.topP,
    seed: Number(options.seed),
    n: options.n,
    volunteer: options.topK === undefined ? undefined : { top_k: options.topK },
  }
  const path = options.chat ? '/v1/chat/completions' : '/v1/completions'
  const body = options.chat
    ? { ...common, messages: [{ role: 'user', content: text }] }
    : { ...common, prompt: text }
  if (talk.json) return talk.out(`${JSON.stringify(await remote.post(path, body))}\n`)
  const texts: string[] = Array.from({ length: options.n }, () => '')
  let report: Report | undefined
  for await (const chunk of remote.stream<Chunk>(path, body)) {
    report = chunk.volunteer ?? report
    for (const { index, text: piece, delta } of chunk.choices) {
      const more = piece ?? delta?.content ?? ''
      texts[index] += more
      if (options.n === 1 && more) await talk.out(more)
    }
  }
  if (options.n === 1) await talk.out('\n')
  else
    for (const [i, one] of texts.entries())
      await talk.out(`${i ? '\n' : ''}[${i}]${/^\s/.test(one) ? '' : ' '}${one}\n`)
  if (options.stats && report) talk.say(`computed by ${computedBy(report)}`)
}

/** Of the 2,048 inputs the API takes a call: few enough to see it go on. */
const BATCH = 1024

export async function embedRemote(
  remote: Remote,
  model: string,
  inputs: readonly string[],
  talk: Talk,
  out: Rows,
): Promise<void> {
  for (let from = out.before; from < inputs.length; from += BATCH) {
    const input = inputs.slice(from, from + BATCH)
    const ask = () =>
      remote.post<{ data: { embedding: number[] }[] }>('/v1/embeddings', {
        model,
        input,
        encoding_format: 'float',
      })
    // What is wrong with the first is not going to pass by itself.
    const { data } = from === out.before ? await ask() : await patiently(ask, talk)
    const rows = data.map(({ embedding }) => embedding.map((x) => Number(x.toFixed(8))))
    await out.write(rows.map((embedding, i) => talk.json
      ? JSON.stringify({ index: from + i, text: input[i], embedding })
      : embedding.join('\t'))) // prettier-ignore
  }
}

export async function classifyRemote(
  remote: Remote,
  model: string,
  inputs: readonly string[],
  top: number,
  talk: Talk,
  out: Rows,
): Promise<void> {
  if (top !== 1) throw new UsageError('--top: over the API only the likeliest label has a name. Leave it out')
  for (let from = out.before; from < inputs.length; from += BATCH) {
    const input = inputs.slice(from, from + BATCH)
    const ask = () =>
      remote.post<{ data: { label: string; probs: number[] }[] }>('/v1/classify', {
        model,
        input,
      })
    // What is wrong with the first is not going to pass by itself.
    const { data } = from === out.before ? await ask() : await patiently(ask, talk)
    const rows = data.map(({ label, probs }) => ({
      label,
      probability: Number(Math.max(...probs).toFixed(6)),
    }))
    await out.write(rows.map((one, i) => talk.json
      ? JSON.stringify({ index: from + i, text: input[i], labels: [one] })
      : `${one.label}\t${one.probability.toFixed(4)}`)) // prettier-ignore
  }
}

interface ListedModel {
  id: string
  volunteer: { state: string; tasks: string[]; context_length: number; volunteers: number; house: boolean }
}

export async function listRemote(remote: Remote, talk: Talk): Promise<void> {
  const { data } = await remote.get<{ data: ListedModel[] }>('/v1/models')
  if (talk.json) return talk.out(`${JSON.stringify(data)}\n`)
  const rows = data.map(({ id, volunteer: v }) => [
    id, v.tasks.join(', '), v.state, String(v.volunteers) + (v.house ? ' and the house' : ''), String(v.context_length),
  ]) // prettier-ignore
  await talk.out(table(['model', 'can', 'state', 'volunteers', 'context'], rows))
}
