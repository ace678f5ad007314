/** Trust over real sockets: keys and signatures at the door, receipts and evidence at the command line. */
import { spawn } from 'node:child_process'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { WebSocket } from 'ws'
import { startNodeVolunteer } from '../../client/node.ts'
import type { NodeVolunteer } from '../../client/node.ts'
import type { EvidenceBundle, Receipt } from '../../coordinator/books/documents.ts'
import {
  encodeFromVolunteer, inputBytes, outputBytes, parseFromCoordinator,
} from '../../protocol/index.ts' // prettier-ignore
import type { Assignment, FromCoordinator, FromVolunteer, Output } from '../../protocol/index.ts'
import { localCompute } from '../../cli/verify.ts'
import type { Compute } from '../../cli/verify.ts'
import { root } from '../cli/chorale.ts'
import { sha256 } from './books.ts'
import { eventually, serve } from './serve.ts'
import type { Served } from './serve.ts'
import { helloMeta, Key } from './stranger.ts'

type Challenge = Extract<FromCoordinator, { type: 'challenge' }>
type Hello = Extract<FromVolunteer, { type: 'hello' }>
type Result = Extract<FromVolunteer, { type: 'result' }>

let served: Served
let compute: Compute
let folder: string
let closeEngine: () => Promise<void>
beforeAll(async () => {
  served = await serve({ house: true, trust: 'checked', policy: { discloseMs: 500 } })
  ;({ compute, close: closeEngine } = await localCompute({ backend: 'wasm', threads: 1 }))
  folder = await mkdtemp(join(tmpdir(), 'chorale-trust-'))
  await eventually(async () => (await fetch(`${served.url}/readyz`)).ok, 'the house is ready')
})
afterAll(async () => {
  await served?.close(0)
  await closeEngine?.()
  await rm(folder, { recursive: true, force: true })
})

/** A volunteer by hand: says what it is told to, and answers pings. */
class Hand {
  readonly key: Key
  readonly socket: WebSocket
  readonly closed: Promise<{ code: number; reason: string }>
  readonly challenge: Promise<Challenge>
  readonly assignments: Assignment[] = []
  #sequence = 0

  constructor(key = new Key(), url = served.url) {
    this.key = key
    this.socket = new WebSocket(`${url.replace('http', 'ws')}/v1/volunteer`, 'chorale.v1')
    const { promise, resolve } = Promise.withResolvers<Challenge>()
    this.challenge = promise
    this.closed = new Promise((done) =>
      this.socket.on('close', (code, reason) => done({ code, reason: reason.toString() })),
    )
    this.socket.on('error', () => undefined)
    this.socket.on('message', (data: Buffer) => {
      const { message } = parseFromCoordinator(new Uint8Array(data))
      if (message.type === 'challenge') resolve(message)
      if (message.type === 'ping') this.say({ type: 'pong', nonce: message.nonce })
      if (message.type === 'assign') this.assignments.push(...message.assignments)
    })
  }

