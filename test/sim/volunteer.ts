/** A simulated device: the real volunteer machine, a link with a delay, and an engine that computes hashes in virtual time. */
import { Volunteer } from '../../client/volunteer.ts'
import type { Effect, Event } from '../../client/volunteer.ts'
import {
  CLOSE,
  encodeFromCoordinator,
  encodeFromVolunteer,
  parseFromCoordinator,
  parseFromVolunteer,
} from '../../protocol/index.ts'
import { takeOut } from '../../coordinator/core/lists.ts'
import type { FromCoordinator, FromVolunteer } from '../../protocol/index.ts'
import type { Assignment, Output, VolunteerId } from '../../protocol/nouns.ts'
import type { Book } from './auditor.ts'
import type { Strategy } from './strategies.ts'
import {
  digestOf,
  draw,
  encode,
  END,
  generate,
  inputOf,
  leavesOf,
  read,
  rootOf,
  traceOf,
  WIDTH,
} from './truth.ts'
import type { World } from './world.ts'

/** One WebSocket: what was sent into it arrives in order, unless it was cut meanwhile. */
export interface Connection {
  readonly id: VolunteerId
  readonly device: Device
  /** Each end's view of it. */
  isOpenThere: boolean
  isOpenHere: boolean
  /** When the last message each way arrives. */
  upAt: number
  downAt: number
  sequence: number
  /** The auditor's. */
  book: Book | undefined
}

const RULES = {
  power: 1,
  onBattery: 'pause',
  whileInUse: 'light',
  onSaveData: 'pause',
  onMetered: 'allow',
} as const
const SIGNATURE = 'A'.repeat(86)
export const keyOf = (person: string): string => person.padEnd(42, '_') + 'A'
/** Tokens between two reads of the simulated engine. */
const BURST = 4
/** What drawing a token takes, in tokens of a row. */
const DRAW = 8

export interface Flags {
  isHouse?: boolean
  isHostile?: boolean
  isTrusted?: boolean
  strategy?: Strategy | undefined
  network?: string
}

/** A unit in the engine. */
interface Run {
  readonly assignment: Assignment
  /** Nobody wants it any more. */
  isOver: boolean
}

/** Rows' right answer, and what shows that it was computed. */
export interface Encoded {
  output: Output
  trace: number
  digest: string
  root: string
}

export class Device {
  readonly person: string
  /** Its public key: kept when the page is loaded again. */
  key: string
  readonly isHouse: boolean
  readonly isHostile: boolean
  /** How it lies, if it does. */
  readonly strategy: Strategy | undefined
  readonly isTrusted: boolean
  /** Where it is. */
  readonly network: string
  /** Milliseconds per token read. */
  readonly speed: number
  readonly rttMs: number
  machine: Volunteer
  connection: Connection | undefined
  /** Dead devices do nothing any more; frozen ones do it later. */
  isDead = false
  isFrozen = false
  readonly #world: World
  #running: Run[] = []
  #waiting: Event[] = []
  /** Answers so far, and the last. */
  #given = 0
  #names = 0
  #own: Output | undefined
  #wakeAt = Infinity

  constructor(world: World, person: string, speed: number, rttMs: number, flags: Flags = {}) {
    this.#world = world
    this.person = person
    this.speed = speed
    this.rttMs = rttMs
    this.isHouse = flags.isHouse ?? false
    this.key = this.isHouse ? 'house' : keyOf(person)
    this.isHostile = flags.isHostile ?? false
    this.strategy = flags.strategy
    this.isTrusted = flags.isTrusted ?? false
    this.network = flags.network ?? person
    this.machine = this.#newMachine()
  }

  #newMachine(): Volunteer {
    return new Volunteer({ client: 'sim', seed: this.#world.random.u32(), rules: RULES })
  }

  /** Something happens to this device now. */
  do(event: Event): void {
    if (this.isDead) return
    if (this.isFrozen) {
      this.#waiting.push(event)
      return
    }
    const world = this.#world
    const { machine } = this
    for (const effect of machine.handle(event, world.now)) this.#perform(effect)
    if (machine.wakeAt() < this.#wakeAt) this.#wake(machine, machine.wakeAt())
  }

  #wake(machine: Volunteer, at: number): void {
    this.#wakeAt = at
    this.#world.at(at, () => {
      if (this.#wakeAt !== at || machine !== this.machine) return
      this.#wakeAt = Infinity
      this.do({ type: 'time-passed' })
    })
  }

  thaw(): void {
    if (!this.isFrozen) return
    this.isFrozen = false
    const events = this.#waiting
    this.#waiting = []
    this.do({ type: 'woken' })
    for (const event of events) this.do(event)
  }

  /** The page is loaded again; its key was kept. */
  reload(): void {
    if (this.isDead) return
    this.thaw()
    this.hangUp(1001)
    this.#stopAll()
    this.machine = this.#newMachine()
    this.#wakeAt = Infinity
    this.do({ type: 'started' })
  }

  /** Ends the connection from this side, without asking the machine. */
  hangUp(_code: number): void {
    const { connection } = this
    if (!connection) return
    this.connection = undefined
    connection.isOpenHere = false
    this.#world.closeThere(connection, this.rttMs / 2)
  }

