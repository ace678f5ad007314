/** The laws of commitments and of replay: what a unit is committed to by depends on the computation and nothing else. */
import { sha256 } from '@noble/hashes/sha2.js'
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest'
import { openBackend, leafCount, leafPlace, leavesOf, Model, rootOf } from '../../engine/index.ts'
import type { Backend, Pack } from '../../engine/index.ts'
import { commit, openCommit } from '../../engine/commitment.ts'
import { runStage } from '../../engine/stage.ts'
import { CHUNK, chunkOf, LEAVES_MAX } from '../../engine/trace.ts'
import { failureOf, outputBytes, UnitRunner } from '../../engine/units.ts'
import type { Unit, UnitProgress, UnitResult } from '../../engine/units.ts'
import * as protocol from '../../protocol/index.ts'
import { LIMITS } from '../../protocol/limits.ts'
import { DIGEST_WORDS, rowDigest, stir } from '../../shaders/digest.ts'
import { Random } from '../harness/random.ts'
import { openStage, storyOf } from './stage.ts'
import type { Generated, Stage } from './stage.ts'

let stage: Stage
let backend: Backend
let runner: UnitRunner
let packs: Map<string, Pack>
let tales = ''
let intents = ''

beforeAll(async () => {
  stage = await openStage()
  ;({ backend, runner, packs, tales, intents } = stage)
})
afterAll(() => stage?.close())

const story = (prompt: readonly number[], maxTokens: number, extra = {}, sampling = {}): Unit =>
  storyOf(tales, prompt, maxTokens, extra, sampling)
const generated = (result: UnitResult): Generated => result.output as Generated
/** All of a result but the time it took. */
const essence = ({ output, digest, root }: UnitResult): object => {
  expect(digest).toBe(hex(sha256(outputBytes(output))))
  return { output, digest, root }
}
const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')

