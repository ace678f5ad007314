/** The system's and SQLite's errors in the store's own words. */
import { StoreError } from './store.ts'

/** SQLite's primary result codes: https://sqlite.org/rescode.html */
const BUSY = 5
const NOMEM = 7
const IOERR = 10
const CORRUPT = 11
const FULL = 13
const CANTOPEN = 14
const CONSTRAINT = 19
const NOTADB = 26

const NO_SPACE = ['ENOSPC', 'EDQUOT', 'EFBIG']

export function asStoreError(error: unknown, where: string): StoreError {
  if (error instanceof StoreError) return error
  const { message, code, errcode } = error as Error & { code?: string; errcode?: number }
  const cause = { cause: error }
  if (code !== undefined && NO_SPACE.includes(code))
    return new StoreError('disk_full', `${where}: no space left (${code}).`, cause)
  switch ((errcode ?? 0) & 0xff) {
    case FULL:
      return new StoreError('disk_full', `${where}: no space left on its disk.`, cause)
    case BUSY:
      return new StoreError('in_use', `${where} is open in another coordinator.`, cause)
    case CORRUPT:
    case NOTADB:
      return new StoreError(
        'corrupt',
        `${where} is damaged (${message}). Put a backup in its place, or move it away to begin anew.`,
        cause,
      )
    case CONSTRAINT:
      return new StoreError('conflict', message, cause)
    default:
      return new StoreError('io', `${where}: ${message}`, cause)
  }
}

/** True when the trouble is the disk's or the machine's, not the request's: the same may succeed later. */
export function isTrouble(error: unknown): boolean {
  if (error instanceof StoreError) return error.code === 'disk_full' || error.code === 'io'
  const { code, errcode } = error as Error & { code?: string; errcode?: number }
  if (errcode === undefined)
    return code !== undefined && code !== 'ERR_SQLITE_ERROR' && /^E[A-Z]+$/.test(code)
  return [NOMEM, IOERR, FULL, CANTOPEN].includes(errcode & 0xff)
}
