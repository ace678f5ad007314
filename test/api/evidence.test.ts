/** Evidence: whoever was convicted is proven wrong by what it signed itself, and nobody else can be. */
import { createHash, sign } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { verify } from '../../cli/verify.ts'
import type { Report } from '../../cli/verify.ts'
import { flawOfEvidence, parseDocument } from '../../coordinator/books/documents.ts'
import type { EvidenceBundle } from '../../coordinator/books/documents.ts'
import type { Evidence, JobSpec, Streamed } from '../../coordinator/core/events.ts'
import { inputBytes, merklePath, merkleRoot, progressBytes, progressStatement } from '../../protocol/index.ts'
import type { AssignmentId, Logprobs } from '../../protocol/index.ts'
import { everyChangeIsNamed, resealed as resealedBy, signedBy } from './altered.ts'
import { openBench, settle, sha256, story, volunteer } from './books.ts'
import type { Bench, Volunteer } from './books.ts'

let bench: Bench
let alice: Volunteer
let evidence: EvidenceBundle

beforeAll(async () => {
  bench = await openBench()
  alice = volunteer()
  evidence = await convict({ output: sha256('a lie') })
})
afterAll(() => bench.close())

const check = (document: EvidenceBundle): Promise<Report> => verify(document, { compute: bench.compute })
const resealed = (document: EvidenceBundle, change: (body: EvidenceBundle) => void): EvidenceBundle =>
  resealedBy(document, change, bench.key)

const hash = (bytes: Uint8Array): Uint8Array => createHash('sha256').update(bytes).digest()
const hexOf = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')

/** The document of a conviction, through JSON and back. */
async function documentOf(told: Evidence): Promise<EvidenceBundle> {
  const id = bench.books.evidences.convict({ type: 'convict', identity: alice.key, at: 0, evidence: told })
  await bench.books.flush()
  return parseDocument(JSON.parse(JSON.stringify(await bench.books.evidences.get(id)))) as EvidenceBundle
}

/** Convicts Alice of an answer to a short story: other output, or the right one with another leaf in its trace. */
async function convict(lie: { output?: string; leaf?: number }, signed = true): Promise<EvidenceBundle> {
  const generate = { maxTokens: 8, sampling: { temperature: 0, topK: 0, topP: 1, seed: '1', stream: 0 } }
  const unit = { kind: 'generate' as const, inputs: [Uint32Array.of(1, 62, 61)], generate }
  const truth = await bench.compute(bench.tales, unit)
  const leaves = Array.from({ length: truth.leaves.length / 32 }, (_, i) =>
    truth.leaves.slice(32 * i, 32 * i + 32),
  )
  const theirs = leaves.map((leaf, i) => (i === lie.leaf ? hash(leaf) : leaf))
  const job = {
    ...story(bench.tales, [1, 62, 61], 1),
    choices: [{ prompt: unit.inputs[0]!, options: generate }],
  } as JobSpec
  const change = { ...(lie.output && { output: lie.output }), root: hexOf(merkleRoot(theirs, hash)) }
  const settled = (await settle(bench, job, 0, 1, alice, change)).find((e) => e.type === 'settle-unit')!
  const { assignment, input, output, root, signature } = settled
  const index = lie.leaf ?? 0
  return documentOf({
    assignment, model: bench.tales, unit, input: input!, output, root, signature: signed ? signature : null,
    referee: { identity: 'house', output: truth.output, root: truth.root },
    leaf: lie.leaf === undefined ? null : {
      index, count: leaves.length, place: null, accused: theirs[index]!,
      accusedPath: merklePath(theirs, index, hash), referee: leaves[index]!, refereePath: merklePath(leaves, index, hash),
    },
  }) // prettier-ignore
}

