/** Tokens on the way: heard where each signature is over all that was streamed, and nowhere else. */
import { createHash, generateKeyPairSync, sign } from 'node:crypto'
import fc from 'fast-check'
import { afterAll, expect, test } from 'vitest'
import { Streams } from '../../coordinator/streams.ts'
import { encodeFrame, FROM_VOLUNTEER, progressBytes, progressStatement } from '../../protocol/index.ts'
import type { AssignmentId, Logprobs, Progress, ProgressClaim } from '../../protocol/index.ts'
import { eventually } from './serve.ts'
import { closeAll, COORDINATOR, HASH, MODEL, open, signed } from './shell.ts'

afterAll(closeAll)

const A = 'a1' as AssignmentId
const FROM = 5
const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex')

/** A text in pieces: places where one ends and the next begins. */
const pieces = fc.record({
  lengths: fc.array(fc.integer({ min: 1, max: 5 }), { minLength: 1, maxLength: 8 }),
  top: fc.option(fc.nat(2), { nil: undefined }),
})
type Pieces = typeof pieces extends fc.Arbitrary<infer T> ? T : never

/** Piece by piece what was drawn, with the digest of all of it so far. */
function* drawn({ lengths, top }: Pieces): Generator<Progress & { output: string }> {
  const words = top === undefined ? 0 : 2 * (1 + top)
  const told = (from: number, to: number): Logprobs | undefined =>
    top === undefined ? undefined : { top, values: Int32Array.from({ length: words * (to - from) }, (_, i) => 7 - words * from - i) } // prettier-ignore
  let at = 0
  for (const length of lengths) {
    const to = at + length
    const ids = (from: number): Uint32Array =>
      Uint32Array.from({ length: to - from }, (_, i) => 10 + from + i)
    const output = sha256(progressBytes(ids(0), told(0, to)))
    yield { assignment: A, position: FROM + at, tokens: ids(at), logprobs: told(at, to), from: FROM, output }
    at = to
  }
}

const statement = (output: string, change: Partial<ProgressClaim> = {}): Uint8Array =>
  progressStatement({ coordinator: COORDINATOR, assignment: A, model: MODEL, input: HASH, from: FROM, output, ...change }) // prettier-ignore
const message = (
  { output, ...progress }: Progress & { output: string },
  signature = signed(statement(output)),
) => ({ type: 'tokens', ...progress, signature }) as const

test('a text is heard in whatever pieces it comes, and again from its first token on another connection', async () => {
  await fc.assert(
    fc.asyncProperty(pieces, fc.nat(8), pieces, async (one, broken, other) => {
      const stage = await open()
      stage.awaited.add(A)
      const first = [...drawn(one)].slice(0, broken)
      for (const piece of first) stage.say(message(piece))
      await eventually(() => stage.tokens.length === first.length, 'all is heard')
      stage.socket.terminate()
      await stage.connect()
      const again = [...drawn({ ...other, top: one.top })]
      for (const piece of again) stage.say(message(piece))
      await eventually(() => stage.tokens.length === first.length + again.length, 'all is heard again')
      expect(stage.tokens).toEqual([...first, ...again].map((piece) => message(piece)))
      expect(stage.left).not.toMatch(/signature/)
    }),
    { numRuns: 15 },
  )
})

const [one, two, three] = [...drawn({ lengths: [3, 2, 2], top: undefined })]
const { privateKey } = generateKeyPairSync('ed25519')

test.each<[string, Progress & { output: string }, string]>([
  ['another assignment', two!, signed(statement(two!.output, { assignment: 'a2' }))],
  ['another question', two!, signed(statement(two!.output, { input: '1'.repeat(64) }))],
  ['another model', two!, signed(statement(two!.output, { model: 'f'.repeat(64) as typeof MODEL }))],
  ['another coordinator', two!, signed(statement(two!.output, { coordinator: 'x' }))],
  ['another place', two!, signed(statement(two!.output, { from: FROM + 1 }))],
  ['these tokens alone', two!, signed(statement(sha256(progressBytes(two!.tokens))))],
  ['another text', two!, signed(statement(sha256(progressBytes(Uint32Array.of(1, 2, 3, 4, 5)))))],
  ['what came before', two!, signed(statement(one!.output))],
  ['what comes after it', two!, signed(statement(three!.output))],
  ['tokens that were skipped', three!, signed(statement(three!.output))],
  [
    'a text that begins elsewhere',
    { ...two!, from: FROM + 1 },
    signed(statement(two!.output, { from: FROM + 1 })),
  ],
  ['somebody else’s text', two!, sign(null, statement(two!.output), privateKey).toString('base64url')],
])('signed as %s, tokens are refused by name, and not heard', async (_, bad, signature) => {
  const stage = await open()
  stage.awaited.add(A)
  stage.say(message(one!))
  stage.say(message(bad, signature))
  stage.say(message(three!))
  const { code, reason } = await stage.ended
  expect([code, reason]).toEqual([4401, expect.stringMatching(/^tokens: signature is not this volunteer/)])
  expect(stage.tokens.map(({ position }) => position)).toEqual([FROM])
})

test('tokens that nobody signed are refused by name', async () => {
  const stage = await open()
  const { assignment, position, tokens, from } = one!
  const meta = { assignment, position, count: tokens.length, from }
  stage.socket.send(encodeFrame(FROM_VOLUNTEER.tokens, 1, meta, [new Uint8Array(tokens.buffer)]))
  expect(await stage.ended).toEqual({ code: 4401, reason: 'tokens: signature: it is missing' })
})

test('however many texts one connection begins, only those that are awaited are kept in mind', () => {
  let newest = 0
  const isAwaited = (id: AssignmentId): boolean => Number(id) > newest - 32
  const streams = new Streams(isAwaited)
  const begin = (id: number, position: number): string | null =>
    streams.digest({ assignment: `${id}` as AssignmentId, position, from: 0, tokens: Uint32Array.of(1) })
  for (newest = 0; newest < 1_000; newest++) begin(newest, 0)
  const kept = Array.from({ length: newest }, (_, id) => id).filter((id) => begin(id, 1) !== null)
  expect(kept.slice(-31)).toEqual(Array.from({ length: 31 }, (_, i) => newest - 31 + i))
  expect(kept.length).toBeLessThanOrEqual(128)
})
