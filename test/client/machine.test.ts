/** The pure machine where trust touches it: who speaks first, what is shown in a dispute, what a verdict ends. */
import { beforeEach, expect, test } from 'vitest'
import { Volunteer } from '../../client/volunteer.ts'
import type { Effect, Event } from '../../client/volunteer.ts'
import { CLOSE } from '../../protocol/index.ts'
import type { Assignment, AssignmentId, FromCoordinator, FromVolunteer, ModelDigest, UnitId, VolunteerId } from '../../protocol/index.ts' // prettier-ignore

const rules = { power: 1, onBattery: 'pause', whileInUse: 'allow', onSaveData: 'pause', onMetered: 'allow' } as const // prettier-ignore
const MODEL = 'aa'.repeat(32) as ModelDigest
const offer = {
  digest: MODEL,
  name: 'm',
  task: 'embed',
  path: '/m',
  bytes: 9,
  context: 99,
  demand: 1,
} as const
const settings = { pingMs: 5_000, silentMs: 15_000, progressMs: 50, reconnectMsMax: 60_000 }

let machine: Volunteer
let now = 0
let units = 0
beforeEach(() => {
  machine = new Volunteer({ client: 'test', seed: 1, rules })
  now = 0
})

const tell = (event: Event): Effect[] => machine.handle(event, now)
const hear = (message: FromCoordinator): Effect[] => tell({ type: 'received', message })
const sent = (effects: Effect[]): FromVolunteer[] =>
  effects.flatMap((effect) => (effect.type === 'send' ? [effect.message] : []))
const challenge: FromCoordinator = { type: 'challenge', nonce: 'n'.repeat(22), coordinator: 'C'.repeat(43) }

function connect(): Effect[] {
  tell({ type: 'started' })
  const capability = { backend: 'js', adapter: '', numerics: 'xn1', memoryBytes: 1e9 } as const
  tell({ type: 'probed', capability, slots: 2, concurrency: 1 })
  return tell({ type: 'connected' })
}

function join(): void {
  connect()
  hear(challenge)
  hear({ type: 'welcome', version: 1, volunteer: 'v1' as VolunteerId, settings, models: [offer], keep: [], operator: 'us' }) // prettier-ignore
  tell({ type: 'model-loaded', digest: MODEL, context: 99 })
}

function answer(leaves: Uint8Array, change: Partial<Assignment> = {}): AssignmentId {
  const id = `a${units++}` as AssignmentId
  const assignment: Assignment = {
    id, unit: `u${units}` as UnitId, kind: 'embed', model: MODEL, inputs: [Uint32Array.of(1)], leaseMs: 1000, priority: 'batch', ...change,
  } // prettier-ignore
  hear({ type: 'assign', assignments: [assignment] })
  const output = { kind: 'embed', rows: 1, width: 1, bits: 1, values: Int32Array.of(1) } as const
  tell({ type: 'computed', assignment: id, output, digest: '00', input: '11', root: '22', signature: 's', leaves, computeMs: 1 }) // prettier-ignore
  return id
}

const shown = (assignment: AssignmentId): Uint8Array => {
  const [message] = sent(hear({ type: 'disclose', assignment }))
  if (message?.type !== 'leaves') throw new Error('it says nothing')
  expect(message.assignment).toBe(assignment)
  return message.leaves
}

test('hello answers the challenge, once, and nothing is said before', () => {
  expect(sent(connect())).toEqual([])
  expect(sent(hear(challenge)).map(({ type }) => type)).toEqual(['hello'])
  expect(sent(hear(challenge))).toEqual([])
})

test('a coordinator that never challenges is left, and tried again', () => {
  connect()
  now = machine.wakeAt()
  expect(now).toBeLessThanOrEqual(15_000)
  expect(tell({ type: 'time-passed' })).toContainEqual({ type: 'disconnect', code: 1001 })
  expect(machine.view().state).toBe('reconnecting')
  now = machine.wakeAt()
  expect(tell({ type: 'time-passed' })).toContainEqual({ type: 'connect' })
})

