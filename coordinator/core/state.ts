/** Everything the core knows, and small questions about it. Only coordinator.ts and what it calls write here. */
import type {
  AssignmentId,
  Digest,
  JobId,
  Millis,
  ModelDigest,
  ModelStatus,
  PauseReason,
  RequesterId,
  Signature,
  UnitId,
  VolunteerId,
} from '../../protocol/nouns.ts'
import type { Estimate } from './estimate.ts'
import type { Hash } from '../../protocol/merkle.ts'
import type { Check } from './checks.ts'
import type { Claim } from './claims.ts'
import type { Accused, Trial } from './disputes.ts'
import type {
  Contribution,
  Effect,
  Identity,
  JobSpec,
  KeptClaim,
  ServedModel,
  Verification,
} from './events.ts'
import type { FairQueue } from './fair.ts'
import { Heap } from './heap.ts'
import { LIMITS } from './limits.ts'
import type { Member, Pool } from './pool.ts'
import type { Policy } from './policy.ts'
import { Random } from '../../protocol/random.ts'
import type { Watch } from './straggler.ts'
import { Table } from './table.ts'
import type { Reading } from './texts.ts'
import type { Reputation } from './trust.ts'

/** A connected volunteer. */
export interface Volunteer extends Member {
  readonly id: VolunteerId
  readonly identity: Identity
  readonly reputation: Reputation
  readonly isHouse: boolean
  readonly client: string
  readonly backend: string
  readonly adapter: string
  readonly joinedAt: Millis
  slots: number
  concurrency: number
  state: 'open' | 'paused' | 'draining'
  reason: PauseReason | undefined
  isHidden: boolean
  isCongested: boolean
  isGone: boolean
  readonly models: Map<ModelDigest, ModelStatus>
  /** Classes it is ready for: derived from `models`. */
  ready: ModelClass[]
  /** By ModelClass.index: what comparing many volunteers reads, without a search. */
  readonly standings: (Standing | undefined)[]
  /** Of whole units, to decide how far to prefetch. */
  readonly serviceMs: Estimate
  readonly rttMs: Estimate
  /** In the order they were sent; the first `concurrency` are being computed, the others wait there. */
  readonly held: Lease[]
  /** When what it holds should be done. */
  busyUntil: Millis
  /** One of its leases is yellow: nothing new until it answers. */
  isSuspect: boolean
  /** No new work before this: it lost leases or gave work back. */
  restUntil: Millis
  rests: number
  lastHeardAt: Millis
  pingNonce: number
  pingSentAt: Millis | undefined
  strikes: number
  units: number
  computeMs: number
  /** Time with something in hand, for its share of the network's efficiency. */
  busyMs: Millis
  busySince: Millis
}

/** Where a volunteer stands with a class of work. */
export interface Standing extends Speed {
  /** Tokens a sequence may reach: where memory is short, fewer than the model allows. */
  room: number
}

/** What a volunteer takes for one model. */
export interface Speed {
  /** Milliseconds per cost unit. */
  service: Estimate
  /** Milliseconds between two progress frames of one sequence. */
  gap: Estimate
}

/** A model served, with its queues and the volunteers that can run it. A model has one task, so it is also a class of work. */
export interface ModelClass extends Speed {
  readonly model: ServedModel
  /** Small and its own. */
  readonly index: number
  /** How many jobs of it are open. */
  openJobs: number
  /** Jobs with work nobody was given yet. */
  readonly queue: FairQueue<Job>
  readonly parked: Set<Job>
  /** Units that came back; they go before the queue. Only items from `returnedHead` on are live. */
  readonly returned: Unit[]
  returnedHead: number
  /** Cost of everything ready, and of how many choices or rows it is. */
  queuedCost: number
  queuedParts: number
  /** Ready and open, busy or not; never the house. */
  readonly capable: Pool<Volunteer>
  readonly loading: Pool<Volunteer>
  /** Could compute something at once; beside each its round trip, and its milliseconds per cost. */
  readonly idle: Pool<Volunteer>
  /** Busy, but could hold another unit; beside each when it should be free, a round trip later. */
  readonly spare: Pool<Volunteer>
  readonly houses: Pool<Volunteer>
  readonly freeHouses: Pool<Volunteer>
  /** Trusted engines, the house or not; those that could take something; and volunteers known long enough to check others. */
  readonly referees: Pool<Volunteer>
  readonly freeReferees: Pool<Volunteer>
  readonly veterans: Pool<Volunteer>
  /** Checks, and disputed units, for which somebody waits; and those for which nobody does. */
  readonly checks: Unit[]
  readonly laterChecks: Unit[]
  /** Checks of texts that are still being written: only for those who read fast. */
  readonly readings: Unit[]
  /** Answers that are certain, a few of the latest: what canaries ask for. */
  readonly known: Claim[]
  strandedSince: Millis | undefined
  /** Since when checks wait and nobody trusted is here. */
  unjudgedSince: Millis | undefined
  timerAt: Millis
  /** It is among `dirty`. */
  isDirty: boolean
}

