/** Receipts: a stranger can check every byte, and whatever was changed is named. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Effect, JobSpec } from '../../coordinator/core/events.ts'
import { flawOfReceipt, parseDocument } from '../../coordinator/books/documents.ts'
import type { Receipt } from '../../coordinator/books/documents.ts'
import { verify } from '../../cli/verify.ts'
import type { Report } from '../../cli/verify.ts'
import type { SecretOf } from '../../cli/lottery.ts'
import { lotteryDraw, lotteryStatement } from '../../coordinator/core/checks.ts'
import { inputBytes, outputBytes, progressBytes, progressStatement } from '../../protocol/index.ts'
import type { AssignmentId } from '../../protocol/index.ts'
import { createHash, sign } from 'node:crypto'
import { everyChangeIsNamed, flawOf, resealed as resealedBy, signedBy } from './altered.ts'
import { done, newKey, openBench, sentences, settle, sha256, story, volunteer } from './books.ts'
import type { Bench, Volunteer } from './books.ts'

let bench: Bench
let alice: Volunteer
let bob: Volunteer
let text: Receipt
let rows: Receipt

beforeAll(async () => {
  bench = await openBench()
  alice = volunteer()
  bob = volunteer()
  const tale = story(bench.tales, [1, 62, 61, 33], 7, 2)
  const told = [await settle(bench, tale, 0, 1, alice), await settle(bench, tale, 1, 1, 'house')].flat()
  text = (await bench.books.receipts.get(await done(bench, tale, told)))!
  const asked = sentences(bench.intents, [[1, 5, 9], [1, 7], [1, 20, 30, 40], [1, 2]]) // prettier-ignore
  const parts = [await settle(bench, asked, 0, 3, alice), await settle(bench, asked, 3, 1, bob)].flat()
  rows = (await bench.books.receipts.get(await done(bench, asked, parts)))!
})
afterAll(() => bench.close())

const copy = <T>(value: T): T => structuredClone(value)
const check = (document: Receipt, expected?: string): Promise<Report> =>
  verify(document, { compute: bench.compute, expected })

const resealed = (document: Receipt, change: (body: Receipt) => void, key = bench.key): Receipt =>
  resealedBy(document, change, key)

const hash = (bytes: Uint8Array): Uint8Array => createHash('sha256').update(bytes).digest()

describe('a receipt', () => {
  test.each<[string, () => Receipt]>([
    ['of texts', () => text],
    ['of rows', () => rows],
  ])('%s is found right by a stranger, through JSON and back', async (_, receipt) => {
    const report = await check(parseDocument(JSON.parse(JSON.stringify(receipt()))) as Receipt)
    expect(report).toMatchObject({ ok: true, flaw: null, notes: [] })
    expect(report.units.length).toBe(2)
    for (const unit of report.units) expect(unit).toMatchObject({ output: 'equal', root: 'equal' })
    expect(JSON.stringify(receipt()), 'who paid is nobody’s business').not.toContain('192.0.2.7')
  })

  test('with any field changed is refused, and the field is named', () => {
    for (const receipt of [text, rows]) everyChangeIsNamed(receipt, flawOfReceipt)
  })

  test('with a field added, left out or moved is refused', () => {
    const changes: ((r: Receipt) => void)[] = [
      (r) => void r.units.pop(),
      (r) => void (r.units = r.units.toReversed()),
      (r) => void r.units.push(copy(r.units[0]!)),
      (r) => void (r.units[0]!.check.by = [alice.key]),
      (r) => void delete (r as Partial<Receipt>).bound,
      (r) => void delete (r.units[0] as Partial<Receipt['units'][number]>).root,
      (r) => Object.assign(r, { note: 'all is well' }),
      (r) => Object.assign(r.units[0]!, { replaced: { volunteer: bob.key, assignment: 'a', output: null, root: null, signature: null } }), // prettier-ignore
    ]
    for (const change of changes) {
      const changed = copy(text)
      change(changed)
      expect(flawOf(changed, flawOfReceipt), String(change)).not.toBeNull()
    }
  })

  test('of another coordinator is refused where ours was expected', async () => {
    const other = newKey()
    const theirs = resealed(text, () => {}, other)
    expect((await check(theirs, bench.key.publicKey)).flaw?.field).toBe('coordinator')
    // Whose it was meant for is signed by the volunteer too: nobody can pass one coordinator's work off as another's.
    expect((await check(theirs)).flaw?.field).toBe('units.0.signature')
  })

  test('in which the coordinator itself lies is refused: it has no volunteer’s signature, and no engine computes it', async () => {
    const other = createHash('sha256').update('other').digest('hex')
    const field = async (change: (r: Receipt) => void): Promise<string | undefined> =>
      (await check(resealed(rows, change))).flaw?.field
    expect(await field((r) => void (r.units[0]!.output = other))).toBe('units.0.signature')
    expect(await field((r) => void (r.units[0]!.root = other))).toBe('units.0.signature')
    expect(await field((r) => void (r.units[0]!.volunteer = bob.key))).toBe('units.0.signature')
    expect(await field((r) => void (r.units[0]!.assignment = 'another'))).toBe('units.0.signature')
    expect(await field((r) => void (r.units[1]!.signature = r.units[0]!.signature))).toBe('units.1.signature')
    expect(await field((r) => void (r.request.inputs[0]![1] = 6))).toBe('units.0.input')
    expect(await field((r) => void (r.units[0]!.input = other))).toBe('units.0.input')
    expect(await field((r) => void (r.units[0]!.count = 9))).toBe('units.0.count')
    expect(await field((r) => void r.units[0]!.macs++)).toBe('units.0.macs')
    // With the volunteer as its accomplice, computing it again still tells.
    for (const claim of ['output', 'root'] as const) {
      const together = (r: Receipt): void => {
        const unit = r.units[0]!
        unit[claim] = other
        unit.signature = signedBy(alice, r, unit)
      }
      expect(await field(together)).toBe(`units.0.${claim}`)
    }
    const retold = resealed(text, (r) => void (r.units[0]!.tokens![3]! ^= 1))
    expect((await check(retold)).flaw?.field).toBe('units.0.tokens')
  })

  test('of a text that its caller stopped bears its author’s signature under what was streamed', async () => {
    const tale = story(bench.tales, [1, 62, 61, 33], 9) as Extract<JobSpec, { kind: 'generate' }>
    const { prompt, options } = tale.choices[0]!
    const unit = { kind: 'generate' as const, inputs: [prompt], generate: options }
    const { tokens } = (await bench.compute(bench.tales, unit)).text!
    const assignment = 'a9-test' as AssignmentId
    const unsigned = { assignment, input: null, output: null, root: null, signature: null }
    // She took it over from somebody after two tokens.
    const from = prompt.length + 2
    const claim = { coordinator: bench.key.publicKey, assignment, model: bench.tales, input: sha256(inputBytes(unit)), from, output: sha256(progressBytes(tokens.slice(2))) } // prettier-ignore
    const signature = sign(null, progressStatement(claim), alice.secret).toString('base64url')
    const told = await settle(bench, tale, 0, 1, alice, { ...unsigned, streamed: { from, signature } })
    const stopped = (await bench.books.receipts.get(await done(bench, tale, told)))!
    expect(await check(stopped)).toMatchObject({
      ok: true,
      units: [{ output: 'equal', root: 'not committed' }],
    })
    everyChangeIsNamed(stopped, flawOfReceipt)
    const field = async (change: (unit: Receipt['units'][number]) => void): Promise<string | undefined> =>
      (await check(resealed(stopped, (r) => change(r.units[0]!)))).flaw?.field
    expect(await field((u) => void (u.volunteer = bob.key))).toBe('units.0.streamed.signature')
    expect(await field((u) => void (u.assignment = 'another'))).toBe('units.0.streamed.signature')
    expect(await field((u) => void u.tokens!.pop())).toBe('units.0.streamed.signature')
    expect(await field((u) => void u.streamed!.from++)).toBe('units.0.streamed.signature')
    expect(await field((u) => void (u.streamed!.from = 0))).toBe('units.0.streamed.signature')
    expect(await field((u) => void (u.output = claim.output))).toBe('units.0.tokens')
    expect(await field((u) => void (u.output = sha256(outputBytes({ kind: 'generate', position: 4, tokens, finish: 'length' }))))).toBe('units.0.streamed') // prettier-ignore
    // Before the second token it is whoever's: nobody signed that.
    expect(await field((u) => void (u.tokens![0]! ^= 1))).toBe('units.0.tokens')
  })

  test('with a key or signature in the wrong encoding says which', () => {
    const base64 = Buffer.from(alice.key, 'base64url').toString('base64')
    const spellings = [base64, `${alice.key}=`, Buffer.from(alice.key, 'base64url').toString('hex'), 'house ', alice.key.slice(1), ''] // prettier-ignore
    for (const key of spellings) {
      const changed = resealed(text, (r) => void (r.units[0]!.volunteer = key))
      expect(flawOf(changed, flawOfReceipt)?.field, key).toBe('units.0.volunteer')
    }
    // The neutral point: under it one signature would fit everything.
    const nobody = Buffer.from([1, ...new Uint8Array(31)]).toString('base64url')
    expect(flawOf(resealed(text, (r) => void (r.units[0]!.volunteer = nobody)), flawOfReceipt)?.field).toBe('units.0.volunteer') // prettier-ignore
    for (const signature of [text.units[0]!.signature!.replace(/.$/, '!'), `${text.units[0]!.signature!}==`])
      expect(flawOf(resealed(text, (r) => void (r.units[0]!.signature = signature)), flawOfReceipt)?.field).toBe('units.0.signature') // prettier-ignore
  })

  test('from a clock far off is right all the same, and the clock is spoken of', async () => {
    const ahead = resealed(rows, (r) => void (r.issued_at += 365 * 86_400))
    const behind = resealed(rows, (r) => void (r.issued_at = 0))
    expect(await check(ahead)).toMatchObject({ ok: true, notes: [expect.stringContaining('clock')] })
    expect(await check(behind)).toMatchObject({ ok: true, notes: [] })
  })
})

describe('a receipt of work that is not final', () => {
  test('becomes final, says what was checked since, and is issued again where it was wrong', async () => {
    const { books } = bench
    const job = sentences(bench.intents, [[1, 5, 9], [1, 7], [1, 20]]) // prettier-ignore
    const wrong = createHash('sha256').update('wrong').digest('hex')
    const told = [
      await settle(bench, job, 0, 1, alice),
      await settle(bench, job, 1, 1, bob),
      await settle(bench, job, 2, 1, bob, { output: wrong }),
    ].flat()
    const units = told.filter((e) => e.type === 'settle-unit')
    const id = await done(bench, job, told)
    const statuses = async (): Promise<string[]> =>
      (await books.receipts.get(id))!.units.map(({ status }) => status)
    expect(await statuses()).toEqual(['provisional', 'provisional', 'provisional'])
    const open = (await books.receipts.get(id))!

    books.perform({ type: 'finalize-unit', job: job.id, unit: units[0]!.unit })
    expect(await statuses()).toEqual(['final', 'provisional', 'provisional'])

    const audited = { kind: 'audited', rate: 1, period: 1, by: [alice.key] } as const
    books.perform({ type: 'check-unit', job: job.id, unit: units[1]!.unit, identity: bob.key, verdict: 'right', check: audited, macs: 17, record: { accepted: 2, checked: 1 } }) // prettier-ignore
    await books.flush()
    expect((await books.receipts.get(id))!.units[1]!.check).toEqual(audited)

    const rowsOf = job as Extract<JobSpec, { kind: 'classify' | 'embed' }>
    const truth = await bench.compute(bench.intents, { kind: 'classify', inputs: [rowsOf.rows[2]!] })
    const output = { kind: 'classify', rows: 1, width: 1, bits: 0, values: new Int32Array(1) } as const
    books.perform({ type: 'correct-unit', job: job.id, unit: units[2]!.unit, first: 2, count: 1, choice: null, identity: 'house', output, digest: truth.output, root: truth.root, isJobOpen: false }) // prettier-ignore
    await books.flush()
    const corrected = (await books.receipts.get(id))!
    expect(await statuses()).toEqual(['final', 'provisional', 'corrected'])
    expect(corrected.units[2]).toMatchObject({
      volunteer: 'house',
      replaced: { volunteer: bob.key, output: wrong },
    })
    expect(await check(corrected)).toMatchObject({ ok: true })
    // The wrong one, as it was issued, does not verify: it never did.
    expect((await check(open)).flaw?.field).toBe('units.2.output')
    expect(corrected.bound.undetected).toBeLessThan(0.01)
  })

  test('there is none for a job that was given up or failed, nor under a name nobody was told', async () => {
    const { books } = bench
    const job = sentences(bench.intents, [[1, 5]])
    books.note({ type: 'job-submitted', job })
    const id = books.receipts.idOf(job.id)!
    books.note({ type: 'job-cancelled', job: job.id, reason: 'the caller hung up' })
    expect(await books.receipts.get(id)).toBeNull()
    expect(await books.receipts.get('rcpt_unknown')).toBeNull()
  })
})

describe('the lottery, drawn again', () => {
  type Kind = Receipt['units'][number]['check']['kind']
  /** A receipt of one unit per kind of check; those before `drawn` were not drawn, the others were. */
  async function drawnReceipt(kinds: readonly Kind[], drawn: number): Promise<Receipt> {
    const { lottery } = bench.books
    const { period } = lottery.current
    const job = sentences(bench.intents, kinds.map((_, i) => [1, 9 + i])) // prettier-ignore
    const effects: Effect[] = []
    for (const [i, kind] of kinds.entries()) {
      const { root } = await bench.compute(bench.intents, { kind: 'classify', inputs: [(job as Extract<JobSpec, { kind: 'classify' | 'embed' }>).rows[i]!] }) // prettier-ignore
      const isDrawn = (name: string): boolean =>
        lotteryDraw(hash(Buffer.from(lotteryStatement(lottery.secret, name, root)))) < 0.3
      let k = 0
      while (isDrawn(`a${i}-${k}`) !== i >= drawn) k++
      const assignment = `a${i}-${k}` as AssignmentId
      const by = kind === 'audited' ? [bob.key] : []
      effects.push(...(await settle(bench, job, i, 1, alice, { assignment, check: { kind, rate: 0.3, period, by } }))) // prettier-ignore
    }
    return (await bench.books.receipts.get(await done(bench, job, effects)))!
  }
  const again = (receipt: Receipt, secretOf?: SecretOf): Promise<Report> =>
    verify(receipt, { compute: bench.compute, secretOf })
  const published: SecretOf = async (period) =>
    (await bench.books.lottery.past(period - 1, 1)).find((one) => one.period === period)?.secret ?? null

  test('cannot be before its secret is published, and that is said', async () => {
    const receipt = await drawnReceipt(['none', 'none'], 1)
    const early = await again(receipt, published)
    expect([early.ok, early.units.map(({ isDue }) => isDue)]).toEqual([true, [null, null]])
    expect(early.notes).toEqual([expect.stringMatching(/not yet published/)])
    bench.books.lottery.next()
    await bench.books.flush()
    const { ok, flaw, units } = await again(receipt, published)
    expect([ok, flaw?.field, units.map(({ isDue }) => isDue)]).toEqual([
      false,
      'units.1.check',
      [false, true],
    ])
    expect(flaw?.why).toContain('drew it')
  })

  test('obliges what it drew, which was done, is under way, or is said to be given up', async () => {
    const receipt = await drawnReceipt(['none', 'audited', 'audited', 'pending', 'abandoned'], 2)
    bench.books.lottery.next()
    await bench.books.flush()
    const report = await again(receipt, published)
    expect(report).toMatchObject({ ok: true, verification: 'unverified' })
    expect(report.units.map(({ isDue }) => isDue)).toEqual([false, false, true, true, true])
    expect(report.notes).toEqual([expect.stringMatching(/units.3: .*not done yet/), expect.stringMatching(/units.4: .*given up/)]) // prettier-ignore
    // Another secret than was promised would draw what it likes.
    const other = await again(receipt, () => Promise.resolve('ab'.repeat(32)))
    expect([other.ok, other.flaw?.field]).toEqual([false, 'lottery.0.commitment'])
  })
})
