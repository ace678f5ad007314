/** Liars that are caught for their lie and not for their clumsiness: all fits together, and the shape is the one asked for. */
import { createHash } from 'node:crypto'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { Adversary, planOf, STRATEGIES } from '../../client/adversary.ts'
import { openBackend } from '../../engine/index.ts'
import type { Backend, Pack } from '../../engine/index.ts'
import { UnitRunner } from '../../engine/units.ts'
import type { RunOptions, UnitResult } from '../../engine/units.ts'
import { merkleRoot, outputBytes } from '../../protocol/index.ts'
import type { Assignment, AssignmentId, ModelDigest, UnitId } from '../../protocol/index.ts'
import { resolveModel } from '../../tools/models.ts'

let backend: Backend
let tales: Pack
let intents: Pack
let honest: UnitRunner
beforeAll(async () => {
  backend = await openBackend('wasm', { threads: 1 })
  ;[tales, intents] = [await resolveModel('tales-3m'), await resolveModel('intents-3m')]
  honest = await runnerOf((pack) => pack)
})
afterAll(async () => {
  await honest?.close()
  await backend?.close()
})

async function runnerOf(tamper: (pack: Pack) => Pack): Promise<UnitRunner> {
  const packs = new Map([tales, intents].map((pack) => [pack.digest, tamper(pack)]))
  const runner = new UnitRunner(backend, async (digest) => packs.get(digest)!)
  for (const digest of packs.keys()) await runner.load(digest)
  return runner
}

let units = 0
const unit = (part: Pick<Assignment, 'kind' | 'inputs' | 'generate'>): Assignment => ({
  id: `a${units}` as AssignmentId, unit: `u${units++}` as UnitId, leaseMs: 1000, priority: 'batch',
  model: (part.kind === 'generate' ? tales : intents).digest as ModelDigest, ...part,
}) // prettier-ignore
const story = (ids: number[], more: object = {}): Assignment =>
  unit({
    kind: 'generate',
    inputs: [Uint32Array.from(ids)],
    generate: { maxTokens: 20, sampling: { temperature: 0.8, topK: 0, topP: 1, seed: '7', stream: 0 }, ...more },
  }) // prettier-ignore
/** Of every kind a coordinator asks for; the last is an audit: all was drawn before. */
async function asked(): Promise<Assignment[]> {
  const first = story([1, 300, 410])
  const { output } = await honest.run(first)
  const drawn = output.kind === 'generate' ? [...output.tokens] : []
  return [
    first,
    story([1, 500, 77, 12], { logprobs: 2 }),
    unit({ kind: 'classify', inputs: [Uint32Array.of(2, 50, 60, 3), Uint32Array.of(2, 70, 3)] }),
    unit({ kind: 'embed', inputs: [Uint32Array.of(2, 51, 60, 3)] }),
    story([1, 300, 410, ...drawn.slice(0, 8)], { replay: 8 }),
    story([1, 300, 410, ...drawn], { replay: drawn.length }),
  ]
}

const sha256 = (bytes: Uint8Array): Buffer => createHash('sha256').update(bytes).digest()

function expectSound(what: string, assignment: Assignment, { output, leaves, root }: UnitResult): void {
  const all = Array.from({ length: leaves.length / 32 }, (_, i) => leaves.subarray(32 * i, 32 * i + 32))
  if (!/^(equivocator|withholder)/.test(what)) {
    expect(Buffer.from(merkleRoot(all, sha256)).toString('hex'), what).toBe(root)
    expect(Buffer.from(all.at(-1)!).equals(sha256(outputBytes(output))), what).toBe(true)
  }
  expect(output.kind, what).toBe(assignment.kind)
  if (output.kind !== 'generate') {
    expect(output.values.length, what).toBe(output.rows * output.width)
    return expect(output.rows, what).toBe(assignment.inputs.length)
  }
  const { vocab, eosIds, context } = tales.manifest.spec
  const { maxTokens, replay = 0, logprobs } = assignment.generate!
  const position = assignment.inputs[0]!.length - replay
  expect(output.position, what).toBe(position)
  const most = Math.min(maxTokens, context - position)
  const hasEnded = eosIds.includes(output.tokens.at(-1)!)
  expect(output.tokens.slice(0, -1).some((id) => eosIds.includes(id)), what).toBe(false)
  expect(output.tokens.every((id) => id < vocab), what).toBe(true)
  expect(output.finish, what).toBe(hasEnded ? 'stop' : 'length')
  if (!hasEnded) expect(output.tokens.length, what).toBe(most)
  expect(output.logprobs?.top, what).toBe(logprobs)
} // prettier-ignore

