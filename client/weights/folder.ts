/** The same store in a folder on disk, for the volunteer without a window (Node). */
import { appendFile, mkdir, open, readdir, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { checkAppend } from './store.ts'
import type { BlobStore } from './store.ts'

const noteFile = 'index.json'

export async function folderStore(path: string): Promise<BlobStore> {
  await mkdir(path, { recursive: true })
  const at = (name: string): string => join(path, name)
  const sizeOf = (hash: string): Promise<number> => stat(at(hash)).then(({ size }) => size, () => 0) // prettier-ignore
  return {
    name: path,
    size: sizeOf,
    async read(hash, offset, length) {
      const file = await open(at(hash)).catch(() => null)
      if (!file) return new Uint8Array(0)
      try {
        const bytes = new Uint8Array(length)
        const { bytesRead } = await file.read(bytes, 0, length, offset)
        return bytes.subarray(0, bytesRead)
      } finally {
        await file.close()
      }
    },
    async append(hash, offset, bytes) {
      checkAppend(hash, offset, await sizeOf(hash))
      try {
        await appendFile(at(hash), bytes)
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === 'ENOSPC')
          throw new DOMException('the disk is full', 'QuotaExceededError')
        throw error
      }
    },
    truncate: (hash, size) => truncate(at(hash), size),
    remove: (hash) => rm(at(hash), { force: true }),
    list: async () => (await readdir(path)).filter((name) => /^[0-9a-f]{64}$/.test(name)),
    note: () => readFile(at(noteFile), 'utf8').catch(() => null),
    writeNote: (text) => writeFile(at(noteFile), text),
    clear: () =>
      rm(path, { recursive: true, force: true })
        .then(() => mkdir(path))
        .then(() => undefined),
    close: async () => {},
  }
}
