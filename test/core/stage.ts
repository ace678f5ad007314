/** A coordinator with volunteers that answer when a test says so: stories told in events and effects. */
import { Coordinator } from '../../coordinator/core/coordinator.ts'
import type { CoordinatorOptions } from '../../coordinator/core/coordinator.ts'
import type { Effect, Event, Hello, JobSpec, ServedModel } from '../../coordinator/core/events.ts'
import type { FromCoordinator, FromVolunteer } from '../../protocol/index.ts'
import type {
  Assignment,
  AssignmentId,
  JobId,
  ModelDigest,
  RequesterId,
  VolunteerId,
} from '../../protocol/nouns.ts'

export const WRITER = 'aa'.repeat(32) as ModelDigest
export const SORTER = 'bb'.repeat(32) as ModelDigest

/** A token is one standard unit, and so is drawing one. */
const SIZE = { layers: 2, macs: { perToken: 1e6, perPair: 0, perDraw: 1e6, perRow: 0 } }

export const MODELS: ServedModel[] = [
  { digest: WRITER, name: 'writer', task: 'generate', path: '/models/w', bytes: 1e6, context: 100, vocab: 1000, endIds: [7], width: 0, bits: 0, ...SIZE },
  { digest: SORTER, name: 'sorter', task: 'classify', path: '/models/s', bytes: 1e6, context: 100, vocab: 1000, endIds: [], width: 2, bits: 16, embed: { width: 3, bits: 24 }, ...SIZE },
] // prettier-ignore

type Of<T, K> = Extract<T, { type: K }>

export class Stage {
  readonly core: Coordinator
  now = 0
  /** Everything the coordinator did, in order. */
  readonly done: Effect[] = []
  #volunteers = 0
  #jobs = 0

  constructor(models: readonly ServedModel[] = MODELS, options: Partial<CoordinatorOptions> = {}) {
    this.core = new Coordinator({ seed: 1, epoch: 'e', operator: 'test', models, ...options })
  }

  tell(event: Event): Effect[] {
    const effects = this.core.handle(event, this.now)
    this.done.push(...effects)
    return effects
  }

  /** Lets time pass as the shell does, timer by timer. */
  wait(ms: number): Effect[] {
    const end = this.now + ms
    const effects: Effect[] = []
    while (this.core.wakeAt() <= end) {
      this.now = Math.max(this.now, this.core.wakeAt())
      effects.push(...this.tell({ type: 'time-passed' }))
    }
    this.now = end
    return effects
  }

  join(
    change: Partial<Hello> & {
      isHouse?: boolean
      isTrusted?: boolean
      network?: string
      models?: Hello['capability']['models']
    } = {},
  ): VolunteerId {
    const { isHouse, isTrusted, network, models, ...hello } = change
    const volunteer = `v${this.#volunteers++}` as VolunteerId
    const ready = [WRITER, SORTER].map((digest) => ({
      digest,
      state: 'ready' as const,
      readMs: 1,
      drawMs: 8,
    }))
    this.tell({
      type: 'volunteer-joined',
      volunteer,
      network: network ?? volunteer,
      isTrusted,
      isHouse,
      rttMs: 10,
      hello: {
        type: 'hello', version: 1, client: 'test', slots: 4, concurrency: 1, isHidden: false, held: [],
        capability: { backend: 'js', adapter: '', numerics: 'xn1', memoryBytes: 1e9, models: models ?? ready },
        ...hello,
      },
    }) // prettier-ignore
    return volunteer
  }

  hear(volunteer: VolunteerId, message: Exclude<FromVolunteer, { type: 'hello' }>): Effect[] {
    return this.tell({ type: 'message-received', volunteer, message })
  }

  write(prompt: number[], maxTokens: number, change: Partial<JobSpec> = {}): JobId {
    const sampling = { temperature: 0, topK: 0, topP: 1, seed: '1', stream: 0 }
    const choices = [{ prompt: Uint32Array.from(prompt), options: { maxTokens, sampling } }]
    return this.submit({ kind: 'generate', model: WRITER, choices, ...change } as Partial<JobSpec>)
  }

  sort(rows: number, change: Partial<JobSpec> = {}): JobId {
    const lists = Array.from({ length: rows }, () => new Uint32Array(50).fill(10))
    return this.submit({ kind: 'classify', model: SORTER, rows: lists, ...change } as Partial<JobSpec>)
  }

  submit(change: Partial<JobSpec>): JobId {
    const id = `j${this.#jobs++}` as JobId
    this.tell({
      type: 'job-submitted',
      job: {
        id,
        requester: 'r' as RequesterId,
        priority: 'interactive',
        trust: 'fast',
        ...change,
      } as JobSpec,
    })
    return id
  }

  /** What was assigned since the last call of this, and to whom. */
  #assignedFrom = 0
  assigned(): (Assignment & { to: VolunteerId })[] {
    const fresh = this.done.slice(this.#assignedFrom)
    this.#assignedFrom = this.done.length
    return fresh.flatMap((e) =>
      e.type === 'send' && e.message.type === 'assign'
        ? e.message.assignments.map((a) => ({ ...a, to: e.volunteer }))
        : [],
    )
  }

  sent<K extends FromCoordinator['type']>(volunteer: VolunteerId, type: K): Of<FromCoordinator, K>[] {
    return this.done.flatMap((e) =>
      e.type === 'send' && e.volunteer === volunteer && e.message.type === type
        ? [e.message as Of<FromCoordinator, K>]
        : [],
    )
  }

  of<K extends Effect['type']>(type: K): Of<Effect, K>[] {
    return this.done.filter((e): e is Of<Effect, K> => e.type === type)
  }

  /** Places of the first tokens streamed. */
  readonly #from = new Map<AssignmentId, number>()

  /** Signed, as far as they go, by whoever says them. */
  tokens(volunteer: VolunteerId, assignment: AssignmentId, position: number, ids: number[]): Effect[] {
    const from = this.#from.get(assignment) ?? position
    this.#from.set(assignment, from)
    const signature = `by ${volunteer} up to ${position + ids.length}`
    const tokens = Uint32Array.from(ids)
    return this.hear(volunteer, { type: 'tokens', assignment, position, tokens, from, signature })
  }

  wrote(
    volunteer: VolunteerId,
    assignment: AssignmentId,
    position: number,
    ids: number[],
    finish: 'stop' | 'length' = 'length',
  ): Effect[] {
    const output = { kind: 'generate', position, tokens: Uint32Array.from(ids), finish } as const
    return this.hear(volunteer, { type: 'result', assignment, output, digest: '00'.repeat(32), computeMs: 1 })
  }

  sorted(volunteer: VolunteerId, a: Assignment, width = 2, bits = 16): Effect[] {
    const rows = a.inputs.length
    const output = { kind: a.kind as 'classify', rows, width, bits, values: new Int32Array(rows * width) }
    return this.hear(volunteer, {
      type: 'result',
      assignment: a.id,
      output,
      digest: '00'.repeat(32),
      computeMs: 1,
    })
  }
}