describe('leaves and root', () => {
  const leaf = (i: number): Uint8Array => sha256(Uint8Array.of(i, i >> 8))

  test('the root is the protocol’s Merkle root, for every number of leaves', () => {
    for (let n = 1; n <= 70; n++) {
      const leaves = Array.from({ length: n }, (_, i) => leaf(i))
      expect(rootOf(new Uint8Array(leaves.flatMap((l) => [...l])))).toBe(
        hex(protocol.merkleRoot(leaves, sha256)),
      )
    }
    expect(() => rootOf(new Uint8Array())).toThrow(RangeError)
    expect(() => rootOf(new Uint8Array(33))).toThrow(RangeError)
  })

  test('WASM commits to a trace as plain JavaScript does, to the last bit, whatever its shape', async () => {
    const random = new Random(inject('seed'), 'commitments')
    const fast = await openCommit()
    expect(fast).not.toBe(commit)
    for (let round = 0; round < 400; round++) {
      const layers = random.int(1, round % 40 === 0 ? 600 : 9)
      const longest = round % 20 === 0 ? 1_500 : 150
      const sequences = Array.from({ length: random.int(0, 5) }, () =>
        Uint32Array.from({ length: random.int(0, longest) * layers * DIGEST_WORDS }, () => random.u32()),
      )
      // Every length about a block's end and its padding's.
      const output = Uint8Array.from({ length: round < 200 ? round : random.int(0, 5_000) }, () =>
        random.int(0, 256),
      )
      const [mine, twin] = [fast(sequences, layers, output), commit(sequences, layers, output)]
      expect([mine.root, mine.digest]).toEqual([twin.root, hex(sha256(output))])
      expect(Buffer.compare(mine.leaves, twin.leaves)).toBe(0)
    }
  })

  test('every leaf has one place, in order, and the last is the output’s', () => {
    const random = new Random(inject('seed'), 'leaf places')
    for (let round = 0; round < 12; round++) {
      const lengths = Array.from({ length: random.int(1, 9) }, () => random.int(1, 100))
      const layers = random.int(1, 5)
      const sequences = lengths.map((n) =>
        Uint32Array.from({ length: n * layers * DIGEST_WORDS }, () => random.int(0, 2 ** 31)),
      )
      const output = Uint8Array.of(1, 2, 3)
      const leaves = leavesOf(sequences, layers, output)
      const count = leafCount({ lengths, layers })
      expect(leaves).toHaveLength(32 * count)
      const positions = sequences.flatMap((s, r) => Array.from({ length: lengths[r]! }, (_, p) => s.subarray(p * layers * DIGEST_WORDS, (p + 1) * layers * DIGEST_WORDS))) // prettier-ignore
      const seen = new Set<string>()
      for (let i = 0; i < count; i++) {
        const place = leafPlace({ lengths, layers }, i)
        const at = leaves.subarray(32 * i, 32 * i + 32)
        if (place.part === 'output') {
          expect(i).toBe(count - 1)
          expect(hex(at)).toBe(hex(sha256(output)))
          continue
        }
        const fold = new Int32Array(DIGEST_WORDS)
        for (let p = place.from; p < place.to; p++) {
          const own = positions[p]!.subarray(place.layer * DIGEST_WORDS, (place.layer + 1) * DIGEST_WORDS)
          own.forEach((word, w) => (fold[w] = fold[w]! + word))
          stir(fold, 0)
          seen.add(`${p} ${place.layer}`)
        }
        expect(hex(at)).toBe(hex(new Uint8Array(fold.buffer)) + '00'.repeat(16))
        // A digest that differs in one bit changes this leaf and no other.
        const changed = sequences.map((s) => s.slice())
        let p = random.int(place.from, place.to - 1)
        const r = lengths.findIndex((n) => (p < n ? true : ((p -= n), false)))
        changed[r]![(p * layers + place.layer) * DIGEST_WORDS + random.int(0, 3)]! ^= 1 << random.int(0, 31)
        const others = leavesOf(changed, layers, output)
        for (let j = 0; j < count; j++) expect(hex(others.subarray(32 * j, 32 * j + 32)) === hex(leaves.subarray(32 * j, 32 * j + 32))).toBe(j !== i) // prettier-ignore
      }
      expect(seen.size).toBe(positions.length * layers)
      expect(() => leafPlace({ lengths, layers }, count)).toThrow(RangeError)
      expect(() => leafPlace({ lengths, layers }, -1)).toThrow(RangeError)
    }
  })

  test('long traces have larger chunks, so that the leaves fit a frame', () => {
    expect(LEAVES_MAX).toBe(LIMITS.leaves)
    for (const [lengths, layers] of [
      [[131_072], 80],
      [[4096], 33],
      [Array<number>(256).fill(512), 49],
      [[1], 1],
    ] as const) {
      // prettier-ignore
      const shape = { lengths, layers }
      expect(leafCount(shape)).toBeLessThanOrEqual(LEAVES_MAX)
      const chunk = chunkOf(shape)
      if (chunk > CHUNK) {
        const before = Math.ceil(lengths.reduce((a, b) => a + b) / (chunk / 2)) * layers + 1
        expect(before).toBeGreaterThan(LEAVES_MAX)
      }
    }
  })

  test('the output’s bytes are the protocol’s', async () => {
    for (const unit of [story([1, 300], 5), story([1, 300], 5, { logprobs: 3 })]) {
      const { output } = await runner.run(unit)
      expect(outputBytes(output)).toEqual(protocol.outputBytes(output as protocol.Output))
    }
  })
})

