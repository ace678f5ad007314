/** One of every message, with every optional field somewhere. `node test/golden/frames/make.ts` writes their frames. */
import type { FromCoordinator, FromVolunteer } from '../../../protocol/index.ts'
import type { AssignmentId, ModelDigest, UnitId, VolunteerId } from '../../../protocol/nouns.ts'

const story = '11'.repeat(32) as ModelDigest
const vectors = '22'.repeat(32) as ModelDigest
const a = (n: number) => `a${n}` as AssignmentId
const u = (n: number) => `u${n}` as UnitId
const volunteer = 'v_Zm9vYmFy' as VolunteerId

export const fromVolunteer: Record<string, FromVolunteer> = {
  hello: {
    type: 'hello',
    version: 1,
    client: 'chorale-tab 0.1.0',
    capability: {
      backend: 'webgpu',
      adapter: 'SwiftShader · größer',
      numerics: 'xn1',
      memoryBytes: 2147483648,
      models: [
        { digest: story, state: 'ready', context: 512, readMs: 0.75, drawMs: 6.5 },
        { digest: vectors, state: 'downloading', etaMs: 20000 },
      ],
    },
    slots: 4,
    concurrency: 2,
    isHidden: false,
    held: [],
    publicKey: `${'K'.repeat(42)}0`,
    signature: `${'-'.repeat(85)}A`,
  },
  'hello-again': {
    type: 'hello',
    version: 1,
    client: 'chorale-tab 0.1.0',
    capability: { backend: 'wasm', adapter: '', numerics: 'xn1', memoryBytes: 0, models: [] },
    slots: 0,
    concurrency: 1,
    isHidden: true,
    paused: 'battery',
    held: [a(1), a(2)],
    publicKey: `${'k'.repeat(42)}A`,
    signature: `${'s'.repeat(85)}Q`,
  },
  'result-generate': {
    type: 'result',
    assignment: a(1),
    output: { kind: 'generate', position: 3, tokens: Uint32Array.of(7, 8, 2), finish: 'stop' },
    digest: 'ab'.repeat(32),
    computeMs: 12.5,
    input: '45'.repeat(32),
    root: '67'.repeat(32),
    signature: `${'_'.repeat(85)}g`,
  },
  'result-generate-logprobs': {
    type: 'result',
    assignment: a(2),
    output: {
      kind: 'generate',
      position: 1,
      tokens: Uint32Array.of(5),
      finish: 'length',
      logprobs: { top: 1, values: Int32Array.of(5, -65536, 6, -131072) },
    },
    digest: 'cd'.repeat(32),
    computeMs: 3,
    input: 'ef'.repeat(32),
    root: '99'.repeat(32),
    signature: `${'S'.repeat(85)}w`,
  },
  'result-embed': {
    type: 'result',
    assignment: a(3),
    output: {
      kind: 'embed',
      rows: 2,
      width: 3,
      bits: 24,
      values: Int32Array.of(1, -2, 3, -16777216, 0, 2147483647),
    },
    digest: '01'.repeat(32),
    computeMs: 40,
    input: '89'.repeat(32),
    root: '00'.repeat(32),
    signature: `${'0'.repeat(85)}Q`,
  },
  tokens: {
    type: 'tokens',
    assignment: a(1),
    position: 5,
    tokens: Uint32Array.of(7, 8),
    from: 3,
    signature: `${'t'.repeat(85)}A`,
  },
  'tokens-logprobs': {
    type: 'tokens',
    assignment: a(2),
    position: 1,
    tokens: Uint32Array.of(5),
    logprobs: { top: 0, values: Int32Array.of(5, -1) },
    from: 1,
    signature: `${'T'.repeat(85)}g`,
  },
  fail: {
    type: 'fail',
    assignment: a(1),
    reason: 'out-of-memory',
    retryable: false,
    detail: 'asked for 2 GiB',
  },
  slots: { type: 'slots', slots: 2, concurrency: 1 },
  state: { type: 'state', state: 'paused', reason: 'in-use', isHidden: false },
  models: { type: 'models', models: [{ digest: vectors, state: 'failed' }] },
  pong: { type: 'pong', nonce: 4294967295 },
  leaves: { type: 'leaves', assignment: a(3), leaves: Uint8Array.from({ length: 64 }, (_, i) => 4 * i) },
}

const offers = [
  {
    digest: story,
    name: 'story',
    task: 'generate',
    path: `/models/${story}`,
    bytes: 9000000,
    context: 512,
    demand: 2.5,
  },
  {
    digest: vectors,
    name: 'org/vectors',
    task: 'embed',
    path: `/models/${vectors}`,
    bytes: 1,
    context: 256,
    demand: 0,
  },
] as const

export const fromCoordinator: Record<string, FromCoordinator> = {
  welcome: {
    type: 'welcome',
    version: 1,
    volunteer,
    settings: { pingMs: 5000, silentMs: 15000, progressMs: 50, reconnectMsMax: 60000 },
    models: [...offers],
    keep: [a(2)],
    operator: 'an example',
  },
  assign: {
    type: 'assign',
    assignments: [
      {
        id: a(4),
        unit: u(1),
        kind: 'generate',
        model: story,
        inputs: [Uint32Array.of(1, 500, 16777215)],
        generate: {
          maxTokens: 64,
          sampling: { temperature: 0.8, topK: 40, topP: 0.95, seed: '18446744073709551615', stream: 1 },
          logprobs: 2,
        },
        leaseMs: 5000,
        priority: 'interactive',
      },
      {
        id: a(6),
        unit: u(3),
        kind: 'generate',
        model: story,
        inputs: [Uint32Array.of(1, 7, 8)],
        generate: {
          maxTokens: 8,
          sampling: { temperature: 0, topK: 0, topP: 1, seed: '0', stream: 0 },
          replay: 2,
        },
        leaseMs: 5000,
        priority: 'interactive',
      },
      {
        id: a(5),
        unit: u(2),
        kind: 'embed',
        model: vectors,
        inputs: [Uint32Array.of(101, 7, 102), Uint32Array.of(101, 102)],
        leaseMs: 6000,
        priority: 'batch',
      },
    ],
  },
  cancel: { type: 'cancel', assignments: [a(4), a(5)] },
  models: { type: 'models', models: [] },
  ping: { type: 'ping', nonce: 0 },
  drain: { type: 'drain', retryMs: 1500 },
  challenge: { type: 'challenge', nonce: 'n'.repeat(43), coordinator: `${'c'.repeat(42)}E` },
  disclose: { type: 'disclose', assignment: a(3) },
  standing: {
    type: 'standing',
    standing: { accepted: 41, checked: 30, checkRate: 0.75, pending: 9007199254740991, vested: 0 },
  },
  error: { type: 'error', code: 'unknown_assignment', message: 'a9 was never assigned to you.' },
}
