/** `chorale keys`: who may use the API. Asks the coordinator that has the data folder open, or opens it. */
import type { Command } from 'commander'
import { Option } from 'commander'
import { Keys, SCOPES } from '../../coordinator/api/keys.ts'
import type { KeyOptions, Scope } from '../../coordinator/api/keys.ts'
import { Credits } from '../../coordinator/books/credits.ts'
import type { Credit } from '../../coordinator/books/credits.ts'
import { openData, runningIn } from '../../coordinator/data.ts'
import { openKey } from '../../coordinator/identity.ts'
import { Ledger, pepperOf } from '../../coordinator/books/ledger.ts'
import { Recorder } from '../../coordinator/books/records.ts'
import { StoreError } from '../../coordinator/store/store.ts'
import { dataFolder } from '../../tools/folders.ts'
import { EnvironmentError, UsageError } from '../errors.ts'
import { common, integer, number } from '../options.ts'
import { Remote } from '../remote.ts'
import { Talk, table } from '../talk.ts'
import type { TalkOptions } from '../talk.ts'
import { ask, remoteOf } from './ask.ts'
import type { AskOptions } from './ask.ts'

interface Where extends TalkOptions, AskOptions {
  data?: string
}

interface CreateOptions extends Where {
  tenant?: string
  scope?: Scope[]
  days?: number
  weight?: number
  requestsPerMinute?: number
  tokensPerMinute?: number
  batchRows?: number
  credit?: number
}

interface ShownKey {
  id: string
  tenant: string
  name: string
  prefix: string
  scopes: string[]
  created_at: number
  expires_at: number | null
  revoked_at: number | null
  credit: Credit | null
}

/** The same things, over the API or on the data itself. */
interface Desk {
  create: (options: KeyOptions) => Promise<ShownKey & { key: string }>
  list: () => Promise<ShownKey[]>
  revoke: (id: string) => Promise<void>
  grant: (id: string, amount: number) => Promise<ShownKey>
}

export function addKeys(program: Command): void {
  const keys = program.command('keys').summary('create, list and revoke API keys, and grant them credit')
  const where = (command: Command): Command =>
    ask(common(command)).addOption(
      new Option('--data <dir>', 'the coordinator’s data folder (default: as of `chorale serve`)').env(
        'CHORALE_DATA',
      ),
    )
  where(
    keys
      .command('create <name>')
      .summary('a new key, shown once')
      .description('Prints a new API key; it is kept nowhere. With the first key, every request needs one.'),
  )
    .option('--tenant <name>', 'keys of one tenant share files, batches and limits (default: its own)')
    .addOption(
      new Option('--scope <scope...>', 'what it may do').choices(SCOPES).default(['inference', 'batches']),
    )
    .option('--days <n>', 'until it ends by itself', integer(1, 36_500))
    .option('--weight <x>', 'share relative to others when there is a queue', number(0.01, 100))
    .option('--requests-per-minute <n>', 'of this key’s tenant', integer(1))
    .option('--tokens-per-minute <n>', 'likewise', integer(1))
    .option('--batch-rows <n>', 'unfinished rows of batches', integer(0))
    .option('--credit <n>', 'standard units its tenant may spend (default: no limit)', integer(0))
    .action(async (name: string, options: CreateOptions) => {
      const talk = new Talk(options)
      const {
        tenant,
        scope: scopes,
        days,
        weight,
        requestsPerMinute,
        tokensPerMinute,
        batchRows,
        credit,
      } = options
      const quotas = defined({ requestsPerMinute, tokensPerMinute, batchRows })
      const expiresAt = days === undefined ? undefined : Math.floor(Date.now() / 1000) + days * 86_400
      const made = await atDesk(options, (desk) =>
        desk.create({ name, ...defined({ tenant, scopes, weight, expiresAt, credit }), ...(Object.keys(quotas).length ? { quotas } : {}) }),
      ) // prettier-ignore
      talk.say(`Key ${made.id} of ${made.tenant}. It is shown this once:`)
      await talk.out(talk.json ? `${JSON.stringify(made)}\n` : `${made.key}\n`)
    })
  where(keys.command('ls').summary('what keys there are')).action(async (options: Where) => {
    const talk = new Talk(options)
    const found = await atDesk(options, (desk) => desk.list())
    if (talk.json) return talk.out(`${JSON.stringify(found)}\n`)
    const day = (at: number | null): string =>
      at === null ? '' : new Date(at * 1000).toISOString().slice(0, 10)
    const rows = found.map((key) => [
      key.id, key.name, `${key.prefix}…`, key.tenant, key.scopes.join(', '), key.credit ? `${key.credit.left}` : 'no limit', day(key.created_at),
      key.revoked_at !== null ? `revoked ${day(key.revoked_at)}` : key.expires_at !== null ? `ends ${day(key.expires_at)}` : 'works',
    ]) // prettier-ignore
    await talk.out(table(['id', 'name', 'key', 'tenant', 'scopes', 'credit', 'created', 'state'], rows))
  })
  where(
    keys
      .command('credit')
      .argument('<key>', 'its id or name')
      .argument('<amount>', '+N, or -N to take back', integer(-Number.MAX_SAFE_INTEGER))
      .summary('more credit for a key’s tenant, or less')
      .description(
        'Grants credits (standard units of 10^6 multiply-accumulates) to the tenant of a key that was created with --credit, or takes back what is left.',
      ),
  ).action(async (name: string, amount: number, options: Where) => {
    const talk = new Talk(options)
    const key = await atDesk(options, async (desk) => {
      const works = (await desk.list()).filter((one) => one.revoked_at === null)
      const [found, other] = works.filter((one) => one.id === name || one.name === name)
      if (!found) throw new UsageError(`there is no key ${name} that works. See: chorale keys ls`)
      if (other) throw new UsageError(`several keys are called ${name}: give the id. See: chorale keys ls`)
      return desk.grant(found.id, amount)
    })
    talk.say(`${key.tenant} has ${key.credit?.left} credits left of ${key.credit?.granted}.`)
    if (talk.json) await talk.out(`${JSON.stringify(key)}\n`)
  })
  where(keys.command('revoke <id>').summary('a key that works no more, from now on')).action(
    async (id: string, options: Where) => {
      const talk = new Talk(options)
      await atDesk(options, (desk) => desk.revoke(id))
      talk.say(`${id} is revoked.`)
      if (talk.json) await talk.out(`${JSON.stringify({ id, revoked: true })}\n`)
    },
  )
}

