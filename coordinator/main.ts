/**
 * A coordinator: one port for pages, API, model files and volunteers' sockets around one pure core.
 *
 *   const coordinator = await startCoordinator({ models: [folder], port: 8080 })
 *   … coordinator.url …
 *   await coordinator.close()
 */
import { hash, randomBytes } from 'node:crypto'
import type { AddressInfo } from 'node:net'
import { CLOSE } from '../protocol/index.ts'
import type { PublicKey, Trust, VolunteerId } from '../protocol/index.ts'
import { addBackups } from './api/backups.ts'
import { addCompletions } from './api/completions.ts'
import { unixNow } from './api/context.ts'
import type { ApiContext } from './api/context.ts'
import { addEncoders } from './api/encoders.ts'
import { addInfo } from './api/info.ts'
import { Keys } from './api/keys.ts'
import { addRequesters } from './api/requesters.ts'
import type { RequesterOptions } from './api/requesters.ts'
import { addTrust } from './api/trust.ts'
import { BatchRunner } from './batches/batches.ts'
import { Books } from './books/books.ts'
import { compactLedger } from './books/compaction.ts'
import { Credits } from './books/credits.ts'
import { PERIOD_MS } from './books/lottery.ts'
import { Clock } from './clock.ts'
import { inputDigest } from './core/claims.ts'
import { Coordinator as Core } from './core/coordinator.ts'
import type { Effect, Event, Hello } from './core/events.ts'
import type { Policy } from './core/policy.ts'
import { view } from './core/view.ts'
import type { View } from './core/view.ts'
import { announce, openData } from './data.ts'
import type { Data } from './data.ts'
import { Driver } from './driver.ts'
import { addModelFiles } from './files.ts'
import { House } from './house.ts'
import { keepTidy } from './housekeeping.ts'
import { openHttp } from './http.ts'
import { DataError, importKey, openKey } from './identity.ts'
import { Jobs } from './jobs.ts'
import { openLog } from './log.ts'
import type { Log, LogLevel } from './log.ts'
import { Catalog, openServed } from './models.ts'
import { addPages } from './pages.ts'
import type { Pages } from './pages.ts'
import { SOCKET_LIMITS, Sockets } from './sockets.ts'
import type { SocketHost, SocketLimits } from './sockets.ts'
import { Tokens } from './tokens.ts'

export interface CoordinatorOptions {
  /** Pack folders, at least one. */
  models: readonly string[]
  /** Default 127.0.0.1. */
  host?: string
  /** Default 8080; 0 for any free one. */
  port?: number
  /** Answer with this machine's own engine when no volunteer can; default true. */
  house?: boolean
  /** For people: whose network this is. */
  operator?: string
  /** What is served at `/`: a folder of built pages, or a handler (Vite's middlewares). Default: none. */
  pages?: Pages
  logLevel?: LogLevel
  limits?: Partial<SocketLimits>
  /** Take callers' addresses from X-Forwarded-For (its last one): only behind a proxy that sets it. */
  trustProxy?: boolean
  /** Where the coordinator's key and records are kept, made if absent. Default: a new key, and nothing outlives the process. */
  dataFolder?: string
  /** Volunteers whose answers count as true: public keys as their programs show them. */
  trustedKeys?: readonly PublicKey[]
  /** How much is checked; default core/policy.ts. */
  policy?: Partial<Policy>
  /** Entries of the ledger are kept so many days, then in files of the data folder; default for good. */
  ledgerDays?: number
  /** What requests and batches get that ask for none; default `checked`. */
  trust?: Trust
  /** Keys, limits, other origins. */
  requesters?: RequesterOptions
}

export interface RunningCoordinator {
  /** http://host:port, without a slash at the end. */
  url: string
  /** Signs receipts; volunteers sign their answers for it. */
  publicKey: PublicKey
  status: () => View
  /** Finishes what was accepted (at most `graceMs`, default 10 s), sends volunteers away, closes. Again: the same promise. */
  close: (graceMs?: number) => Promise<void>
}

/** Volunteers are asked to come back after this. */
const RETRY_MS = 5_000
/** Kinds of volunteers remembered for answers that outlive them. */
const CLASSES_KEPT = 10_000

/**
 * Throws ModelError for a bad pack, DataError for a key that is none, StoreError for data that can't be opened, AccessError for
 * an open door, and the system's error (EADDRINUSE …) if the port can't be had.
 */
