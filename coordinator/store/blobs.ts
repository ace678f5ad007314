/** Content-addressed files: `blobs/ab/cdef…`, written under another name, synced, renamed, and the folder synced. */
import { createHash, randomBytes } from 'node:crypto'
import type { Hash } from 'node:crypto'
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  renameSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises'
import type { FileHandle } from 'node:fs/promises'
import path from 'node:path'
import type { Digest } from '../../protocol/index.ts'
import { asStoreError } from './faults.ts'
import { StoreError } from './store.ts'
import type { Blobs, BlobWriter } from './store.ts'

const CHUNK = 256 * 1024
/** A blob this young may belong to a row that is about to be written. */
const YOUNG_MS = 3_600_000

export const blobFile = (folder: string, digest: Digest): string =>
  path.join(folder, digest.slice(0, 2), digest.slice(2))

export class FileBlobs implements Blobs {
  readonly #folder: string

  /** @param folder made if needed; leftovers of an earlier life in `tmp` are removed */
  constructor(folder: string) {
    this.#folder = folder
    mkdirSync(folder, { recursive: true })
    rmSync(path.join(folder, 'tmp'), { recursive: true, force: true })
    mkdirSync(path.join(folder, 'tmp'))
  }

  async create(): Promise<BlobWriter> {
    const temporary = temporaryFile(this.#folder)
    try {
      return new Writer(this.#folder, temporary, await open(temporary, 'wx'))
    } catch (error) {
      throw asStoreError(error, 'the data folder')
    }
  }

  async *read(digest: Digest, start = 0, end = Infinity): AsyncGenerator<Uint8Array> {
    let file: FileHandle
    try {
      file = await open(this.#path(digest))
    } catch (error) {
      throw asStoreError(error, `blob ${digest}`)
    }
    try {
      for (let at = start; at < end;) {
        const size = Math.min(CHUNK, end - at)
        const { bytesRead, buffer } = await file.read(new Uint8Array(size), 0, size, at)
        if (bytesRead === 0) return
        yield buffer.subarray(0, bytesRead)
        at += bytesRead
      }
    } finally {
      await file.close()
    }
  }

  has(digest: Digest): Promise<boolean> {
    return Promise.resolve(existsSync(this.#path(digest)))
  }

  /** Deletes those that nothing refers to, but for the youngest. Returns how many. */
  async sweep(isUsed: (digest: Digest) => boolean, youngMs = YOUNG_MS): Promise<number> {
    let swept = 0
    for (const first of await readdir(this.#folder)) {
      if (first.length !== 2) continue
      for (const rest of await readdir(path.join(this.#folder, first))) {
        if (isUsed(first + rest)) continue
        const file = path.join(this.#folder, first, rest)
        if (Date.now() - (await stat(file)).mtimeMs < youngMs) continue
        await rm(file, { force: true })
        swept++
      }
    }
    return swept
  }

  #path(digest: Digest): string {
    if (!/^[0-9a-f]{64}$/.test(digest)) throw new StoreError('io', `${JSON.stringify(digest)} is no SHA-256.`)
    return blobFile(this.#folder, digest)
  }
}

class Writer implements BlobWriter {
  readonly #folder: string
  readonly #temporary: string
  readonly #file: FileHandle
  readonly #hash: Hash = createHash('sha256')
  #bytes = 0
  #isOver = false

  constructor(folder: string, temporary: string, file: FileHandle) {
    this.#folder = folder
    this.#temporary = temporary
    this.#file = file
  }

  async write(bytes: Uint8Array): Promise<void> {
    this.#hash.update(bytes)
    this.#bytes += bytes.length
    try {
      // One write may take less than all.
      for (let at = 0; at < bytes.length;) at += (await this.#file.write(bytes, at)).bytesWritten
    } catch (error) {
      await this.abort()
      throw asStoreError(error, 'the data folder')
    }
  }

  async finish(): Promise<{ digest: Digest; bytes: number }> {
    if (this.#isOver) throw new StoreError('closed', 'This blob was aborted or finished before.')
    const digest = this.#hash.digest('hex')
    const target = blobFile(this.#folder, digest)
    try {
      await this.#file.sync()
      await this.#file.close()
      await mkdir(path.dirname(target), { recursive: true })
      await rename(this.#temporary, target)
      syncFolder(path.dirname(target))
      this.#isOver = true
    } catch (error) {
      await this.abort()
      throw asStoreError(error, 'the data folder')
    }
    return { digest, bytes: this.#bytes }
  }

  async abort(): Promise<void> {
    if (this.#isOver) return
    this.#isOver = true
    await this.#file.close().catch(() => {})
    await rm(this.#temporary, { force: true })
  }
}

/** The same in one go, for the store's own thread. */
export function writeBlob(folder: string, bytes: Uint8Array): Digest {
  const digest = createHash('sha256').update(bytes).digest('hex')
  const target = blobFile(folder, digest)
  if (existsSync(target)) {
    // Young again: a sweep that runs meanwhile must not take it.
    utimesSync(target, new Date(), new Date())
    return digest
  }
  const temporary = temporaryFile(folder)
  try {
    const file = openSync(temporary, 'wx')
    try {
      writeFileSync(file, bytes)
      fsyncSync(file)
    } finally {
      closeSync(file)
    }
    mkdirSync(path.dirname(target), { recursive: true })
    renameSync(temporary, target)
    syncFolder(path.dirname(target))
  } catch (error) {
    rmSync(temporary, { force: true })
    throw error
  }
  return digest
}

const temporaryFile = (folder: string): string => path.join(folder, 'tmp', randomBytes(12).toString('hex'))

/** A new name is durable only once its folder is; Windows can't and need not. */
export function syncFolder(folder: string): void {
  if (process.platform === 'win32') return
  for (const one of [folder, path.dirname(folder)]) {
    const handle = openSync(one, 'r')
    try {
      fsyncSync(handle)
    } finally {
      closeSync(handle)
    }
  }
}
