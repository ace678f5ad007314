/** A pack in a folder on disk (Node). */
import { open, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { ModelError } from '../weights/errors.ts'
import type { PackSource } from './reader.ts'

export function packFolder(path: string): PackSource {
  const missing = (file: string, cause: unknown): ModelError =>
    new ModelError('file-missing', { file: join(path, file), what: `it cannot be read (${(cause as Error).message})`, todo: 'Name a folder made by `chorale pack`' }, cause) // prettier-ignore
  return {
    name: path,
    manifest: () =>
      readFile(join(path, 'manifest.json')).catch((error: unknown) =>
        Promise.reject(missing('manifest.json', error)),
      ),
    async read(file, offset, length) {
      const handle = await open(join(path, file)).catch((error: unknown) =>
        Promise.reject(missing(file, error)),
      )
      try {
        const bytes = new Uint8Array(length)
        const { bytesRead } = await handle.read(bytes, 0, length, offset)
        return bytes.subarray(0, bytesRead)
      } finally {
        await handle.close()
      }
    },
  }
}