test('a row’s digest: any change of a value, two values changing places, or a longer row gives another', () => {
  const random = new Random(inject('seed'), 'digest')
  const of = (x: ArrayLike<number>): string => rowDigest(Int32Array.from(x), 0, x.length).join()
  for (let round = 0; round < 200; round++) {
    const x = Array.from({ length: random.int(1, 40) }, () => random.int(-(2 ** 20), 2 ** 20))
    const known = of(x)
    for (let bit = 0; bit < 32; bit++) {
      const i = random.int(0, x.length - 1)
      expect(of(x.with(i, x[i]! ^ (1 << bit)))).not.toBe(known)
    }
    const [i, j] = [random.int(0, x.length - 1), random.int(0, x.length - 1)]
    if (x[i] !== x[j]) expect(of(x.with(i, x[j]!).with(j, x[i]!))).not.toBe(known)
    expect(of([...x, 0])).not.toBe(known)
  }
  // Each word depends on every value: half of 128 bits change, give or take.
  let changed = 0
  const x = Int32Array.from({ length: 64 }, () => random.int(-(2 ** 20), 2 ** 20))
  const known = rowDigest(x, 0, 64)
  for (let i = 0; i < 64; i++) {
    const other = rowDigest(x.with(i, x[i]! + 1), 0, 64)
    for (let w = 0; w < 4; w++)
      for (let bits = (other[w]! ^ known[w]!) >>> 0; bits; bits &= bits - 1) changed++
  }
  expect(changed / 64).toBeGreaterThan(60)
  expect(changed / 64).toBeLessThan(68)
})

test('the stirring is ChaCha’s quarter round (RFC 8439 §2.1.1), and a row’s digest what docs/numerics.md says', () => {
  const w = Int32Array.of(0x11111111, 0x01020304, 0x9b8d6f43, 0x01234567)
  stir(w, 0)
  expect(new Uint32Array(w.buffer)).toEqual(Uint32Array.of(0xea2a92f4, 0xcb1cf8ce, 0x4581472e, 0x5881c4bb))
  const random = new Random(inject('seed'), 'by hand')
  const u32 = (v: bigint): bigint => BigInt.asUintN(32, v)
  for (const d of [1, 2, 3, 4, 5, 192, 4099]) {
    const x = Int32Array.from({ length: d }, () => random.int(-(2 ** 31), 2 ** 31 - 1))
    const sums = [0n, 0n, 0n, 0n]
    x.forEach((v, i) => {
      const t = u32((BigInt(v) + BigInt(i) * 0x9e3779b1n + 0x85ebca77n) * 0x85ebca6bn)
      sums[i % 4]! += (t ^ (t >> 15n)) * 0xc2b2ae35n
    })
    const words = Int32Array.from(sums, (sum) => Number(BigInt.asIntN(32, sum)))
    words[0]! ^= d
    stir(words, 0)
    stir(words, 0)
    expect(rowDigest(x, 0, d)).toEqual(new Uint32Array(words.buffer))
  }
})

test('the trace is the residual stream: what ranges of blocks hand on, row by row', async () => {
  for (const digest of [tales, intents]) {
    const pack = packs.get(digest)!
    const { layers, width, task } = pack.manifest.spec
    const ids = [1, 300, 410, 520, 77, 1000]
    const rows = ids.map((id, position) => ({ id, position, base: 0, length: task === 'generate' ? position + 1 : ids.length })) // prettier-ignore
    const whole = await Model.open(pack, backend, { commit: true })
    expect(whole.traceLayers).toBe(layers + 1)
    await runStage(whole, rows)
    const trace = await whole.readTrace(0, ids.length)
    whole.free()
    for (let l = 1; l <= layers; l++) {
      const stage = await Model.open(pack, backend, { blocks: [0, l] })
      const x = await runStage(stage, rows)
      stage.free()
      for (let p = 0; p < ids.length; p++) {
        const at = (p * (layers + 1) + l) * DIGEST_WORDS
        expect(trace.slice(at, at + DIGEST_WORDS)).toEqual(rowDigest(x, p * width, width))
      }
    }
  }
})

