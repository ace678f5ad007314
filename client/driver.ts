/**
 * Drives a volunteer: events into the pure machine one after another, its effects onto a socket and an engine, one timer for
 * its wakeAt(). The same for the tab's worker and for Node.
 */
import {
  CLOSE, encodeFromVolunteer, parseFromCoordinator, PROTOCOL, ProtocolError,
} from '../protocol/index.ts' // prettier-ignore
import type {
  Assignment,
  FromCoordinator,
  FromVolunteer,
  ModelOffer,
  PublicKey,
  Signature,
} from '../protocol/index.ts'
import { ModelError } from '../engine/index.ts'
import { failureOf } from '../engine/units.ts'
import type { RunOptions, UnitProgress } from '../engine/units.ts'
import type { Adversary } from './adversary.ts'
import { Duty } from './duty.ts'
import { Engine, Unsupported } from './engine.ts'
import type { EngineInfo, EngineOptions, Loaded } from './engine.ts'
import { evidencePath, NoSignatures, signAnswer, SignedStream, signHello } from './identity.ts'
import type { Identity } from './identity.ts'
import type { ModelPicture, Picture, Rules, Surroundings } from './picture.ts'
import { Volunteer } from './volunteer.ts'
import type { Effect, Event } from './volunteer.ts'
import type { Shelf } from './weights/shelf.ts'
import { NetworkError } from './weights/source.ts'

/** Counts what came over the network today, across restarts. */
export interface DataMeter {
  today(): number
  add(bytes: number): void
}

export interface DriverOptions {
  /** The coordinator's origin. */
  base: string
  /** Program and version, for the coordinator's people. */
  client: string
  /** Opens its key; asked for once, after consent. */
  identity: () => Promise<Identity>
  shelf: Shelf
  meter: DataMeter
  rules: Rules
  surroundings: Surroundings
  /** Told at changes, and once a second. */
  onPicture: (picture: Picture) => void
  /** Once the machine has come to an end of its own: another tab, refused, unsupported, stopped. Everything is released. */
  onEnd?: () => void
  /** To try a coordinator with; nothing of it is loaded otherwise. */
  adversary?: (leave: () => void) => Adversary
  engine?: Pick<EngineOptions, 'threads' | 'memoryBytes' | 'adapter' | 'remember'>
}

/** Most pictures a second; a page is not read faster. */
const pictureEveryMs = 100
const secondMs = 1000
/** A second that took this long: the machine, or the browser, had put us to sleep. */
const sleptMs = 20_000

const ends = new Set(['second-tab', 'unsupported', 'outdated', 'refused', 'convicted', 'stopped', 'failed'])

export class Driver {
  readonly #options: DriverOptions
  readonly #machine: Volunteer
  readonly #duty: Duty
  readonly #adversary: Adversary | undefined
  #engine: Engine | undefined
  #info: EngineInfo | undefined
  #rules: Rules
  #surroundings: Surroundings

  #queue: Event[] = []
  #isHandling = false
  #timer: ReturnType<typeof setTimeout> | undefined
  #tick: ReturnType<typeof setInterval> | undefined
  #tickAt = 0
  #isOver = false
  #ending: Promise<void> | undefined

  #socket: WebSocket | undefined
  #sequence = 0
  #identity: Identity | undefined
  /** Where it would lie, should this key be convicted. */
  #evidence: string | undefined
  /** Whom the answers are signed for. */
  #coordinator: PublicKey = ''
  /** Of the challenge received last. */
  #helloSignature: Signature | undefined

  /** Units running and models loading, each with what ends it. */
  readonly #units = new Map<string, { assignment: Assignment; abort: AbortController }>()
  readonly #loads = new Map<string, AbortController>()
  readonly #offers = new Map<string, ModelOffer>()
  readonly #loaded = new Map<string, Loaded>()
  #resumeDownload: (() => void) | undefined
  #downloadGate: Promise<void> | undefined

