/**
 * A model's pack from the coordinator, through the shelf: what is there is read from there, what is not comes over HTTP, is
 * checked against its hash and kept. A download that broke off goes on where it stopped, to the chunk.
 */
import { CHUNK_BYTES, parseManifest } from '../../engine/pack/manifest.ts'
import type { Manifest } from '../../engine/pack/manifest.ts'
import { openPack, sha256 } from '../../engine/pack/reader.ts'
import type { Pack, PackSource } from '../../engine/pack/reader.ts'
import { ModelError } from '../../engine/weights/errors.ts'
import type { Shelf } from './shelf.ts'

export interface Wanted {
  digest: string
  name: string
  /** URL path or URL of the pack, without the file. */
  path: string
}
export interface SourceOptions {
  /** What `path` is relative to. */
  base: string
  shelf: Shelf
  signal?: AbortSignal
  /** Awaited before bytes are asked of the network. */
  gate?: () => Promise<void> | undefined
  /** Bytes of the model that are here, of all there are. Never goes backwards. */
  onProgress?: (progress: { loaded: number; total: number }) => void
  /** Bytes that came over the network. */
  onTraffic?: (bytes: number) => void
  fetch?: typeof fetch
  /** Waits before try n; a test passes its own. */
  wait?: (tries: number, signal?: AbortSignal) => Promise<void>
}

const MANIFEST_BYTES_MAX = 64 * 2 ** 20
const triesMax = 6

/**
 * Opens a pack whose bytes come as they are asked for. Throws ModelError (`digest-mismatch`, `manifest-invalid`,
 * `file-missing`), NetworkError when the coordinator stays out of reach, and the signal's reason when aborted.
 */
export async function openRemotePack(wanted: Wanted, options: SourceOptions): Promise<Pack> {
  const source = new RemoteSource(wanted, options)
  return openPack(source, wanted.digest)
}

/**
 * Gets everything of a pack that is not here yet, checked chunk by chunk. Afterwards the pack reads from the shelf, or, where
 * there was no room to keep it, again from the network.
 */
export async function download(pack: Pack): Promise<void> {
  for (const file of Object.keys(pack.manifest.files)) {
    const chunks = pack.chunks(file)
    while (!(await chunks.next()).done);
  }
}

/** The coordinator could not be reached, or answered something else than the file. */
export class NetworkError extends Error {
  override name = 'NetworkError'
}

class RemoteSource implements PackSource {
  readonly name: string
  readonly #wanted: Wanted
  readonly #options: SourceOptions
  #manifest: Manifest | undefined
  /** Bytes of each file seen so far, for progress. */
  readonly #seen = new Map<string, number>()
  #tail: Tail | undefined

  constructor(wanted: Wanted, options: SourceOptions) {
    this.name = wanted.name
    this.#wanted = wanted
    this.#options = options
  }