export async function startCoordinator(options: CoordinatorOptions): Promise<RunningCoordinator> {
  const log = openLog(options.logLevel ?? 'warn')
  const data = await openData(options.dataFolder, {
    onTrouble: (trouble) =>
      trouble === null
        ? log.warn('the disk takes writes again')
        : log.error({ trouble }, 'the disk takes no writes'),
  })
  try {
    return await start(options, data, log)
  } catch (error) {
    await data.close()
    throw error
  }
}

async function start(options: CoordinatorOptions, data: Data, log: Log): Promise<RunningCoordinator> {
  const key = openKey(options.dataFolder)
  for (const trusted of options.trustedKeys ?? [])
    if (!importKey(trusted))
      throw new DataError(
        `${JSON.stringify(trusted)} is no Ed25519 public key. Give it as the volunteer's program shows it: 43 letters, digits, - and _.`,
      )
  const catalog = new Catalog(await Promise.all(options.models.map(openServed)))
  const operator = options.operator ?? 'chorale'
  const epoch = randomBytes(4).toString('hex')
  const { policy, trust = 'checked' } = options
  const books = await Books.open({
    records: data.store,
    key,
    policy,
    nameOf: (digest) => catalog.get(digest)?.id ?? digest,
    log,
  })
  const credits = new Credits(books.ledger, (requester, amount) => {
    submit({ type: 'credit-granted', requester, amount })
    return books.flush()
  })
  const keys = await Keys.open(data.store, credits)
  const core = new Core({
    seed: randomBytes(4).readUInt32LE(),
    epoch,
    operator,
    models: catalog.all.map((model) => model.core),
    hash: (bytes) => hash('sha256', bytes, 'buffer'),
    secret: books.lottery.secret,
    period: books.lottery.current.period,
    policy,
    restore: { ...books.restore, credit: keys.credit },
  })
  const startedAt = performance.now()

  const classes = new Map<VolunteerId, string>()
  const onJoin = (volunteer: VolunteerId, { capability }: Hello): void => {
    classes.set(volunteer, capability.backend)
    if (classes.size > CLASSES_KEPT) classes.delete(classes.keys().next().value!)
  }
  const clock = new Clock()
  const onFault = (err: unknown, what: string): void => log.error({ err, what }, 'a fault of the coordinator')
  let isFlushDue = false
  /** Once all that followed from a call of the core has happened, an answer's text too: one transaction for all of it. */
  const flushSoon = (): void => {
    if (isFlushDue) return
    isFlushDue = true
    setImmediate(() => {
      isFlushDue = false
      void books.flush()
    })
  }
  const driver = new Driver(core, perform, onFault, clock.now, flushSoon)
  const submit = (event: Event): void => {
    books.note(event)
    driver.submit(event)
  }
  const lotteryTimer = setInterval(() => {
    books.lottery.next()
    const { secret, current } = books.lottery
    submit({ type: 'secret-drawn', secret, period: current.period })
  }, PERIOD_MS)
  lotteryTimer.unref()
  const jobs = new Jobs(submit)
  const socketHost: SocketHost = {
    submit,
    onJoin,
    publicKey: key.publicKey,
    trustedKeys: new Set(options.trustedKeys),
    askedOf: (assignment, key) => {
      const lease = core.state.leases.get(assignment)
      if (lease?.identity !== key) return undefined
      const { unit } = lease
      return { model: unit.job.spec.model, input: inputDigest(core.state, unit) ?? '' }
    },
    trustProxy: options.trustProxy ?? false,
  }
  const sockets = new Sockets(socketHost, { ...SOCKET_LIMITS, ...options.limits }, log)
  let house: House | undefined
  let drained = (): void => {}

  function perform(effect: Effect): void {
    const kept = effect.type === 'finish-job' ? books.receipts.reportOf(effect.job) : null
    if (effect.type === 'correct-unit' && !effect.isJobOpen) {
      const receipt = books.provisional.receiptOf(effect.unit)
      if (receipt !== undefined)
        void runner.correct(receipt).catch((err: unknown) => onFault(err, effect.type))
    }
    books.perform(effect)
    jobs.perform(effect, kept)
    switch (effect.type) {
      case 'send':
        if (house?.is(effect.volunteer)) house.send(effect.message)
        else sockets.send(effect.volunteer, effect.message)
        break
      case 'close':
        if (house?.is(effect.volunteer)) house.restart()
        else sockets.close(effect.volunteer, effect.code, effect.reason)
        break
      case 'recall-unit': {
        const { unit } = effect
        void books.receipts
          .recall(unit)
          .catch((err: unknown) => (onFault(err, effect.type), null))
          .then((recalled) => submit({ type: 'unit-recalled', unit, recalled }))
        break
      }
      case 'finish-drain':
        drained()
        break
      case 'note':
        log[effect.level]({ volunteer: effect.volunteer?.slice(0, 8), job: effect.job }, effect.text)
        break
    }
  }

  const app = openHttp(log, options)
  const tokens = new Tokens()
  const context: ApiContext = {
    catalog,
    jobs,
    tokens,
    trust,
    classOf: (volunteer) => classes.get(volunteer) ?? 'unknown',
  }
  const status = (): View => view(core.state)
  const host = options.host ?? '127.0.0.1'
  const runner = new BatchRunner({
    context,
    store: data.store,
    record: async (rows) => {
      const kept = rows.map((row) => books.recorder.row(row))
      flushSoon()
      await kept.at(-1)
    },
    now: unixNow,
    onOver: (batch) => requesters.onOver(batch),
    onFault: (err, batch) => log.error({ err, batch }, 'a batch stands still for a while'),
  })
  const requesters = await addRequesters(
    { app, store: data.store, keys, credits, runner, host, trust, log },
    options.requesters ?? {},
  )
  addBackups(app, data.store)
  addCompletions(app, context)
  addEncoders(app, context)
  addInfo(app, {
    context,
    operator,
    publicKey: key.publicKey,
    view: status,
    uptimeS: () => Math.floor((performance.now() - startedAt) / 1000),
    isDiskFull: () => data.store.isTroubled,
  })
  addTrust(app, { ...books, records: data.store, key })
  addModelFiles(app, catalog)
  if (options.pages) await addPages(app, options.pages)
  sockets.attach(app.server)
  // A crowd that comes at once waits in line instead of being turned away.
  await app.listen({ host, port: options.port ?? 8080, backlog: 4096 })
  if (options.house !== false)
    house = new House(
      catalog.all.map(({ digest, folder }) => ({ digest, folder })),
      submit,
      onJoin,
      log,
    )

  await runner.recover()
  const { ledgerDays } = options
  const ageS = ledgerDays && ledgerDays * 86_400
  const stopTidying = keepTidy({
    store: data.store,
    log,
    now: unixNow,
    compactLedger: async () =>
      ageS ? compactLedger({ ...books, records: data.store, folder: data.folder, ageS, now: unixNow }) : 0,
  })
  const url = urlOf(app.server.address() as AddressInfo)
  const announced = options.dataFolder === undefined ? undefined : announce(options.dataFolder, url)
  if (announced) keys.admit(announced.key, 'operator')
  let closing: Promise<void> | undefined
  const close = async (graceMs: number): Promise<void> => {
    sockets.stopAccepting()
    runner.drain()
    await new Promise<void>((resolve) => {
      drained = resolve
      submit({ type: 'drain-started', graceMs, retryMs: RETRY_MS })
    })
    sockets.closeAll(CLOSE.restarting, 'the coordinator is restarting')
    await Promise.all([house?.close(), tokens.close()])
    driver.stop()
    clock.stop()
    clearInterval(lotteryTimer)
    stopTidying()
    await runner.stop()
    requesters.close()
    announced?.withdraw()
    await books.close()
    // Answers on their way out get a moment; keep-alive connections would hold the port for ever.
    const timer = setTimeout(() => app.server.closeAllConnections(), 2_000)
    await app.close()
    clearTimeout(timer)
    await data.close()
  }
  return {
    url,
    publicKey: key.publicKey,
    status,
    close: (graceMs = 10_000) => (closing ??= close(graceMs)),
  }
}

function urlOf({ address, port }: AddressInfo): string {
  // Listening on every address: this machine's own is the one that surely works from here.
  const host =
    address === '0.0.0.0' || address === '::' ? '127.0.0.1' : address.includes(':') ? `[${address}]` : address
  return `http://${host}:${port}`
}