test('a dispute is shown the leaves of that answer, also on a later connection', () => {
  join()
  const [a, b] = [answer(new Uint8Array(64).fill(1)), answer(new Uint8Array(32).fill(2))]
  expect(shown(b)).toEqual(new Uint8Array(32).fill(2))
  tell({ type: 'disconnected', code: 1006, reason: '' })
  now = machine.wakeAt()
  tell({ type: 'time-passed' })
  tell({ type: 'connected' })
  hear(challenge)
  hear({ type: 'welcome', version: 1, volunteer: 'v2' as VolunteerId, settings, models: [offer], keep: [], operator: 'us' }) // prettier-ignore
  expect(shown(a)).toEqual(new Uint8Array(64).fill(1))
  expect(shown('never' as AssignmentId)).toEqual(new Uint8Array())
})

test('as many answers as there are slots are kept until they are known to have arrived, and sent again where they are waited for', () => {
  join()
  const [, , b, c] = Array.from({ length: 4 }, () => answer(new Uint8Array(32)))
  tell({ type: 'disconnected', code: 1006, reason: '' })
  now = machine.wakeAt()
  tell({ type: 'time-passed' })
  tell({ type: 'connected' })
  expect(sent(hear(challenge))).toMatchObject([{ type: 'hello', held: [c, b] }])
  const welcome = { type: 'welcome', version: 1, volunteer: 'v2' as VolunteerId, settings, models: [offer], operator: 'us' } as const // prettier-ignore
  expect(sent(hear({ ...welcome, keep: [b!, c!] }))).toMatchObject([
    { type: 'result', assignment: b },
    { type: 'result', assignment: c },
  ])
})

test('leaves are kept of the last 64 answers and 8 MiB, no more', () => {
  join()
  const small = Array.from({ length: 100 }, () => answer(new Uint8Array(32)))
  expect(small.filter((id) => shown(id).length > 0)).toEqual(small.slice(-64))
  const large = Array.from({ length: 12 }, () => answer(new Uint8Array(2 ** 20)))
  expect([...small, ...large].filter((id) => shown(id).length > 0)).toEqual(large.slice(-8))
})

test('what makes an answer its word goes out with it; its leaves stay here', () => {
  join()
  hear({ type: 'assign', assignments: [{ id: 'a' as AssignmentId, unit: 'u' as UnitId, kind: 'embed', model: MODEL, inputs: [Uint32Array.of(1)], leaseMs: 9, priority: 'batch' }] }) // prettier-ignore
  const output = { kind: 'embed', rows: 1, width: 1, bits: 1, values: Int32Array.of(1) } as const
  const effects = tell({ type: 'computed', assignment: 'a' as AssignmentId, output, digest: '00', input: '11', root: '22', signature: 's', leaves: new Uint8Array(32), computeMs: 1 }) // prettier-ignore
  expect(sent(effects)).toEqual([
    { type: 'result', assignment: 'a', output, digest: '00', input: '11', root: '22', signature: 's', computeMs: 1 },
  ]) // prettier-ignore
})

test('a conviction is final: no reconnect, everything let go, said as it is', () => {
  join()
  const effects = tell({ type: 'disconnected', code: CLOSE.convicted, reason: 'see /v1/evidence/e1' })
  expect(effects).toContainEqual({ type: 'unload-model', digest: MODEL })
  expect(machine.view()).toMatchObject({ state: 'convicted', reason: 'see /v1/evidence/e1' })
  expect(machine.wakeAt()).toBe(Infinity)
  expect(tell({ type: 'retry-now' })).toEqual([])
  now += 1e6
  expect(tell({ type: 'time-passed' })).toEqual([])
})

test('a standing is what the coordinator said last; replayed tokens are nobody’s new ones', () => {
  join()
  expect(machine.view().standing).toBeUndefined()
  const standing = { accepted: 3, checked: 2, checkRate: 1, pending: 40, vested: 0 }
  hear({ type: 'standing', standing })
  expect(machine.view().standing).toEqual(standing)
  const sampling = { temperature: 0, topK: 0, topP: 1, seed: '0', stream: 0 }
  const id = 'g' as AssignmentId
  hear({ type: 'assign', assignments: [{ id, unit: 'u' as UnitId, kind: 'generate', model: MODEL, inputs: [Uint32Array.of(1, 2, 3, 4)], generate: { maxTokens: 9, sampling, replay: 3 }, leaseMs: 9, priority: 'batch' }] }) // prettier-ignore
  const output = {
    kind: 'generate',
    position: 1,
    tokens: Uint32Array.of(2, 3, 4, 5, 6),
    finish: 'stop',
  } as const
  tell({ type: 'computed', assignment: id, output, digest: '00', computeMs: 1 })
  expect(machine.view().totals).toMatchObject({ units: 1, tokens: 2 })
})
