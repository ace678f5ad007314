/** `chorale batch`: thousands of rows for a coordinator's network, whoever helps and whenever. */
import { openAsBlob } from 'node:fs'
import { open } from 'node:fs/promises'
import { basename } from 'node:path'
import type { Command } from 'commander'
import { Option } from 'commander'
import { ENDPOINTS, isEndpoint } from '../../coordinator/api/asks.ts'
import { EXIT, UsageError } from '../errors.ts'
import { common } from '../options.ts'
import { RemoteError } from '../remote.ts'
import type { Remote } from '../remote.ts'
import { Talk, table } from '../talk.ts'
import type { TalkOptions } from '../talk.ts'
import { ask, remoteOf } from './ask.ts'
import type { AskOptions } from './ask.ts'

interface BatchOptions extends TalkOptions, AskOptions {}
interface SubmitOptions extends BatchOptions {
  endpoint?: string
  window: string
  metadata?: string[]
  trust?: string
  webhook?: string
  watch?: boolean
}
interface ResultOptions extends BatchOptions {
  errors?: boolean
  output?: string
}

interface Batch {
  id: string
  status: string
  endpoint: string
  created_at: number
  output_file_id: string | null
  error_file_id: string | null
  errors: { data: { message: string }[] } | null
  request_counts: { total: number; completed: number; failed: number }
  volunteer: { eta_ms: number | null; rows_per_s: number; volunteers: number }
}

const OVER = ['completed', 'failed', 'expired', 'cancelled']
/** A coordinator that restarts is back within seconds; a laptop that slept, within minutes. */
const PATIENCE_MS = 600_000

export function addBatch(program: Command): void {
  const batch = program.command('batch').summary('many rows, answered when somebody helps')
  const sub = (name: string, summary: string): Command => ask(common(batch.command(name).summary(summary)))

  sub('submit <file>', 'upload a file of rows and begin')
    .description(
      'Uploads lines of JSON as of OpenAI’s Batch API ({custom_id, method, url, body}) and creates a batch. Prints its id. Lines that are wrong are named.',
    )
    .addOption(
      new Option('--endpoint <path>', 'what is asked (default: the first row’s url)').choices(ENDPOINTS),
    )
    .option('--window <hours>', 'rows that are not finished then expire', '24h')
    .option('--metadata <key=value...>', 'kept with the batch')
    .addOption(new Option('--trust <level>', 'how answers are checked').choices(['fast', 'checked', 'exact']))
    .option('--webhook <url>', 'told when it is over, if the operator allows its origin')
    .option('--watch', 'stay until it is over')
    .addHelpText(
      'after',
      `
Examples:
  chorale batch submit rows.jsonl --watch
  chorale batch results batch_… > answers.jsonl`,
    )
    .action(submit)
  sub('ls', 'batches, the youngest first').action(list)
  sub('status <id>', 'how far it is').action(async (id: string, options: BatchOptions) => {
    const talk = new Talk(options)
    await show(await remote(options).get<Batch>(pathOf(id)), talk)
  })
  sub('watch <id>', 'progress until it is over; exit 6 if rows failed').action(
    async (id: string, options: BatchOptions) => watch(remote(options), id, new Talk(options)),
  )
  sub('results <id>', 'finished rows, also while it runs')
    .option('--errors', 'the rows that failed instead')
    .option('-o, --output <file>', 'write there; run again, it goes on where it ended')
    .action(results)
  sub('cancel <id>', 'no more rows are begun; finished ones stay').action(
    async (id: string, options: BatchOptions) => {
      await show(await remote(options).post<Batch>(`${pathOf(id)}/cancel`, {}), new Talk(options))
    },
  )
}

/** Where no --url is given, the one on this machine. */
const remote = (options: AskOptions): Remote =>
  remoteOf({ ...options, url: options.url ?? 'http://127.0.0.1:8080' })!

const pathOf = (id: string): string => `/v1/batches/${encodeURIComponent(id)}`

async function submit(file: string, options: SubmitOptions): Promise<void> {
  const talk = new Talk(options)
  const api = remote(options)
  const metadata = Object.fromEntries((options.metadata ?? []).map(pairOf))
  const endpoint = options.endpoint ?? (await endpointOf(file))
  const blob = await openAsBlob(file).catch((error: Error) => {
    throw new UsageError(`${file}: ${error.message}`)
  })
  talk.bar('Uploading', 0, blob.size, basename(file))
  const { id: input_file_id } = await api.upload(blob, basename(file))
  const made = await api.post<Batch>('/v1/batches', {
    input_file_id,
    endpoint,
    completion_window: options.window,
    ...(options.metadata ? { metadata } : {}),
    volunteer: { trust: options.trust, webhook: options.webhook },
  })
  if (options.watch) {
    talk.say(made.id)
    return watch(api, made.id, talk)
  }
  await talk.out(talk.json ? `${JSON.stringify(made)}\n` : `${made.id}\n`)
}

