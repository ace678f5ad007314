/** `chorale serve`: a coordinator on this machine. */
import type { Command } from 'commander'
import { Option } from 'commander'
import { LOG_LEVELS } from '../../coordinator/log.ts'
import type { LogLevel } from '../../coordinator/log.ts'
import { AccessError } from '../../coordinator/api/requesters.ts'
import type { Trust } from '../../protocol/index.ts'
import { DataError } from '../../coordinator/identity.ts'
import { startCoordinator } from '../../coordinator/main.ts'
import type { RunningCoordinator } from '../../coordinator/main.ts'
import { StoreError } from '../../coordinator/store/store.ts'
import { embedded, packedFolder } from '../../tools/models.ts'
import { dataFolder } from '../../tools/folders.ts'
import { EnvironmentError } from '../errors.ts'
import { common, integer } from '../options.ts'
import { builtPages } from '../pages.ts'
import { Talk } from '../talk.ts'
import type { TalkOptions } from '../talk.ts'

export interface ServeOptions extends TalkOptions {
  host: string
  port: number
  models?: string[]
  house: boolean
  logLevel: LogLevel
  operator: string
  maxVolunteers: number
  maxPerIp: number
  trustProxy?: boolean
  data?: string
  trustKey?: string[]
  trust?: Trust
  ledgerDays?: number
  open?: boolean
  requestsPerMinute?: number
  tokensPerMinute?: number
  corsOrigins?: string[]
  webhookOrigins?: string[]
}

export function addServe(program: Command): void {
  common(
    program
      .command('serve')
      .summary('coordinate volunteers and answer requests')
      .description(
        'Serves the volunteer page, an OpenAI-compatible API and the models to volunteers, on one port. Until somebody helps, this machine answers itself.',
      ),
  )
    .addOption(
      new Option('--host <address>', 'address to listen on; 0.0.0.0 for everybody')
        .default('127.0.0.1')
        .env('CHORALE_HOST'),
    )
    .addOption(
      new Option('--port <n>', 'port to listen on; 0 for a free one')
        .default(8080)
        .argParser(integer(0, 65535))
        .env('CHORALE_PORT'),
    )
    .option(
      '--models <name...>',
      `models to serve: folders, ${embedded.join(', ')}, or ids of the Hub (default: the embedded ones)`,
    )
    .option('--no-house', 'never compute on this machine')
    .addOption(
      new Option('--log-level <level>', 'what is logged, as JSON on stderr')
        .choices(LOG_LEVELS)
        .default('warn')
        .env('CHORALE_LOG_LEVEL'),
    )
    .option('--operator <name>', 'whose network this is, shown to volunteers', 'this network')
    .option('--max-volunteers <n>', 'connections at once', integer(0, 1_000_000), 20_000)
    .option('--max-per-ip <n>', 'connections at once from one address', integer(0, 1_000_000), 256)
    .option('--trust-proxy', "take callers' addresses from X-Forwarded-For: only behind a proxy that sets it")
    .addOption(
      new Option(
        '--data <dir>',
        'where its key and records are kept, made if absent (default: the folder for data of this user)',
      ).env('CHORALE_DATA'),
    )
    .addOption(
      new Option('--trust <level>', 'what requests get that ask for none')
        .choices(['fast', 'checked', 'exact'])
        .default('checked'),
    )
    .option(
      '--trust-key <key>',
      'a volunteer whose answers count as true, by its public key; may be given again',
      (key: string, before: string[] = []) => [...before, key],
    )
    .option(
      '--ledger-days <n>',
      'write older entries of the ledger to files, and forget them (default: never)',
      integer(1, 36_500),
    )
    .option('--open', 'answer anybody: no API key is needed, whatever the address')
    .option('--requests-per-minute <n>', 'of one requester whose key says nothing else', integer(1))
    .option('--tokens-per-minute <n>', 'likewise, of prompts and answers', integer(1))
    .option('--cors-origins <origin...>', 'other sites whose pages may use the API; * for all')
    .option('--webhook-origins <origin...>', 'servers that may be told when a batch is over')
    .addHelpText(
      'after',
      `
On 127.0.0.1 the API is open until there is a key (chorale keys create); on other addresses it needs one, or --open.

Examples:
  chorale serve
  chorale serve --data ./network --trust-key 6vbV…
  chorale keys create team && chorale serve --host 0.0.0.0 --port 80 --models HuggingFaceTB/SmolLM2-135M-Instruct
  OPENAI_BASE_URL=http://127.0.0.1:8080/v1 your-program`,
    )
    .action(serve)
}

