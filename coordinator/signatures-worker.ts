/** The thread behind signatures.ts. */
import type { KeyObject } from 'node:crypto'
import { parentPort } from 'node:worker_threads'
import { importKey, isSignedBy } from './identity.ts'
import type { ChecksAnswered, ChecksAsked } from './signatures.ts'

/** Keys of volunteers that were here lately; importing one takes as long as a check. */
const KEYS_MAX = 20_000
const keys = new Map<string, KeyObject | null>()

function keyOf(name: string): KeyObject | null {
  let key = keys.get(name)
  if (key !== undefined) return key
  if (keys.size >= KEYS_MAX) keys.clear()
  key = importKey(name)
  keys.set(name, key)
  return key
}

parentPort!.on('message', ({ keys, signatures, statements, ends }: ChecksAsked) => {
  const verdicts: ChecksAnswered = new Uint8Array(keys.length)
  for (const [i, name] of keys.entries()) {
    const key = keyOf(name)
    const statement = statements.subarray(ends[i - 1] ?? 0, ends[i])
    if (key && isSignedBy(key, statement, signatures[i]!)) verdicts[i] = 1
  }
  parentPort!.postMessage(verdicts, [verdicts.buffer])
})
