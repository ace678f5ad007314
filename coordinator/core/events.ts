/**
 * What happened (past tense, in) and what is to be done (imperative, out). The shell turns sockets and requests into events,
 * performs the effects in their order, and sets one timer for wakeAt().
 */
import type {
  FromCoordinator,
  FromVolunteer,
  GenerateOptions,
  JobId,
  Logprobs,
  Millis,
  ModelDigest,
  ModelOffer,
  Priority,
  RequesterId,
  Trust,
  VolunteerId,
} from '../../protocol/index.ts'

/** A model on offer, and what the core must know to judge the shape of its results. */
export interface ServedModel extends Omit<ModelOffer, 'demand'> {
  vocab: number
  /** Tokens that end a text. */
  endIds: readonly number[]
  /** Of one result row: the embedding's width or the number of labels; 0 for `generate`. */
  width: number
  /** Binary point of one result value; 0 for `generate`. */
  bits: number
  /** Set when a classifier also answers `embed` jobs. */
  embed?: { width: number; bits: number }
}

export type Hello = Extract<FromVolunteer, { type: 'hello' }>

interface JobCommon {
  /** Chosen by the shell; must be new. */
  id: JobId
  requester: RequesterId
  /** Share relative to other requesters; default 1. */
  weight?: number
  model: ModelDigest
  priority: Priority
  /** From submission; default LIMITS.deadlineMs. */
  deadlineMs?: Millis
  /** Accepted and remembered; checks do not exist yet, so every answer is `unverified`. */
  trust?: Trust
  /** Queue even when no volunteer can run it now. */
  mayWait?: boolean
}
export interface Choice {
  prompt: Uint32Array
  options: GenerateOptions
}
/** What a requester asked, in tokens and integers. `generate`: one unit per choice. Encoders: rows, cut into units late. */
export type JobSpec =
  | (JobCommon & { kind: 'generate'; choices: readonly Choice[] })
  | (JobCommon & { kind: 'embed' | 'classify'; rows: readonly Uint32Array[] })

export type Event =
  /** A socket said hello and was let in. `volunteer` is fresh and unguessable. */
  | { type: 'volunteer-joined'; volunteer: VolunteerId; hello: Hello; isHouse?: boolean; rttMs?: Millis }
  | { type: 'volunteer-left'; volunteer: VolunteerId; reason: string }
  /** Parsed; for a result, its digest was found to be that of its bytes. */
  | { type: 'message-received'; volunteer: VolunteerId; message: Exclude<FromVolunteer, { type: 'hello' }> }
  /** Its socket holds more unsent bytes than it should, or no longer does. */
  | { type: 'volunteer-congested'; volunteer: VolunteerId; isCongested: boolean }
  | { type: 'job-submitted'; job: JobSpec }
  /** The requester hung up or gave up. */
  | { type: 'job-cancelled'; job: JobId; reason: string }
  /** The shell saw a stop string in a choice's text: no more tokens are wanted. */
  | { type: 'choice-stopped'; job: JobId; choice: number }
  | { type: 'models-changed'; models: readonly ServedModel[] }
  /** Finish what was accepted within `graceMs`, then send volunteers away for `retryMs`. */
  | { type: 'drain-started'; graceMs: Millis; retryMs: Millis }
  /** wakeAt() has come. */
  | { type: 'time-passed' }

/** Codes as in the API's errors; `etaMs` when a volunteer is getting ready, `retryMs` when waiting helps. */
export interface JobError {
  code:
    | 'model_not_found'
    | 'context_length_exceeded'
    | 'invalid_request'
    | 'no_capacity'
    | 'overloaded'
    | 'rate_limited'
    | 'draining'
    | 'deadline_exceeded'
    | 'cancelled'
    | 'internal'
  message: string
  etaMs?: Millis
  retryMs?: Millis
}

export interface Contribution {
  volunteer: VolunteerId
  isHouse: boolean
  /** Units it finished. */
  units: number
  /** Tokens or rows of its that were delivered. */
  items: number
  computeMs: number
}

/** Who did what for a job. */
export interface JobSummary {
  units: number
  /** Answers that were needed again because the first volunteer failed, left or was late. */
  redispatched: number
  hedged: number
  queuedMs: Millis
  totalMs: Millis
  /** In the order of their first contribution. */
  volunteers: readonly Contribution[]
  verification: 'unverified'
}

export type Effect =
  | { type: 'send'; volunteer: VolunteerId; message: FromCoordinator }
  /** Also ends the volunteer for the core: no `volunteer-left` is needed, and one is ignored. */
  | { type: 'close'; volunteer: VolunteerId; code: number; reason: string }
  | { type: 'accept-job'; job: JobId; expectedWaitMs: Millis }
  /** Instead of accept-job. */
  | { type: 'refuse-job'; job: JobId; error: JobError }
  /** `index`: place of the first in the choice's output. In order, without gaps, never twice. */
  | {
      type: 'deliver-tokens'
      job: JobId
      choice: number
      index: number
      tokens: readonly number[]
      logprobs?: Logprobs
    }
  | { type: 'finish-choice'; job: JobId; choice: number; finish: 'stop' | 'length'; tokens: number }
  /** Rows [first, first + rows) of the job; units finish in any order. */
  | {
      type: 'deliver-rows'
      job: JobId
      first: number
      rows: number
      width: number
      bits: number
      values: Int32Array
    }
  | { type: 'finish-job'; job: JobId; summary: JobSummary }
  /** After accept-job; what was delivered before stands. */
  | { type: 'fail-job'; job: JobId; error: JobError; summary: JobSummary }
  | { type: 'finish-drain' }
  /** For the log: no prompt, no output. */
  | { type: 'note'; level: 'info' | 'warn'; text: string; volunteer?: VolunteerId; job?: JobId }
