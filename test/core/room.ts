/** A stage of texts: writers, readers, and what is right at a place of any sequence. */
import { createHash } from 'node:crypto'
import { expect } from 'vitest'
import type { Effect, Hello } from '../../coordinator/core/events.ts'
import type { Policy } from '../../coordinator/core/policy.ts'
import { inputBytes, outputBytes } from '../../protocol/index.ts'
import type { Assignment, Output, VolunteerId } from '../../protocol/index.ts'
import { MODELS, Stage, WRITER } from './stage.ts'

export const sha = (bytes: Uint8Array): Uint8Array => createHash('sha256').update(bytes).digest()
export const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')
export const key = (name: string): string => name.padEnd(43, '_')

export const PROMPT = [1, 2, 3, 4]
/** What is right at a place of any sequence here. */
export const right = (place: number): number => 100 + (place % 800)
const END = 7

export type Sent = Assignment & { to: VolunteerId }

/** A room of writers that are known for long, and readers. */
export class Room extends Stage {
  /** Where the right text ends by itself. */
  endsAt = Infinity

  constructor(policy: Partial<Policy> = {}, known: readonly string[] = ['a', 'b', 'c', 'd']) {
    const identities = known.map((name) => ({ identity: key(name), accepted: 2_000, checked: 100, isConvicted: false })) // prettier-ignore
    const models = MODELS.map((m) => ({ ...m, context: 4_000 }))
    super(models, {
      hash: sha, restore: { identities }, policy: { chunk: 8, textShare: 1, floor: 1e-9, beta: 1e-9, canaries: 0, ...policy },
    }) // prettier-ignore
  }

  /** @param reads tokens it reads in the time of drawing one */
  enter(
    name: string,
    reads: number,
    change: { isHouse?: boolean; network?: string; held?: Hello['held'] } = {},
  ): VolunteerId {
    const models = [{ digest: WRITER, state: 'ready' as const, readMs: 1, drawMs: reads }]
    return this.join({ publicKey: change.isHouse ? undefined : key(name), models, ...change })
  }

  token(place: number): number {
    return place === this.endsAt ? END : right(place)
  }

  /** Tokens [from, to) of the sequence. */
  tokensOf(from: number, to: number): number[] {
    return Array.from({ length: to - from }, (_, i) => this.token(from + i))
  }

  /** The right answer, or one that is wrong at a place of the output. */
  answers(v: VolunteerId, a: Sent, wrongAt?: number): Effect[] {
    const { maxTokens, replay = 0 } = a.generate!
    const position = a.inputs[0]!.length - replay
    const end = Math.min(position + maxTokens, this.endsAt + 1)
    const tokens = Uint32Array.from(this.tokensOf(position, end))
    if (wrongAt !== undefined) tokens[wrongAt]! += 1
    const finish = tokens.at(-1) === END ? 'stop' : 'length'
    const output: Output = { kind: 'generate', position, tokens, finish }
    const digest = hex(sha(outputBytes(output)))
    return this.hear(v, {
      type: 'result', assignment: a.id, output, digest, computeMs: 1, input: hex(sha(inputBytes(a))),
      root: hex(sha(Buffer.from(`trace of ${digest}`))), signature: `by ${v}`,
    }) // prettier-ignore
  }

  /** Streams tokens [from, to) of the output, the one at `wrongAt` and those behind it wrong. */
  streams(v: VolunteerId, a: Sent, from: number, to: number, wrongAt = Infinity): Effect[] {
    const at = a.inputs[0]!.length - (a.generate!.replay ?? 0)
    const ids = this.tokensOf(at + from, at + to).map((id, i) => (from + i >= wrongAt ? id + 1 : id))
    return this.tokens(v, a.id, at + from, ids)
  }

  get convicts(): string[] {
    return this.of('convict').map(({ identity }) => identity)
  }

  get checked(): number[] {
    return this.of('verify-tokens').map(({ tokens }) => tokens)
  }

  /** What its caller has of choice 0. */
  get told(): number[] {
    let told: number[] = []
    for (const effect of this.done)
      if (effect.type === 'deliver-tokens') {
        expect(effect.index).toBe(told.length)
        told.push(...effect.tokens)
      } else if (effect.type === 'correct-unit' && effect.output.kind === 'generate')
        told = [...effect.output.tokens]
    return told
  }
}

/** A house that reads fast, and somebody who writes `maxTokens`. */
export function scene(
  maxTokens: number,
  policy: Partial<Policy> = {},
): { s: Room; house: VolunteerId; writer: VolunteerId; a: Sent } {
  const s = new Room(policy)
  const house = s.enter('house', 100, { isHouse: true })
  const writer = s.enter('a', 8)
  s.write(PROMPT, maxTokens, { trust: 'checked' })
  const [a] = s.assigned()
  expect(a!.to).toBe(writer)
  return { s, house, writer, a: a! }
}
