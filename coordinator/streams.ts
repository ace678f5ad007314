/** What one connection has streamed of its assignments, for the signatures under it: each is over all that came before as well. */
import { createHash } from 'node:crypto'
import type { Hash } from 'node:crypto'
import { progressBytes } from '../protocol/index.ts'
import type { AssignmentId, Digest, Progress } from '../protocol/index.ts'

interface Stream {
  /** Places of its first token, and of the one that is due next. */
  from: number
  next: number
  hash: Hash
}

/** More than a volunteer holds: those whose answers nobody waits for any more are forgotten then. */
const STREAMS_MAX = 128

export class Streams {
  readonly #isAwaited: (assignment: AssignmentId) => boolean
  readonly #streams = new Map<AssignmentId, Stream>()

  constructor(isAwaited: (assignment: AssignmentId) => boolean) {
    this.#isAwaited = isAwaited
  }

  /** SHA-256 of progressBytes() of all that was streamed of an assignment, these included; null where they do not follow. */
  digest({ assignment, position, from, tokens, logprobs }: Progress): Digest | null {
    const stream = position === from ? this.#begin(assignment, position) : this.#streams.get(assignment)
    if (stream?.from !== from || stream?.next !== position) return null
    stream.next += tokens.length
    return stream.hash.update(progressBytes(tokens, logprobs)).copy().digest('hex')
  }

  #begin(assignment: AssignmentId, from: number): Stream {
    if (this.#streams.size >= STREAMS_MAX)
      for (const known of this.#streams.keys()) if (!this.#isAwaited(known)) this.#streams.delete(known)
    const stream = { from, next: from, hash: createHash('sha256') }
    this.#streams.set(assignment, stream)
    return stream
  }
}
