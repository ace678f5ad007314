/** Reading a pack that nobody vouches for: every chunk is hashed before a byte of it is used. */
import { hex } from '../hex.ts'
import { ModelError } from '../weights/errors.ts'
import { CHUNK_BYTES, parseManifest } from './manifest.ts'
import type { Manifest } from './manifest.ts'

/** Where a pack's bytes come from: a folder, HTTP, a cache. */
export interface PackSource {
  /** For messages. */
  readonly name: string
  /** The whole of manifest.json. */
  manifest(): Promise<Uint8Array>
  /** Bytes [offset, offset + length) of a file named in the manifest; fewer only at the file's end. */
  read(file: string, offset: number, length: number): Promise<Uint8Array>
}

export interface Pack {
  readonly manifest: Manifest
  /** SHA-256 of manifest.json: the model's name among machines. */
  readonly digest: string
  /** Verified chunks of a file, in order, CHUNK_BYTES each but the last. */
  chunks(file: string): AsyncGenerator<Uint8Array, void, void>
  /** A whole verified file; for small ones (tokenizer, tables). */
  file(name: string): Promise<Uint8Array>
}

export async function sha256(bytes: Uint8Array): Promise<string> {
  return hex(new Uint8Array(await crypto.subtle.digest('SHA-256', bytes as Uint8Array<ArrayBuffer>)))
}

/**
 * Opens a pack and parses its manifest. With `digest` given, the manifest must have it.
 * Throws ModelError `digest-mismatch`, `manifest-invalid`; chunks() and file() throw `chunk-mismatch`, `file-truncated`.
 */
export async function openPack(source: PackSource, digest?: string): Promise<Pack> {
  const bytes = await source.manifest()
  const actual = await sha256(bytes)
  if (digest !== undefined && digest !== actual) {
    throw new ModelError('digest-mismatch', {
      file: `${source.name}/manifest.json`,
      what: `its SHA-256 is ${actual}, expected ${digest}`,
      todo: 'This is another model or a damaged one: get it again from where the digest came from',
    })
  }
  const manifest = parseManifest(bytes, `${source.name}/manifest.json`)

  async function* chunks(file: string): AsyncGenerator<Uint8Array, void, void> {
    const entry = manifest.files[file]
    if (!entry) {
      throw new ModelError('file-missing', {
        file: `${source.name}/${file}`,
        what: 'the manifest does not list it',
        todo: 'Pack the model again',
      })
    }
    for (let i = 0; i < entry.chunks.length; i++) {
      const offset = i * CHUNK_BYTES
      const length = Math.min(CHUNK_BYTES, entry.bytes - offset)
      const chunk = await source.read(file, offset, length)
      if (chunk.length !== length) {
        throw new ModelError('file-truncated', {
          file: `${source.name}/${file}`, what: `it ends at byte ${offset + chunk.length} of ${entry.bytes}`, todo: 'Get the pack again',
        }) // prettier-ignore
      }
      if ((await sha256(chunk)) !== entry.chunks[i]) {
        throw new ModelError('chunk-mismatch', {
          file: `${source.name}/${file}`, what: `bytes ${offset} to ${offset + length} do not have the hash the manifest gives`, todo: 'Get the pack again; these bytes were not used',
        }) // prettier-ignore
      }
      yield chunk
    }
  }

  return {
    manifest,
    digest: actual,
    chunks,
    async file(name) {
      const parts: Uint8Array[] = []
      for await (const chunk of chunks(name)) parts.push(chunk)
      const whole = new Uint8Array(parts.reduce((n, p) => n + p.length, 0))
      let at = 0
      for (const part of parts) {
        whole.set(part, at)
        at += part.length
      }
      return whole
    },
  }
}