interface Told {
  assignment: Assignment
  isLie: boolean
  result: UnitResult
}

async function told(name: string): Promise<Told[]> {
  const liar = new Adversary(planOf(name), 5, () => undefined)
  const runner = await runnerOf((pack) => liar.tamper(pack))
  try {
    const all: Told[] = []
    for (const assignment of await asked()) {
      const streamed: number[] = []
      let from = -1
      const options: RunOptions = {
        onTokens: ({ position, tokens }) => {
          if (from < 0) from = position
          streamed.push(...tokens)
        },
      }
      const result = await liar.run((u, o) => runner.run(u, o), assignment, options)
      expectSound(`${name}, ${assignment.kind}`, assignment, result)
      const { output } = result
      // What was streamed is what is answered.
      if (output.kind === 'generate' && from >= 0)
        expect([...output.tokens.subarray(from - output.position)].slice(0, streamed.length), name).toEqual(streamed) // prettier-ignore
      const right = await honest.run(assignment)
      const isSame = Buffer.from(outputBytes(output)).equals(outputBytes(right.output))
      all.push({ assignment, isLie: !isSame || result.root !== right.root, result })
    }
    return all
  } finally {
    await runner.close()
  }
}

const alwaysLies = ['lazy-random', 'wrong-weights', 'layer-skipper', 'flipper', 'copycat', 'equivocator', 'withholder', 'sleeper:0', 'liar:1', 'bit-flip:1', 'exit:0'] // prettier-ignore

test.each(alwaysLies)('%s lies about every unit, and each lie fits together', async (name) => {
  const all = await told(name)
  expect(all.filter(({ isLie }) => !isLie).map(({ assignment }) => assignment.id)).toEqual([])
})

test('those who lie now and then lie when their name says', async () => {
  const lies = async (name: string): Promise<boolean[]> => (await told(name)).map(({ isLie }) => isLie)
  expect(await lies('first')).toEqual([true, false, true, true, false, false])
  expect(await lies('sleeper:3')).toEqual([false, false, false, true, true, true])
  expect(await lies('exit:4')).toEqual([false, false, false, false, true, true])
  expect(await lies('liar:0')).toEqual([false, false, false, false, false, false])
  // Of texts, and there of what it draws itself.
  expect(await lies('forger:3')).toEqual([true, true, false, false, true, false])
  // Once of each model and kind it computes.
  expect(await lies('lazy-cache')).toEqual([false, true, false, false, true, true])
  // Blind: to them a takeover is as good as an audit.
  expect(await lies('false-accuser')).toEqual([false, false, false, false, true, true])
  expect((await lies('rubber-stamper')).slice(0, 5)).toEqual([false, false, false, false, true])
})

test('an equivocator shows other leaves than it committed to', async () => {
  for (const { result } of await told('equivocator')) {
    const all = Array.from({ length: result.leaves.length / 32 }, (_, i) => result.leaves.subarray(32 * i, 32 * i + 32)) // prettier-ignore
    if (all.length > 1) expect(Buffer.from(merkleRoot(all, sha256)).toString('hex')).not.toBe(result.root)
  }
})

test('copycats give one answer between them', async () => {
  const [first, second] = [await told('copycat'), await told('copycat')]
  expect(second.map(({ result }) => result.root)).toEqual(first.map(({ result }) => result.root))
})

test('an exit scammer leaves after its last lie', async () => {
  let hasLeft = false
  const liar = new Adversary(planOf('exit:1'), 1, () => (hasLeft = true))
  for (let i = 0; i < 6; i++) {
    expect(hasLeft).toBe(false)
    liar.tamper(intents)
    await liar.run((u, o) => honest.run(u, o), unit({ kind: 'embed', inputs: [Uint32Array.of(2, 3)] }), {})
  }
  await new Promise((done) => setTimeout(done, 150))
  expect(hasLeft).toBe(true)
})

test('a strategy that there is not is named, with those that are', () => {
  expect(() => planOf('angel')).toThrow(/"angel": there are lazy-random, lazy-cache,/)
  for (const wrong of ['', 'liar:', 'liar:x', 'flipper:3', 'sleeper 3', 'constructor'])
    expect(() => planOf(wrong), wrong).toThrow(RangeError)
  expect(planOf('liar')).toEqual({ strategy: 'liar', number: 0.02 })
  for (const name of Object.keys(STRATEGIES)) expect(planOf(name).strategy).toBe(name)
})
