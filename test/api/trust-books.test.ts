/** The ledger, the lottery and the coordinator's key: nothing can be changed unseen, and a restart goes on where it was. */
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest'
import { canonicalJson } from '../../coordinator/books/canonical.ts'
import type { Json } from '../../coordinator/books/canonical.ts'
import { Books } from '../../coordinator/books/books.ts'
import type { Effect, Posting } from '../../coordinator/core/events.ts'
import { openLog } from '../../coordinator/log.ts'
import { bytesOf, importKey, isSignedBy, KEY_FILE, networkOf, openKey } from '../../coordinator/identity.ts'
import { hashOf } from '../../coordinator/books/audit.ts'
import { Ledger } from '../../coordinator/books/ledger.ts'
import type { LedgerLine } from '../../coordinator/books/audit.ts'
import { Lottery } from '../../coordinator/books/lottery.ts'
import { Recorder } from '../../coordinator/books/records.ts'
import { sealed } from '../../coordinator/books/seal.ts'
import { verifyLedger } from '../../cli/ledger.ts'
import type { LedgerReport } from '../../cli/ledger.ts'
import { ModelStore } from '../store/model.ts'
import { newKey, sha256 } from './books.ts'

const fail = (error: unknown): never => {
  throw error
}

describe('the ledger', () => {
  const units = fc.array(
    fc.record({ key: fc.constantFrom('k1', 'k2', 'k3'), macs: fc.integer({ min: 1, max: 50 }), fate: fc.constantFrom('vest', 'convict', 'wait'), spare: fc.nat(9) }),
    { minLength: 1, maxLength: 12 },
  ) // prettier-ignore

  /** A life's postings, as the core makes them: every job of one unit. */
  function postings(
    life: readonly { key: string; macs: number; fate: string; spare: number }[],
    from: number,
  ): Posting[] {
    return life.flatMap(({ key, macs, fate, spare }, i): Posting[] => {
      const [job, unit, at] = [`j${from + i}`, `u${from + i}`, i] as unknown as ['j', 'u', number]
      const about = { job, unit, at } as unknown as Pick<Posting, 'job' | 'unit' | 'at'>
      const move = (kind: Posting['kind'], source: string, to: string, amount: number): Posting =>
        ({ ...about, kind, identity: key, lines: [{ account: source, amount: -amount }, { account: to, amount }] }) // prettier-ignore
      return [
        move('reserve', 'requester:ip:192.0.2.1', `reserved:${job}`, macs + spare),
        move('earn', `reserved:${job}`, `escrow:${key}`, macs),
        move('release', `reserved:${job}`, 'requester:ip:192.0.2.1', spare),
        ...(fate === 'vest' ? [move('vest', `escrow:${key}`, `volunteer:${key}`, macs)] : []),
        ...(fate === 'convict' ? [move('convict', `escrow:${key}`, 'requester:ip:192.0.2.1', macs)] : []),
      ]
    })
  }

  async function kept(...lives: (readonly Posting[])[]): Promise<{ lines: LedgerLine[]; ledger: Ledger }> {
    const records = new ModelStore()
    let ledger!: Ledger
    for (const life of lives) {
      const recorder = new Recorder(records, fail)
      ledger = await Ledger.open(records, recorder, 'pepper')
      for (const posting of life) ledger.post(posting)
      await recorder.flush()
    }
    return { lines: await ledger.lines(0, 1e6), ledger }
  }

  test('of any history adds up, over restarts, and publishes no payer', async () => {
    await fc.assert(
      fc.asyncProperty(units, units, async (one, two) => {
        const { lines, ledger } = await kept(postings(one, 0), postings(two, 100))
        const report = await verifyLedger({ lines })
        expect(report).toMatchObject({ ok: true, entries: lines.length, head: ledger.head.hash, earned: one.length + two.length }) // prettier-ignore
        expect(Object.values(report.balances).reduce((a, b) => a + b, 0)).toBe(0)
        const all = [...one, ...two]
        const sum = (key: string, fates: string[]): number =>
          all.reduce((n, u) => n + (u.key === key && fates.includes(u.fate) ? u.macs : 0), 0)
        for (const key of ['k1', 'k2', 'k3']) {
          expect(ledger.balances[`volunteer:${key}`] ?? 0).toBe(sum(key, ['vest']))
          expect(ledger.balances[`escrow:${key}`] ?? 0).toBe(sum(key, ['wait']))
        }
        expect(JSON.stringify(lines)).not.toContain('192.0.2.1')
      }),
      { seed: inject('seed'), numRuns: 30 },
    )
  })

  test('with anything in it changed is found out, at the entry that was changed', async () => {
    const { lines } = await kept(postings([{ key: 'k1', macs: 7, fate: 'vest', spare: 2 }, { key: 'k2', macs: 9, fate: 'convict', spare: 1 }], 0)) // prettier-ignore
    const texts = lines.map((line) => JSON.stringify(line))
    for (const [i, text] of texts.entries())
      for (let at = 0; at < text.length; at++) {
        const letter = text[at]!
        const other = letter === '1' ? '2' : /[0-9a-z]/i.test(letter) ? '1' : letter
        if (other === letter) continue
        const changed = [...texts]
        changed[i] = text.slice(0, at) + other + text.slice(at + 1)
        let parsed: LedgerLine[]
        try {
          parsed = changed.map((line) => JSON.parse(line) as LedgerLine)
        } catch {
          continue
        }
        // `true` for a key of its own spelling: JSON that says the same is the same.
        if (canonicalJson(parsed as unknown as Json) === canonicalJson(lines as unknown as Json)) continue
        const { ok, flaw } = await verifyLedger({ lines: parsed })
        expect([ok, flaw?.entry], changed[i]).toEqual([false, i + 1])
      }
  })

  test('with an entry left out, doubled, swapped or cut off is found out', async () => {
    const { lines, ledger } = await kept(postings([{ key: 'k1', macs: 7, fate: 'vest', spare: 2 }, { key: 'k2', macs: 9, fate: 'wait', spare: 1 }], 0)) // prettier-ignore
    const key = newKey()
    const head = sealed({ format: 'chorale ledger head 1', ...ledger.head, at: 0 }, key)
    const found = async (changed: LedgerLine[]): Promise<LedgerReport> =>
      verifyLedger({ lines: changed, head })
    expect((await found(lines)).ok).toBe(true)
    for (let i = 0; i < lines.length; i++) {
      expect((await found(lines.toSpliced(i, 1))).ok, `without ${i}`).toBe(false)
      expect((await found(lines.toSpliced(i, 0, lines[i]!))).ok, `${i} twice`).toBe(false)
      expect((await found(lines.slice(0, i))).ok, `cut off at ${i}`).toBe(false)
      if (i)
        expect((await found(lines.with(i, lines[i - 1]!).with(i - 1, lines[i]!))).ok, `${i} swapped`).toBe(
          false,
        )
    }
    // Written anew from the third entry on, with every hash right: only what was signed before shows it.
    const anew = rechained(lines, (entry) => void (entry.at += entry.seq === 3 ? 1 : 0))
    expect((await verifyLedger({ lines: anew })).ok).toBe(true)
    expect((await found(anew)).flaw?.entry).toBe(lines.length)
  })

  test('with every hash right and one rule broken is found out, and the rule is named', async () => {
    const { lines } = await kept(postings([{ key: 'k1', macs: 7, fate: 'vest', spare: 2 }], 0))
    const broken = async (change: (entry: LedgerLine['entry']) => void): Promise<string> =>
      (await verifyLedger({ lines: rechained(lines, change) })).flaw?.why ?? 'nothing'
    const at = (seq: number, change: (entry: LedgerLine['entry']) => void) => (entry: LedgerLine['entry']): void => {
      if (entry.seq === seq) change(entry)
    } // prettier-ignore
    expect(await broken(at(2, (e) => void (e.lines[1]!.amount += 1)))).toMatch(/entry 2: its lines sum to 1/)
    expect(await broken(at(2, (e) => void (e.lines = e.lines.map(({ account, amount }) => ({ account, amount: amount / 2 })))))).toMatch(/no whole amount/) // prettier-ignore
    expect(await broken(at(2, (e) => void (e.lines = e.lines.map(({ account, amount }) => ({ account, amount: 2 * amount })))))).toMatch(/reserved:j0 would have -5/) // prettier-ignore
    expect(await broken(at(4, (e) => void (e.lines[0]!.account = 'reserved:j0')))).toMatch(
      /vest may not move/,
    )
    expect(await broken(at(4, (e) => void (e.kind = 'gift' as 'vest')))).toMatch(/no kind gift/)
    expect(await broken(at(2, (e) => void delete e.unit))).toMatch(/for no unit/)
    const twice = rechained([...lines.slice(0, 2), lines[1]!, ...lines.slice(2)], (e) => void (e.lines = e.lines.map(({ account, amount }) => ({ account, amount: e.kind === 'earn' ? amount / 7 : amount })))) // prettier-ignore
    expect((await verifyLedger({ lines: twice })).flaw?.why).toMatch(/paid to k1 before, by entry 2/)
  })

  /** Every entry changed as told, then numbered and hashed again. */
  function rechained(
    lines: readonly LedgerLine[],
    change: (entry: LedgerLine['entry']) => void,
  ): LedgerLine[] {
    let prev = '0'.repeat(64)
    return lines.map((line, i) => {
      const entry = structuredClone(line.entry)
      change(entry)
      entry.seq = i + 1
      const hash = hashOf(prev, canonicalJson(entry as unknown as Json))
      const anew = { seq: i + 1, prev, hash, entry }
      prev = hash
      return anew
    })
  }
})

