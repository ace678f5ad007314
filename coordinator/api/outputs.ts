/** What a batch's rows came to, as lines of its two files in the input's order: readable as they grow, wherever one begins to read. */
import { hash } from 'node:crypto'
import type { Row, Store } from '../store/store.ts'
import type { ApiError } from './errors.ts'

/** Names a row's answer; the same after a restart. */
export const rowRequestId = (batch: string, index: number): string =>
  `batch_req_${hash('sha256', `${batch} ${index}`).slice(0, 24)}`

/** A line of the output file. */
export function outputLine(requestId: string, customId: string, body: object): string {
  const response = { status_code: 200, request_id: requestId, body }
  return JSON.stringify({ id: requestId, custom_id: customId, response, error: null })
}

/** A line of the error file: what a request with this body would have been told. */
export function refusedLine(requestId: string, customId: string, error: ApiError): string {
  const response = { status_code: error.status, request_id: requestId, body: error.body(requestId) }
  return JSON.stringify({ id: requestId, custom_id: customId, response, error: null })
}

/** A line of the error file: a row nobody tried to the end. */
export function undoneLine(
  requestId: string,
  customId: string,
  code: 'batch_expired' | 'batch_cancelled',
): string {
  const message =
    code === 'batch_expired'
      ? 'The batch expired before this row was finished.'
      : 'The batch was cancelled before this row was finished.'
  return JSON.stringify({ id: requestId, custom_id: customId, response: null, error: { code, message } })
}

/** The ids of a batch's two files, known before either has a line. */
export const outputIdOf = (batch: string): string => `file-out-${batch.slice('batch_'.length)}`
export const errorIdOf = (batch: string): string => `file-err-${batch.slice('batch_'.length)}`

export interface OutputName {
  batch: string
  state: 'done' | 'failed'
}

/** Which batch's lines a file id stands for; null for any other file. */
export function outputNamed(file: string): OutputName | null {
  const [, kind, id] = /^file-(out|err)-([\w-]+)$/.exec(file) ?? []
  return kind ? { batch: `batch_${id}`, state: kind === 'out' ? 'done' : 'failed' } : null
}

/** Rows per read. */
const PORTION = 256

/** Bytes [start, end) of the file. */
export async function* readOutput(
  store: Store,
  { batch, state }: OutputName,
  start: number,
  end: number,
): AsyncGenerator<Uint8Array, void, void> {
  let { index, start: at } = await store.place(batch, state, start)
  while (index !== null && at < end) {
    const rows: Row[] = await store.rows(batch, { from: index, limit: PORTION, state })
    if (!rows.length) return
    const bytes = Buffer.from(rows.map(({ line }) => `${line}\n`).join(''))
    const piece = bytes.subarray(Math.max(0, start - at), end - at)
    if (piece.length) yield piece
    at += bytes.length
    index = rows.at(-1)!.index + 1
  }
}
