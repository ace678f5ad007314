/** A stage whose volunteers compute, sign and commit, honestly or not; what trust is tried on. */
import { createHash } from 'node:crypto'
import type { Effect, JobSpec } from '../../coordinator/core/events.ts'
import { inputBytes, merkleRoot, outputBytes } from '../../protocol/index.ts'
import type { Assignment, Output, RequesterId, VolunteerId } from '../../protocol/index.ts'
import { MODELS, Stage } from './stage.ts'

export const sha = (bytes: Uint8Array): Uint8Array => createHash('sha256').update(bytes).digest()
export const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')
export const key = (name: string): string => name.padEnd(43, '_')

/** A stage on which everybody computes honestly unless told what to add to the first value or token. */
export class Court extends Stage {
  readonly leaves = new Map<string, Uint8Array>()

  constructor(options: ConstructorParameters<typeof Stage>[1] = {}) {
    super(MODELS, { hash: sha, secret: 'ab'.repeat(32), ...options })
  }

  output(a: Assignment, wrong = 0): Output {
    if (a.kind === 'generate') {
      const { maxTokens, replay = 0, logprobs: top } = a.generate!
      const base = a.inputs[0]!.length - replay
      const tokens = Uint32Array.from({ length: maxTokens }, (_, i) => 100 + base + i)
      tokens[0]! += wrong
      const logprobs = top === undefined ? undefined : { top, values: Int32Array.from([...tokens].flatMap((id) => Array.from({ length: 1 + top }, () => [id, -id]).flat())) } // prettier-ignore
      return { kind: 'generate', position: base, tokens, finish: 'length', logprobs }
    }
    const values = Int32Array.from(a.inputs.flatMap((row) => [row.length, 7]))
    values[0]! += wrong
    return { kind: a.kind, rows: a.inputs.length, width: 2, bits: 16, values }
  }

  /** @param trace what was committed to besides the output; the honest all have the same */
  answers(v: VolunteerId, a: Assignment, wrong = 0, trace = wrong): Effect[] {
    const output = this.output(a, wrong)
    const digest = hex(sha(outputBytes(output)))
    const leaves = Buffer.concat([
      sha(Buffer.from('layer 0')),
      sha(Buffer.from(`layer ${trace}`)),
      Buffer.from(digest, 'hex'),
    ])
    this.leaves.set(a.id, leaves)
    const root = hex(
      merkleRoot(
        [0, 1, 2].map((i) => leaves.subarray(32 * i, 32 * i + 32)),
        sha,
      ),
    )
    const input = hex(sha(inputBytes(a)))
    return this.hear(v, {
      type: 'result',
      assignment: a.id,
      output,
      digest,
      computeMs: 1,
      input,
      root,
      signature: `by ${v}`,
    })
  }

  /** Whoever is asked for leaves shows them. */
  disclose(): void {
    for (const effect of this.done.slice())
      if (effect.type === 'send' && effect.message.type === 'disclose') {
        const { assignment } = effect.message
        this.hear(effect.volunteer, { type: 'leaves', assignment, leaves: this.leaves.get(assignment)! })
      }
  }

  /** What accounts hold, by the postings alone. */
  get balances(): Record<string, number> {
    const all: Record<string, number> = {}
    for (const { entry } of this.of('post'))
      for (const { account, amount } of entry.lines) all[account] = (all[account] ?? 0) + amount
    return all
  }

  ask(trust: JobSpec['trust'], rows = 1): void {
    this.sort(rows, { trust, requester: 'r' as RequesterId })
  }
}

export const known = (...names: string[]) => ({
  identities: names.map((name) => ({
    identity: key(name),
    accepted: 2_000,
    checked: 100,
    isConvicted: false,
  })),
})