describe('evidence', () => {
  test('of a lie is proven by computing it again, and without the coordinator’s help', async () => {
    expect(await check(evidence)).toMatchObject({
      ok: true,
      flaw: null,
    })
  })

  test('of another trace under the right answer is proven by the leaf where they part', async () => {
    const parted = await convict({ leaf: 0 })
    expect(await check(parted)).toMatchObject({
      ok: true,
      flaw: null,
      units: [{ output: 'equal', root: 'unequal' }, {}],
    })
    everyChangeIsNamed(parted, flawOfEvidence)
    const field = async (change: (e: EvidenceBundle) => void): Promise<string | undefined> =>
      (await check(resealed(parted, change))).flaw?.field
    // A leaf that does not lie under the root that was signed shows nothing, and neither does one where both agree.
    expect(await field((e) => void (e.leaf!.accused = '0'.repeat(64)))).toBe('leaf.accused_path')
    expect(await field((e) => void e.leaf!.referee_path.push('0'.repeat(64)))).toBe('leaf.referee_path')
    expect(await field((e) => Object.assign(e.leaf!, { index: e.leaf!.count + 1 }))).toBe('leaf.accused_path')
    expect(await field((e) => void (e.leaf = null))).toBeUndefined()
  })

  test('with any field changed is refused, and the field is named', () =>
    everyChangeIsNamed(evidence, flawOfEvidence))

  test('against somebody who was right convicts nobody, whoever signed it', async () => {
    const truth = await check(evidence)
    expect(truth.units[0]!.output).toBe('unequal')
    const right = evidence.referee
    const framed = resealed(evidence, (e) => {
      e.accused.output = right.output
      e.accused.root = right.root
    })
    expect((await check(framed)).flaw?.field).toBe('accused.signature')
    const honest = resealed(evidence, (e) => {
      Object.assign(e.accused, { output: right.output, root: right.root })
      e.accused.signature = signedBy(alice, e, { ...e.accused, input: e.input })
      e.referee.output = sha256('false accusation')
    })
    expect((await check(honest)).flaw?.field).toBe('referee.output')
  })

  test('without the accused’s signature says whose word it is', async () => {
    const unsigned = await convict({ output: '0'.repeat(64) }, false)
    expect(await check(unsigned)).toMatchObject({ ok: true, proven: false })
    expect((await check(unsigned)).notes.join()).toMatch(/signed nothing/)
    // And the coordinator's word for a right answer convicts nobody either.
    const right = resealed(unsigned, (e) =>
      Object.assign(e.accused, { output: e.referee.output, root: null }),
    )
    expect((await check(right)).flaw?.field).toBe('accused.output')
  })
})