async function serve(options: ServeOptions): Promise<void> {
  const talk = new Talk(options)
  const pages = await builtPages((line) => talk.say(line))
  const coordinator = await openCoordinator(options, talk, pages ? { folder: pages } : undefined)
  const { url } = coordinator
  const paths = {
    page: `${url}/`,
    api: `${url}/v1`,
    status: `${url}/v1/status`,
    dashboard: `${url}/dashboard`,
  }
  if (talk.json) await talk.out(`${JSON.stringify({ url, ...paths, pid: process.pid })}\n`)
  else await talk.out(banner(coordinator, options, pages !== null))
  if (!options.house && !options.trustKey && options.trust !== 'fast')
    talk.say(
      `Without the house nobody can check newcomers, so requests get no_capacity unless they ask for trust "fast". Name volunteers of your own with --trust-key, or serve with --trust fast.`,
    )
  await untilStopped(() => coordinator.close(), talk)
}

/** Resolves names to packs and starts. Throws EnvironmentError where the port can't be had. */
export async function openCoordinator(
  options: ServeOptions,
  talk: Talk,
  pages: Parameters<typeof startCoordinator>[0]['pages'],
): Promise<RunningCoordinator> {
  const { host, port } = options
  const models: string[] = []
  for (const name of options.models ?? embedded)
    models.push(await packedFolder(name, { onProgress: talk.progress }))
  talk.endLine()
  try {
    return await startCoordinator({
      host,
      port,
      models,
      house: options.house,
      operator: options.operator,
      logLevel: options.quiet ? 'error' : options.logLevel,
      limits: { volunteersMax: options.maxVolunteers, perAddressMax: options.maxPerIp },
      trustProxy: options.trustProxy,
      dataFolder: options.data ?? dataFolder(),
      trustedKeys: options.trustKey,
      trust: options.trust,
      ledgerDays: options.ledgerDays,
      requesters: {
        open: options.open,
        rates: definedOf({
          requestsPerMinute: options.requestsPerMinute,
          tokensPerMinute: options.tokensPerMinute,
        }),
        corsOrigins: options.corsOrigins,
        webhookOrigins: options.webhookOrigins,
      },
      pages,
    })
  } catch (error) {
    if ([AccessError, DataError, StoreError].some((kind) => error instanceof kind))
      throw new EnvironmentError((error as Error).message, { cause: error })
    throw listening(error, host, port)
  }
}

const definedOf = <T extends object>(values: T): T =>
  Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as T

/** What a coordinator says once it serves. */
export const banner = (
  { url, status }: RunningCoordinator,
  { data }: Pick<ServeOptions, 'data'>,
  hasPage: boolean,
): string =>
  [
    hasPage ? `Volunteer page  ${url}/` : 'Volunteer page  none: run `npm run build` in the checkout',
    `API             ${url}/v1   (OPENAI_BASE_URL)`,
    `Status          ${hasPage ? `${url}/dashboard   ` : ''}${url}/v1/status`,
    `Models          ${status()
      .models.map((model) => model.name)
      .join(', ')}`,
    `Data            ${data ?? dataFolder()}`,
    'Ctrl-C stops it: accepted work is finished first.',
    '',
  ].join('\n')

/** Until a signal; then `close`, and a second signal ends it at once. */
export async function untilStopped(close: () => Promise<void>, talk: Talk): Promise<void> {
  const signals = ['SIGINT', 'SIGTERM'] as const
  // The command's own handlers exit at once, which is right for everything that serves nobody.
  for (const signal of signals) process.removeAllListeners(signal)
  await new Promise<void>((resolve) => {
    for (const signal of signals) process.once(signal, () => resolve())
  })
  for (const signal of signals) process.on(signal, () => process.exit(signal === 'SIGINT' ? 130 : 143))
  talk.say('Finishing what was accepted …')
  await close()
}

function listening(error: unknown, host: string, port: number): unknown {
  const { code } = error as NodeJS.ErrnoException
  const remedies: Record<string, string> = {
    EADDRINUSE: `port ${port} is in use on ${host}. Stop what is using it, or choose another: --port ${port + 1} (or CHORALE_PORT)`,
    EACCES: `port ${port} may not be used by this user. Choose one above 1023: --port 8080`,
    EADDRNOTAVAIL: `${host} is no address of this machine. Use --host 127.0.0.1, or 0.0.0.0 for all of its addresses`,
    ENOTFOUND: `${host} is no address. Use --host 127.0.0.1, or 0.0.0.0 for all addresses of this machine`,
  }
  const remedy = code === undefined ? undefined : remedies[code]
  return remedy ? new EnvironmentError(remedy, { cause: error }) : error
}
