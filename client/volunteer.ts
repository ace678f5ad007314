/**
 * A volunteer as one deterministic machine: handle(event, now) → effects. It drives the tab's worker, the Node volunteer, and
 * every volunteer of the simulator. It knows no socket, engine, clock or page: what happened comes as events, what is to be
 * done goes out as effects, and view() says what people are shown, so that no page ever guesses.
 */
import { CLOSE } from '../protocol/errors.ts'
import { PROTOCOL_VERSION } from '../protocol/messages.ts'
import type { FromCoordinator, FromVolunteer, Settings, Standing } from '../protocol/messages.ts'
import type {
  Assignment,
  AssignmentId,
  Capability,
  FailReason,
  Millis,
  ModelDigest,
  ModelOffer,
  ModelStatus,
  PauseReason,
  Progress,
  Result,
  VolunteerId,
} from '../protocol/nouns.ts'
import { Random } from '../protocol/random.ts'

/** What the person allows. */
export interface Rules {
  /** Share of the time the engine may be busy, 0 < power ≤ 1. */
  power: number
  onBattery: 'pause' | 'allow'
  whileInUse: 'pause' | 'light' | 'allow'
  onSaveData: 'pause' | 'allow'
  onMetered: 'pause' | 'allow'
}

/** What the browser says about the device and its use. Undefined: it does not say. */
export interface Surroundings {
  isHidden: boolean
  isMobile: boolean
  onBattery?: boolean
  saveData?: boolean
  isMetered?: boolean
  /** Of the Compute Pressure API. */
  pressure?: 'nominal' | 'fair' | 'serious' | 'critical'
  inUse?: boolean
  isOutsideHours?: boolean
  isDataUsedUp?: boolean
}

/** An answer (simulated volunteers can do without a signature), with the leaves under its root, 32 bytes each. */
export interface Computed extends Result {
  leaves?: Uint8Array
}

export type Event =
  /** Consent was given. Nothing happens before. */
  | { type: 'started' }
  /** Answers `probe` and `reopen-engine`. `models` is this machine's own business. */
  | { type: 'probed'; capability: Omit<Capability, 'models'>; slots: number; concurrency: number }
  | { type: 'probe-failed'; detail: string }
  | { type: 'connected' }
  | { type: 'disconnected'; code: number; reason: string }
  | { type: 'received'; message: FromCoordinator }
  | {
      type: 'model-progress'
      digest: ModelDigest
      stage: 'downloading' | 'compiling'
      loaded: number
      total: number
    }
  | { type: 'model-loaded'; digest: ModelDigest; context: number; readMs?: number; drawMs?: number }
  | { type: 'model-failed'; digest: ModelDigest; detail: string; retryable: boolean }
  | ({ type: 'drew' } & Progress)
  | ({ type: 'computed' } & Computed)
  | { type: 'failed'; assignment: AssignmentId; reason: FailReason; retryable: boolean; detail?: string }
  | { type: 'rules-changed'; rules: Rules }
  | { type: 'surroundings-changed'; surroundings: Surroundings }
  /** The person's button. `finish`: what is being computed is finished first. */
  | { type: 'paused'; finish: boolean }
  | { type: 'resumed' }
  /** The browser is about to stop this tab, or did and went on. */
  | { type: 'frozen' }
  | { type: 'woken' }
  | { type: 'device-lost'; detail: string }
  /** Another tab of this origin has the engine; or it was handed over to this one. */
  | { type: 'other-tab-found' }
  | { type: 'moved-here' }
  /** The person's button, or a page that closes: everything is given back. */
  | { type: 'left' }
  | { type: 'retry-now' }
  | { type: 'time-passed' }

export type Effect =
  | { type: 'probe' }
  /** After a lost device; `wasm` after the second loss. */
  | { type: 'reopen-engine'; backend?: 'wasm' }
  | { type: 'connect' }
  | { type: 'disconnect'; code: number }
  /** Whoever sends it adds key and signature to a hello, for the challenge received last. */
  | { type: 'send'; message: FromVolunteer }
  | { type: 'load-model'; offer: ModelOffer }
  | { type: 'unload-model'; digest: ModelDigest }
  /** Report tokens at most once per `progressMs`. */
  | { type: 'start-unit'; assignment: Assignment; progressMs: Millis }
  | { type: 'stop-unit'; assignment: AssignmentId }
  /** busy ÷ (busy + idle) the engine keeps to. */
  | { type: 'set-duty'; duty: number }

