/** Why a key was shut out, for everybody to check: what it was asked, what it signed, what is right. Kept for good. */
import type { Effect, Streamed } from '../core/events.ts'
import { EVIDENCE_FORMAT, optionsDocument, sha256 } from './documents.ts'
import type { EvidenceBundle } from './documents.ts'
import type { CoordinatorKey } from '../identity.ts'
import type { Recorder, Records } from './records.ts'
import { sealed } from './seal.ts'

export class Evidences {
  readonly #records: Records
  readonly #recorder: Recorder
  readonly #key: CoordinatorKey
  readonly #fresh = new Map<string, EvidenceBundle>()
  /** Convictions of this life. */
  count = 0

  constructor(records: Records, recorder: Recorder, key: CoordinatorKey) {
    this.#records = records
    this.#recorder = recorder
    this.#key = key
  }

  /** Returns the id it is kept under. */
  convict({ identity, evidence }: Extract<Effect, { type: 'convict' }>): string {
    const { assignment, model, unit, input, output, root, signature, streamed, referee, leaf } = evidence
    // A key is convicted once; whoever has it, or has seen it on a receipt, finds its evidence.
    const id = `ev_${sha256(identity).slice(0, 32)}`
    const bundle = sealed(
      {
        format: EVIDENCE_FORMAT,
        id,
        convicted_at: Math.floor(Date.now() / 1000),
        request: {
          model,
          numerics: 'xn1',
          kind: unit.kind,
          inputs: promptsOf(unit),
          ...(unit.generate && { options: optionsDocument(unit.generate) }),
        },
        input,
        accused: {
          volunteer: identity,
          assignment,
          output,
          root,
          signature,
          ...(streamed && { streamed: streamedDocument(streamed) }),
        },
        referee: {
          volunteer: referee.identity,
          output: referee.output,
          root: referee.root,
          ...(referee.tokens !== undefined && { tokens: referee.tokens }),
        },
        leaf: leaf && {
          index: leaf.index,
          count: leaf.count,
          place: leaf.place,
          accused: hex(leaf.accused),
          accused_path: leaf.accusedPath.map(hex),
          referee: hex(leaf.referee),
          referee_path: leaf.refereePath.map(hex),
        },
      } as const,
      this.#key,
    )
    this.count++
    this.#fresh.set(id, bundle)
    void this.#recorder.document('evidence', id, JSON.stringify(bundle)).then(() => this.#fresh.delete(id))
    return id
  }

  async get(id: string): Promise<EvidenceBundle | null> {
    const fresh = this.#fresh.get(id)
    if (fresh) return fresh
    const kept = await this.#records.document('evidence', id)
    return kept && (JSON.parse(kept.json) as EvidenceBundle)
  }

  /** Ids and whom they convict, in the order of the ids. */
  async list(after: string, limit: number): Promise<{ id: string; volunteer: string; at: number }[]> {
    const kept = await this.#records.documents('evidence', after, limit)
    return kept.map(({ json }) => {
      const { id, accused, convicted_at } = JSON.parse(json) as EvidenceBundle
      return { id, volunteer: accused.volunteer, at: convicted_at }
    })
  }
}

/** What is to be replayed is no part of the question. */
function promptsOf({
  inputs,
  generate,
}: Extract<Effect, { type: 'convict' }>['evidence']['unit']): number[][] {
  const replay = generate?.replay ?? 0
  return inputs.map((row) => Array.from(replay ? row.subarray(0, row.length - replay) : row))
}

const streamedDocument = ({ from, tokens, logprobs }: Streamed): EvidenceBundle['accused']['streamed'] => ({
  from,
  tokens: Array.from(tokens),
  ...(logprobs && { logprobs: Array.from(logprobs.values) }),
})

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')
