/** The thread behind house.ts: opens every model, then computes what it is assigned. */
import { createHash } from 'node:crypto'
import { freemem } from 'node:os'
import { parentPort, workerData } from 'node:worker_threads'
import { openBackend, openPack } from '../engine/index.ts'
import type { Backend } from '../engine/index.ts'
import { packFolder } from '../engine/pack/folder.ts'
import { failureOf, UnitRunner } from '../engine/units.ts'
import { inputBytes } from '../protocol/index.ts'
import type { Assignment, AssignmentId, FromCoordinator, ModelDigest, Output } from '../protocol/index.ts'
import type { FromHouse, HouseSetup } from './house.ts'

/** How often streams say something; the core's own setting for everybody comes with welcome. */
let progressMs = 50

const { models, threads, concurrency } = workerData as HouseSetup
const port = parentPort!
const say = (message: FromHouse): void => port.postMessage(message)
const running = new Map<AssignmentId, AbortController>()
/** Of the latest answers, for disputes: the core asks within seconds. */
const leavesOf = new Map<AssignmentId, Uint8Array>()
const LEAVES_KEPT = 64

// WASM needs SIMD; where an engine lacks it the plain kernels still answer, slowly.
const backend: Backend = await openBackend('wasm', { threads }).catch(() => openBackend('js'))
const folders = new Map(models.map(({ digest, folder }) => [digest, folder]))
const runner = new UnitRunner(backend, (digest) => openPack(packFolder(folders.get(digest)!), digest), {
  concurrency,
})

port.on('message', (message: FromCoordinator) => {
  switch (message.type) {
    case 'welcome':
      progressMs = message.settings.progressMs
      break
    case 'assign':
      for (const assignment of message.assignments) void run(assignment)
      break
    case 'disclose': {
      const { assignment } = message
      say({ type: 'leaves', assignment, leaves: leavesOf.get(assignment) ?? new Uint8Array() })
      break
    }
    case 'cancel':
      for (const id of message.assignments) running.get(id)?.abort()
      break
    default:
  }
})

say({
  type: 'hello',
  version: 1,
  client: 'house',
  capability: {
    backend: backend.info.name,
    adapter: backend.info.description,
    numerics: 'xn1',
    memoryBytes: freemem(),
    models: models.map(({ digest }) => ({ digest: digest as ModelDigest, state: 'compiling' })),
  },
  slots: 2 * concurrency,
  concurrency,
  isHidden: false,
  held: [],
})

for (const { digest } of models) await open(digest as ModelDigest)

async function open(digest: ModelDigest): Promise<void> {
  try {
    const model = await runner.load(digest)
    const measured = await runner.measure(digest)
    say({ type: 'models', models: [{ digest, state: 'ready', context: model.context, ...measured }] })
  } catch (error) {
    say({
      type: 'note',
      text: `the house cannot use model ${digest.slice(0, 12)}: ${failureOf(error).detail}`,
    })
    say({ type: 'models', models: [{ digest, state: 'failed' }] })
  }
}

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex')

async function run(assignment: Assignment): Promise<void> {
  const { id } = assignment
  // Idempotent by id: the same assignment twice is the same work.
  if (running.has(id)) return
  const abort = new AbortController()
  running.set(id, abort)
  try {
    const { output, digest, root, leaves, computeMs } = await runner.run(assignment, {
      progressMs,
      signal: abort.signal,
      onTokens: (progress) => say({ type: 'tokens', assignment: id, ...progress }),
    })
    leavesOf.set(id, leaves)
    if (leavesOf.size > LEAVES_KEPT) leavesOf.delete(leavesOf.keys().next().value!)
    const input = sha256(inputBytes(assignment))
    say({ type: 'result', assignment: id, output: output as Output, digest, computeMs, input, root })
  } catch (error) {
    if (!abort.signal.aborted) say({ type: 'fail', assignment: id, ...failureOf(error) })
  } finally {
    running.delete(id)
  }
}
