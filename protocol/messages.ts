/** Every message either way: one discriminated union each. Their bytes are in wire.ts, their checks in parse.ts. */
import type {
  Assignment,
  AssignmentId,
  Capability,
  FailReason,
  Millis,
  ModelOffer,
  ModelStatus,
  PauseReason,
  Progress,
  PublicKey,
  Result,
  Signature,
  VolunteerId,
} from './nouns.ts'

/** Offered in `Sec-WebSocket-Protocol`; a breaking change gets a new name, and both may be offered. */
export const PROTOCOL = 'chorale.v1'
/** Counts additions within v1. Each side tolerates a newer other side; see docs/protocol.md §Versions. */
export const PROTOCOL_VERSION = 1

export type FromVolunteer =
  /** First frame of a connection, in answer to the challenge. */
  | {
      type: 'hello'
      version: number
      /** For people and logs: program and version. */
      client: string
      capability: Capability
      /** Assignments it will hold at once. Credit: an assignment spends one, its result, failure or cancel returns it. */
      slots: number
      /** How many of those it computes side by side; the others wait, so that the network hides behind compute. */
      concurrency: number
      isHidden: boolean
      /** Set when it joins without taking work yet. */
      paused?: PauseReason
      /** What it still holds from a connection that broke: running, or answered without knowing whether the answer arrived. */
      held: readonly AssignmentId[]
      /** Who it is: its key, and its signature over helloStatement(). On a socket never absent; the house has neither. */
      publicKey?: PublicKey
      signature?: Signature
    }
  /** The answer; frees the slot. */
  | ({ type: 'result' } & Result)
  /** Progress of a generate unit. */
  | ({ type: 'tokens' } & Progress)
  /** No answer; frees the slot. `retryable`: another try here might do better. */
  | { type: 'fail'; assignment: AssignmentId; reason: FailReason; retryable: boolean; detail?: string }
  /** How much it takes from now on. Fewer than it holds is fine: it finishes those. */
  | { type: 'slots'; slots: number; concurrency: number }
  /** Whether it takes new work, and why not. `draining`: it finishes what it holds and goes. */
  | { type: 'state'; state: 'open' | 'paused' | 'draining'; reason?: PauseReason; isHidden: boolean }
  /** What changed about its models: loading, ready, measured speeds. */
  | { type: 'models'; models: readonly ModelStatus[] }
  /** Answers a ping, at once. */
  | { type: 'pong'; nonce: number }
  /** Answers disclose: the leaves under a root it committed to, 32 bytes each; none when it no longer has them. */
  | { type: 'leaves'; assignment: AssignmentId; leaves: Uint8Array }

/** What a key has earned, and how far it is trusted. */
export interface Standing {
  /** Results accepted, and how many of them were checked and found right. */
  accepted: number
  checked: number
  /** Share of its results that are checked now: 1 for a newcomer. */
  checkRate: number
  /** Credit that can still be reversed, and credit that is its own for good. */
  pending: number
  vested: number
}

export interface Settings {
  /** The coordinator pings after this long without a frame, and lets go after `silentMs`. */
  pingMs: Millis
  silentMs: Millis
  /** Progress of generate units: at most one frame per this. */
  progressMs: Millis
  /** Longest delay of a reconnect, see docs/protocol.md §Reconnecting. */
  reconnectMsMax: Millis
}

export type FromCoordinator =
  /** First frame of a connection: what hello is to be signed for. */
  | { type: 'challenge'; nonce: string; coordinator: PublicKey }
  /** Answers hello; assignments follow at once when there is work. */
  | {
      type: 'welcome'
      version: number
      volunteer: VolunteerId
      settings: Settings
      models: readonly ModelOffer[]
      /** Of hello's `held`, what is still wanted; the others are to be dropped. */
      keep: readonly AssignmentId[]
      /** For people: whose network this is. */
      operator: string
    }
  /** Work, at most the free slots. The next assign or nothing is the only acknowledgement of a result. */
  | { type: 'assign'; assignments: readonly Assignment[] }
  /** Stop working on these; their slots are free. No answer is expected, and one that crosses is ignored. */
  | { type: 'cancel'; assignments: readonly AssignmentId[] }
  /** The models served now: replaces the list in welcome. */
  | { type: 'models'; models: readonly ModelOffer[] }
  | { type: 'ping'; nonce: number }
  /** The coordinator is going: no new work; finish or give back, reconnect after the delay. */
  | { type: 'drain'; retryMs: Millis }
  /** A dispute: show the leaves under the root of this answer. */
  | { type: 'disclose'; assignment: AssignmentId }
  /** Where this volunteer's key stands, in standard units (10^6 int8 multiply-accumulates). Sent when it changed, at most each second. */
  | { type: 'standing'; standing: Standing }
  /** Something this volunteer sent was refused; the connection lives on unless a close follows. */
  | { type: 'error'; code: string; message: string }

/** Type bytes in the header. Volunteers' are below 64, coordinators' from 64 on. */
export const FROM_VOLUNTEER = {
  hello: 1,
  result: 2,
  tokens: 3,
  fail: 4,
  slots: 5,
  state: 6,
  models: 7,
  pong: 8,
  leaves: 9,
} as const satisfies Record<FromVolunteer['type'], number>

export const FROM_COORDINATOR = {
  welcome: 64,
  assign: 65,
  cancel: 66,
  models: 67,
  ping: 68,
  drain: 69,
  error: 70,
  challenge: 71,
  disclose: 72,
  standing: 73,
} as const satisfies Record<FromCoordinator['type'], number>

/** Which of the offered subprotocols to speak, or null: then refuse the upgrade with a 426. */
export function negotiate(offered: Iterable<string>): typeof PROTOCOL | null {
  for (const name of offered) if (name === PROTOCOL) return PROTOCOL
  return null
}
