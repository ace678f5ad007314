/** Where downloaded files are kept, named by their SHA-256. What is there of a file is always its beginning. */
export interface BlobStore {
  /** For people. */
  readonly name: string
  /** Bytes of a file that are there; 0 when it is unknown. */
  size(hash: string): Promise<number>
  /** Bytes [offset, offset + length) of what is there; fewer at its end. */
  read(hash: string, offset: number, length: number): Promise<Uint8Array>
  /**
   * Adds to the end, durably. `offset` must be the size so far.
   * Throws a DOMException `QuotaExceededError` when there is no room; then nothing was added.
   */
  append(hash: string, offset: number, bytes: Uint8Array): Promise<void>
  /** Forgets what is behind the first `size` bytes. */
  truncate(hash: string, size: number): Promise<void>
  remove(hash: string): Promise<void>
  list(): Promise<string[]>
  /** A small text kept beside the files, or null. */
  note(): Promise<string | null>
  writeNote(text: string): Promise<void>
  /** Removes everything, the note too. */
  clear(): Promise<void>
  /** Lets go of open files; the store may still be used. */
  close(): Promise<void>
}

/** Keeps nothing beyond the process: for browsers that give no storage, and tests. */
export function memoryStore(bytesMax = Infinity): BlobStore {
  const blobs = new Map<string, Uint8Array[]>()
  let text: string | null = null
  const sizeOf = (hash: string): number => (blobs.get(hash) ?? []).reduce((n, part) => n + part.length, 0)
  return {
    name: 'memory',
    size: async (hash) => sizeOf(hash),
    async read(hash, offset, length) {
      const bytes = new Uint8Array(Math.max(0, Math.min(length, sizeOf(hash) - offset)))
      let at = 0
      for (const part of blobs.get(hash) ?? []) {
        const from = Math.max(offset, at)
        const to = Math.min(offset + bytes.length, at + part.length)
        if (from < to) bytes.set(part.subarray(from - at, to - at), from - offset)
        at += part.length
      }
      return bytes
    },
    async append(hash, offset, bytes) {
      checkAppend(hash, offset, sizeOf(hash))
      const used = [...blobs.keys()].reduce((n, each) => n + sizeOf(each), 0)
      if (used + bytes.length > bytesMax) throw new DOMException('no room left', 'QuotaExceededError')
      blobs.set(hash, [...(blobs.get(hash) ?? []), bytes.slice()])
    },
    async truncate(hash, size) {
      blobs.set(hash, [await this.read(hash, 0, size)])
    },
    remove: async (hash) => void blobs.delete(hash),
    list: async () => [...blobs.keys()],
    note: async () => text,
    writeNote: async (given) => void (text = given),
    async clear() {
      blobs.clear()
      text = null
    },
    close: async () => {},
  }
}

export function checkAppend(hash: string, offset: number, size: number): void {
  if (offset !== size)
    throw new RangeError(`${hash} has ${size} bytes; bytes at ${offset} do not continue it`)
}