async function atDesk<T>(options: Where, work: (desk: Desk) => Promise<T>): Promise<T> {
  const given = remoteOf(options)
  const folder = options.data ?? dataFolder()
  const running = given ? null : runningIn(folder)
  const remote = given ?? (running ? new Remote({ url: running.url, apiKey: running.key }) : null)
  if (remote) return work(overApi(remote))
  const data = await openData(folder).catch((error: unknown) => {
    throw error instanceof StoreError ? new EnvironmentError(error.message, { cause: error }) : error
  })
  try {
    const recorder = new Recorder(data.store, (error) => {
      throw error
    })
    const ledger = await Ledger.open(data.store, recorder, pepperOf(openKey(folder)))
    return await work(onData(await Keys.open(data.store, Credits.beside(ledger, recorder))))
  } finally {
    await data.close()
  }
}

const overApi = (remote: Remote): Desk => ({
  create: ({ expiresAt, ...rest }) =>
    remote.post('/v1/keys', { ...rest, ...(expiresAt === undefined ? {} : { expires_at: expiresAt }) }),
  list: async () => (await remote.get<{ data: ShownKey[] }>('/v1/keys')).data,
  grant: (id, amount) => remote.post(`/v1/keys/${encodeURIComponent(id)}/credit`, { amount }),
  revoke: async (id) => void (await remote.delete(`/v1/keys/${encodeURIComponent(id)}`)),
})

const onData = (keys: Keys): Desk => ({
  create: async (options) => {
    const { key, record } = await keys.create(options)
    return { ...(keys.shown(record) as ShownKey), key }
  },
  list: async () => keys.list().map((record) => keys.shown(record) as ShownKey),
  grant: async (id, amount) => {
    const record = keys.list().find((one) => one.id === id)!
    await keys.grant(record, amount)
    return keys.shown(record) as ShownKey
  },
  revoke: async (id) => {
    if (!(await keys.revoke(id)))
      throw new UsageError(`there is no key ${id} that works. See: chorale keys ls`)
  },
})

const defined = <T extends object>(values: T): Partial<T> =>
  Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as Partial<T>
