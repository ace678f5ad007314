/**
 * A whole network in one deterministic process: the real coordinator core, real volunteer machines, links, faults and
 * requesters, on one virtual clock. The same seed gives the same history, event by event.
 */
import { Coordinator } from '../../coordinator/core/coordinator.ts'
import type { CoordinatorOptions } from '../../coordinator/core/coordinator.ts'
import type { Effect, Event, ServedModel } from '../../coordinator/core/events.ts'
import { Heap } from '../../coordinator/core/heap.ts'
import type { State } from '../../coordinator/core/state.ts'
import type { FromCoordinator, FromVolunteer, Hash } from '../../protocol/index.ts'
import type {
  Assignment,
  AssignmentId,
  ModelDigest,
  Output,
  UnitId,
  VolunteerId,
} from '../../protocol/nouns.ts'
import { Archive } from '../core/archive.ts'
import { Random } from '../harness/random.ts'
import { Auditor } from './auditor.ts'
import { scheduleFaults } from './faults.ts'
import type { Options } from './options.ts'
import { Requesters } from './requesters.ts'
import { STRATEGIES } from './strategies.ts'
import { END, hash, VOCAB, WIDTH } from './truth.ts'
import { Device, throughWire } from './volunteer.ts'
import type { Connection, Encoded, Flags } from './volunteer.ts'

export const WRITER = 'aa'.repeat(32) as ModelDigest
export const SORTER = 'bb'.repeat(32) as ModelDigest
const CONTEXT = 256
/** In the simulator a device is believed to be who it says. */
const CHALLENGE: FromCoordinator = { type: 'challenge', nonce: 'n'.repeat(22), coordinator: 'A'.repeat(43) }

const SIZE = { layers: 2, macs: { perToken: 1e6, perPair: 0, perDraw: 8e6, perRow: 0 } }
const MODELS: ServedModel[] = [
  { digest: WRITER, name: 'writer', task: 'generate', path: '/models/w', bytes: 1e6, context: CONTEXT, vocab: VOCAB, endIds: [END], width: 0, bits: 0, ...SIZE },
  { digest: SORTER, name: 'sorter', task: 'classify', path: '/models/s', bytes: 1e6, context: CONTEXT, vocab: VOCAB, endIds: [], width: WIDTH, bits: 16, ...SIZE },
] // prettier-ignore

/** What the world needs of a coordinator; a mutant is one too. */
export interface CoordinatorLike {
  readonly state: State
  handle(event: Event, now: number): Effect[]
  wakeAt(): number
}
export type Make = (options: CoordinatorOptions) => CoordinatorLike

export class World {
  readonly options: Options
  readonly random: Random
  readonly context = CONTEXT
  readonly hash: Hash | undefined
  /** The last answer anybody gave. */
  anybodys: Output | undefined
  /** By row: large worlds ask the same few again and again, and have each of them computed but once. */
  readonly again: Map<Uint32Array, Encoded> | undefined
  readonly auditor: Auditor
  /** What outlives the coordinator, where it may die. */
  readonly #archive: Archive | undefined
  readonly requesters: Requesters
  readonly devices: Device[] = []
  coordinator: CoordinatorLike
  now = 0
  /** The coordinator's clock minus the world's. */
  skew = 0
  isUp = true
  lives = 1
  events = 0
  /** Units that were computed to their end, whether or not anybody used the answer. */
  computedUnits = 0
  /** Milliseconds that took. */
  engineMs = 0
  readonly #make: Make
  readonly #heap = new Heap<() => void>()
  readonly #connections = new Map<VolunteerId, Connection>()
  #wakeAt = Infinity
  #nextId = 0

