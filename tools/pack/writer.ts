/** Writes a pack so that it is there whole or not at all: files grow in a sibling folder that is renamed at the end. */
import { createHash } from 'node:crypto'
import type { Hash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir, open, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import type { FileHandle } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { CHUNK_BYTES, parseManifest } from '../../engine/pack/manifest.ts'
import type { FileEntry, Manifest, TensorEntry } from '../../engine/pack/manifest.ts'
import { ModelError } from '../../engine/weights/errors.ts'
import type { Bytes, Dtype } from '../../shaders/kernel.ts'

let writers = 0

/** Folders this process is writing into: what a signal handler has to remove. */
export const unfinished = new Set<string>()

export class PackWriter {
  readonly #out: string
  readonly #partial: string
  readonly #files = new Map<string, OpenFile>()
  readonly #tensors: Record<string, TensorEntry> = {}
  #open: TensorEntry | null = null

  private constructor(out: string) {
    this.#out = resolve(out)
    this.#partial = `${this.#out}.partial-${process.pid}-${writers++}`
  }

  /** Throws ModelError if `out` exists and is not a pack. */
  static async create(out: string): Promise<PackWriter> {
    if (existsSync(out) && !existsSync(join(out, 'manifest.json'))) {
      throw new ModelError('path-unsafe', {
        file: out,
        what: 'it exists and is not a pack',
        todo: 'Name another folder with -o, or remove it',
      })
    }
    const writer = new PackWriter(out)
    await removeRemains(writer.#out)
    unfinished.add(writer.#partial)
    try {
      await mkdir(writer.#partial, { recursive: true })
    } catch (cause) {
      unfinished.delete(writer.#partial)
      throw new ModelError('file-unreadable', {
        file: out, what: `it cannot be made (${(cause as Error).message})`, todo: 'Name a folder with -o that you may write to',
      }, cause) // prettier-ignore
    }
    return writer
  }

  /** A whole file as it is (tokenizer and the like). */
  async file(name: string, bytes: Uint8Array): Promise<void> {
    await (await this.#file(name)).write(bytes)
  }

  async tensor(file: string, name: string, dtype: Dtype, shape: number[], values: Bytes): Promise<void> {
    await this.begin(file, name, dtype, shape)
    await this.append(values)
  }

  /** Starts a tensor that is appended in pieces. */
  async begin(file: string, name: string, dtype: Dtype, shape: number[]): Promise<void> {
    const target = await this.#file(file)
    await target.align()
    this.#tensors[name] = this.#open = { dtype, shape, file, offset: target.bytes }
  }

  async append(values: Bytes): Promise<void> {
    const target = await this.#file(this.#open!.file)
    await target.write(new Uint8Array(values.buffer, values.byteOffset, values.byteLength))
  }

  /** Writes the manifest, checks it as a reader would, and puts the pack in its place. Returns the manifest and its digest. */
  async finish(
    head: Omit<Manifest, 'tensors' | 'files'>,
  ): Promise<{ manifest: Manifest; digest: string; bytes: number }> {
    const files: Record<string, FileEntry> = {}
    let bytes = 0
    for (const [name, file] of this.#files) {
      files[name] = await file.close()
      bytes += files[name].bytes
    }
    const text = new TextEncoder().encode(
      `${JSON.stringify({ ...head, tensors: this.#tensors, files }, null, 1)}\n`,
    )
    const manifest = parseManifest(text)
    await writeFile(join(this.#partial, 'manifest.json'), text)
    await this.#takePlace(text)
    unfinished.delete(this.#partial)
    return { manifest, digest: createHash('sha256').update(text).digest('hex'), bytes }
  }

  /** Leaves nothing behind. */
  async abandon(): Promise<void> {
    for (const file of this.#files.values()) await file.close().catch(() => {})
    await rm(this.#partial, { recursive: true, force: true })
    unfinished.delete(this.#partial)
  }

  /** Two may finish at once: whoever finds the same pack in place leaves it, so that nobody reading it is disturbed. */
  async #takePlace(manifest: Uint8Array): Promise<void> {
    for (let attempt = 0; ; attempt++) {
      try {
        return await rename(this.#partial, this.#out)
      } catch (error) {
        if (
          attempt === 10 ||
          !['ENOTEMPTY', 'EEXIST', 'EPERM'].includes((error as NodeJS.ErrnoException).code ?? '')
        )
          throw error
      }
      const there = await readFile(join(this.#out, 'manifest.json')).catch(() => null)
      if (there && Buffer.compare(there, manifest) === 0) return rm(this.#partial, { recursive: true })
      const old = this.#partial.replace('.partial-', '.old-')
      await rename(this.#out, old).catch(() => {})
      await rm(old, { recursive: true, force: true })
    }
  }

  async #file(name: string): Promise<OpenFile> {
    const existing = this.#files.get(name)
    if (existing) return existing
    const file = new OpenFile(await open(join(this.#partial, name), 'wx'))
    this.#files.set(name, file)
    return file
  }
}

/** Removes what writers that were killed have left beside `out`: their process is gone, and for an hour nothing has moved. */
async function removeRemains(out: string): Promise<void> {
  for (const name of await readdir(dirname(out)).catch(() => [])) {
    const pid = name.startsWith(`${basename(out)}.`) && /\.(?:partial|old)-(\d+)-\d+$/.exec(name)?.[1]
    if (!pid || isAlive(Number(pid))) continue
    const path = join(dirname(out), name)
    const { mtimeMs } = await stat(path).catch(() => ({ mtimeMs: Infinity }))
    if (mtimeMs < Date.now() - 3_600_000) await rm(path, { recursive: true, force: true })
  }
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

/** A growing file with the hashes of the whole and of each chunk. */
class OpenFile {
  bytes = 0
  readonly #handle: FileHandle
  readonly #whole: Hash = createHash('sha256')
  #chunk: Hash = createHash('sha256')
  readonly #chunks: string[] = []

  constructor(handle: FileHandle) {
    this.#handle = handle
  }

  async align(): Promise<void> {
    if (this.bytes % 16) await this.write(new Uint8Array(16 - (this.bytes % 16)))
  }

  async write(bytes: Uint8Array): Promise<void> {
    await this.#handle.writeFile(bytes)
    this.#whole.update(bytes)
    for (let at = 0; at < bytes.length;) {
      const end = Math.min(bytes.length, at + CHUNK_BYTES - (this.bytes % CHUNK_BYTES))
      this.#chunk.update(bytes.subarray(at, end))
      this.bytes += end - at
      at = end
      if (this.bytes % CHUNK_BYTES === 0) this.#endChunk()
    }
  }

  async close(): Promise<FileEntry> {
    await this.#handle.close()
    if (this.bytes % CHUNK_BYTES) this.#endChunk()
    return { bytes: this.bytes, sha256: this.#whole.digest('hex'), chunks: this.#chunks }
  }

  #endChunk(): void {
    this.#chunks.push(this.#chunk.digest('hex'))
    this.#chunk = createHash('sha256')
  }
}