/** conventions: one word per state, each with the sentence the page says for it. */
export type ViewState =
  | 'consent'
  | 'checking'
  | 'connecting'
  | 'downloading'
  | 'compiling'
  | 'working'
  | 'standby'
  | 'paused'
  | 'finishing'
  | 'throttled'
  | 'hidden'
  | 'frozen'
  | 'second-tab'
  | 'reconnecting'
  | 'device-lost'
  | 'unsupported'
  | 'outdated'
  | 'refused'
  | 'convicted'
  | 'stopped'
  | 'failed'

export interface View {
  state: ViewState
  /** For `paused`; for `refused`, `convicted`, `failed` and `unsupported` a sentence. */
  reason?: string
  since: Millis
  retryAt?: Millis
  download?: { loaded: number; total: number; etaMs?: Millis }
  /** Name of the model being loaded, or of the unit in hand. */
  model?: string
  duty: number
  volunteer?: VolunteerId
  operator?: string
  now: readonly {
    assignment: AssignmentId
    kind: Assignment['kind']
    model: string
    tokens: number
    since: Millis
  }[]
  waiting: number
  models: readonly { name: string; state: ModelStatus['state'] }[]
  totals: { units: number; tokens: number; rows: number; computeMs: number; returned: number }
  /** As the coordinator last told it. */
  standing?: Standing
}

export interface VolunteerOptions {
  /** For people and logs: program and version. */
  client: string
  /** Any 32 bits: delays of reconnects are drawn from it. */
  seed: number
  rules: Rules
}

const NOTHING: never[] = []
/** While throttled, at most this share. */
const LIGHT = 0.2
/** Of how many answers, and of how many bytes of them, the leaves are kept for a dispute. */
const LEAVES_MAX = 64
const LEAVES_BYTES_MAX = 8 * 2 ** 20
/** Until the browser says something. */
const UNKNOWN: Surroundings = Object.freeze({ isHidden: false, isMobile: false })
const LOAD_TRIES = 3
const LOAD_RETRY_MS = 10_000
/** Models that could not be loaded, how often, and when to try again. */
const UNTRIED: ReadonlyMap<ModelDigest, { tries: number; at: Millis }> = new Map()
/** How often a download's estimate is sent. */
const ETA_MS = 2_000

const DEFAULTS: Settings = { pingMs: 5_000, silentMs: 15_000, progressMs: 50, reconnectMsMax: 60_000 }

interface Work {
  assignment: Assignment
  isRunning: boolean
  since: Millis
  tokens: number
  /** What was streamed of it, to be sent again after a broken connection. */
  streamed: Extract<FromVolunteer, { type: 'tokens' }>[]
}

interface Loading {
  offer: ModelOffer
  stage: 'downloading' | 'compiling'
  loaded: number
  total: number
  since: Millis
  toldAt: Millis
}

export class Volunteer {
  readonly #client: string
  readonly #random: Random
  #rules: Rules
  #surroundings = UNKNOWN
  #now: Millis = 0
  #dueAt: Millis = Infinity
  #effects: Effect[] = NOTHING

  /** `on` is everything between a successful probe and an end. */
  #phase:
    | 'consent'
    | 'checking'
    | 'on'
    | 'second-tab'
    | 'unsupported'
    | 'outdated'
    | 'refused'
    | 'convicted'
    | 'stopped'
    | 'failed' = 'consent'
  #reason: string | undefined
  #capability: Omit<Capability, 'models'> | undefined
  #slots = 1
  #concurrency = 1
  #isDeviceLost = false
  #losses = 0
  #isUserPaused = false
  #isFinishing = false
  #isFrozen = false
  #wasFrozenAt: Millis | undefined
  #duty = -1
  /** What the coordinator was last told. */
  #told: { state: 'open' | 'paused'; reason?: PauseReason; isHidden: boolean } | undefined

