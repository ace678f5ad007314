/** Books of a coordinator that hears what a core would say, with answers really computed and really signed. */
import { createHash, generateKeyPairSync, sign } from 'node:crypto'
import type { KeyObject } from 'node:crypto'
import { Books } from '../../coordinator/books/books.ts'
import type { Effect, JobSpec, UnitCheck } from '../../coordinator/core/events.ts'
import { CoordinatorKey } from '../../coordinator/identity.ts'
import { openLog } from '../../coordinator/log.ts'
import type { Records } from '../../coordinator/books/records.ts'
import { ModelStore } from '../store/model.ts'
import { localCompute } from '../../cli/verify.ts'
import type { Compute } from '../../cli/verify.ts'
import { openPackFolder, packedFolder } from '../../tools/models.ts'
import { inputBytes, resultStatement } from '../../protocol/index.ts'
import type {
  AssignmentId,
  JobId,
  ModelDigest,
  RequesterId,
  UnitId,
  UnitInput,
} from '../../protocol/index.ts'

export const sha256 = (bytes: Uint8Array | string): string => createHash('sha256').update(bytes).digest('hex')
export const newKey = (): CoordinatorKey => new CoordinatorKey(generateKeyPairSync('ed25519').privateKey)

export interface Volunteer {
  key: string
  secret: KeyObject
}
export function volunteer(): Volunteer {
  const { publicKey, privateKey } = generateKeyPairSync('ed25519')
  return { key: publicKey.export({ format: 'jwk' }).x!, secret: privateKey }
}

type Settled = Extract<Effect, { type: 'settle-unit' }>

export interface Bench {
  books: Books
  key: CoordinatorKey
  records: Records
  compute: Compute
  tales: ModelDigest
  intents: ModelDigest
  close: () => Promise<void>
}

export async function openBench(records: Records = new ModelStore(), key = newKey()): Promise<Bench> {
  const digestOf = async (name: string): Promise<ModelDigest> =>
    (await openPackFolder(await packedFolder(name))).digest as ModelDigest
  const [tales, intents] = [await digestOf('tales-3m'), await digestOf('intents-3m')]
  const names = new Map([[tales, 'tales-3m'], [intents, 'intents-3m']]) // prettier-ignore
  const nameOf = (digest: string): string => names.get(digest as ModelDigest) ?? digest
  const books = await Books.open({ records, key, nameOf, log: openLog('silent') })
  const { compute, close } = await localCompute({ backend: 'wasm', threads: 1 })
  return { books, key, records, compute, tales, intents, close: async () => { await books.close(); await close() } } // prettier-ignore
}

let counter = 0
export const CHECKED: UnitCheck = { kind: 'none', rate: 0.04, period: 1, by: [] }

/** What a core says of one unit that this volunteer answered, rightly unless told otherwise. */
export async function settle(
  { compute, key }: Bench,
  job: JobSpec,
  first: number,
  count: number,
  by: Volunteer | 'house',
  change: Partial<Settled> = {},
): Promise<Effect[]> {
  const unit: UnitInput =
    job.kind === 'generate'
      ? { kind: 'generate', inputs: [job.choices[first]!.prompt], generate: job.choices[first]!.options }
      : { kind: job.kind, inputs: job.rows.slice(first, first + count) }
  const truth = await compute(job.model, unit)
  const claim = {
    coordinator: key.publicKey,
    assignment: change.assignment ?? (`a${++counter}-test` as AssignmentId),
    model: job.model,
    input: change.input ?? sha256(inputBytes(unit)),
    output: change.output ?? truth.output,
    root: change.root ?? truth.root,
  }
  const signature =
    by === 'house' ? null : sign(null, resultStatement(claim), by.secret).toString('base64url')
  const { input, output, root, assignment } = claim
  const settled: Settled = {
    type: 'settle-unit', job: job.id, requester: job.requester, unit: `u${++counter}-test` as UnitId, kind: job.kind,
    model: job.model, first, count, choice: job.kind === 'generate' ? first : null,
    identity: by === 'house' ? 'house' : by.key, assignment, input, output, root, signature, macs: truth.macs, check: CHECKED,
    status: 'provisional', index: counter, record: { accepted: 1, checked: 1 },
  } // prettier-ignore
  const told: Effect[] = [{ ...settled, ...change }]
  if (truth.text)
    told.unshift({
      type: 'deliver-tokens',
      job: job.id,
      choice: first,
      index: 0,
      tokens: Array.from(truth.text.tokens),
    })
  return told
}

export const story = (model: ModelDigest, prompt: readonly number[], seed: number, n = 1): JobSpec => ({
  id: `j${++counter}` as JobId,
  requester: 'ip:192.0.2.7' as RequesterId,
  kind: 'generate',
  model,
  priority: 'interactive',
  choices: Array.from({ length: n }, (_, stream) => ({
    prompt: Uint32Array.from(prompt),
    options: {
      maxTokens: 12,
      sampling: { temperature: 0.8, topK: 0, topP: 0.95, seed: String(seed), stream },
    },
  })),
})
export const sentences = (model: ModelDigest, rows: readonly (readonly number[])[]): JobSpec => ({
  id: `j${++counter}` as JobId,
  requester: 'ip:192.0.2.7' as RequesterId,
  kind: 'classify',
  model,
  priority: 'interactive',
  rows: rows.map((row) => Uint32Array.from(row)),
})

export const over = (job: JobSpec): Effect => ({
  type: 'finish-job',
  job: job.id,
  summary: {
    units: 1,
    redispatched: 0,
    hedged: 0,
    queuedMs: 0,
    totalMs: 1,
    volunteers: [],
    verification: 'sampled',
  },
})

/** Runs a whole job through the books and returns its receipt's id. */
export async function done(bench: Bench, job: JobSpec, effects: readonly Effect[]): Promise<string> {
  const { books } = bench
  books.note({ type: 'job-submitted', job })
  const id = books.receipts.idOf(job.id)!
  for (const effect of [...effects, over(job)]) books.perform(effect)
  await books.flush()
  return id
}
