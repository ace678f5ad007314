/**
 * What happened (past tense, in) and what is to be done (imperative, out). The shell turns sockets and requests into events,
 * performs the effects in their order, and sets one timer for wakeAt().
 */
import type {
  AssignmentId,
  Digest,
  FromCoordinator,
  FromVolunteer,
  GenerateOptions,
  JobId,
  Logprobs,
  Millis,
  ModelDigest,
  ModelOffer,
  Output,
  Priority,
  RequesterId,
  Signature,
  Trust,
  UnitId,
  UnitInput,
  UnitKind,
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
  /** Transformer blocks: a trace has one layer more. */
  layers: number
  /** int8 multiply-accumulates: per token through the blocks, per (token, attended token) pair, per drawn token (the head), per row. */
  macs: { perToken: number; perPair: number; perDraw: number; perRow: number }
  /** Who made it, and which share of what its work earns is theirs: 0 … 1 in all. */
  owners?: readonly { name: string; share: number }[]
}

/** Who a volunteer is across connections: its public key; the coordinator's own engine is `house`. */
export type Identity = string

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
  /**
   * `fast`: delivered first, checked behind. `checked` (default): the answer waits for the check that was drawn for it, if one was.
   * `exact`: recomputed by a trusted engine, or by two keys of different networks, before it is delivered.
   */
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
  /**
   * A socket said hello and was let in: the signature under its key is right. `volunteer` is fresh and unguessable, `network` names
   * where it is (its /24 or /48): nobody checks a neighbour. `isTrusted`: the operator listed this key.
   */
  | {
      type: 'volunteer-joined'
      volunteer: VolunteerId
      hello: Hello
      network: string
      isTrusted?: boolean
      isHouse?: boolean
      rttMs?: Millis
    }
  | { type: 'volunteer-left'; volunteer: VolunteerId; reason: string }
  /**
   * Parsed; for a result, its digest was found to be that of its bytes, and its signature that of its key. So was that of tokens,
   * over all that was streamed of the assignment on this connection, without a gap, `from` the place of its first.
   */
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
  /** A requester may spend so much (more), in standard units, and no more than it was granted. Below 0: taken back, if it is left. */
  | { type: 'credit-granted'; requester: RequesterId; amount: number }
  /** A new secret for the lottery, 32 random bytes in hex; the shell publishes its hash now and the one before. */
  | { type: 'secret-drawn'; secret: string; period: number }
  /** After recall-unit; null where nothing is kept of it (any more). */
  | { type: 'unit-recalled'; unit: UnitId; recalled: Recalled | null }
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
    | 'insufficient_credits'
    | 'draining'
    | 'deadline_exceeded'
    | 'cancelled'
    | 'internal'
  message: string
  /** What of the job is at fault, where it is neither the model nor all of it. */
  field?: 'trust'
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
  /** The weakest of what was done for its units. */
  verification: Verification
}

export type Verification = 'unverified' | 'sampled' | 'audited' | 'replicated' | 'trusted'

/** What was done to know that a unit's answer is right. */
export interface UnitCheck {
  /**
   * `trusted`: a trusted engine computed it, or recomputed it. `replicated`: two keys of different networks agree. `audited`: an
   * established volunteer of another network recomputed it. `pending`: drawn, and not done yet. `none`: none was drawn. `abandoned`:
   * one was due, and nobody was there, or able, to make it.
   */
  kind: 'none' | 'pending' | 'abandoned' | 'audited' | 'replicated' | 'trusted'
  /** With this probability one was drawn: 1 for newcomers. */
  rate: number
  /** Of the lottery: under its secret it was drawn. */
  period: number
  /** Who recomputed it. */
  by: readonly Identity[]
}

/** An answer of an earlier life of the coordinator that is not final: what is known of it without its question. */
export interface KeptClaim {
  job: JobId
  requester: RequesterId
  unit: UnitId
  model: ModelDigest
  identity: Identity
  assignment: AssignmentId
  root: Digest | null
  check: UnitCheck
  /** Standard units of it in its key's escrow. */
  paid: number
  index: number
  ageMs: Millis
}

/** The rest of it: what was asked, and what was said. */
export interface Recalled {
  kind: Exclude<UnitKind, 'stage'>
  first: number
  count: number
  inputs: readonly Uint32Array[]
  options: GenerateOptions | undefined
  tokens: ArrayLike<number>
  input: Digest | null
  output: Digest | null
  signature: Signature | null
  streamed?: SignedEnd | undefined
  macs: number
}

/** Of a text that ended before its author could sign the whole: its word for what it had streamed, from a place in the sequence to the end. */
export interface SignedEnd {
  from: number
  signature: Signature
}

/** What a key has to show for itself after this. */
export interface IdentityRecord {
  accepted: number
  checked: number
}