describe('evidence of tokens that were streamed', () => {
  const ASSIGNMENT = 'a7-test' as AssignmentId
  const PROMPT = Uint32Array.of(1, 62, 61)
  /** Of the text that was asked for, so many were streamed when the referee drew it again. */
  const ASKED = 480
  const SEEN = 12

  interface Stream {
    /** How many tokens somebody else had drawn. */
    behind?: number
    top?: number
    /** Changes what is right to what is said. */
    lie?: (said: Streamed) => void
    seen?: number
  }

  /** Convicts Alice of what she signed before her text was over. */
  async function streamed({ behind = 0, top, lie, seen = SEEN }: Stream = {}): Promise<EvidenceBundle> {
    const sampling = { temperature: 0.8, topK: 0, topP: 1, seed: '5', stream: 0 }
    const unit = { kind: 'generate' as const, inputs: [PROMPT], generate: { maxTokens: ASKED, sampling, logprobs: top } } // prettier-ignore
    const cut = { ...unit, generate: { ...unit.generate, maxTokens: seen } }
    const truth = await bench.compute(bench.tales, cut)
    const { tokens, logprobs } = truth.text!
    const words = logprobs ? 2 * (1 + top!) : 0
    const said: Streamed = {
      from: PROMPT.length + behind,
      tokens: tokens.slice(behind),
      logprobs: logprobs && ({ top, values: logprobs.values.slice(words * behind) } as Logprobs),
    }
    lie?.(said)
    const [input, output] = [sha256(inputBytes(unit)), sha256(progressBytes(said.tokens, said.logprobs))]
    return documentOf({
      assignment: ASSIGNMENT, model: bench.tales, unit, input, output, root: null, leaf: null, streamed: said,
      signature: progressSignature(bench.key.publicKey, { input, output, from: said.from }),
      referee: { identity: 'house', output: truth.output, root: truth.root, tokens: tokens.length },
    }) // prettier-ignore
  }

  const progressSignature = (
    coordinator: string,
    {
      assignment = ASSIGNMENT,
      ...claim
    }: { assignment?: string; input: string; output: string; from: number },
  ): string => {
    const statement = progressStatement({ coordinator, assignment, model: bench.tales, ...claim })
    return sign(null, statement, alice.secret).toString('base64url')
  }

  const another =
    (i: number) =>
    ({ tokens }: Streamed): void =>
      void (tokens[i] = tokens[i] === 9 ? 8 : 9)

  test('is proven by the first of them that is not what the model draws, wherever she began', async () => {
    for (const behind of [0, 5]) {
      const report = await check(await streamed({ behind, lie: another(4) }))
      expect(report).toMatchObject({ ok: true, proven: true, flaw: null, wrong: { at: behind + 4 } })
      expect(report.wrong!.said).not.toBe(report.wrong!.right)
      expect(report.units).toMatchObject([{ output: 'unequal', root: 'not committed' }, { output: 'equal', root: 'equal' }]) // prettier-ignore
    }
  })

  test('is proven by log-probabilities alone', async () => {
    const report = await check(await streamed({ top: 2, behind: 3, lie: ({ logprobs }) => void logprobs!.values[6 * 2 + 5]!++ })) // prettier-ignore
    expect(report).toMatchObject({ proven: true, wrong: { at: 5 } })
    expect(report.wrong!.said).toBe(report.wrong!.right)
  })

  test('is proven by a token behind the text’s end', async () => {
    // This one ends by itself.
    const whole = await streamed({ seen: 400 })
    const end = whole.referee.tokens!
    expect(end).toBeLessThan(400)
    const report = await check(await streamed({ seen: 400, lie: (said) => void (said.tokens = Uint32Array.of(...said.tokens, 9)) })) // prettier-ignore
    expect(report).toMatchObject({ proven: true, wrong: { at: end, said: 9, right: null } })
  })

  test('with any field changed is refused, and the field is named', async () => {
    for (const top of [undefined, 0])
      everyChangeIsNamed(await streamed({ behind: 2, top, lie: another(4) }), flawOfEvidence)
  })

  test('convicts nobody who was right, whoever signed it, and nobody of what it did not sign', async () => {
    const right = await streamed()
    expect(await check(right)).toMatchObject({
      ok: false,
      proven: false,
      flaw: { field: 'accused.streamed' },
    })
    const wrong = await streamed({ top: 0, behind: 2, lie: another(4) })
    const field = async (change: (e: EvidenceBundle, said: NonNullable<EvidenceBundle['accused']['streamed']>) => void) =>
      (await check(resealed(wrong, (e) => change(e, e.accused.streamed!)))).flaw?.field // prettier-ignore
    const digest = ({ accused: { streamed: s } }: EvidenceBundle): string =>
      sha256(progressBytes(Uint32Array.from(s!.tokens), { top: 0, values: Int32Array.from(s!.logprobs!) }))
    expect(await field((_, said) => void said.tokens[0]!++)).toBe('accused.output')
    expect(await field((_, said) => void said.logprobs![1]!--)).toBe('accused.output')
    expect(await field((_, said) => void said.logprobs!.pop())).toBe('accused.streamed.logprobs')
    expect(await field((_, said) => void delete said.logprobs)).toBe('accused.streamed.logprobs')
    expect(await field((e, said) => (said.tokens[0]!++, (e.accused.output = digest(e)), undefined))).toBe('accused.signature') // prettier-ignore
    expect(await field((_, said) => void said.from++)).toBe('accused.signature')
    expect(await field((_, said) => void (said.from = 2))).toBe('accused.streamed.from')
    expect(await field((e) => void (e.accused.root = '0'.repeat(64)))).toBe('accused.root')
    expect(await field((e) => void (e.accused.assignment = 'another'))).toBe('accused.signature')
    expect(await field((e) => void (e.accused.signature = null))).toBe('accused.signature')
    expect(await field((e) => void delete e.referee.tokens)).toBe('referee.tokens')
    expect(await field((e) => void e.referee.tokens!--)).toBe('referee.output')
    expect(await field((e) => void e.request.options!.max_tokens--)).toBe('input')
    // Beyond what was drawn again nothing is shown.
    const late = await streamed({ lie: another(SEEN - 1) })
    expect(await check(late)).toMatchObject({ proven: true })
    const { streamed: said, ...accused } = late.accused
    const less = await streamed({ seen: SEEN - 1 })
    expect((await check(resealed(late, (e) => void (e.referee = less.referee)))).flaw?.field).toBe('accused.streamed') // prettier-ignore
    expect(said!.tokens.length).toBe(SEEN)
    // A whole answer is not held against half of it, nor is what was signed of a part taken for one.
    expect((await check(resealed(evidence, (e) => void (e.referee.tokens = 3)))).flaw?.field).toBe('referee.tokens') // prettier-ignore
    expect((await check(resealed(late, (e) => void (e.accused = { ...accused, root: '0'.repeat(64) })))).flaw?.field).toBe('referee.tokens') // prettier-ignore
  })
})
