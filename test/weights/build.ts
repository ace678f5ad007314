/** Making safetensors files by hand, sound and unsound, for the tests of the reader. */
import { ModelError } from '../../engine/weights/errors.ts'
import type { ModelErrorCode } from '../../engine/weights/errors.ts'
import type { ByteSource } from '../../engine/weights/safetensors.ts'

export interface Piece {
  dtype: string
  shape: number[]
  bytes: Uint8Array
}

export function memory(
  bytes: Uint8Array,
  name = 'memory.safetensors',
): ByteSource & { closed: boolean; largest: number } {
  return {
    name,
    size: bytes.length,
    closed: false,
    /** The largest single read asked for, in bytes. */
    largest: 0,
    async read(offset, into) {
      if (this.closed) throw new Error('read after close')
      this.largest = Math.max(this.largest, into.length)
      if (offset + into.length > bytes.length) {
        throw new ModelError('file-truncated', { file: name, what: 'it ends early', todo: 'Get all of it' })
      }
      into.set(bytes.subarray(offset, offset + into.length))
    },
    async close() {
      this.closed = true
    },
  }
}

/** A file with this header text (or these header bytes) and this data. */
export function file(header: string | Uint8Array, data: Uint8Array, claimed?: bigint): Uint8Array {
  const text = typeof header === 'string' ? new TextEncoder().encode(header) : header
  const out = new Uint8Array(8 + text.length + data.length)
  new DataView(out.buffer).setBigUint64(0, claimed ?? BigInt(text.length), true)
  out.set(text, 8)
  out.set(data, 8 + text.length)
  return out
}

/** A sound file, its header padded by `pad` spaces so that the data can start at any alignment. */
export function sound(pieces: Record<string, Piece>, pad = 0): Uint8Array {
  const header: Record<string, unknown> = { __metadata__: { format: 'pt' } }
  let at = 0
  for (const [name, { dtype, shape, bytes }] of Object.entries(pieces)) {
    header[name] = { dtype, shape, data_offsets: [at, at + bytes.length] }
    at += bytes.length
  }
  const data = new Uint8Array(at)
  at = 0
  for (const { bytes } of Object.values(pieces)) {
    data.set(bytes, at)
    at += bytes.length
  }
  return file(JSON.stringify(header) + ' '.repeat(pad), data)
}

export function f32(shape: number[], values: ArrayLike<number>): Piece {
  return { dtype: 'F32', shape, bytes: new Uint8Array(Float32Array.from(values).buffer) }
}

/** The ModelError this rejects with; fails if it does not reject, or with anything else, or with another code. */
export async function refusal(code: ModelErrorCode, attempt: () => unknown): Promise<ModelError> {
  let result: unknown
  try {
    result = await attempt()
  } catch (error) {
    if (!(error instanceof ModelError)) throw error
    if (error.code !== code)
      throw new Error(`expected ${code}, got ${error.code}: ${error.message}`, { cause: error })
    return error
  }
  throw new Error(`expected ${code}, but it was accepted: ${String(result)}`)
}
