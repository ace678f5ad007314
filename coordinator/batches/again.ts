/** Rows whose answer was found wrong after it was stored: asked again, and put right where they stand. */
import type { RequesterId } from '../../protocol/index.ts'
import { isEndpoint, perform, understand } from '../api/asks.ts'
import type { Caller } from '../api/context.ts'
import { outputLine, rowRequestId } from '../api/outputs.ts'
import { bodyOf } from '../api/validation.ts'
import type { RunHost } from './run.ts'
import type { Row } from '../store/store.ts'

const DAY_MS = 86_400_000

/** Rejects with ApiError, StoreError. Who answered wrongly is not asked again: its key is closed. */
export async function askAgain(
  { store, context }: Pick<RunHost, 'store' | 'context'>,
  { batch: id, index, customId, offset, bytes }: Row & { batch: string },
): Promise<void> {
  const batch = await store.batch(id)
  if (!batch || !isEndpoint(batch.endpoint)) return
  const parts: Uint8Array[] = []
  for await (const part of store.blobs.read(batch.input, offset, offset + bytes)) parts.push(part)
  const requestId = rowRequestId(id, index)
  const ask = await understand(context, batch.endpoint, bodyOf(Buffer.concat(parts).toString()), requestId)
  const caller: Caller = {
    requestId,
    // Whoever asked had its credit back when the wrong answer's author was convicted, and has paid enough.
    requester: 'operator' as RequesterId,
    priority: 'batch',
    // Once was enough.
    trust: batch.trust === 'fast' ? 'checked' : batch.trust,
    deadlineMs: DAY_MS,
    mayWait: true,
    onGone: () => {},
    openStream: () => {
      throw new TypeError('a row of a batch has no stream')
    },
  }
  const body = await perform(context, caller, ask)
  if (!body) return
  const { volunteer } = body as { volunteer?: { receipt?: string | null } }
  const line = outputLine(requestId, customId, body)
  await store.correctRow({ batch: id, index, state: 'done', line, receipt: volunteer?.receipt ?? null })
}