  /** Sent by the coordinator over `connection`; arrives later. */
  arrive(connection: Connection, message: FromCoordinator): void {
    if (connection !== this.connection || !connection.isOpenHere) return
    this.do({ type: 'received', message })
  }

  closed(connection: Connection, code: number, reason: string): void {
    if (connection !== this.connection) return
    this.connection = undefined
    connection.isOpenHere = false
    this.do({ type: 'disconnected', code, reason })
    if (code === CLOSE.convicted && this.strategy?.returns) this.#returns()
  }

  /** Under another name. */
  #returns(): void {
    this.key = keyOf(`${this.person}-${++this.#names}`)
    this.#given = 0
    this.#stopAll()
    this.machine = this.#newMachine()
    this.#wakeAt = Infinity
    this.do({ type: 'started' })
  }

  #perform(effect: Effect): void {
    const world = this.#world
    switch (effect.type) {
      case 'probe':
      case 'reopen-engine': {
        this.#stopAll()
        const { slots, concurrency } = world.options
        const capability = { backend: 'js', adapter: 'sim', numerics: 'xn1', memoryBytes: 2 ** 30 } as const
        return this.#later(20, {
          type: 'probed',
          capability,
          slots,
          concurrency: Math.min(slots, concurrency),
        })
      }
      case 'connect':
        return world.connect(this)
      case 'disconnect':
        return this.hangUp(effect.code)
      case 'send':
        return this.#send(effect.message)
      case 'load-model': {
        const { digest, context } = effect.offer
        const read = this.speed * this.#readShare * (0.5 + world.random.float())
        const measured = { readMs: read, drawMs: this.speed * DRAW }
        return this.#later(world.random.int(10, 500), { type: 'model-loaded', digest, context, ...measured })
      }
      case 'start-unit':
        return this.#compute(effect.assignment)
      case 'stop-unit':
        for (const run of this.#running) if (run.assignment.id === effect.assignment) this.#stop(run)
        return
      case 'unload-model':
      case 'set-duty':
    }
  }

  #later(ms: number, event: Event): void {
    const { machine } = this
    this.#world.after(ms, () => {
      if (machine === this.machine) this.do(event)
    })
  }

  #send(message: FromVolunteer): void {
    const { connection } = this
    if (!connection) return
    const world = this.#world
    // Of an Ed25519 key's shape; nobody checks signatures here.
    if (message.type === 'hello') {
      const publicKey = this.isHouse ? keyOf('house') : this.key
      message = { ...message, publicKey, signature: SIGNATURE }
    }
    for (const m of this.isHostile ? world.twist(this, message) : [message]) {
      const sent = world.options.wire
        ? parseFromVolunteer(encodeFromVolunteer(m, connection.sequence++)).message
        : m
      connection.upAt = Math.max(connection.upAt, world.now + world.delay(this.rttMs))
      world.at(connection.upAt, () => world.receive(connection, sent))
    }
  }

  #compute(assignment: Assignment): void {
    const world = this.#world
    const run: Run = { assignment, isOver: false }
    this.#running.push(run)
    const jitter = 0.8 + 0.4 * world.random.float()
    const stall = world.isFaulty && world.random.float() < world.options.stall ? world.options.stallMs : 0
    const ms = this.speed * jitter
    const length = assignment.inputs.reduce((n, ids) => n + ids.length, 0)
    const readMs = assignment.kind === 'generate' ? ms * this.#readShare : ms
    this.#step(run, stall + readMs * length, () => {
      if (world.isPoisoned(assignment)) {
        this.#stop(run)
        this.do({ type: 'failed', assignment: assignment.id, reason: 'engine-error', retryable: true })
      } else if (assignment.kind === 'generate') this.#draw(run, ms * DRAW)
      else {
        const encoded = this.#encoded(assignment)
        this.#finish(run, encoded.output, ms * length, encoded.output, encoded)
      }
    })
  }

  #stop(run: Run): void {
    run.isOver = true
    takeOut(this.#running, run)
  }

  #stopAll(): void {
    for (const run of this.#running) run.isOver = true
    this.#running = []
  }

  /** Goes on after some compute time, unless it was stopped, died, or the page was loaded again. */
  #step(run: Run, ms: number, next: () => void): void {
    this.#world.after(ms, () => {
      if (run.isOver || this.isDead) return
      if (this.isFrozen) this.#step(run, 100, next)
      else next()
    })
  }

  /** What reading a token of a text takes, in tokens of a row. */
  get #readShare(): number {
    return DRAW / this.#world.options.readsPerDraw
  }

  #rows({ inputs, kind }: Assignment): Output {
    const values = new Int32Array(inputs.length * WIDTH)
    inputs.forEach((row, i) => values.set(encode(row), i * WIDTH))
    return { kind: kind as 'embed', rows: inputs.length, width: WIDTH, bits: 16, values }
  }

  #encoded(assignment: Assignment): Encoded {
    const [row] = assignment.inputs
    const { again } = this.#world
    const known = assignment.inputs.length === 1 ? again?.get(row!) : undefined
    if (known) return known
    const output = this.#rows(assignment)
    const trace = traceOf(assignment, output)
    const encoded: Encoded = { output, trace, digest: digestOf(output), root: rootOf(trace, output) }
    if (assignment.inputs.length === 1) again?.set(row!, encoded)
    return encoded
  }

  #draw(run: Run, drawMs: number): void {
    const { assignment } = run
    const [input] = assignment.inputs
    const { maxTokens, sampling, replay = 0 } = assignment.generate!
    const world = this.#world
    const { context } = world
    const { strategy } = this
    const base = input!.length - replay
    const prompt = input!.subarray(0, base)
    const tokens: number[] = []
    let h = read(prompt, sampling.seed, sampling.stream)
    let finish: 'stop' | 'length' | null = null
    const isOver = (): boolean => finish !== null
    let isForged = false
    const take = (): number => {
      let { id, next } = draw(h)
      const begins = strategy?.forgesAt === tokens.length && tokens.length >= replay && this.#isLying
      if (begins || (isForged && id === END)) {
        // From here on it is the continuation of something else, and has no end of its own.
        id = id === END ? END + 10 : id + 1
        next = read([...prompt, ...tokens, id], sampling.seed, sampling.stream)
        isForged = true
        world.auditor.judge.lied(this)
      }
      h = next
      tokens.push(id)
      if (id === END) finish = 'stop'
      else if (tokens.length >= maxTokens || base + tokens.length >= context) finish = 'length'
      return id
    }
    // What was drawn before is drawn again, all in one pass; from where it differs, this is a new text.
    let told = replay
    while (tokens.length < replay && !isOver())
      if (take() !== input![base + tokens.length - 1]) {
        told = tokens.length - 1
        break
      }
    const from = base + told
    const finished = (): void => {
      const output = textOf(base, tokens)
      const right = isForged ? generate(prompt, sampling.seed, sampling.stream, maxTokens, context) : tokens
      this.#finish(run, textOf(base, right), drawMs * Math.max(1, tokens.length - replay), output)
    }
    if (finish) return finished()
    const burst = (): void => {
      const until = tokens.length + BURST
      while (tokens.length < until && !isOver()) take()
      if (finish) return finished()
      const drawn = Uint32Array.from(tokens.slice(told))
      // Liars keep quiet until they answer, or say now what they will say then.
      if (strategy?.streams !== false)
        this.do({
          type: 'drew', assignment: assignment.id, position: base + told, tokens: drawn, from, signature: SIGNATURE,
        }) // prettier-ignore
      told = tokens.length
      this.#step(run, BURST * drawMs, burst)
    }
    this.#step(run, BURST * drawMs, burst)
  }

  /** In small worlds liars lie only while there are faults. */
  get #isLying(): boolean {
    return this.strategy !== undefined && (!this.#world.options.audit || this.#world.isFaulty)
  }

  #lie(assignment: Assignment, output: Output, trace: number): { output: Output; trace: number } | undefined {
    const world = this.#world
    if (!this.strategy || !this.#isLying) return undefined
    return this.strategy.answer({
      assignment, output, trace, random: world.random, given: this.#given, own: this.#own, anybodys: world.anybodys,
      leave: () => {
        this.hangUp(1001)
        this.isDead = true
      },
    }) // prettier-ignore
  }

  /** @param said another text than it should be, as it was streamed  @param known of rows */
  #finish(run: Run, honest: Output, computeMs: number, said: Output = honest, known?: Encoded): void {
    this.#stop(run)
    const { assignment } = run
    const world = this.#world
    world.computed(computeMs)
    const trace = known?.trace ?? traceOf(assignment, honest)
    const isForged = said !== honest && digestOf(said) !== digestOf(honest)
    const answer = isForged
      ? { output: said, trace: traceOf(assignment, said) }
      : this.#lie(assignment, honest, trace)
    const output = answer?.output ?? honest
    const isFull = world.hash !== undefined
    const leaves = isFull ? leavesOf(answer?.trace ?? trace, output) : undefined
    world.auditor.computed(this, output, honest, answer === undefined || answer.trace === trace)
    this.#given++
    this.#own = output
    world.anybodys = output
    this.do({
      type: 'computed',
      assignment: assignment.id,
      output,
      digest: known && !answer ? known.digest : digestOf(output),
      computeMs,
      input: isFull ? inputOf(assignment, world.hash!) : undefined,
      root:
        known && !answer && !isFull ? known.root : rootOf(answer?.trace ?? trace, output, leaves, world.hash),
      leaves,
      signature: isFull ? SIGNATURE : undefined,
    })
  }
}

const textOf = (position: number, tokens: readonly number[]): Output => ({
  kind: 'generate',
  position,
  tokens: Uint32Array.from(tokens),
  finish: tokens.at(-1) === END ? 'stop' : 'length',
})

/** The coordinator's message as the other end reads it. */
export const throughWire = (message: FromCoordinator, sequence: number): FromCoordinator =>
  parseFromCoordinator(encodeFromCoordinator(message, sequence)).message