test('a conviction outlives what is found of the key’s earlier answers afterwards, and a restart', async () => {
  const records = new ModelStore()
  const key = newKey()
  const open = (): Promise<Books> =>
    Books.open({ records, key, nameOf: (digest) => digest, log: openLog('silent') })
  const about = { job: 'j', unit: 'u', identity: 'k'.repeat(42) + 'A' }
  const hash = 'ab'.repeat(32)
  const checked = {
    ...about, type: 'check-unit', verdict: 'right', macs: 1, record: { accepted: 7, checked: 7 },
    check: { kind: 'trusted', rate: 1, by: ['house'] },
  } as unknown as Effect // prettier-ignore
  const convicted = {
    ...about, type: 'convict', at: 0,
    evidence: {
      assignment: 'a1', model: hash, unit: { kind: 'classify', inputs: [Uint32Array.of(1)] }, input: hash, output: hash,
      root: hash, signature: null, referee: { identity: 'house', output: hash, root: hash }, leaf: null,
    },
  } as unknown as Effect // prettier-ignore
  for (const [life, effects] of [
    ['one', [checked, convicted, checked]],
    ['two', [checked]],
    ['three', []],
  ] as const) {
    const books = await open()
    for (const effect of effects) books.perform(effect)
    await books.close()
    if (life === 'one') continue
    expect(books.restore.identities).toMatchObject([{ identity: about.identity, isConvicted: true }])
  }
})

