/**
 * The origin's private file system, through sync access handles: they exist in dedicated workers only, and one file has one
 * owner at a time, which the one-engine-per-origin lock sees to.
 */
import { checkAppend } from './store.ts'
import type { BlobStore } from './store.ts'

/** As much of the standard's interface as is used; TypeScript knows it in workers' types only. */
interface SyncHandle {
  getSize(): number
  read(bytes: Uint8Array<ArrayBuffer>, options: { at: number }): number
  write(bytes: Uint8Array<ArrayBuffer>, options: { at: number }): number
  truncate(size: number): void
  flush(): void
  close(): void
}

const folder = 'models'
const noteFile = 'index.json'

/** @throws DOMException where the browser gives no storage (some private windows), or somebody else holds it */
export async function opfsStore(): Promise<BlobStore> {
  const root = await navigator.storage.getDirectory()
  let home: Promise<FileSystemDirectoryHandle> | undefined
  const homeOf = (): Promise<FileSystemDirectoryHandle> =>
    (home ??= root.getDirectoryHandle(folder, { create: true }))
  await homeOf()
  const open = new Map<string, Promise<SyncHandle>>()
  const handle = (name: string): Promise<SyncHandle> => {
    let found = open.get(name)
    if (!found) {
      found = homeOf()
        .then((at) => at.getFileHandle(name, { create: true }))
        .then(acquire)
      open.set(name, found)
      found.catch(() => open.delete(name))
    }
    return found
  }
  const shut = async (name: string): Promise<void> => {
    const found = open.get(name)
    open.delete(name)
    ;(await found?.catch(() => undefined))?.close()
  }
  const exists = async (name: string): Promise<boolean> =>
    open.has(name) || (await (await homeOf()).getFileHandle(name).then(() => true, () => false)) // prettier-ignore

  const close = async (): Promise<void> => {
    for (const name of open.keys()) await shut(name)
  }

  // Whoever holds the note holds the rest: better to know now than in the middle of a download.
  await handle(noteFile)

  return {
    name: 'OPFS',
    size: async (hash) => ((await exists(hash)) ? (await handle(hash)).getSize() : 0),
    async read(hash, offset, length) {
      if (!(await exists(hash))) return new Uint8Array(0)
      const file = await handle(hash)
      const bytes = new Uint8Array(Math.max(0, Math.min(length, file.getSize() - offset)))
      return bytes.subarray(0, file.read(bytes, { at: offset }))
    },
    async append(hash, offset, bytes) {
      const file = await handle(hash)
      checkAppend(hash, offset, file.getSize())
      try {
        const written = file.write(bytes as Uint8Array<ArrayBuffer>, { at: offset })
        if (written !== bytes.length)
          throw new DOMException('the disk took less than it was given', 'QuotaExceededError')
        file.flush()
      } catch (error) {
        file.truncate(offset)
        throw error
      }
    },
    async truncate(hash, size) {
      const file = await handle(hash)
      file.truncate(size)
      file.flush()
    },
    async remove(hash) {
      await shut(hash)
      if (await exists(hash)) await (await homeOf()).removeEntry(hash)
    },
    async list() {
      const names: string[] = []
      for await (const name of (await homeOf()).keys()) if (name !== noteFile) names.push(name)
      return names
    },
    async note() {
      if (!(await exists(noteFile))) return null
      const file = await handle(noteFile)
      const bytes = new Uint8Array(file.getSize())
      file.read(bytes, { at: 0 })
      return new TextDecoder().decode(bytes)
    },
    async writeNote(text) {
      const file = await handle(noteFile)
      const bytes = new TextEncoder().encode(text)
      file.truncate(0)
      file.write(bytes, { at: 0 })
      file.flush()
    },
    async clear() {
      await close()
      home = undefined
      await root.removeEntry(folder, { recursive: true }).catch((error: unknown) => {
        if ((error as Error).name !== 'NotFoundError') throw error
      })
    },
    close,
  }
}

/** A tab that handed over a moment ago may still be letting go of its files. */
async function acquire(file: FileSystemFileHandle): Promise<SyncHandle> {
  for (let tries = 0; ; tries++) {
    try {
      return await (
        file as FileSystemFileHandle & { createSyncAccessHandle(): Promise<SyncHandle> }
      ).createSyncAccessHandle()
    } catch (error) {
      if ((error as Error).name !== 'NoModificationAllowedError' || tries === 20) throw error
      await new Promise((done) => setTimeout(done, 100))
    }
  }
}