export interface Job {
  readonly spec: JobSpec
  readonly class: ModelClass
  readonly submittedAt: Millis
  readonly deadlineAt: Millis
  firstSentAt: Millis | undefined
  /** Choices or rows before this were made into units. */
  next: number
  /** Tokens of choices and rows from `next` on, as cost. */
  restCost: number
  open: Unit[]
  units: number
  redispatched: number
  hedged: number
  work: Contribution[]
  /** Tokens a sequence of it may reach: volunteers with less room are passed over. */
  readonly need: number
  isOver: boolean
  /** Nobody here could check it: it makes room for others. */
  isParked: boolean
  /** Standard units its requester set aside. */
  reserved: number
  /** Answers that were delivered: paid when the job is over. */
  unpaid: Claim[]
  /** The weakest of its units' so far. */
  verification: Verification | undefined
}

export interface Unit {
  readonly id: UnitId
  readonly job: Job
  /** `ready` units are in their class's `returned`, or among its checks; a fresh unit is leased as it is made. `checking`: answered. */
  state: 'ready' | 'leased' | 'checking' | 'done'
  /** Choice, or first row. */
  readonly first: number
  /** Rows; 1 for `generate`. */
  readonly count: number
  readonly cost: number
  /** `generate`: what was delivered; and, where they were asked for, its log-probabilities, as in protocol/nouns.ts. */
  tokens: number[]
  logprobs: number[] | undefined
  /** Who drew which of them first. */
  spans: readonly Span[]
  /** Of rows: what is asked, once it was asked; and its digest, once that was needed. */
  inputs: readonly Uint32Array[] | undefined
  input: Digest | undefined
  /** Live copies. */
  copies: Lease[]
  /** All leases there ever were, to forget them with the unit. */
  leases: AssignmentId[]
  /** Who may not be given it any more, and who failed it: at most a handful, and mostly nobody. */
  excluded: readonly Identity[]
  failedBy: readonly Volunteer[]
  attempts: number
  /** Set when it is a check of a claim, not a requester's. */
  check: Check | undefined
  /** Its answer, once there is one. */
  claim: Claim | undefined
  /** Answers to it contradict each other: only a trusted engine may compute it now. */
  isDisputed: boolean
  objections: readonly Objection[]
  /** How far a text was checked already. */
  reading: Reading | undefined
}

/** Tokens [from, to) of a text, as delivered. */
export interface Span {
  readonly by: Reputation
  readonly assignment: AssignmentId
  readonly from: number
  readonly to: number
  /** What it has signed of the text so far: places [from, to), others' tokens that it drew alike among them. */
  readonly signed: { from: number; to: number; signature: Signature } | undefined
}

/** Somebody says that the token at this place is another than was delivered. */
export interface Objection {
  readonly accused: Accused
  readonly at: number
  readonly id: number
  readonly logprobs: ArrayLike<number> | undefined
}

/** An assignment as the coordinator sees it. */
export interface Lease {
  readonly id: AssignmentId
  readonly unit: Unit
  readonly identity: Identity
  volunteer: Volunteer
  /** A lost lease is nobody's slot any more; while the unit is open its answer is still welcome. */
  state: 'live' | 'lost'
  readonly isHedge: boolean
  readonly cost: number
  readonly expectedMs: Millis
  /** `generate`: length of the prompt, length with what was drawn before, and the place of the next token it will send. */
  readonly base: number
  readonly from: number
  nextPosition: number
  /** Some of its tokens came. */
  isStreaming: boolean
  readonly sentAt: Millis
  /** When its volunteer could begin with it; undefined while it waits there behind others. */
  startedAt: Millis | undefined
  watch: Watch | undefined
  isYellow: boolean
  reminder: Reminder | undefined
}

/** When its time comes the lease is looked at again. One that was answered before is let go, and all that hangs on it. */
export interface Reminder {
  lease: Lease | undefined
}

type Timer =
  | { kind: 'volunteer'; volunteer: Volunteer }
  | { kind: 'rest'; volunteer: Volunteer }
  | { kind: 'class'; class: ModelClass }
  | { kind: 'drain' }
  /** Somebody has been away for long; the oldest claims are old; leaves were waited for; an earlier life is to be gone on with, and its credit final. */
  | { kind: 'tail'; record: Reputation }
  | { kind: 'claims' }
  | { kind: 'trial'; trial: Trial }
  | { kind: 'alarm'; network: string }
  | { kind: 'restored'; claims: readonly KeptClaim[] | undefined }