  /** `challenged`: connected, and waiting for the challenge that hello answers; `greeting`: waiting for welcome. */
  #link: 'none' | 'connecting' | 'challenged' | 'greeting' | 'joined' | 'waiting' = 'none'
  /** What hello said of models and slots is no longer so. */
  #hasNews = false
  #tries = 0
  #retryAt: Millis = Infinity
  #drainMs: Millis | undefined
  #lastHeardAt: Millis = 0
  #id: VolunteerId | undefined
  #settings: Settings = DEFAULTS
  #operator: string | undefined

  #offers: readonly ModelOffer[] = []
  readonly #models = new Map<ModelDigest, ModelStatus>()
  /** Replaced when it changes: hardly ever. */
  #loadTries = UNTRIED
  #loading: Loading | undefined

  /** In the order they came, as many as there are slots. */
  readonly #held: Work[] = []
  /** Kept in case they did not arrive, the latest first: as many as there are slots, for a slot's next is the receipt of its last. */
  readonly #answers: Extract<FromVolunteer, { type: 'result' }>[] = []
  /** Oldest first. */
  readonly #leaves = new Map<AssignmentId, Uint8Array>()
  #leavesBytes = 0
  #standing: Standing | undefined
  readonly #totals = { units: 0, tokens: 0, rows: 0, computeMs: 0, returned: 0 }

  #shown: ViewState = 'consent'
  #shownSince: Millis = 0

  constructor({ client, seed, rules }: VolunteerOptions) {
    this.#client = client
    this.#random = new Random(seed)
    this.#rules = rules
  }

  /** Effects are to be performed in their order. */
  handle(event: Event, now: Millis): Effect[] {
    this.#tick(now)
    this.#apply(event)
    this.#expire()
    const state = this.#state()
    if (state !== this.#shown) {
      this.#shown = state
      this.#shownSince = this.#now
    }
    this.#dueAt = this.#nextDue()
    const effects = this.#effects
    this.#effects = NOTHING
    return effects
  }

  /** When to send `time-passed` at the latest; Infinity when nothing is due. */
  wakeAt(): Millis {
    return this.#dueAt
  }

