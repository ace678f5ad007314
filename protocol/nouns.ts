/**
 * The words both ends use. Ids are opaque strings; the brands keep one kind from being passed for another.
 * Times are milliseconds, sizes bytes, and every number on the wire is a whole number unless it says otherwise.
 */
declare const brand: unique symbol
type Branded<Name extends string> = string & { readonly [brand]: Name }

/** One connection's volunteer; who it is across connections is its key. */
export type VolunteerId = Branded<'volunteer'>
/** What a requester asked, once. */
export type JobId = Branded<'job'>
/** The smallest thing assigned, verified and paid. */
export type UnitId = Branded<'unit'>
/** One lease of a unit to one volunteer. Everything about it is idempotent by this id. */
export type AssignmentId = Branded<'assignment'>
/** Whose fair share a job counts against. */
export type RequesterId = Branded<'requester'>
/** SHA-256 of a pack's manifest.json in lower-case hex: the model's name among machines. */
export type ModelDigest = Branded<'model'>
/** SHA-256 in lower-case hex. */
export type Digest = string
/** Raw Ed25519 public key, 32 bytes in base64url: who a volunteer is, across connections. */
export type PublicKey = string
/** Raw Ed25519 signature, 64 bytes in base64url. */
export type Signature = string
export type Millis = number

/** `stage` (activations through a block range) is reserved: no coordinator assigns it yet. */
export type UnitKind = 'generate' | 'embed' | 'classify' | 'stage'
export type Priority = 'interactive' | 'batch'
export type Trust = 'fast' | 'checked' | 'exact'
export type BackendKind = 'webgpu' | 'wasm' | 'js'

/** A model the coordinator serves and volunteers may load. */
export interface ModelOffer {
  digest: ModelDigest
  /** What people call it; never used to look anything up. */
  name: string
  task: Exclude<UnitKind, 'stage'>
  /** Where its pack lies, from the coordinator's origin: `{path}/manifest.json`, `{path}/{file}`, with Range, immutable. */
  path: string
  /** Bytes of all its files: what a volunteer must download. */
  bytes: number
  /** Tokens a sequence may reach. */
  context: number
  /** How much the network wants it loaded: 0 not now, larger is sooner. */
  demand: number
}

/** Where a volunteer stands with one model. Only `ready` models are assigned. */
export interface ModelStatus {
  digest: ModelDigest
  state: 'absent' | 'downloading' | 'compiling' | 'ready' | 'failed'
  /** Until ready, as the volunteer estimates it. */
  etaMs?: Millis
  /** Tokens a sequence may reach here, where memory allows less than the model does. */
  context?: number
  /** Measured here, milliseconds per prompt token (or encoder token); may be a fraction. A claim until results confirm it. */
  readMs?: number
  /** Measured here, milliseconds per drawn token; may be a fraction. */
  drawMs?: number
}

/** What a volunteer offers, not what its machine has. */
export interface Capability {
  backend: BackendKind
  /** For people: the adapter's or CPU's name. */
  adapter: string
  numerics: 'xn1'
  memoryBytes: number
  models: readonly ModelStatus[]
}

/** Why a volunteer takes no new work. */
export type PauseReason =
  | 'user'
  | 'battery'
  | 'pressure'
  | 'in-use'
  | 'hours'
  | 'data-cap'
  | 'save-data'
  | 'metered'
  | 'hidden'
  | 'frozen'
  | 'device-lost'

/** How to draw tokens. Real numbers here are IEEE doubles in JSON; docs/protocol.md gives the integers they become. */
export interface SamplingOptions {
  /** 0 is greedy, at most 100. */
  temperature: number
  /** 0 is all. */
  topK: number
  /** 0 … 1; 1 is all. */
  topP: number
  /** Unsigned 64 bit, in decimal. */
  seed: string
  /** Which of several choices for one prompt this is. */
  stream: number
}

export interface GenerateOptions {
  /** At least 1: the tokens wanted of this unit, with those to replay. */
  maxTokens: number
  sampling: SamplingOptions
  /**
   * The last `replay` ids of the input were drawn before, by somebody else: draw each of them again. The answer begins with the
   * first of them. Where all agree, go on after the last; where one differs, it is your own that counts, and you go on from there.
   * `maxTokens` counts them too. Absent: 0. One assignment thus takes over a text, or checks one: nobody can tell which.
   */
  replay?: number
  /** Log-probabilities wanted: of the drawn token and of this many likeliest (0 … 20). Absent: none. */
  logprobs?: number
}

/** A unit leased to a volunteer: all it needs to compute the answer. */
export interface Assignment {
  id: AssignmentId
  unit: UnitId
  kind: Exclude<UnitKind, 'stage'>
  model: ModelDigest
  /** Token ids. `generate`: exactly one list, the prompt and whatever was already drawn. Encoders: one list per row. */
  inputs: readonly Uint32Array[]
  /** For `generate` only. */
  generate?: GenerateOptions
  /** How long the coordinator will wait; afterwards the unit is somebody else's. */
  leaseMs: Millis
  priority: Priority
}

/** Natural-logarithm probabilities in Q16, laid out as docs/protocol.md §Results says. */
export interface Logprobs {
  top: number
  /** [tokens][1 + top][2]: id, then its log-probability. The first pair is the drawn token's. */
  values: Int32Array
}

/** What was computed. Its canonical bytes are the payload of its frame. */
export type Output =
  | {
      kind: 'generate'
      /** Place in the sequence of the first token: the length of the assignment's input, without what it is to replay. */
      position: number
      /** Every token this assignment drew, streamed before or not; an end token that was drawn is the last of them. */
      tokens: Uint32Array
      finish: 'stop' | 'length'
      logprobs?: Logprobs
    }
  | {
      kind: 'embed' | 'classify'
      rows: number
      width: number
      /** Binary point: the value is the integer ÷ 2^bits. */
      bits: number
      /** [rows, width] */
      values: Int32Array
    }

/** Answers exactly one Assignment and frees its slot. */
export interface Result {
  assignment: AssignmentId
  output: Output
  /** SHA-256 of the output's canonical bytes. */
  digest: Digest
  /** Milliseconds the engine worked on it, without waiting. */
  computeMs: number
  /** SHA-256 of the unit's input: inputBytes() in statements.ts. On a socket these three are never absent; the house signs nothing. */
  input?: Digest
  /** Root of the Merkle tree over the digests of the residual stream: see merkle.ts and docs/protocol.md §Commitments. */
  root?: Digest
  /** Over resultStatement(): what makes this result somebody's word. */
  signature?: Signature
}

/** A few tokens of a generate unit, sent as they are drawn. */
export interface Progress {
  assignment: AssignmentId
  /** Place in the sequence of the first of them. */
  position: number
  tokens: Uint32Array
  logprobs?: Logprobs
  /** Place in the sequence of the first token streamed of this assignment. On a socket these two are never absent; the house signs nothing. */
  from?: number
  /** Over progressStatement(), of all that was streamed from there to the end of this: the latest stands for every token so far. */
  signature?: Signature
}

/**
 * Why an assignment comes back without an answer. `returned` is nobody's fault (paused, closing, moved); the others count
 * against the unit or the volunteer.
 */
export type FailReason =
  'returned' | 'model-missing' | 'input-invalid' | 'out-of-memory' | 'device-lost' | 'engine-error'
