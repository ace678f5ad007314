/** Files on this machine's disk, for Node. Kept apart from the readers so that those also run in a browser. */
import { open, readFile, stat } from 'node:fs/promises'
import type { FileHandle } from 'node:fs/promises'
import { ModelError } from './errors.ts'
import type { ByteSource } from './safetensors.ts'

/** A file to read at offsets. Rejects with ModelError `file-missing` or `file-unreadable`. */
export async function openFile(path: string): Promise<ByteSource> {
  let handle: FileHandle
  let size: number
  try {
    handle = await open(path, 'r')
  } catch (cause) {
    throw unreadable(path, cause)
  }
  try {
    const stats = await handle.stat()
    if (!stats.isFile()) throw new Error('not a regular file')
    size = stats.size
  } catch (cause) {
    await handle.close()
    throw unreadable(path, cause)
  }
  return {
    name: path,
    size,
    async read(offset, into) {
      let done = 0
      while (done < into.length) {
        let bytesRead: number
        try {
          ;({ bytesRead } = await handle.read(into, done, into.length - done, offset + done))
        } catch (cause) {
          throw unreadable(path, cause)
        }
        if (bytesRead === 0) {
          throw new ModelError('file-truncated', {
            file: path,
            what: `it ends at byte ${offset + done}, in the middle of what it promised`,
            todo: 'Download or save it again',
          })
        }
        done += bytesRead
      }
    },
    close: () => handle.close(),
  }
}

/** A small text file. Rejects with ModelError `file-missing`, `file-unreadable` (also when larger than `bytesMax`, or not UTF-8). */
export async function readText(path: string, bytesMax = 100_000_000): Promise<string> {
  try {
    const { size } = await stat(path)
    if (size > bytesMax) throw new Error(`${size} bytes, more than the ${bytesMax} it may have`)
    return new TextDecoder('utf-8', { fatal: true }).decode(await readFile(path))
  } catch (cause) {
    throw unreadable(path, cause)
  }
}

/** As `readText`, or null if there is no such file. */
export async function readTextIfThere(path: string, bytesMax?: number): Promise<string | null> {
  try {
    return await readText(path, bytesMax)
  } catch (error) {
    if (error instanceof ModelError && error.code === 'file-missing') return null
    throw error
  }
}

/** Whether there is a regular file at `path`. */
export async function isFile(path: string): Promise<boolean> {
  return (await stat(path).catch(() => null))?.isFile() ?? false
}

function unreadable(file: string, cause: unknown): ModelError {
  const error = cause as NodeJS.ErrnoException
  if (error.code === 'ENOENT' || error.code === 'ENOTDIR') {
    return new ModelError(
      'file-missing',
      { file, what: 'there is no such file', todo: 'Check the path, or download the model' },
      cause,
    )
  }
  return new ModelError(
    'file-unreadable',
    { file, what: `it cannot be read (${error.message})`, todo: 'Check the file and its permissions' },
    cause,
  )
}