  #nextDue(): Millis {
    if (this.#phase !== 'on') return Infinity
    const silent = this.#isUp() ? this.#lastHeardAt + this.#settings.silentMs : Infinity
    return Math.min(this.#retryAt, silent, this.#loadRetryAt())
  }

  /** Woken long after the time it had asked for, this machine slept: whoever is silent had no chance to speak. */
  #tick(now: Millis): void {
    const lateMs = now - this.#dueAt
    this.#now = Math.max(this.#now, now)
    if (lateMs > this.#settings.silentMs / 3)
      this.#lastHeardAt = Math.max(this.#lastHeardAt, this.#now - this.#settings.silentMs / 2)
  }

  #apply(event: Event): void {
    switch (event.type) {
      case 'started':
        if (this.#phase === 'on' || this.#phase === 'checking') return
        return this.#check()
      case 'moved-here':
        return this.#phase === 'on' ? undefined : this.#check()
      case 'probed':
        return this.#probed(event)
      case 'probe-failed':
        return this.#end('unsupported', event.detail)
      case 'connected':
        if (this.#link !== 'connecting') return
        this.#link = 'challenged'
        this.#lastHeardAt = this.#now
        return
      case 'disconnected':
        return this.#disconnected(event.code, event.reason)
      case 'received':
        this.#lastHeardAt = this.#now
        return this.#received(event.message)
      case 'model-progress':
        return this.#progressed(event)
      case 'model-loaded':
        return this.#loaded(event)
      case 'model-failed':
        return this.#loadFailed(event)
      case 'drew':
        return this.#drew(event)
      case 'computed':
        return this.#computed(event)
      case 'failed':
        return this.#failed(event)
      case 'rules-changed':
        this.#rules = event.rules
        return this.#reconsider()
      case 'surroundings-changed':
        this.#surroundings = event.surroundings
        return this.#reconsider()
      case 'paused':
        this.#isUserPaused = true
        this.#isFinishing = event.finish
        return this.#reconsider()
      case 'resumed':
        this.#isUserPaused = this.#isFinishing = this.#isFrozen = false
        this.#wasFrozenAt = undefined
        return this.#reconsider()
      case 'frozen':
        this.#isFrozen = true
        this.#wasFrozenAt = this.#now
        return this.#reconsider()
      case 'woken':
        this.#isFrozen = false
        return this.#reconsider()
      case 'device-lost':
        return this.#deviceLost()
      case 'other-tab-found':
        return this.#end('second-tab')
      case 'left':
        return this.#end('stopped')
      case 'retry-now':
        if (this.#link === 'waiting') this.#retryAt = this.#now
        return
      case 'time-passed':
    }
  }

  #emit(effect: Effect): void {
    // Mostly there is one: a list of just one, where push() would make room for more.
    if (this.#effects.length === 0) this.#effects = [effect]
    else this.#effects.push(effect)
  }

  #send(message: FromVolunteer): void {
    if (this.#link === 'joined') this.#emit({ type: 'send', message })
  }

  #check(): void {
    this.#phase = 'checking'
    this.#reason = undefined
    this.#emit({ type: 'probe' })
  }

  #probed({ capability, slots, concurrency }: Extract<Event, { type: 'probed' }>): void {
    this.#capability = capability
    const hasChanged = slots !== this.#slots || concurrency !== this.#concurrency
    this.#slots = slots
    this.#concurrency = concurrency
    this.#isDeviceLost = false
    if (this.#phase === 'checking') {
      this.#phase = 'on'
      this.#connect()
    } else if (this.#phase === 'on') {
      if (hasChanged) this.#send({ type: 'slots', slots, concurrency })
      this.#hasNews ||= hasChanged && this.#link === 'greeting'
      this.#loadNext()
    }
    this.#reconsider()
  }

  /** No more of this until the person says so: everything is given back. */
  #end(
    phase: 'second-tab' | 'unsupported' | 'outdated' | 'refused' | 'convicted' | 'stopped' | 'failed',
    reason?: string,
  ): void {
    this.#send({ type: 'state', state: 'draining', isHidden: this.#surroundings.isHidden })
    this.#giveBack('all')
    if (this.#link !== 'none' && this.#link !== 'waiting') this.#emit({ type: 'disconnect', code: 1000 })
    this.#link = 'none'
    this.#retryAt = Infinity
    this.#answers.length = 0
    if (this.#loading) this.#emit({ type: 'unload-model', digest: this.#loading.offer.digest })
    this.#loading = undefined
    for (const status of this.#models.values())
      if (status.state === 'ready') this.#emit({ type: 'unload-model', digest: status.digest })
    this.#models.clear()
    this.#loadTries = UNTRIED
    this.#told = undefined
    this.#phase = phase
    this.#reason = reason
  }

  // ── The connection ──

  #connect(): void {
    this.#link = 'connecting'
    this.#retryAt = Infinity
    this.#emit({ type: 'connect' })
  }

  #greet(): void {
    this.#link = 'greeting'
    this.#hasNews = false
    const { isHidden } = this.#surroundings
    const paused = this.#pauseReason()
    this.#told = { state: paused ? 'paused' : 'open', reason: paused, isHidden }
    const held = this.#inHand().slice(0, 64)
    this.#emit({
      type: 'send',
      message: {
        type: 'hello',
        version: PROTOCOL_VERSION,
        client: this.#client,
        capability: { ...this.#capability!, models: [...this.#models.values()] },
        slots: this.#slots,
        concurrency: this.#concurrency,
        isHidden,
        paused,
        held,
      },
    })
  }

  #disconnected(code: number, reason: string): void {
    if (this.#phase !== 'on' || this.#link === 'none') return
    this.#link = 'none'
    if (code === CLOSE.refused || code === CLOSE.unauthorized) return this.#end('refused', reason)
    if (code === CLOSE.convicted) return this.#end('convicted', reason)
    if (code === CLOSE.version) return this.#end('outdated', reason)
    if (code === CLOSE.replaced) return this.#end('second-tab')
    if (code === CLOSE.malformed) return this.#end('failed', reason)
    this.#wait()
  }

