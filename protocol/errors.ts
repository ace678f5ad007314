/** How a connection ends when the other side did something wrong: WebSocket close codes, one meaning each. */
export const CLOSE = {
  /** The frame or its meta has a shape this protocol does not know. */
  malformed: 4400,
  /** The ticket, key or signature is missing or wrong. */
  unauthorized: 4401,
  /** This volunteer is not welcome: see the reason. */
  refused: 4403,
  /** An answer under this key was proven wrong; the reason names the evidence. */
  convicted: 4410,
  /** No protocol version in common. */
  version: 4406,
  /** No hello in time, or nothing heard for too long. */
  silent: 4408,
  /** The same volunteer connected again; this is the older connection. */
  replaced: 4409,
  /** A frame beyond the limits. */
  tooLarge: 4413,
  /** More frames than the limits allow. */
  rateLimited: 4429,
  /** WebSocket's own: the coordinator is restarting; come back after the delay it gave. */
  restarting: 1012,
  /** WebSocket's own: this side can't keep up. */
  overloaded: 1013,
} as const

/** What, where, and the code to close the connection with. `message` fits a close frame: at most 123 ASCII characters. */
export class ProtocolError extends Error {
  readonly code: number

  constructor(code: number, message: string) {
    super(message.replace(/[^ -~]/g, '?').slice(0, 123))
    this.name = 'ProtocolError'
    this.code = code
  }
}