  async manifest(): Promise<Uint8Array> {
    const { digest, name } = this.#wanted
    const { store } = this.#options.shelf
    let bytes = await store.read(digest, 0, MANIFEST_BYTES_MAX)
    if (bytes.length && (await sha256(bytes)) !== digest) {
      await store.remove(digest)
      bytes = new Uint8Array(0)
    }
    if (!bytes.length) {
      bytes = await this.#retrying(async () => {
        const answer = await this.#request('manifest.json')
        return new Uint8Array(await answer.arrayBuffer())
      })
      this.#options.onTraffic?.(bytes.length)
      // A manifest of another digest is openPack's to refuse; only the right one is kept.
      if ((await sha256(bytes)) === digest) await this.#options.shelf.append(digest, digest, 0, bytes)
    }
    if ((await sha256(bytes)) === digest) {
      this.#manifest = parseManifest(bytes, `${name}/manifest.json`)
      const files = Object.entries(this.#manifest.files)
      await this.#options.shelf.use(digest, name, files.map(([, { sha256 }]) => sha256)) // prettier-ignore
      for (const [file, entry] of files)
        this.#seen.set(file, Math.min(entry.bytes, await store.size(entry.sha256)))
      this.#report()
    }
    return bytes
  }

  async read(file: string, offset: number, length: number): Promise<Uint8Array> {
    const entry = this.#manifest!.files[file]!
    const { shelf } = this.#options
    const { store } = shelf
    this.#options.signal?.throwIfAborted()
    const kept = await store.size(entry.sha256)
    if (offset + length <= kept) {
      const bytes = await store.read(entry.sha256, offset, length)
      if ((await sha256(bytes)) === entry.chunks[offset / CHUNK_BYTES]) return bytes
    }
    // What is there from here on is damaged, or not a whole chunk.
    if (kept > offset) await store.truncate(entry.sha256, offset)
    await this.#options.gate?.()
    this.#options.signal?.throwIfAborted()
    const bytes = await this.#retrying(() => this.#fetch(file, offset, length, entry.bytes))
    this.#options.onTraffic?.(bytes.length)
    if ((await sha256(bytes)) !== entry.chunks[offset / CHUNK_BYTES]) {
      this.#tail?.close()
      this.#tail = undefined
      return bytes // The reader names the file, the place and what to do.
    }
    if ((await store.size(entry.sha256)) === offset)
      await shelf.append(this.#wanted.digest, entry.sha256, offset, bytes)
    this.#seen.set(file, Math.max(this.#seen.get(file) ?? 0, offset + bytes.length))
    this.#report()
    return bytes
  }

  #report(): void {
    const total = Object.values(this.#manifest!.files).reduce((n, { bytes }) => n + bytes, 0)
    const loaded = [...this.#seen.values()].reduce((n, bytes) => n + bytes, 0)
    this.#options.onProgress?.({ loaded, total })
  }

  /** One request serves the rest of a file: chunks are cut off its stream as they are asked for. */
  async #fetch(file: string, offset: number, length: number, fileBytes: number): Promise<Uint8Array> {
    try {
      if (this.#tail?.file !== file || this.#tail.at !== offset) {
        this.#tail?.close()
        this.#tail = undefined
        const answer = await this.#request(file, offset, fileBytes)
        this.#tail = new Tail(file, offset, answer)
      }
      return await this.#tail.take(length)
    } catch (error) {
      this.#tail?.close()
      this.#tail = undefined
      throw error
    }
  }

  async #request(file: string, offset = 0, fileBytes?: number): Promise<Response> {
    const { base, signal } = this.#options
    const url = new URL(`${this.#wanted.path.replace(/\/$/, '')}/${file}`, base)
    const headers: Record<string, string> = offset ? { range: `bytes=${offset}-` } : {}
    const get = this.#options.fetch ?? fetch
    let answer: Response
    try {
      // no-store: the shelf keeps it, twice would be rude.
      answer = await get(url, { headers, signal, cache: 'no-store' })
    } catch (cause) {
      signal?.throwIfAborted()
      throw new NetworkError(`${url.pathname} can't be reached (${(cause as Error).message})`, { cause })
    }
    if (answer.status === 404 || answer.status === 410)
      throw new ModelError('file-missing', { file: `${this.name}/${file}`, what: 'the coordinator no longer has it', todo: 'Wait for its next list of models' }) // prettier-ignore
    const wantedStatus = offset ? 206 : 200
    if (answer.status !== wantedStatus)
      throw new NetworkError(`${url.pathname} answers ${answer.status} instead of ${wantedStatus}`)
    const range = answer.headers.get('content-range')
    if (offset && range && !range.startsWith(`bytes ${offset}-`))
      throw new NetworkError(`${url.pathname} answers with ${range}, asked for bytes from ${offset}`)
    if (fileBytes === undefined && Number(answer.headers.get('content-length') ?? 0) > MANIFEST_BYTES_MAX)
      throw new NetworkError(`${url.pathname} is larger than any manifest`)
    return answer
  }

  async #retrying<T>(work: () => Promise<T>): Promise<T> {
    const { signal, wait = waitALittle } = this.#options
    for (let tries = 0; ; tries++) {
      try {
        return await work()
      } catch (error) {
        signal?.throwIfAborted()
        if (!(error instanceof NetworkError) || tries + 1 >= triesMax) throw error
        await wait(tries, signal)
      }
    }
  }
}

/** A file's body from some offset on, taken in pieces of the size asked for. */
class Tail {
  readonly file: string
  at: number
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>
  #rest: Uint8Array = new Uint8Array(0)

  constructor(file: string, at: number, answer: Response) {
    this.file = file
    this.at = at
    if (!answer.body) throw new NetworkError(`${file} came without a body`)
    this.#reader = answer.body.getReader()
  }

  async take(length: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(length)
    let filled = 0
    while (filled < length) {
      if (!this.#rest.length) {
        let next: ReadableStreamReadResult<Uint8Array>
        try {
          next = await this.#reader.read()
        } catch (cause) {
          throw new NetworkError(`${this.file} broke off (${(cause as Error).message})`, { cause })
        }
        if (next.done) throw new NetworkError(`${this.file} ended ${length - filled} bytes early`)
        this.#rest = next.value
      }
      const taken = Math.min(this.#rest.length, length - filled)
      bytes.set(this.#rest.subarray(0, taken), filled)
      this.#rest = this.#rest.subarray(taken)
      filled += taken
    }
    this.at += length
    return bytes
  }

  close(): void {
    this.#reader.cancel().catch(() => undefined)
  }
}

/** Full jitter, half a second doubling up to 16. */
function waitALittle(tries: number, signal?: AbortSignal): Promise<void> {
  return new Promise((done, fail) => {
    const timer = setTimeout(done, Math.random() * Math.min(16_000, 500 * 2 ** tries))
    signal?.addEventListener('abort', () => {
      clearTimeout(timer)
      fail(signal.reason as Error)
    })
  })
}