test('a lottery’s secret is promised before and told after, also across a restart', async () => {
  const records = new ModelStore()
  const recorder = new Recorder(records, fail)
  const lottery = await Lottery.open(records, recorder)
  const promises: [number, string, string][] = []
  for (let i = 0; i < 3; i++) {
    expect(lottery.current.secret).toBeNull()
    promises.push([lottery.current.period, lottery.current.commitment, lottery.secret])
    lottery.next()
  }
  promises.push([lottery.current.period, lottery.current.commitment, lottery.secret])
  await recorder.flush()
  expect((await lottery.past(0, 100)).map(({ period }) => period)).toEqual([1, 2, 3])
  const again = await Lottery.open(records, recorder)
  await recorder.flush()
  const past = await again.past(0, 100)
  expect(past.map(({ period, commitment, secret }) => [period, commitment, secret])).toEqual(promises)
  for (const { commitment, secret } of past) expect(sha256(Buffer.from(secret!, 'hex'))).toBe(commitment)
  expect(again.current.period).toBe(5)
  expect((await again.past(2, 1)).map(({ period }) => period)).toEqual([3])
})

describe('the coordinator’s key', () => {
  let folder: string
  beforeAll(async () => void (folder = await mkdtemp(join(tmpdir(), 'chorale-data-'))))
  afterAll(() => rm(folder, { recursive: true }))

  test('is made once, for its owner alone, and is the same at the next start', async () => {
    const path = join(folder, 'deep', 'data')
    const first = openKey(path)
    expect(openKey(path).publicKey).toBe(first.publicKey)
    expect(openKey(undefined).publicKey).not.toBe(first.publicKey)
    if (process.platform !== 'win32') expect((await stat(join(path, KEY_FILE))).mode & 0o777).toBe(0o600)
    const message = Buffer.from('hello')
    const signature = openKey(path).sign(message)
    expect(isSignedBy(importKey(first.publicKey)!, message, signature)).toBe(true)
    expect(isSignedBy(importKey(first.publicKey)!, Buffer.from('hullo'), signature)).toBe(false)
    expect(isSignedBy(importKey(first.publicKey)!, message, `${signature}=`)).toBe(false)
  })

  test('that is none is never overwritten: the file is named, and what to do', async () => {
    const path = join(folder, KEY_FILE)
    for (const content of [
      '',
      'not a key',
      '-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n',
    ]) {
      await writeFile(path, content)
      expect(() => openKey(folder)).toThrow(/coordinator\.key.*backup/)
      expect(await readFile(path, 'utf8')).toBe(content)
    }
  })

  test('no point of small order passes for a volunteer’s', () => {
    // Edwards25519: -x² + y² = 1 + d·x²·y². Every encoding of a y whose point P has 8·P = 0, found by computing it.
    const p = 2n ** 255n - 19n
    const mod = (n: bigint): bigint => ((n % p) + p) % p
    const power = (base: bigint, e: bigint): bigint => {
      let result = 1n
      for (let b = mod(base); e > 0n; e >>= 1n, b = mod(b * b)) if (e & 1n) result = mod(result * b)
      return result
    }
    const inverse = (n: bigint): bigint => power(n, p - 2n)
    const d = mod(-121665n * inverse(121666n))
    const root = (n: bigint): bigint | null => {
      const x = power(n, (p + 3n) / 8n)
      for (const candidate of [x, mod(x * power(2n, (p - 1n) / 4n))]) if (mod(candidate * candidate) === mod(n)) return candidate // prettier-ignore
      return null
    }
    const double = ([x, y]: [bigint, bigint]): [bigint, bigint] => {
      const k = mod(d * mod(x * x) * mod(y * y))
      return [mod(2n * x * y * inverse(1n + k)), mod(mod(y * y + x * x) * inverse(1n - k))]
    }
    const isSmall = (y: bigint): boolean => {
      const x = root(mod((y * y - 1n) * inverse(d * y * y + 1n)))
      if (x === null) return false
      const [x8, y8] = double(double(double([x, mod(y)])))
      return x8 === 0n && y8 === 1n
    }
    const encode = (y: bigint, sign: number): string => {
      const bytes = Buffer.alloc(32)
      for (let i = 0, rest = y; i < 32; i++, rest >>= 8n) bytes[i] = Number(rest & 255n)
      bytes[31]! |= sign << 7
      return bytes.toString('base64url')
    }
    // Points of order 8 have y with y⁴·d + 2y² - 1 = 0 … by doubling: those whose double has y = 0.
    const eighth = root(mod((-1n + (root(mod(1n + d)) ?? 0n)) * inverse(d)))
    const eighthToo = root(mod((-1n - (root(mod(1n + d)) ?? 0n)) * inverse(d)))
    const ys = [0n, 1n, p - 1n, p, p + 1n, eighth, eighthToo].flatMap((y) => (y === null ? [] : [y, mod(-y)]))
    expect(new Set(ys.filter(isSmall).map(mod)).size).toBe(5)
    for (const y of ys.filter(isSmall))
      for (const sign of [0, 1]) expect(importKey(encode(y, sign)), `${y} ${sign}`).toBeNull()
    expect(importKey(newKey().publicKey)).not.toBeNull()
  })
})