  /** Full jitter: random(0, min(max, 1 s · 2ⁿ)). Work in hand goes on. */
  #wait(): void {
    const most = Math.min(this.#settings.reconnectMsMax, 1000 * (1 << Math.min(this.#tries++, 16)))
    const delay = this.#drainMs ?? 0
    this.#drainMs = undefined
    this.#link = 'waiting'
    this.#retryAt = this.#now + delay + this.#random.below(most)
  }

  #expire(): void {
    if (this.#phase !== 'on') return
    if (this.#link === 'waiting' && this.#now >= this.#retryAt) this.#connect()
    if (this.#isUp() && this.#now >= this.#lastHeardAt + this.#settings.silentMs) {
      this.#emit({ type: 'disconnect', code: 1001 })
      this.#wait()
    }
    if (this.#now >= this.#loadRetryAt()) this.#loadNext()
  }

  #isUp(): boolean {
    return this.#link === 'challenged' || this.#link === 'greeting' || this.#link === 'joined'
  }

  #received(message: FromCoordinator): void {
    if (this.#phase !== 'on') return
    switch (message.type) {
      case 'challenge':
        if (this.#link === 'challenged') this.#greet()
        return
      case 'welcome':
        return this.#welcomed(message)
      case 'assign':
        for (const assignment of message.assignments) this.#take(assignment)
        return this.#startNext()
      case 'cancel':
        for (const id of message.assignments) this.#drop(id)
        return this.#startNext()
      case 'models':
        this.#offers = message.models
        return this.#sortModels()
      case 'ping':
        return this.#send({ type: 'pong', nonce: message.nonce })
      case 'drain':
        this.#drainMs = message.retryMs
        return
      case 'disclose': {
        const { assignment } = message
        const leaves = this.#leaves.get(assignment) ?? new Uint8Array()
        return this.#send({ type: 'leaves', assignment, leaves })
      }
      case 'standing':
        this.#standing = message.standing
        return
      case 'error':
    }
  }

  #welcomed({
    volunteer,
    settings,
    models,
    keep,
    operator,
  }: Extract<FromCoordinator, { type: 'welcome' }>): void {
    if (this.#link !== 'greeting') return
    this.#link = 'joined'
    this.#tries = 0
    this.#id = volunteer
    this.#settings = settings
    this.#operator = operator
    this.#offers = models
    // Between hello and welcome nothing could be told.
    if (this.#hasNews) {
      this.#send({ type: 'slots', slots: this.#slots, concurrency: this.#concurrency })
      this.#send({ type: 'models', models: [...this.#models.values()] })
    }
    const kept = new Set(keep)
    for (const id of this.#inHand()) if (!kept.has(id)) this.#drop(id)
    for (const { streamed } of this.#held) for (const message of streamed) this.#send(message)
    for (const message of this.#answers.toReversed()) this.#send(message)
    this.#sortModels()
    this.#reconsider()
    this.#startNext()
  }

  // ── Models ──

  /** Lets go of what is no longer offered, and gets the next that is. */
  #sortModels(): void {
    const offered = new Set(this.#offers.map((o) => o.digest))
    for (const digest of this.#models.keys()) {
      if (offered.has(digest)) continue
      this.#models.delete(digest)
      if (this.#loading?.offer.digest === digest) this.#loading = undefined
      this.#emit({ type: 'unload-model', digest })
    }
    this.#loadNext()
  }

  /** One at a time, the most wanted that fits the memory. */
  #loadNext(): void {
    if (
      this.#loading ||
      this.#isDeviceLost ||
      this.#phase !== 'on' ||
      this.#pauseReason() ||
      !this.#capability
    )
      return
    const sizes = new Map(this.#offers.map((o) => [o.digest, o.bytes]))
    let room = this.#capability.memoryBytes
    for (const [digest, { state }] of this.#models) if (state === 'ready') room -= sizes.get(digest) ?? 0
    const wanted = this.#offers
      .filter((o) => o.demand > 0 && o.bytes <= room && this.#mayLoad(o.digest))
      .sort((a, b) => b.demand - a.demand || a.bytes - b.bytes)
    const offer = wanted[0]
    if (!offer) return
    this.#loading = {
      offer,
      stage: 'downloading',
      loaded: 0,
      total: offer.bytes,
      since: this.#now,
      toldAt: this.#now,
    }
    this.#setModel({ digest: offer.digest, state: 'downloading' })
    this.#emit({ type: 'load-model', offer })
  }

  #mayLoad(digest: ModelDigest): boolean {
    const state = this.#models.get(digest)?.state ?? 'absent'
    const tried = this.#loadTries.get(digest)
    return state === 'absent' && (!tried || (tried.tries < LOAD_TRIES && this.#now >= tried.at))
  }

  #loadRetryAt(): Millis {
    if (this.#loading || this.#loadTries.size === 0 || this.#pauseReason()) return Infinity
    let at = Infinity
    for (const [digest, tried] of this.#loadTries)
      if (tried.tries < LOAD_TRIES && (this.#models.get(digest)?.state ?? 'absent') === 'absent')
        at = Math.min(at, tried.at)
    return at
  }

  #setModel(status: ModelStatus): void {
    this.#models.set(status.digest, status)
    this.#hasNews ||= this.#link === 'greeting'
    this.#send({ type: 'models', models: [status] })
  }

  #progressed({ digest, stage, loaded, total }: Extract<Event, { type: 'model-progress' }>): void {
    const now = this.#now
    const loading = this.#loading
    if (loading?.offer.digest !== digest) return
    const isNewStage = stage !== loading.stage
    loading.stage = stage
    loading.loaded = loaded
    loading.total = total
    if (!isNewStage && now - loading.toldAt < ETA_MS) return
    loading.toldAt = now
    this.#setModel({ digest, state: stage, etaMs: this.#etaMs() })
  }

  /** Of the download, by its mean speed so far; compiling is short. */
  #etaMs(): Millis | undefined {
    const loading = this.#loading
    if (!loading || loading.loaded <= 0) return undefined
    const ms = ((this.#now - loading.since) * (loading.total - loading.loaded)) / loading.loaded
    return Math.round(Math.min(ms, 86_400_000))
  }

  #loaded({ digest, context, readMs, drawMs }: Extract<Event, { type: 'model-loaded' }>): void {
    if (this.#loading?.offer.digest !== digest) return
    this.#loading = undefined
    if (this.#loadTries.has(digest))
      this.#loadTries = new Map([...this.#loadTries].filter(([tried]) => tried !== digest))
    this.#setModel({ digest, state: 'ready', context, readMs, drawMs })
    this.#loadNext()
    this.#startNext()
  }

  #loadFailed({ digest, detail, retryable }: Extract<Event, { type: 'model-failed' }>): void {
    if (this.#loading?.offer.digest !== digest) return
    this.#loading = undefined
    const tries = retryable ? (this.#loadTries.get(digest)?.tries ?? 0) + 1 : LOAD_TRIES
    const at = this.#now + LOAD_RETRY_MS * (1 << tries)
    this.#loadTries = new Map([...this.#loadTries, [digest, { tries, at }]])
    this.#setModel({ digest, state: tries < LOAD_TRIES ? 'absent' : 'failed' })
    this.#reason = detail
    this.#loadNext()
  }

  // ── Units ──

  #take(assignment: Assignment): void {
    const { id, model } = assignment
    for (const answer of this.#answers) if (answer.assignment === id) return this.#send(answer)
    if (this.#workOf(id)) return
    if (this.#pauseReason())
      return this.#send({ type: 'fail', assignment: id, reason: 'returned', retryable: true })
    if (this.#models.get(model)?.state !== 'ready')
      return this.#send({ type: 'fail', assignment: id, reason: 'model-missing', retryable: true })
    const streamed = assignment.kind === 'generate' ? [] : NOTHING
    this.#held.push({ assignment, isRunning: false, since: this.#now, tokens: 0, streamed })
  }

  #workOf(id: AssignmentId): Work | undefined {
    for (const work of this.#held) if (work.assignment.id === id) return work
    return undefined
  }

  #letGo(work: Work): void {
    const at = this.#held.indexOf(work)
    this.#held.copyWithin(at, at + 1)
    this.#held.pop()
  }

  /** What it was given and may still be asked about. */
  #inHand(): AssignmentId[] {
    return [
      ...this.#held.map((work) => work.assignment.id),
      ...this.#answers.map((answer) => answer.assignment),
    ]
  }

  /** In the order they came, as many side by side as the engine takes. */
  #startNext(): void {
    if (this.#isDeviceLost || this.#phase !== 'on') return
    let running = 0
    for (const work of this.#held) {
      if (running >= this.#concurrency) return
      running++
      if (work.isRunning) continue
      work.isRunning = true
      work.since = this.#now
      this.#emit({ type: 'start-unit', assignment: work.assignment, progressMs: this.#settings.progressMs })
    }
  }

  #drop(id: AssignmentId): void {
    const work = this.#workOf(id)
    if (work?.isRunning) this.#emit({ type: 'stop-unit', assignment: id })
    if (work) this.#letGo(work)
    const at = this.#answers.findIndex((answer) => answer.assignment === id)
    if (at >= 0) this.#answers.splice(at, 1)
  }

  #drew(event: Extract<Event, { type: 'drew' }>): void {
    const { assignment, tokens } = event
    const work = this.#workOf(assignment)
    if (!work?.isRunning) return
    const message = { ...event, type: 'tokens' } as const
    work.streamed.push(message)
    work.tokens += tokens.length
    this.#send(message)
  }

  #computed(event: Extract<Event, { type: 'computed' }>): void {
    const { assignment, output, digest, computeMs, input, root, signature, leaves } = event
    const work = this.#workOf(assignment)
    if (!work?.isRunning) return
    this.#letGo(work)
    const message = {
      type: 'result', assignment, output, digest, computeMs, input, root, signature,
    } as const // prettier-ignore
    if (leaves) this.#keepLeaves(assignment, leaves)
    this.#answers.unshift(message)
    while (this.#answers.length > this.#slots) this.#answers.pop()
    this.#send(message)
    this.#totals.units++
    this.#totals.computeMs += computeMs
    // What was redrawn was written by somebody else already.
    const { replay = 0 } = work.assignment.generate ?? {}
    if (output.kind === 'generate') this.#totals.tokens += Math.max(0, output.tokens.length - replay)
    else this.#totals.rows += output.rows
    this.#startNext()
  }

  #failed({ assignment, reason, retryable, detail }: Extract<Event, { type: 'failed' }>): void {
    const work = this.#workOf(assignment)
    if (!work?.isRunning) return
    this.#letGo(work)
    if (reason === 'model-missing') this.#models.delete(work.assignment.model)
    this.#send({ type: 'fail', assignment, reason, retryable, detail: detail?.slice(0, 500) })
    this.#startNext()
    if (reason === 'model-missing') this.#loadNext()
  }

  #giveBack(which: 'all' | 'waiting'): void {
    for (const work of this.#held.slice()) {
      if (which === 'waiting' && work.isRunning) continue
      const { id } = work.assignment
      this.#drop(id)
      this.#totals.returned++
      this.#send({ type: 'fail', assignment: id, reason: 'returned', retryable: true })
    }
  }

  #keepLeaves(id: AssignmentId, leaves: Uint8Array): void {
    this.#leaves.set(id, leaves)
    this.#leavesBytes += leaves.length
    for (const [oldest, { length }] of this.#leaves) {
      if (this.#leaves.size <= LEAVES_MAX && this.#leavesBytes <= LEAVES_BYTES_MAX) return
      this.#leaves.delete(oldest)
      this.#leavesBytes -= length
    }
  }

  // ── Courtesy ──

  #deviceLost(): void {
    if (this.#phase !== 'on' || this.#isDeviceLost) return
    this.#isDeviceLost = true
    this.#losses++
    for (const { assignment, isRunning } of this.#held.splice(0)) {
      const reason = isRunning ? 'device-lost' : 'returned'
      this.#send({ type: 'fail', assignment: assignment.id, reason, retryable: true })
    }
    this.#loading = undefined
    for (const digest of this.#models.keys()) this.#setModel({ digest, state: 'absent' })
    this.#reconsider()
    this.#emit({ type: 'reopen-engine', backend: this.#losses > 1 ? 'wasm' : undefined })
  }

  /** Why it takes no work now; the first that applies. */
  #pauseReason(): PauseReason | undefined {
    const {
      isHidden,
      isMobile,
      onBattery,
      saveData,
      isMetered,
      pressure,
      inUse,
      isOutsideHours,
      isDataUsedUp,
    } = this.#surroundings
    const rules = this.#rules
    if (this.#isUserPaused) return 'user'
    if (this.#isFrozen) return 'frozen'
    if (this.#isDeviceLost) return 'device-lost'
    // A phone in the pocket is not to get warm.
    if (isHidden && isMobile) return 'hidden'
    if (onBattery && rules.onBattery === 'pause') return 'battery'
    if (saveData && rules.onSaveData === 'pause') return 'save-data'
    if (isMetered && rules.onMetered === 'pause') return 'metered'
    if (isDataUsedUp) return 'data-cap'
    if (isOutsideHours) return 'hours'
    if (inUse && rules.whileInUse === 'pause') return 'in-use'
    if (pressure === 'critical') return 'pressure'
    return undefined
  }

  #isThrottled(): boolean {
    const { inUse, pressure } = this.#surroundings
    return pressure === 'serious' || (inUse === true && this.#rules.whileInUse === 'light')
  }

  /** After anything that bears on whether and how hard to work. */
  #reconsider(): void {
    if (this.#phase !== 'on') return
    const duty = this.#isThrottled() ? Math.min(LIGHT, this.#rules.power) : this.#rules.power
    if (duty !== this.#duty) {
      this.#duty = duty
      this.#emit({ type: 'set-duty', duty })
    }
    const reason = this.#pauseReason()
    const { isHidden } = this.#surroundings
    const state = reason ? 'paused' : 'open'
    if (this.#link === 'joined') {
      const told = this.#told
      if (told?.state !== state || told.reason !== reason || told.isHidden !== isHidden) {
        this.#told = { state, reason, isHidden }
        this.#send({ type: 'state', state, reason, isHidden })
      }
    }
    // Told first, so that what comes back is not taken for unwillingness.
    if (reason) this.#giveBack(reason === 'user' && this.#isFinishing ? 'waiting' : 'all')
    else this.#loadNext()
  }

  // ── What people see ──

  #state(): ViewState {
    const phase = this.#phase
    if (phase !== 'on') return phase
    const reason = this.#pauseReason()
    if (reason === 'frozen') return 'frozen'
    if (reason === 'device-lost') return 'device-lost'
    if (reason) return this.#isFinishing && this.#held.length ? 'finishing' : 'paused'
    if (this.#link === 'waiting') return 'reconnecting'
    if (this.#link !== 'joined') return this.#tries ? 'reconnecting' : 'connecting'
    if (this.#loading && !this.#isReady()) return this.#loading.stage
    if (this.#isThrottled()) return 'throttled'
    if (this.#surroundings.isHidden) return 'hidden'
    return this.#held.length ? 'working' : 'standby'
  }

  #isReady(): boolean {
    for (const { state } of this.#models.values()) if (state === 'ready') return true
    return false
  }

  view(): View {
    const names = new Map(this.#offers.map((o) => [o.digest, o.name]))
    const name = (digest: ModelDigest): string => names.get(digest) ?? digest.slice(0, 8)
    const running = this.#held.filter((w) => w.isRunning)
    const loading = this.#loading
    return {
      state: this.#shown,
      reason: this.#pauseReason() ?? this.#reason,
      since: this.#shown === 'frozen' ? (this.#wasFrozenAt ?? this.#shownSince) : this.#shownSince,
      retryAt: this.#link === 'waiting' ? this.#retryAt : undefined,
      download: loading && { loaded: loading.loaded, total: loading.total, etaMs: this.#etaMs() },
      model: loading ? loading.offer.name : running[0] && name(running[0].assignment.model),
      duty: Math.max(0, this.#duty),
      volunteer: this.#id,
      operator: this.#operator,
      now: running.map(({ assignment: { id, kind, model }, tokens, since }) => ({
        assignment: id, kind, model: name(model), tokens, since,
      })), // prettier-ignore
      waiting: this.#held.length - running.length,
      models: [...this.#models.values()].map(({ digest, state }) => ({ name: name(digest), state })),
      totals: { ...this.#totals },
      standing: this.#standing,
    }
  }
}