  say(message: FromVolunteer): void {
    if (this.socket.readyState === WebSocket.OPEN)
      this.socket.send(encodeFromVolunteer(message, this.#sequence++))
  }

  /** A right hello, with changes. */
  async hello(change: Partial<Hello> = {}, challenge?: Challenge): Promise<void> {
    const asked = challenge ?? (await this.challenge)
    const signed = this.key.hello({ ...asked })
    this.say({ type: 'hello', ...helloMeta({ client: 'by hand' }), ...signed, ...change } as Hello)
  }

  /** Joins, ready for every model, and waits to be given work. */
  async work(): Promise<Assignment> {
    const models = served.status().models.map(({ digest }) => ({ digest, state: 'ready' as const, readMs: 0.01, drawMs: 0.1 })) // prettier-ignore
    await this.hello()
    this.say({ type: 'models', models })
    await eventually(() => this.assignments.length > 0, 'it is given work')
    return this.assignments.at(-1)!
  }

  /** The right answer, signed, with changes made before and after the signature. */
  async answer(
    assignment: Assignment,
    before: Partial<Result> = {},
    after: Partial<Result> = {},
  ): Promise<Result> {
    const truth = await compute(assignment.model, assignment)
    const output: Output = before.output ?? { kind: 'generate', position: assignment.inputs[0]!.length - (assignment.generate?.replay ?? 0), tokens: truth.text!.tokens, finish: 'length' } // prettier-ignore
    const digest = sha256(outputBytes(output))
    const claim = {
      assignment: assignment.id,
      input: sha256(inputBytes(assignment)),
      root: truth.root,
      ...before,
    }
    const { coordinator } = await this.challenge
    const signature = this.key.sign('chorale result 1', {
      coordinator,
      assignment: claim.assignment,
      numerics: 'xn1',
      model: assignment.model,
      input: claim.input,
      output: digest,
      root: claim.root,
    })
    return { type: 'result', ...claim, output, digest, computeMs: 1, signature, ...after }
  }
}

const story = { model: 'tales-3m', prompt: 'Once upon a time', max_tokens: 6, temperature: 0 }
const ask = (body: object = {}): Promise<Response> => served.post('/v1/completions', { ...story, ...body })

describe('a hello', () => {
  const refusals: [string, (hand: Hand) => Promise<void>, RegExp][] = [
    ['signed by another key', (hand) => hand.hello({ publicKey: new Key().publicKey }), /signature/],
    ['with a signature of nothing', (hand) => hand.hello({ signature: 'A'.repeat(86) }), /signature/],
    ['for another coordinator', async (hand) => hand.hello({}, { ...(await hand.challenge), coordinator: new Key().publicKey }), /signature/], // prettier-ignore
    [
      'for another connection’s challenge',
      async (hand) => hand.hello({}, await new Hand().challenge),
      /signature/,
    ],
    ['without a signature', (hand) => hand.hello({ signature: undefined }), /signature/],
    ['under a key of small order', (hand) => hand.hello({ publicKey: Buffer.from([1, ...new Uint8Array(31)]).toString('base64url') }), /key/], // prettier-ignore
  ]
  test.each(refusals)('%s: 4401, and nobody joined', async (_, say, reason) => {
    const before = served.status().volunteers.connected
    const hand = new Hand()
    await say(hand)
    const end = await hand.closed
    expect(end.code, end.reason).toBe(4401)
    expect(end.reason).toMatch(reason)
    expect(served.status().volunteers.connected).toBe(before)
  })

  test.each([
    ['in hex', (key: Key) => Buffer.from(key.publicKey, 'base64url').toString('hex')],
    ['padded', (key: Key) => `${key.publicKey}=`],
    ['too short', (key: Key) => key.publicKey.slice(1)],
  ])('with its key %s: 4400, and the field is named', async (_, spell) => {
    const hand = new Hand()
    await hand.hello({ publicKey: spell(hand.key) })
    expect(await hand.closed).toMatchObject({ code: 4400, reason: expect.stringContaining('publicKey') })
  })

  test('replayed from a connection that was overheard: 4401; the one who said it stays', async () => {
    const hand = new Hand()
    await hand.hello()
    await eventually(() => served.status().volunteers.list.some((v) => v.client === 'by hand'), 'it joined')
    const thief = new Hand(hand.key)
    await thief.challenge
    await thief.hello({}, await hand.challenge)
    expect((await thief.closed).code).toBe(4401)
    expect(hand.socket.readyState).toBe(WebSocket.OPEN)
    hand.socket.close()
    await hand.closed
  })
})

describe('a result', () => {
  const refusals: [string, (hand: Hand, a: Assignment) => Promise<Result>][] = [
    ['signed by nobody', (hand, a) => hand.answer(a, {}, { signature: 'A'.repeat(86) })],
    ['whose root was changed on the way', (hand, a) => hand.answer(a, {}, { root: sha256('x') })],
    ['whose input was changed on the way', (hand, a) => hand.answer(a, {}, { input: sha256('x') })],
    ['with the signature of another assignment', (hand, a) => hand.answer(a, { assignment: `${a.id}x` as Assignment['id'] }, { assignment: a.id })], // prettier-ignore
    ['signed with somebody else’s key', async (hand, a) => ({ ...(await hand.answer(a)), signature: (await new Hand().answer(a)).signature })], // prettier-ignore
  ]
  test.each(refusals)('%s: 4401, and the answer is somebody else’s; nobody is convicted', async (_, lie) => {
    const hand = new Hand()
    const working = hand.work()
    await eventually(() => served.status().models[0]!.volunteers > 0, 'it is believed ready')
    const answered = ask({ seed: 1 })
    hand.say(await lie(hand, await working))
    expect((await hand.closed).code).toBe(4401)
    const answer = await answered
    expect(answer.status).toBe(200)
    const { volunteer } = (await answer.json()) as { volunteer: { computed_by: { class: string }[] } }
    expect(volunteer.computed_by.at(-1)!.class).toBe('house')
    expect((await (await fetch(`${served.url}/v1/evidence`)).json()).data).toEqual([])
    // The same key may come again: a bad signature proves nothing about it.
    const again = new Hand(hand.key)
    await again.hello()
    await eventually(
      () => served.status().volunteers.list.some((v) => v.client === 'by hand'),
      'it is let in',
    )
    again.socket.close()
    await again.closed
    await eventually(() => served.status().models[0]!.volunteers === 0, 'it is gone')
  })

  test('that is right is delivered after its check, and its signature is in the receipt', async () => {
    const hand = new Hand()
    const working = hand.work()
    await eventually(() => served.status().models[0]!.volunteers > 0, 'it is believed ready')
    const answered = ask({ seed: 2 })
    const assignment = await working
    const result = await hand.answer(assignment)
    hand.say(result)
    const { volunteer } = (await (await answered).json()) as {
      volunteer: { receipt: string; verification: string }
    }
    expect(volunteer.verification).toBe('trusted')
    const receipt = (await (await fetch(`${served.url}/v1/receipts/${volunteer.receipt}`)).json()) as Receipt
    const { signature, root, input, digest: output } = result
    expect(receipt.units).toMatchObject([
      { volunteer: hand.key.publicKey, signature, root, input, output, assignment: assignment.id, check: { kind: 'trusted', rate: 1, by: ['house'] } },
    ]) // prettier-ignore
    hand.socket.close()
    await hand.closed
    await eventually(() => served.status().models[0]!.volunteers === 0, 'it is gone')
  })
})

interface Ran {
  code: number | null
  stdout: string
}
/** The real command, with the cache of this run. */
const chorale = (...args: string[]): Promise<Ran> =>
  new Promise((resolve) => {
    const child = spawn(process.execPath, [join(root, 'bin/chorale.js'), ...args], { stdio: ['ignore', 'pipe', 'inherit'] }) // prettier-ignore
    let stdout = ''
    child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text))
    child.on('close', (code) => resolve({ code, stdout }))
  })