test('bytes in base64url have one spelling', () => {
  const bytes = Buffer.from(sha256('x'), 'hex')
  const right = bytes.toString('base64url')
  expect(bytesOf(right, 32)?.equals(bytes)).toBe(true)
  const wrong = [bytes.toString('base64'), `${right}=`, ` ${right}`, right.slice(1), bytes.toString('hex'), `${right.slice(0, -1)}${right.at(-1) === 'B' ? 'C' : 'B'}`] // prettier-ignore
  for (const text of wrong) expect(bytesOf(text, 32), text).toBeNull()
})

test.each([
  ['192.0.2.7', '192.0.2.0/24'],
  ['::ffff:192.0.2.200', '192.0.2.0/24'],
  ['127.0.0.1', 'this machine'],
  ['127.3.2.1', 'this machine'],
  ['::1', 'this machine'],
  ['2001:db8:1:2:3:4:5:6', '2001:db8:1::/48'],
  ['2001:DB8:1::9', '2001:db8:1::/48'],
  ['2001:db8::', '2001:db8:0::/48'],
  ['fe80::1%eth0', 'fe80:0:0::/48'],
  ['999.1.1.1', 'unknown'],
  ['', 'unknown'],
])('%s is in the network %s', (address, network) => expect(networkOf(address)).toBe(network))