export class State {
  now: Millis = 0
  effects: Effect[] = []
  readonly random: Random
  /** Distinguishes ids of this life of the coordinator from those of an earlier one. */
  readonly epoch: string
  readonly operator: string
  readonly volunteers = new Map<VolunteerId, Volunteer>()
  /** Nobody is here twice. */
  readonly identities = new Map<Identity, Volunteer>()
  readonly policy: Policy
  readonly hash: Hash | undefined
  /** Of the lottery. */
  secret: string
  period: number
  readonly records = new Map<Identity, Reputation>()
  /** Networks of convicts, and until when their neighbours are all checked. */
  readonly alarms = new Map<string, Millis>()
  /** What is not final, oldest first, from `claimsHead` on; how many that is, and how many token ids they keep. */
  claims: Claim[] = []
  /** What is left to requesters with a limit, in standard units. */
  readonly credit = new Map<RequesterId, number>()
  claimsHead = 0
  openClaims = 0
  openTokens = 0
  readonly trials = new Map<AssignmentId, Trial>()
  /** Claims of an earlier life that the shell brings back, to be checked. */
  readonly recalls = new Map<UnitId, Claim>()
  readonly classes = new Map<ModelDigest, ModelClass>()
  readonly jobs = new Table<JobId, Job>()
  readonly jobsOf = new Map<RequesterId, number>()
  readonly leases = new Table<AssignmentId, Lease>()
  readonly timers = new Heap<Timer>()
  /** Of leases; apart, because most are answered before. */
  readonly watches = new Heap<Reminder>()
  /**
   * Deadlines of jobs, mostly far off and never reached: apart, so that the timers' heap stays shallow, by id, so that they keep no
   * job in memory, and swept when most of them are of jobs that ended.
   */
  deadlines = new Heap<JobId>()
  /** Classes whose work or volunteers changed in this call. */
  readonly dirty: ModelClass[] = []
  /** Hedges that may be started. */
  hedgeBudget: number = LIMITS.hedgeBurst
  tokensQueued = 0
  drain: { until: Millis; retryMs: Millis; isOver: boolean } | undefined
  counter = 0
  classCounter = 0
  readonly totals = {
    jobsAccepted: 0,
    jobsRefused: 0,
    jobsDone: 0,
    jobsFailed: 0,
    jobsCancelled: 0,
    unitsDone: 0,
    tokensDrawn: 0,
    rowsDone: 0,
    dispatched: 0,
    redispatched: 0,
    hedged: 0,
    leasesLost: 0,
    /** Answers to units that were already answered, or that nobody asked for. */
    lateResults: 0,
    /** Streams or answers that contradicted what was already delivered. */
    disagreements: 0,
    /** Checks made, what they cost in standard units (of a text what reading it takes), and what was paid for; found wrong, disputed by auditors, and keys closed. */
    checks: 0,
    /** Checks of texts that were still being written. */
    chunks: 0,
    /** Questions whose answer was known. */
    canaries: 0,
    checkMacs: 0,
    macs: 0,
    wrong: 0,
    disputes: 0,
    convicted: 0,
    /** Connected, willing and capable volunteer time that has ended, and how much of it had work in hand. */
    connectedMs: 0,
    busyMs: 0,
  }

  constructor(
    seed: number,
    epoch: string,
    operator: string,
    policy: Policy,
    hash?: Hash,
    secret = '',
    period = 0,
  ) {
    this.random = new Random(seed)
    this.policy = policy
    this.hash = hash
    this.secret = secret
    this.period = period
    this.epoch = epoch
    this.operator = operator
  }

  id(letter: string): string {
    return `${letter}${this.counter++}-${this.epoch}`
  }

  emit(effect: Effect): void {
    this.effects.push(effect)
  }

  /** Work of a class or its volunteers changed: it is looked at before this call ends. */
  touch(c: ModelClass): void {
    if (c.isDirty) return
    c.isDirty = true
    this.dirty.push(c)
  }

  /** The open jobs of a class: for what happens seldom. */
  *jobsIn(c: ModelClass): Generator<Job> {
    for (const job of this.jobs.values()) if (job.class === c) yield job
  }

  /** The first that was touched. Mostly it is the only one, and pop(), unlike shift(), keeps the list's memory for the next. */
  nextDirty(): ModelClass | undefined {
    return this.dirty.length > 1 ? this.dirty.shift() : this.dirty.pop()
  }
}

/** Shape of a result row of this kind, or null where the model can't. */
export function shapeOf(model: ServedModel, kind: JobSpec['kind']): { width: number; bits: number } | null {
  if (kind === model.task) return model
  return kind === 'embed' ? (model.embed ?? null) : null
}

/** Choices or rows. */
export const partsOf = (spec: JobSpec): number =>
  spec.kind === 'generate' ? spec.choices.length : spec.rows.length