test('a unit’s leaves are of all positions computed, list by list, and its output', async () => {
  const lists = [[101, 500, 102], [101, 7, 8, 9, 102], [3]] // prettier-ignore
  const story4 = story([1, 300, 410, 520], 90)
  for (const unit of [story4, { kind: 'embed', model: intents, inputs: lists } as const]) {
    const { output, leaves, root } = await runner.run(unit)
    // The last token drawn was never read.
    const texts = output.kind === 'generate' ? [[...Array.from(unit.inputs[0]!), ...output.tokens.slice(0, -1)]] : lists // prettier-ignore
    const model = await Model.open(packs.get(unit.model)!, backend, { commit: true })
    const traces: Uint32Array[] = []
    for (const ids of texts) {
      const length = (position: number): number => (output.kind === 'generate' ? position + 1 : ids.length)
      await runStage(model, ids.map((id, position) => ({ id, position, base: 0, length: length(position) }))) // prettier-ignore
      traces.push(await model.readTrace(0, ids.length))
    }
    model.free()
    expect(hex(leaves)).toBe(hex(leavesOf(traces, model.traceLayers, outputBytes(output))))
    expect(root).toBe(rootOf(leaves))
  }
})

test('units of all kinds: the same root whatever the batch, the threads or the backend', async () => {
  const rows = Array.from({ length: 9 }, (_, i) =>
    Uint32Array.from([101, 500 + i, 600 + 2 * i, 102].slice(0, 2 + (i % 3))),
  )
  const units: Unit[] = [
    story([1, 300, 410], 12),
    story(Array.from({ length: 70 }, (_, i) => 300 + i), 3, { logprobs: 1 }),
    { kind: 'embed', model: intents, inputs: rows },
    { kind: 'classify', model: intents, inputs: rows },
  ] // prettier-ignore
  const expected = await Promise.all(units.map(async (unit) => essence(await runner.run(unit))))
  const others = [await openBackend('wasm', { threads: 3 }), await openBackend('js')]
  for (const other of others) {
    const mine = new UnitRunner(other, async (digest) => packs.get(digest)!, {
      contextOf: ({ manifest }) => Math.min(96, manifest.spec.context),
    })
    for (const [i, unit] of units.entries()) {
      await mine.load(unit.model)
      expect(essence(await mine.run(unit)), `unit ${i} on ${other.info.description}`).toEqual(expected[i])
    }
    await mine.close()
    await other.close()
  }
})

test('another input, another model’s layer or another output is another root', async () => {
  const roots = new Set<string>()
  for (const unit of [
    story([1, 300, 410], 6),
    story([1, 300, 411], 6),
    story([1, 300, 410], 5),
    story([1, 300, 410], 6, {}, { stream: 3 }),
  ])
    // prettier-ignore
    roots.add((await runner.run(unit)).root)
  expect(roots.size).toBe(4)
})