describe('on the command line', () => {
  let liar: NodeVolunteer
  let honest: NodeVolunteer
  const receipts: string[] = []
  let evidence: string

  beforeAll(async () => {
    const start = (name: string, adversary?: string): Promise<NodeVolunteer> =>
      startNodeVolunteer(served.url, { folder: join(folder, name), engine: 'wasm', threads: 1, adversary })
    honest = await start('honest')
    liar = await start('liar', 'lazy-random')
    await eventually(() => served.status().models.every((m) => m.volunteers === 2), 'both are ready')
    const told: unknown[] = []
    const convicted = async (): Promise<string | undefined> =>
      ((await (await fetch(`${served.url}/v1/evidence`)).json()) as { data: { id: string }[] }).data[0]?.id
    for (let seed = 1; seed < 200 && !(evidence = (await convicted())!); seed++) {
      // Several at once: of one alone the faster would be asked each time.
      const answers = await Promise.all([0, 1, 2].map((i) => ask({ seed: 3 * seed + i, temperature: 0.7 })))
      for (const answer of answers) {
        const body = (await answer.json()) as { volunteer: { receipt: string } }
        told.push(body)
        receipts.push(body.volunteer.receipt)
      }
    }
    expect(evidence, JSON.stringify(told.at(-1))).toBeDefined()
  })
  afterAll(() => Promise.all([liar?.stop(), honest?.stop()]))

  test('a receipt verifies: every byte is computed again; altered, its field is named', async () => {
    const url = `${served.url}/v1/receipts/${receipts[0]!}`
    const online = await chorale('verify', url, '--json')
    expect([online.code, JSON.parse(online.stdout)]).toMatchObject([0, { ok: true, document: 'receipt', units: [{ output: 'equal', root: 'equal' }] }]) // prettier-ignore
    const receipt = (await (await fetch(url)).json()) as Receipt
    const file = join(folder, 'receipt.json')
    receipt.units[0]!.macs++
    await writeFile(file, JSON.stringify(receipt))
    const altered = await chorale('verify', file)
    expect([altered.code, altered.stdout]).toEqual([1, expect.stringContaining('units.0.macs')])
    receipt.units[0]!.macs--
    await writeFile(file, JSON.stringify(receipt))
    expect((await chorale('verify', file, '--coordinator', new Key().publicKey)).stdout).toContain(
      'coordinator',
    )
    const ledger = await chorale('ledger', 'verify', served.url, '--receipts', file, '--json')
    expect([ledger.code, JSON.parse(ledger.stdout)]).toMatchObject([0, { ok: true, backed: 1, flaw: null }])
  })

  test('evidence against the liar is proven; the liar is out for good, and no honest key is', async () => {
    const proven = await chorale('verify', `${served.url}/v1/evidence/${evidence}`, '--json')
    expect([proven.code, JSON.parse(proven.stdout)]).toMatchObject([0, { ok: true, document: 'evidence' }])
    const bundle = (await (await fetch(`${served.url}/v1/evidence/${evidence}`)).json()) as EvidenceBundle
    await eventually(() => liar.picture().state === 'convicted', 'the liar is told')
    expect(bundle.accused.volunteer).toBe(liar.picture().publicKey)
    expect(bundle.accused.volunteer).not.toBe(honest.picture().publicKey)
    const { data } = await (await fetch(`${served.url}/v1/evidence`)).json()
    expect(data.length).toBe(1)
  })

  test('no answer was wrong, and the ledger adds up to the last entry; changed, the entry is named', async () => {
    const truth = new Map<string, string>()
    for (const id of receipts) {
      const receipt = (await (await fetch(`${served.url}/v1/receipts/${id}`)).json()) as Receipt
      const { seed } = receipt.request.choices![0]!
      const { output } = await compute(receipt.request.model, {
        kind: 'generate',
        inputs: receipt.request.inputs.map((ids) => Uint32Array.from(ids)),
        generate: { maxTokens: 6, sampling: { temperature: 0.7, topK: 0, topP: receipt.request.choices![0]!.top_p, seed, stream: 0 } },
      }) // prettier-ignore
      truth.set(id, output)
      expect(receipt.units.map((unit) => unit.output)).toEqual([output])
    }
    const lines = (await (await fetch(`${served.url}/v1/ledger`)).text()).trimEnd().split('\n')
    expect(lines.length).toBeGreaterThan(3 * receipts.length)
    const file = join(folder, 'ledger.jsonl')
    await writeFile(file, `${lines.join('\n')}\n`)
    expect((await chorale('ledger', 'verify', file)).code).toBe(0)
    const at = Math.floor(lines.length / 2)
    lines[at] = lines[at]!.replace(/"amount":(-?\d+)/, (_, n: string) => `"amount":${Number(n) + 1}`)
    await writeFile(file, `${lines.join('\n')}\n`)
    const changed = await chorale('ledger', 'verify', file, '--json')
    expect([changed.code, (JSON.parse(changed.stdout) as { flaw: { entry: number } }).flaw.entry]).toEqual([
      1,
      at + 1,
    ])
    expect(await readFile(file, 'utf8')).not.toContain('127.0.0.1')
  })
})