  readonly #spark: { second: number; units: number }[] = []
  readonly #traffic = { down: 0, up: 0 }
  #unitsSeen = 0
  #bytesKept = 0
  #sleptAt: number | undefined
  #pictureTimer: ReturnType<typeof setTimeout> | undefined

  constructor(options: DriverOptions) {
    this.#options = options
    this.#rules = options.rules
    this.#surroundings = options.surroundings
    this.#duty = new Duty(options.rules.power, {
      now: () => performance.now(),
      sleep: (ms) => new Promise((done) => setTimeout(done, ms)),
    })
    this.#adversary = options.adversary?.(() => void this.stop())
    this.#machine = new Volunteer({
      client: options.client,
      seed: crypto.getRandomValues(new Uint32Array(1))[0]!,
      rules: this.#machineRules(),
    })
  }

  /** Consent was given: looks at the device, joins, works. */
  start(): void {
    this.#tickAt = Date.now()
    this.#tick = setInterval(() => this.#eachSecond(), secondMs)
    this.#tellSurroundings()
    this.submit({ type: 'started' })
    void this.#countKept()
  }

  setRules(rules: Rules): void {
    this.#rules = rules
    this.#options.shelf.bytesMax = rules.diskBytesMax
    this.submit({ type: 'rules-changed', rules: this.#machineRules() })
    this.#tellSurroundings()
  }

  setSurroundings(surroundings: Surroundings): void {
    this.#surroundings = surroundings
    this.submit({ type: 'rules-changed', rules: this.#machineRules() })
    this.#tellSurroundings()
  }

  freeze(): void {
    this.#sleptAt ??= Date.now()
    this.submit({ type: 'frozen' })
  }

  seen(): void {
    this.#sleptAt = undefined
    this.#draw()
  }

  /** Gives everything back and lets go of socket, engine and files. */
  async stop(): Promise<void> {
    this.submit({ type: 'left' })
    await this.#ending
  }

  /** Handled after those before it, never in between. */
  submit(event: Event): void {
    if (this.#isOver) return
    this.#queue.push(event)
    if (this.#isHandling) return
    this.#isHandling = true
    try {
      for (let i = 0; i < this.#queue.length; i++)
        for (const effect of this.#machine.handle(this.#queue[i]!, performance.now())) this.#perform(effect)
    } finally {
      this.#queue = []
      this.#isHandling = false
    }
    this.#arm()
    this.#gateDownloads()
    this.#draw()
    if (ends.has(this.#machine.view().state)) this.#ending ??= this.#release()
  }

  #arm(): void {
    clearTimeout(this.#timer)
    const at = this.#machine.wakeAt()
    if (at === Infinity) return
    const ms = Math.min(Math.max(0, at - performance.now()), 2 ** 31 - 1)
    this.#timer = setTimeout(() => this.submit({ type: 'time-passed' }), ms)
  }

  async #release(): Promise<void> {
    clearTimeout(this.#timer)
    clearInterval(this.#tick)
    for (const { abort } of this.#units.values()) abort.abort(new Error('the volunteer stopped'))
    for (const abort of this.#loads.values()) abort.abort(new Error('the volunteer stopped'))
    this.#resumeDownload?.()
    await this.#engine?.close()
    await this.#options.shelf.store.close()
    this.#isOver = true
    clearTimeout(this.#pictureTimer)
    this.#options.onPicture(this.picture())
    this.#options.onEnd?.()
  }

  #perform(effect: Effect): void {
    switch (effect.type) {
      case 'probe':
      case 'reopen-engine':
        return void this.#probe(effect.type === 'reopen-engine' && effect.backend === 'wasm')
      case 'connect':
        return this.#connect()
      case 'disconnect':
        return this.#disconnect(effect.code)
      case 'send':
        return this.#send(effect.message)
      case 'load-model':
        return void this.#load(effect.offer)
      case 'unload-model':
        this.#loads.get(effect.digest)?.abort(new Error('the model is not wanted any more'))
        this.#loads.delete(effect.digest)
        this.#loaded.delete(effect.digest)
        return this.#engine?.unload(effect.digest)
      case 'start-unit':
        return void this.#run(effect.assignment, effect.progressMs)
      case 'stop-unit':
        return this.#units.get(effect.assignment)?.abort.abort(new Error('the unit is not wanted any more'))
      case 'set-duty':
        this.#duty.limit = effect.duty
    }
  }

  // ── The socket ──

  #connect(): void {
    const url = new URL('/v1/volunteer', this.#options.base)
    url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:'
    const socket = new WebSocket(url, [PROTOCOL])
    socket.binaryType = 'arraybuffer'
    this.#socket = socket
    this.#sequence = 0
    const isCurrent = (): boolean => this.#socket === socket
    const lost = (code: number, reason: string): void => {
      if (!isCurrent()) return
      this.#socket = undefined
      this.submit({ type: 'disconnected', code, reason })
    }
    socket.onopen = () => isCurrent() && this.submit({ type: 'connected' })
    socket.onclose = ({ code, reason }) => lost(code, reason)
    socket.onmessage = ({ data }: MessageEvent<ArrayBuffer | string>) => {
      if (!isCurrent()) return
      try {
        if (typeof data === 'string') throw new ProtocolError(CLOSE.malformed, 'a text message from the coordinator') // prettier-ignore
        this.#traffic.down += data.byteLength
        const { message } = parseFromCoordinator(new Uint8Array(data))
        if (message.type === 'challenge') void this.#challenged(message, isCurrent)
        else this.submit({ type: 'received', message })
      } catch (error) {
        if (!(error instanceof ProtocolError)) throw error
        socket.close(error.code, error.message)
        lost(error.code, error.message)
      }
    }
  }

  /** The machine hears of it once the signature is there that its hello will bear. */
  async #challenged(
    message: Extract<FromCoordinator, { type: 'challenge' }>,
    isCurrent: () => boolean,
  ): Promise<void> {
    const { coordinator, nonce } = message
    const signature = await signHello(this.#identity!, coordinator, nonce)
    if (!isCurrent()) return
    this.#coordinator = coordinator
    this.#helloSignature = signature
    this.submit({ type: 'received', message })
  }

  #disconnect(code: number): void {
    const socket = this.#socket
    this.#socket = undefined
    // Of its own numbers WebSocket lets us send only this one.
    socket?.close(code >= 3000 ? code : 1000)
  }

  #send(message: FromVolunteer): void {
    if (this.#socket?.readyState !== WebSocket.OPEN) return
    if (message.type === 'hello') {
      const { publicKey } = this.#identity!
      message = { ...message, publicKey, signature: this.#helloSignature }
    }
    const bytes = encodeFromVolunteer(message, this.#sequence++)
    this.#traffic.up += bytes.length
    this.#socket.send(bytes)
  }

  // ── The engine ──

  async #probe(avoidGpu: boolean): Promise<void> {
    const { base, shelf, engine } = this.#options
    this.#engine ??= new Engine({
      ...engine,
      base,
      shelf,
      choice: this.#rules.engine,
      pace: (busyMs) => this.#duty.rest(busyMs),
      onTraffic: (bytes) => {
        this.#traffic.down += bytes
        this.#options.meter.add(bytes)
      },
      onLost: (error) => this.#deviceLost(error),
      tamper: this.#adversary && ((pack) => this.#adversary!.tamper(pack)),
    })
    this.#loaded.clear()
    try {
      this.#identity ??= await this.#options.identity()
      this.#evidence ??= await evidencePath(this.#identity.publicKey)
      this.#probed(await this.#engine.open(avoidGpu))
    } catch (error) {
      const isExpected = error instanceof Unsupported || error instanceof NoSignatures
      const detail = error instanceof NoSignatures ? 'no-signatures' : (error as Error).message
      this.submit({ type: 'probe-failed', detail })
      if (!isExpected) console.error(error)
    }
  }

  #probed(info: EngineInfo): void {
    this.#info = info
    const { backend, adapter, memoryBytes, concurrency } = info
    // One more than are computed hides the way there and back behind compute.
    const slots = concurrency + 1
    const capability = { backend, adapter: adapter.slice(0, 200), numerics: 'xn1', memoryBytes } as const
    this.submit({ type: 'probed', capability, slots, concurrency })
  }

  async #load(offer: ModelOffer): Promise<void> {
    const { digest } = offer
    this.#offers.set(digest, offer)
    const abort = new AbortController()
    this.#loads.get(digest)?.abort()
    this.#loads.set(digest, abort)
    const before = this.#info
    try {
      const loaded = await this.#engine!.load(offer, {
        signal: abort.signal,
        gate: () => this.#downloadGate,
        onProgress: (progress) => this.submit({ type: 'model-progress', digest, ...progress }),
      })
      if (abort.signal.aborted) return
      this.#loaded.set(digest, loaded)
      if (this.#engine!.info !== before) this.#probed(this.#engine!.info)
      const { context, readMs, drawMs } = loaded
      this.submit({ type: 'model-loaded', digest, context, readMs, drawMs })
    } catch (error) {
      if (abort.signal.aborted) return
      if (failureOf(error).reason === 'device-lost') return this.#deviceLost(error)
      // A damaged pack stays damaged; a network comes back.
      const retryable = error instanceof NetworkError || !(error instanceof ModelError)
      this.submit({ type: 'model-failed', digest, detail: (error as Error).message, retryable })
    } finally {
      if (this.#loads.get(digest) === abort) this.#loads.delete(digest)
      void this.#countKept()
    }
  }

  async #run(assignment: Assignment, progressMs: number): Promise<void> {
    const { id } = assignment
    const abort = new AbortController()
    this.#units.set(id, { assignment, abort })
    const stream = new SignedStream(this.#identity!, this.#coordinator, assignment)
    // One after another, and all of them before the answer.
    let told: Promise<unknown> = Promise.resolve()
    const tell = (drawn: UnitProgress): void => {
      told = Promise.all([stream.sign(drawn), told]).then(([signed]) => {
        if (!abort.signal.aborted) this.submit({ type: 'drew', ...signed })
      })
      // What cannot be signed fails the unit, where its answer waits for this.
      told.catch(() => undefined)
    }
    try {
      const options: RunOptions = {
        signal: abort.signal,
        progressMs,
        onTokens: tell,
      }
      const engine = this.#engine!
      const result = await (this.#adversary
        ? this.#adversary.run((unit, how) => engine.run(unit, how), assignment, options)
        : engine.run(assignment, options))
      const [signed] = await Promise.all([
        signAnswer(this.#identity!, this.#coordinator, assignment, result),
        told,
      ])
      if (!abort.signal.aborted) this.submit({ type: 'computed', ...signed })
    } catch (error) {
      if (abort.signal.aborted) return
      const failure = failureOf(error)
      if (failure.reason === 'device-lost') this.#deviceLost(error)
      else this.submit({ type: 'failed', assignment: id, ...failure })
    } finally {
      if (this.#units.get(id)?.abort === abort) this.#units.delete(id)
    }
  }

  /** All that ran on the device is void; the machine gives it back and asks for another engine. */
  #deviceLost(error: unknown): void {
    for (const { abort } of this.#units.values()) abort.abort(error)
    for (const abort of this.#loads.values()) abort.abort(error)
    this.submit({ type: 'device-lost', detail: (error as Error).message })
    // Another engine may be open before the next picture is due: people are told all the same.
    if (!this.#isOver) this.#options.onPicture(this.picture())
  }

  // ── Courtesy ──

  #machineRules(): Rules & { onMetered: 'allow' } {
    const { onBattery, ...rules } = this.#rules
    // «Allow above 50 %».
    const isLow = (this.#surroundings.batteryLevel ?? 1) < 0.5
    return { ...rules, onBattery: isLow ? 'pause' : onBattery, onMetered: 'allow' }
  }

  #tellSurroundings(): void {
    const { hours, dataBytesPerDay } = this.#rules
    const hour = new Date().getHours()
    const isWithin = !hours || (hours[0] < hours[1] ? hour >= hours[0] && hour < hours[1] : hour >= hours[0] || hour < hours[1]) // prettier-ignore
    const isDataUsedUp = this.#options.meter.today() >= dataBytesPerDay
    this.submit({
      type: 'surroundings-changed',
      surroundings: { ...this.#surroundings, isOutsideHours: !isWithin, isDataUsedUp },
    })
  }

  /** A paused volunteer downloads nothing; what is open goes on where it stood. */
  #gateDownloads(): void {
    const isPaused = ['paused', 'frozen', 'finishing'].includes(this.#machine.view().state)
    if (isPaused && !this.#downloadGate)
      this.#downloadGate = new Promise((done) => (this.#resumeDownload = done))
    if (!isPaused && this.#downloadGate) {
      this.#downloadGate = undefined
      this.#resumeDownload?.()
    }
  }

  #eachSecond(): void {
    const now = Date.now()
    if (now - this.#tickAt > sleptMs) this.#sleptAt ??= this.#tickAt
    this.#tickAt = now
    this.#tellSurroundings()
  }

  // ── What is shown ──

  async #countKept(): Promise<void> {
    this.#bytesKept = await this.#options.shelf.bytes().catch(() => 0)
    this.#draw()
  }

  #draw(): void {
    if (this.#isOver) return
    this.#pictureTimer ??= setTimeout(() => {
      this.#pictureTimer = undefined
      this.#options.onPicture(this.picture())
    }, pictureEveryMs)
  }

  picture(): Picture {
    const view = this.#machine.view()
    // The machine counts in monotonic time; people read clocks.
    const toEpoch = Date.now() - performance.now()
    const states = new Map(view.models.map((m) => [m.name, m.state]))
    const models = [...this.#offers.values()].map(
      ({ digest, name, task, bytes }): ModelPicture => ({
        digest, name, task, bytes, state: states.get(name) ?? 'absent',
        readMs: this.#loaded.get(digest)?.readMs, drawMs: this.#loaded.get(digest)?.drawMs,
      }),
    ) // prettier-ignore
    return {
      state: view.state,
      reason: view.reason,
      since: view.since + toEpoch,
      retryAt: view.retryAt === undefined ? undefined : view.retryAt + toEpoch,
      sleptAt: this.#sleptAt,
      operator: view.operator ?? '',
      publicKey: this.#identity?.publicKey,
      evidence: view.state === 'convicted' ? this.#evidence : undefined,
      standing: view.standing,
      engine: this.#info,
      download: view.download,
      models,
      running: view.now.map(({ assignment, kind, model, tokens }) => ({
        kind,
        model,
        tokens,
        rows: this.#units.get(assignment)?.assignment.inputs.length ?? 0,
      })),
      duty: { limit: view.duty, actual: this.#duty.measured() },
      spark: this.#sparkline(view.totals.units),
      totals: {
        units: view.totals.units,
        tokens: view.totals.tokens,
        rows: view.totals.rows,
        computeMs: view.totals.computeMs,
        bytesDown: this.#traffic.down,
        bytesUp: this.#traffic.up,
        bytesKept: this.#bytesKept,
        bytesToday: this.#options.meter.today(),
      },
    }
  }

  #sparkline(units: number): number[] {
    const second = Math.floor(Date.now() / 1000)
    const last = this.#spark.at(-1)
    const fresh = units - this.#unitsSeen
    this.#unitsSeen = units
    if (last?.second === second) last.units += fresh
    else if (fresh) this.#spark.push({ second, units: fresh })
    while (this.#spark[0] && this.#spark[0].second <= second - 60) this.#spark.shift()
    const line = Array.from({ length: 60 }, () => 0)
    for (const entry of this.#spark) line[59 - (second - entry.second)] = entry.units
    return line
  }
}