/** Lines sum to zero. Amounts are standard units, 10^6 int8 multiply-accumulates, whole numbers. */
export interface Posting {
  kind: 'grant' | 'reserve' | 'release' | 'earn' | 'vest' | 'reverse' | 'convict'
  lines: readonly { account: string; amount: number }[]
  at: Millis
  job?: JobId
  unit?: UnitId
  identity?: Identity
}

/** Tokens somebody signed before their text was over. */
export interface Streamed {
  /** Place in the sequence of the first. */
  from: number
  tokens: Uint32Array
  logprobs?: Logprobs
}

/** What shows a stranger that an answer was wrong: the question, the answer under its key's signature, and the right one. */
export interface Evidence {
  assignment: AssignmentId
  model: ModelDigest
  /** What was asked: computing it again settles the matter. */
  unit: UnitInput
  input: Digest
  /** The accused's; null where it signed nothing: then this is the coordinator's word only. */
  output: Digest | null
  root: Digest | null
  signature: Signature | null
  /** Where it is no whole answer that was signed, but what was streamed of a text: `output` is the digest of these. */
  streamed?: Streamed
  /** `tokens`: of a text that is not over, how much of it was drawn again. */
  referee: { identity: Identity; output: Digest; root: Digest | null; tokens?: number }
  /** Where the two traces first differ; null when leaves were withheld or do not lie under the root. */
  leaf: {
    index: number
    count: number
    /** The layer, and positions [from, to) counted through all sequences of the unit; null for the last leaf, the output. */
    place: { layer: number; from: number; to: number } | null
    accused: Uint8Array
    accusedPath: readonly Uint8Array[]
    referee: Uint8Array
    refereePath: readonly Uint8Array[]
  } | null
}

/** What its caller is told of a job. */
export type JobEffect = Extract<
  Effect,
  {
    type:
      | 'accept-job'
      | 'refuse-job'
      | 'deliver-tokens'
      | 'verify-tokens'
      | 'finish-choice'
      | 'deliver-rows'
      | 'finish-job'
      | 'fail-job'
  }
>
/** What is kept of a unit after it: receipts, credit, evidence. */
export type TrustEffect = Extract<
  Effect,
  { type: 'settle-unit' | 'check-unit' | 'finalize-unit' | 'correct-unit' | 'convict' | 'post' }
>

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
  /** The first `tokens` of a choice that is still being written were drawn again, by somebody else, and came out the same. */
  | { type: 'verify-tokens'; job: JobId; choice: number; tokens: number; by: Identity }
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
  /** A unit was answered, and the answer delivered: what a receipt says of it. */
  | {
      type: 'settle-unit'
      job: JobId
      requester: RequesterId
      unit: UnitId
      kind: Exclude<UnitKind, 'stage'>
      model: ModelDigest
      /** Rows [first, first + count); of a text, `first` is its choice. */
      first: number
      count: number
      choice: number | null
      identity: Identity
      assignment: AssignmentId
      /** The digests, root and signature are null where a text ended before its volunteer signed it. */
      input: Digest | null
      output: Digest | null
      root: Digest | null
      signature: Signature | null
      /** In that case what it had signed, if it was all to the end; not with log-probabilities, which are not kept. */
      streamed?: SignedEnd | undefined
      /** Standard units. */
      macs: number
      check: UnitCheck
      status: 'provisional' | 'final'
      /** Which of its key's results it is. */
      index: number
      record: IdentityRecord
    }
  /** A check that was pending, or came later, is done. `wrong`: convict and correct-unit follow. */
  | {
      type: 'check-unit'
      job: JobId
      unit: UnitId
      identity: Identity
      verdict: 'right' | 'wrong' | 'inconclusive'
      check: UnitCheck
      /** What checking it cost, in standard units. */
      macs: number
      record: IdentityRecord
    }
  /** An answer of an earlier life is to be checked: unit-recalled says what it was. */
  | { type: 'recall-unit'; unit: UnitId }
  /** Nothing can change this unit's answer any more. */
  | { type: 'finalize-unit'; job: JobId; unit: UnitId }
  /**
   * What was delivered of this unit was wrong: this is right. While the job is open, `output` takes the place of all that was
   * delivered of the choice or rows; afterwards the receipt is issued again.
   */
  | {
      type: 'correct-unit'
      job: JobId
      unit: UnitId
      first: number
      count: number
      choice: number | null
      /** Whose answer this is: a trusted engine's. */
      identity: Identity
      output: Output
      digest: Digest
      root: Digest | null
      isJobOpen: boolean
    }
  /** A trusted recomputation proved this key wrong: it is not let in again. */
  | { type: 'convict'; identity: Identity; at: Millis; evidence: Evidence }
  | { type: 'post'; entry: Posting }
  | { type: 'finish-drain' }
  /** For the log: no prompt, no output. */
  | { type: 'note'; level: 'info' | 'warn'; text: string; volunteer?: VolunteerId; job?: JobId }