/** The url of a file's first row. Throws UsageError where there is none. */
async function endpointOf(file: string): Promise<string> {
  const handle = await open(file).catch((error: NodeJS.ErrnoException) => {
    throw new UsageError(error.code === 'ENOENT' ? `there is no file ${file}` : `${file}: ${error.message}`)
  })
  try {
    for await (const line of handle.readLines({ encoding: 'utf8' })) {
      if (line.trim() === '') continue
      const { url } = JSON.parse(line) as { url?: unknown }
      if (isEndpoint(url)) return url
      break
    }
  } catch {
    // Told below.
  } finally {
    await handle.close()
  }
  throw new UsageError(
    `${file}: its first row names no endpoint. Give one with --endpoint: ${ENDPOINTS.join(', ')}`,
  )
}

function pairOf(text: string): [string, string] {
  const at = text.indexOf('=')
  if (at < 1) throw new UsageError(`--metadata ${text}: give it as key=value`)
  return [text.slice(0, at), text.slice(at + 1)]
}

async function list(options: BatchOptions): Promise<void> {
  const talk = new Talk(options)
  const { data } = await remote(options).get<{ data: Batch[] }>('/v1/batches?limit=100')
  if (talk.json) return talk.out(`${JSON.stringify(data)}\n`)
  const rows = data.map((one) => [
    one.id, one.status, `${one.request_counts.completed}/${one.request_counts.total}`, String(one.request_counts.failed),
    one.endpoint, new Date(one.created_at * 1000).toISOString().slice(0, 16).replace('T', ' '),
  ]) // prettier-ignore
  await talk.out(table(['id', 'status', 'done', 'failed', 'endpoint', 'created (UTC)'], rows))
}

/** Its state in one line or object. */
async function show(batch: Batch, talk: Talk): Promise<void> {
  await talk.out(
    talk.json ? `${JSON.stringify(batch)}\n` : `${batch.id}  ${batch.status}  ${figuresOf(batch)}\n`,
  )
  for (const { message } of batch.errors?.data ?? []) talk.say(message)
}

function figuresOf({ status, request_counts: { total, completed, failed }, volunteer }: Batch): string {
  const parts = [`${completed} of ${total} rows`]
  if (failed) parts.push(`${failed} failed`)
  if (!OVER.includes(status)) {
    if (volunteer.rows_per_s) parts.push(`${volunteer.rows_per_s} rows/s`)
    parts.push(volunteer.eta_ms === null ? 'nobody is helping yet' : `about ${timeOf(volunteer.eta_ms)} left`)
  }
  return parts.join(', ')
}

const timeOf = (ms: number): string =>
  ms < 90_000
    ? `${Math.ceil(ms / 1000)} s`
    : ms < 5_400_000
      ? `${Math.round(ms / 60_000)} min`
      : `${(ms / 3_600_000).toFixed(1)} h`

/** Until it is over, through restarts of the coordinator. Exit 1: it failed, expired or was cancelled; 6: some rows failed. */
async function watch(api: Remote, id: string, talk: Talk): Promise<void> {
  let lostAt: number | undefined
  for (;;) {
    try {
      for await (const batch of api.events<Batch>(`${pathOf(id)}/events`)) {
        lostAt = undefined
        const { total, completed, failed } = batch.request_counts
        if (OVER.includes(batch.status)) return await finish(batch, talk)
        talk.bar(
          batch.status === 'validating' ? 'Validating' : 'Computing',
          completed + failed,
          total,
          figuresOf(batch),
        )
      }
    } catch (error) {
      if (!(error instanceof RemoteError) || (error.code !== 'unreachable' && error.status !== 503))
        throw error
      lostAt ??= Date.now()
      if (Date.now() - lostAt > PATIENCE_MS) throw error
      talk.bar('Waiting', 0, 0, 'the coordinator cannot be reached; it is tried again')
      await new Promise((resolve) => setTimeout(resolve, 1_000))
    }
  }
}

async function finish(batch: Batch, talk: Talk): Promise<void> {
  await show(batch, talk)
  if (batch.status !== 'completed') process.exitCode = EXIT.failure
  else if (batch.request_counts.failed) process.exitCode = EXIT.rowsFailed
}

async function results(id: string, options: ResultOptions): Promise<void> {
  const talk = new Talk(options)
  const api = remote(options)
  const batch = await api.get<Batch>(pathOf(id))
  const file = options.errors ? batch.error_file_id : batch.output_file_id
  if (file === null) return talk.say(options.errors ? 'No row failed.' : 'No row is finished yet.')
  const path = `/v1/files/${file}/content`
  if (options.output === undefined) {
    for await (const piece of api.bytes(path)) await talk.out(piece)
    return
  }
  const handle = await open(options.output, 'a+')
  try {
    // The file's bytes never change, so what is there already is its beginning.
    const from = (await handle.stat()).size
    let written = 0
    for await (const piece of api.bytes(path, from)) {
      await handle.write(piece)
      written += piece.length
    }
    talk.say(`${options.output}: ${written} bytes more, ${batch.status}.`)
  } finally {
    await handle.close()
  }
}