describe('replay', () => {
  const prompt = [1, 300, 410, 520]
  const cases = [
    { what: 'greedy', sampling: { temperature: 0 }, extra: {} },
    { what: 'sampled', sampling: {}, extra: {} },
    {
      what: 'with log-probabilities',
      sampling: { temperature: 1.2, topK: 40, topP: 0.95 },
      extra: { logprobs: 2 },
    },
  ]

  test.each(cases)(
    'from any place, $what: the answer and the root of the undisturbed run',
    async ({ sampling, extra }) => {
      const whole = await runner.run(story(prompt, 40, extra, sampling))
      const { tokens } = generated(whole)
      for (const replay of [1, 2, 3, 17, tokens.length - 1, tokens.length]) {
        const unit = story([...prompt, ...tokens.slice(0, replay)], 40, { ...extra, replay }, sampling)
        const [again] = await Promise.all([runner.run(unit), runner.run(story([1, 7], 9))])
        expect(essence(again!), `${replay} tokens replayed`).toEqual(essence(whole))
      }
    },
  )

  test.each(cases)(
    'a token that is not one’s own, $what: one’s own takes its place',
    async ({ sampling, extra }) => {
      const random = new Random(inject('seed'), 'replay')
      const whole = await runner.run(story(prompt, 30, extra, sampling))
      const { tokens } = generated(whole)
      for (const wrong of [0, 1, random.int(2, tokens.length - 2), tokens.length - 1]) {
        const claimed = [...tokens]
        claimed[wrong] = (claimed[wrong]! + 1 + random.int(0, 200)) % 2048
        const seen: UnitProgress[] = []
        const unit = story([...prompt, ...claimed], 30, { ...extra, replay: claimed.length }, sampling)
        const again = await runner.run(unit, { onTokens: (p) => void seen.push(p) })
        expect(essence(again), `token ${wrong} of ${tokens.length} wrong`).toEqual(essence(whole))
        if (seen.length) expect(seen[0]!.position).toBe(prompt.length + wrong)
      }
    },
  )

  test('progress begins at the first new token', async () => {
    const whole = generated(await runner.run(story(prompt, 60)))
    const seen: UnitProgress[] = []
    const unit = story([...prompt, ...whole.tokens.slice(0, 20)], 60, { replay: 20 })
    await runner.run(unit, { onTokens: (p) => void seen.push(p) })
    expect(seen[0]!.position).toBe(prompt.length + 20)
    const said = seen.flatMap((one) => [...one.tokens])
    expect(Uint32Array.from(said)).toEqual(whole.tokens.slice(20, 20 + said.length))
  })

  test('tokens claimed behind an end are not answered', async () => {
    const ends = packs.get(tales)!.manifest.spec.eosIds
    for (let stream = 0; stream < 200; stream++) {
      const long = await runner.run(story(prompt, 200, {}, { stream, temperature: 2 }))
      const { tokens, finish } = generated(long)
      if (finish !== 'stop') continue
      expect(ends).toContain(tokens.at(-1))
      const claimed = [...tokens, 5, 6, 7]
      const again = await runner.run(
        story([...prompt, ...claimed], 200, { replay: claimed.length }, { stream, temperature: 2 }),
      )
      expect(essence(again)).toEqual(essence(long))
      return
    }
    throw new Error('no story of 200 ended')
  })

  test('a full context is replayed to its end', async () => {
    const long = Array.from({ length: 370 }, (_, i) => 300 + (i % 500))
    for (let stream = 0; stream < 50; stream++) {
      const whole = await runner.run(story(long, 1000, {}, { stream }))
      const { tokens, finish } = generated(whole)
      if (finish === 'stop') continue
      expect(long.length + tokens.length).toBe(384)
      const unit = story([...long, ...tokens], 1000, { replay: tokens.length }, { stream })
      expect(essence(await runner.run(unit))).toEqual(essence(whole))
      return
    }
    throw new Error('no story of 50 filled the context')
  })

  test('in groups of any size: what is had at once changes nothing', async () => {
    const whole = await runner.run(story(prompt, 50))
    const { tokens } = generated(whole)
    const pack = packs.get(tales)!
    // A vocabulary this much larger leaves room for 4 rows of logits, or 9.
    for (const picks of [1, 4, 9]) {
      const narrow = new UnitRunner(withPicks(backend, picks), async () => pack)
      await narrow.load(tales)
      for (const extra of [{}, { logprobs: 1 }]) {
        const again = await narrow.run(story([...prompt, ...tokens], 50, { replay: tokens.length, ...extra }))
        expect([...generated(again).tokens], `${picks} at once`).toEqual([...tokens])
      }
      await narrow.close()
    }
  })

  test('what cannot be replayed is refused by name', async () => {
    for (const replay of [4, 5, -1, 1.5, 3]) {
      const maxTokens = replay === 3 ? 2 : 20
      const error = await runner.run(story(prompt, maxTokens, { replay })).catch((e: unknown) => e)
      expect(failureOf(error).reason, `replay ${replay}`).toBe('input-invalid')
    }
    expect(runner.running).toBe(0)
  })
})

/** The backend, but its recordings have room for only so many rows of logits. */
function withPicks(inner: Backend, picks: number): Backend {
  return {
    ...inner,
    info: inner.info,
    bindingBytesMax: inner.bindingBytesMax,
    load: (recording) => {
      recording.max.picks = picks
      return inner.load(recording)
    },
    close: async () => {},
  }
}
