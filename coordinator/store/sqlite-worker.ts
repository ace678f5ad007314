/** The thread behind sqlite.ts: a group of calls in, one transaction, a group of replies out. */
import { parentPort, workerData } from 'node:worker_threads'
import { Database } from './database.ts'
import type { Call, Reply } from './database.ts'
import { asStoreError } from './faults.ts'
import { Operations } from './operations.ts'
import type { StoreErrorCode } from './store.ts'

export type FromThread =
  | { type: 'open' }
  | { type: 'failed'; code: StoreErrorCode; message: string }
  | { type: 'replies'; replies: Reply[] }
  | { type: 'closed' }
export type ToThread = { type: 'calls'; calls: Call[] } | { type: 'close' }

const port = parentPort!
const say = (message: FromThread): void => port.postMessage(message)

try {
  const db = new Database(workerData as string)
  const operations = new Operations(db)
  const run = ({ method, args }: Call): unknown => {
    if (method === 'copyTo') return db.copyTo(args[0] as string)
    return (operations as unknown as Record<string, (...args: readonly unknown[]) => unknown>)[method]!(
      ...args,
    )
  }
  port.on('message', (message: ToThread) => {
    if (message.type === 'close') {
      db.close()
      say({ type: 'closed' })
      return port.close()
    }
    // VACUUM can't run inside a transaction; it comes alone.
    const [only] = message.calls
    const replies = only?.method === 'copyTo' ? [alone(only)] : db.runGroup(message.calls, run)
    if (replies.some((reply) => !('value' in reply))) operations.forget()
    say({ type: 'replies', replies })
  })
  const alone = (call: Call): Reply => {
    try {
      return { value: run(call) }
    } catch (error) {
      const { code, message } = asStoreError(error, 'the backup')
      return { code, message }
    }
  }
  say({ type: 'open' })
} catch (error) {
  const { code, message } = asStoreError(error, workerData as string)
  say({ type: 'failed', code, message })
}