  constructor(options: Options, make: Make = (o) => new Coordinator(o)) {
    this.options = options
    this.#make = make
    this.random = new Random(options.seed, 'world')
    this.hash = options.audit ? hash : undefined
    this.#archive = options.audit && options.crashesPerMinute > 0 ? new Archive() : undefined
    this.coordinator = this.#newCoordinator()
    this.again = options.audit ? undefined : new Map()
    this.auditor = new Auditor(this)
    this.requesters = new Requesters(this)
    const count = options.volunteers
    for (let i = 0; i < count; i++) this.#addDevice(`p${i}`, {})
    options.cast.forEach((flags, i) => this.#addDevice(`c${i}`, flags))
    if (options.house) this.#addDevice('house', { isHouse: true })
    for (const device of this.devices)
      this.after(this.random.int(0, 1000), () => device.do({ type: 'started' }))
    scheduleFaults(this)
  }

  #newCoordinator(): CoordinatorLike {
    const { known, policy } = this.options
    const identities = known.map((identity) => ({
      identity,
      accepted: 2_000,
      checked: 100,
      isConvicted: false,
    }))
    return this.#make({
      seed: this.random.u32(),
      epoch: `e${this.lives}`,
      operator: 'sim',
      models: MODELS,
      hash: this.hash,
      secret: `secret ${this.lives}`,
      policy,
      restore:
        this.lives === 1
          ? { identities }
          : { ...this.auditor.judge.kept(), claims: this.#archive?.kept(this.now, this.now).claims },
    })
  }

  #addDevice(person: string, flags: Flags): void {
    const { options, random } = this
    const isSlow = random.float() < options.slow
    // An ordinary unit is 100 tokens.
    const speed =
      (options.unitMs / 100) * Math.exp(options.sigma * random.normal()) * (isSlow ? options.slowFactor : 1)
    const rtt = options.rttMs * (0.5 + random.float())
    const isOrdinary = !flags.isHouse && !flags.strategy
    const isHostile = isOrdinary && random.float() < options.hostile
    const isTrusted = isOrdinary && !isHostile && options.trusted > 0 && random.float() < options.trusted
    const isLiar =
      isOrdinary && !isHostile && !isTrusted && options.liars > 0 && random.float() < options.liars
    const strategy = isLiar ? random.pick(STRATEGIES) : flags.strategy
    const network = flags.isHouse
      ? 'house'
      : options.networks
        ? `n${random.int(0, options.networks)}`
        : person
    this.devices.push(
      new Device(this, person, speed, flags.isHouse ? 0 : rtt, {
        network,
        ...flags,
        isHostile,
        isTrusted,
        strategy,
      }),
    )
  }

  // ── Time ──

  at(time: number, action: () => void): void {
    this.#heap.push(Math.max(time, this.now), action)
  }

  after(ms: number, action: () => void): void {
    this.at(this.now + ms, action)
  }

  get isFaulty(): boolean {
    return this.now < this.options.faultMs
  }

  /** Runs until every job has ended, or the world stands still, or `untilMs`; `isIdle`: even when they have. Throws what the auditor finds. */
  run(untilMs: number, eventsMax = Infinity, isIdle = false): void {
    while (this.#heap.size && this.now <= untilMs && this.events < eventsMax) {
      this.now = Math.max(this.now, this.#heap.key)
      this.#heap.pop()!()
      this.events++
      if (this.requesters.isDone && !isIdle) return
    }
  }

  // ── The network ──

  delay(rttMs: number): number {
    return (rttMs / 2) * (0.8 + 0.4 * this.random.float())
  }

  connect(device: Device): void {
    const { machine } = device
    this.after(this.delay(device.rttMs) * 2, () => {
      // A page that was loaded again meanwhile connects itself.
      if (device.isDead || device.machine !== machine) return
      if (!this.isUp) return device.do({ type: 'disconnected', code: 1006, reason: '' })
      const id = `v${this.#nextId++}` as VolunteerId
      const connection: Connection = {
        id, device, isOpenThere: true, isOpenHere: true, upAt: this.now, downAt: this.now, sequence: 0,
        book: undefined,
      } // prettier-ignore
      device.connection = connection
      this.#connections.set(id, connection)
      device.do({ type: 'connected' })
      device.do({ type: 'received', message: CHALLENGE })
    })
  }

  /** A message of a volunteer reaches the coordinator. */
  receive(connection: Connection, message: FromVolunteer): void {
    if (!connection.isOpenThere || !this.isUp) return
    const { id, device } = connection
    if (message.type === 'hello') {
      this.auditor.joined(connection, message)
      return this.tell({
        type: 'volunteer-joined',
        volunteer: id,
        hello: { ...message, publicKey: device.isHouse ? undefined : device.key },
        network: device.network,
        isTrusted: device.isTrusted,
        isHouse: device.isHouse,
        rttMs: device.rttMs,
      })
    }
    this.auditor.received(connection, message)
    this.tell({ type: 'message-received', volunteer: id, message })
  }

  /** The coordinator learns of a closed connection, some time from now. */
  closeThere(connection: Connection, ms: number): void {
    this.after(ms, () => {
      if (!connection.isOpenThere) return
      connection.isOpenThere = false
      this.auditor.left(connection)
      if (this.isUp) this.tell({ type: 'volunteer-left', volunteer: connection.id, reason: 'closed' })
      this.#connections.delete(connection.id)
    })
  }

  /** Cut in the middle: each end finds out in its own time, and what is under way is lost. */
  cut(connection: Connection): void {
    this.closeThere(connection, this.random.int(0, 12_000))
    const { device } = connection
    connection.isOpenHere = false
    this.after(this.random.int(0, 12_000), () => device.closed(connection, 1006, ''))
  }

  // ── The coordinator ──

  tell(event: Event, due = -Infinity): void {
    const { coordinator } = this
    // A real timer fires after its time; here rounding must not make it fire before.
    const time = Math.max(this.now + this.skew, due)
    if (event.type === 'job-submitted') this.#archive?.asked(event.job)
    const effects = coordinator.handle(event, time)
    for (const effect of effects) {
      this.#archive?.perform(effect, this.now)
      this.#perform(effect)
    }
    if (this.options.audit) this.auditor.inspect(coordinator.state)
    const wakeAt = coordinator.wakeAt()
    if (wakeAt - this.skew < this.#wakeAt) this.#wake(wakeAt)
  }

  #wake(wakeAt: number): void {
    const { skew } = this
    const at = wakeAt - skew
    this.#wakeAt = at
    this.at(at, () => {
      if (this.#wakeAt !== at) return
      this.#wakeAt = Infinity
      if (this.isUp) this.tell({ type: 'time-passed' }, skew === this.skew ? wakeAt : undefined)
    })
  }

  #perform(effect: Effect): void {
    switch (effect.type) {
      case 'send': {
        const connection = this.#connections.get(effect.volunteer)
        if (!connection) return this.auditor.fail(`sent to ${effect.volunteer}, which is not connected`)
        // Into a socket that is just closing.
        if (!connection.isOpenThere) return
        this.auditor.sent(connection, effect.message)
        return this.#transmit(connection, effect.message)
      }
      case 'close':
        return this.#close(effect)
      case 'recall-unit':
        return this.#recall(effect.unit)
      case 'note':
      case 'finish-drain':
        return
      case 'settle-unit':
      case 'check-unit':
      case 'finalize-unit':
      case 'correct-unit':
      case 'convict':
      case 'post':
        return this.auditor.trust(effect)
      default:
        this.auditor.effect(effect)
        this.requesters.effect(effect)
    }
  }

  #close({ volunteer, code, reason }: Extract<Effect, { type: 'close' }>): void {
    const connection = this.#connections.get(volunteer)
    if (!connection) return
    connection.isOpenThere = false
    this.#connections.delete(volunteer)
    this.auditor.left(connection)
    const { device } = connection
    this.after(this.delay(device.rttMs), () => device.closed(connection, code, reason))
  }

  #recall(unit: UnitId): void {
    const recalled = this.#archive!.recall(unit)
    this.after(
      this.random.int(0, 50),
      () => this.isUp && this.tell({ type: 'unit-recalled', unit, recalled }),
    )
  }

  #transmit(connection: Connection, message: FromCoordinator): void {
    const sent = this.options.wire ? throughWire(message, 0) : message
    connection.downAt = Math.max(connection.downAt, this.now + this.delay(connection.device.rttMs))
    this.at(connection.downAt, () => connection.device.arrive(connection, sent))
  }

  /** The process dies and comes back with nothing. */
  crash(downMs: number): void {
    if (!this.isUp) return
    this.isUp = false
    const connections = [...this.#connections.values()]
    this.#connections.clear()
    for (const connection of connections) {
      connection.isOpenThere = false
      this.after(this.random.int(0, 500), () => connection.device.closed(connection, 1006, ''))
    }
    this.auditor.crashed()
    this.after(downMs, () => {
      this.lives++
      this.isUp = true
      this.#wakeAt = Infinity
      this.coordinator = this.#newCoordinator()
      this.requesters.restarted()
    })
  }

  /** When everybody honest vanished, or would take hours: somebody new comes, or nothing could end. */
  revive(isTrusted: boolean): void {
    const { options } = this
    this.devices.push(new Device(this, 'new', options.unitMs / 100, options.rttMs, { isTrusted }))
    this.devices.at(-1)!.do({ type: 'started' })
  }

  // ── Behaviours ──

  /** A unit was computed somewhere. */
  computed(computeMs: number): void {
    this.computedUnits++
    this.engineMs += computeMs
  }

  isPoisoned(assignment: Assignment): boolean {
    return assignment.inputs[0]![0] === 1
  }

  /** What a hostile volunteer sends instead. */
  twist(device: Device, message: FromVolunteer): FromVolunteer[] {
    const { random } = this
    if (!this.isFaulty) return [message]
    if (message.type === 'tokens' || message.type === 'result') this.auditor.judge.lied(device)
    if (message.type === 'result') {
      const { output } = message
      // Somebody else's assignment, or nobody's; a wrong answer to its own is a lie, which shapes can't show.
      const id = `a${random.int(0, 400)}-e${this.lives}` as AssignmentId
      // One that is not given out yet may become its own while this is on its way.
      const owner = this.auditor.personOf(id)
      const isOthers = owner !== undefined && owner !== device.person
      const other = { ...message, assignment: isOthers ? id : ('a999999-e1' as AssignmentId) }
      const wrong: FromVolunteer =
        output.kind === 'generate'
          ? { ...message, output: { ...output, position: random.int(0, 300) } }
          : {
              ...message,
              output: {
                ...output,
                width: output.width + 1,
                values: new Int32Array(output.rows * (output.width + 1)),
              },
            }
      return random.pick([
        [wrong],
        [message, message],
        [other, message],
        [message, other],
        [],
        [wrong, message],
      ])
    }
    if (message.type === 'tokens')
      return random.pick<FromVolunteer[]>([
        [message, message],
        [{ ...message, position: message.position + random.int(-3, 3) * (message.position > 3 ? 1 : 0) }],
        [],
        [message],
      ])
    return [message]
  }
}
