/**
 * The store, and which model uses which of its files: makes room by letting go of the model unused for longest. The index is
 * only bookkeeping: what a file holds is decided by its hash, and files no model lists are swept away.
 */
import * as v from 'valibot'
import type { BlobStore } from './store.ts'

const indexSchema = v.record(
  v.string(),
  v.object({ name: v.string(), usedAt: v.number(), files: v.array(v.string()) }),
)
type Index = v.InferOutput<typeof indexSchema>

export class Shelf {
  readonly store: BlobStore
  readonly #now: () => number
  /** Most bytes to keep; the volunteer's own limit. */
  bytesMax: number
  #index: Index | undefined

  constructor(store: BlobStore, options: { bytesMax?: number; now: () => number }) {
    this.store = store
    this.#now = options.now
    this.bytesMax = options.bytesMax ?? Infinity
  }

  /** Says that a model is in use and made of these files. */
  async use(digest: string, name: string, files: readonly string[]): Promise<void> {
    const index = await this.#read()
    index[digest] = { name, usedAt: this.#now(), files: [...new Set([digest, ...files])] }
    await this.#write(index)
  }

  async bytes(): Promise<number> {
    let sum = 0
    for (const hash of await this.store.list()) sum += await this.store.size(hash)
    return sum
  }

  /** True when all of a model's files that are known of are there in full, given their sizes. */
  async has(files: ReadonlyMap<string, number>): Promise<boolean> {
    for (const [hash, bytes] of files) if ((await this.store.size(hash)) < bytes) return false
    return true
  }

  /**
   * Adds to a file, making room where it must. False when there is none: the bytes were not kept.
   * @param digest the model it is for, which is not let go of
   */
  async append(digest: string, hash: string, offset: number, bytes: Uint8Array): Promise<boolean> {
    while ((await this.bytes()) + bytes.length > this.bytesMax) if (!(await this.#letGo(digest))) return false
    for (;;) {
      try {
        await this.store.append(hash, offset, bytes)
        return true
      } catch (error) {
        if ((error as Error).name !== 'QuotaExceededError') throw error
        if (!(await this.#letGo(digest))) return false
      }
    }
  }

  async clear(): Promise<void> {
    this.#index = undefined
    await this.store.clear()
  }

  /** Removes the model unused for longest, or files no model lists; false when only `keep` is left. */
  async #letGo(keep: string): Promise<boolean> {
    const index = await this.#read()
    const listed = new Set(Object.values(index).flatMap(({ files }) => files))
    const strays = (await this.store.list()).filter((hash) => !listed.has(hash))
    if (strays.length) {
      for (const hash of strays) await this.store.remove(hash)
      return true
    }
    const oldest = Object.entries(index)
      .filter(([digest]) => digest !== keep)
      .sort(([, a], [, b]) => a.usedAt - b.usedAt)[0]
    if (!oldest) return false
    const [digest, { files }] = oldest
    delete index[digest]
    const needed = new Set(Object.values(index).flatMap((entry) => entry.files))
    for (const hash of files) if (!needed.has(hash)) await this.store.remove(hash)
    await this.#write(index)
    return true
  }

  async #read(): Promise<Index> {
    if (this.#index) return this.#index
    let index: Index = {}
    try {
      index = v.parse(indexSchema, JSON.parse((await this.store.note()) ?? '{}'))
    } catch {
      // Damaged: the files are strays then, and are got again.
    }
    this.#index = index
    return index
  }

  async #write(index: Index): Promise<void> {
    this.#index = index
    await this.store.writeNote(JSON.stringify(index))
  }
}
