/** Who a volunteer is, and that its signature is one which anybody else's Ed25519 accepts. */
import { createPublicKey, generateKeyPairSync, verify } from 'node:crypto'
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { passingIdentity, signAnswer, SignedStream, signHello } from '../../client/identity.ts'
import type { Identity } from '../../client/identity.ts'
import { fileIdentity, KeyFileError } from '../../client/keyfile.ts'
import {
  helloStatement, inputBytes, outputBytes, progressBytes, progressStatement, resultStatement,
} from '../../protocol/index.ts' // prettier-ignore
import type { Assignment, AssignmentId, ModelDigest, UnitId } from '../../protocol/index.ts'

let folder: string
beforeAll(async () => void (folder = await mkdtemp(join(tmpdir(), 'chorale-key-'))))
afterAll(() => rm(folder, { recursive: true }))

const isSigned = (key: string, statement: Uint8Array, signature: string): boolean =>
  verify(
    null,
    statement,
    createPublicKey({ key: { kty: 'OKP', crv: 'Ed25519', x: key }, format: 'jwk' }),
    Buffer.from(signature, 'base64url'),
  )
const sha256 = async (bytes: Uint8Array<ArrayBuffer>): Promise<string> =>
  Buffer.from(await crypto.subtle.digest('SHA-256', bytes)).toString('hex')

const makers: [string, () => Promise<Identity>][] = [
  ['a tab', passingIdentity],
  ['a key file', () => fileIdentity(join(folder, 'one', 'key.pem'))],
]

test.each(makers)('%s: hellos and results are signed for one coordinator, in the bytes of the protocol', async (_, make) => {
  const who = await make()
  expect(who.publicKey).toMatch(/^[\w-]{43}$/)
  const hello = await signHello(who, 'C', 'N')
  expect(hello).toMatch(/^[\w-]{86}$/)
  expect(isSigned(who.publicKey, helloStatement('C', 'N'), hello)).toBe(true)
  expect(isSigned(who.publicKey, helloStatement('D', 'N'), hello)).toBe(false)

  const assignment: Assignment = {
    id: 'a1' as AssignmentId, unit: 'u1' as UnitId, kind: 'embed', model: 'aa'.repeat(32) as ModelDigest,
    inputs: [Uint32Array.of(1, 2, 3)], leaseMs: 1, priority: 'batch',
  } // prettier-ignore
  const output = { kind: 'embed', rows: 1, width: 2, bits: 9, values: Int32Array.of(4, 5) } as const
  const leaves = new Uint8Array(32).fill(7)
  const digest = await sha256(outputBytes(output))
  const root = 'bb'.repeat(32)
  const answer = await signAnswer(who, 'C', assignment, { output, digest, computeMs: 3, root, leaves })
  expect(answer).toMatchObject({ assignment: 'a1', output, computeMs: 3, root, leaves })
  expect(answer.digest).toBe(digest)
  expect(answer.input).toBe(await sha256(inputBytes(assignment)))
  const claim = { coordinator: 'C', assignment: 'a1', model: assignment.model, input: answer.input!, output: answer.digest, root } // prettier-ignore
  expect(isSigned(who.publicKey, resultStatement(claim), answer.signature!)).toBe(true)
  for (const change of [{ coordinator: 'D' }, { assignment: 'a2' }, { input: '0' }, { output: '0' }, { root: '0' }])
    expect(isSigned(who.publicKey, resultStatement({ ...claim, ...change }), answer.signature!)).toBe(false)
}) // prettier-ignore

test('a text is signed as it is drawn: each signature is over all of it so far, whichever is ready first', async () => {
  const who = await passingIdentity()
  const sampling = { temperature: 0, topK: 0, topP: 1, seed: '1', stream: 0 }
  const assignment: Assignment = {
    id: 'a1' as AssignmentId, unit: 'u1' as UnitId, kind: 'generate', model: 'aa'.repeat(32) as ModelDigest,
    inputs: [Uint32Array.of(1, 2, 3)], generate: { maxTokens: 9, sampling, replay: 1, logprobs: 0 }, leaseMs: 1, priority: 'batch',
  } // prettier-ignore
  const pieces = [[7, 8], [9]].map((ids) => ({
    tokens: Uint32Array.from(ids),
    logprobs: { top: 0, values: Int32Array.from(ids.flatMap((id) => [id, -id])) },
  }))
  const stream = new SignedStream(who, 'C', assignment)
  const [one, two] = await Promise.all(
    pieces.map((piece, i) => stream.sign({ position: 3 + 2 * i, ...piece })),
  )
  const all = { top: 0, values: Int32Array.of(7, -7, 8, -8, 9, -9) }
  const claim = { coordinator: 'C', assignment: 'a1', model: assignment.model, input: await sha256(inputBytes(assignment)), from: 3 } // prettier-ignore
  const outputs = [await sha256(progressBytes(pieces[0]!.tokens, pieces[0]!.logprobs)), await sha256(progressBytes(Uint32Array.of(7, 8, 9), all))] // prettier-ignore
  for (const [i, said] of [one!, two!].entries()) {
    expect(said).toMatchObject({ assignment: 'a1', position: 3 + 2 * i, from: 3, ...pieces[i] })
    for (const [k, output] of outputs.entries())
      expect(isSigned(who.publicKey, progressStatement({ ...claim, output }), said.signature)).toBe(i === k)
    expect(isSigned(who.publicKey, progressStatement({ ...claim, from: 4, output: outputs[i]! }), said.signature)).toBe(false) // prettier-ignore
  }
})

test('a key file is made once, for its owner alone, and is the same at the next start', async () => {
  const path = join(folder, 'two', 'key.pem')
  const all = await Promise.all(Array.from({ length: 8 }, () => fileIdentity(path)))
  expect(new Set(all.map((one) => one.publicKey)).size).toBe(1)
  expect((await stat(path)).mode & 0o777).toBe(0o600)
  const before = await readFile(path, 'utf8')
  expect((await fileIdentity(path)).publicKey).toBe(all[0]!.publicKey)
  expect(await readFile(path, 'utf8')).toBe(before)
})

test('a file that holds no such key is named, left as it is, and nothing is signed', async () => {
  const pem = (type: 'rsa' | 'x25519'): string => {
    const { privateKey } = type === 'rsa' ? generateKeyPairSync('rsa', { modulusLength: 1024 }) : generateKeyPairSync('x25519')
    return privateKey.export({ type: 'pkcs8', format: 'pem' }) as string
  } // prettier-ignore
  for (const [text, says] of [
    ['', /holds no private key/],
    ['not a key', /holds no private key/],
    [pem('rsa'), /type rsa; volunteers sign with Ed25519/],
    [pem('x25519'), /type x25519/],
  ] as const) {
    const path = join(folder, 'wrong.pem')
    await writeFile(path, text)
    const error = await fileIdentity(path).catch((e: unknown) => e)
    expect(error).toBeInstanceOf(KeyFileError)
    expect((error as Error).message).toMatch(says)
    expect((error as Error).message).toContain(path)
    expect(await readFile(path, 'utf8')).toBe(text)
  }
  await expect(fileIdentity(folder)).rejects.toThrow(/can't be read \(EISDIR\)/)
  await expect(fileIdentity('/dev/null/key.pem')).rejects.toThrow(KeyFileError)
})
