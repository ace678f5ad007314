/** A pack held in memory: what a page was handed, or a test made. */
import { ModelError } from '../weights/errors.ts'
import type { PackSource } from './reader.ts'

export function packInMemory(name: string, files: Readonly<Record<string, Uint8Array>>): PackSource {
  const get = (file: string): Uint8Array => {
    if (!Object.hasOwn(files, file))
      throw new ModelError('file-missing', {
        file: `${name}/${file}`,
        what: 'it is not there',
        todo: 'Get the pack again',
      })
    return files[file]!
  }
  return {
    name,
    manifest: async () => get('manifest.json'),
    read: async (file, offset, length) => get(file).subarray(offset, offset + length),
  }
}
