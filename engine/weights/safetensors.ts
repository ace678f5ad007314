/**
 * Reading safetensors (https://github.com/huggingface/safetensors#format): 8 bytes of header length, a JSON header that
 * gives each tensor a dtype, a shape and a byte range, then the bytes. The file is a stranger's: nothing in it is
 * believed until the whole header has been checked, and tensors are read a few megabytes at a time, never all at once.
 *
 * Pure apart from the `ByteSource` it is given (`disk.ts` has the one for Node), so it also runs in a browser.
 */
import { ModelError, quote } from './errors.ts'
import { decodeFloats, floatBytes } from './float.ts'
import type { FloatDtype } from './float.ts'

/** Somewhere bytes can be read from at an offset: a file, a blob, a range request. */
export interface ByteSource {
  /** What to call it in an error message. */
  readonly name: string
  /** Bytes. */
  readonly size: number
  /** Fill `into` from `offset`. Rejects with a ModelError `file-truncated` if the bytes are not there. */
  read(offset: number, into: Uint8Array): Promise<void>
  close(): Promise<void>
}

export interface TensorInfo {
  /** As the file says it: `F32`, `BF16`, `I64`, … Only F32, F16 and BF16 can be read. */
  readonly dtype: string
  readonly shape: readonly number[]
  /** Bytes on disk. */
  readonly bytes: number
  /** Which file it is in. */
  readonly file: string
}

/** Named tensors, read as float32. Every method throws or rejects with a ModelError only. */
export interface TensorSource {
  names(): string[]
  has(name: string): boolean
  /** Throws `tensor-missing`. */
  info(name: string): TensorInfo
  /**
   * The whole tensor, row-major. Rejects with `tensor-missing`, `dtype-unsupported`, `not-finite` (NaN or infinity, with its
   * index) or `file-truncated`.
   */
  read(name: string): Promise<Float32Array>
  /** Rows `from` ≤ row < `to` of the first dimension, row-major; as `read`, and `range-invalid`. */
  readRows(name: string, from: number, to: number): Promise<Float32Array>
  close(): Promise<void>
}

/** The same limit as the reference implementation. */
export const headerBytesMax = 100_000_000

const chunkBytes = 4 << 20

/** Bits per element. A dtype not listed is an error at opening; a listed one that is not a float is an error at reading. */
const dtypeBits: ReadonlyMap<string, number> = new Map(
  Object.entries({
    F4: 4,
    F6_E2M3: 6,
    F6_E3M2: 6,
    BOOL: 8,
    U8: 8,
    I8: 8,
    F8_E5M2: 8,
    F8_E4M3: 8,
    F8_E8M0: 8,
    F8_E4M3FNUZ: 8,
    F8_E5M2FNUZ: 8,
    I16: 16,
    U16: 16,
    F16: 16,
    BF16: 16,
    I32: 32,
    U32: 32,
    F32: 32,
    F64: 64,
    I64: 64,
    U64: 64,
    C64: 64,
  }),
)

interface Entry {
  dtype: string
  shape: number[]
  /** Byte range within the data section. */
  begin: number
  end: number
}

/**
 * Check a header's text against the size of the data that follows it.
 * Throws ModelError: `json-invalid`, `header-duplicate-key`, `header-invalid`, `dtype-unknown`, `shape-invalid`, `size-mismatch`,
 * `offsets-invalid`.
 */
export function parseHeader(text: string, dataBytes: number, file: string): Map<string, Entry> {
  const damaged = 'The file is damaged or not safetensors: download or save it again'
  let root: unknown
  try {
    root = JSON.parse(text)
  } catch (cause) {
    throw new ModelError('json-invalid', { file, what: 'the header is not JSON', todo: damaged }, cause)
  }
  if (!isObject(root))
    throw new ModelError('header-invalid', { file, what: 'the header is not an object', todo: damaged })
  // JSON.parse keeps the last of two equal keys without a word; a reader that keeps the first would see another model.
  const twice = findDuplicateKey(text)
  if (twice !== null) {
    throw new ModelError('header-duplicate-key', {
      file,
      what: `the header says ${quote(twice)} twice`,
      todo: damaged,
    })
  }
  const entries = new Map<string, Entry>()
  for (const [tensor, value] of Object.entries(root)) {
    if (tensor === '__metadata__') {
      if (!isObject(value))
        throw new ModelError('header-invalid', { file, what: '__metadata__ is not an object', todo: damaged })
    } else {
      entries.set(tensor, parseEntry(tensor, value, file, damaged))
    }
  }
  checkTiling(entries, dataBytes, file, damaged)
  return entries
}

function parseEntry(tensor: string, value: unknown, file: string, todo: string): Entry {
  const bad = (what: string): ModelError => new ModelError('header-invalid', { file, tensor, what, todo })
  if (!isObject(value)) throw bad('its entry is not an object')
  const { dtype, shape, data_offsets: offsets } = value
  if (typeof dtype !== 'string') throw bad('dtype is not a string')
  const bits = dtypeBits.get(dtype)
  if (bits === undefined) {
    throw new ModelError('dtype-unknown', {
      file,
      tensor,
      what: `dtype ${quote(dtype)} is not one of safetensors'`,
      todo: 'Save the model as F32, F16 or BF16',
    })
  }
  if (!Array.isArray(shape)) throw bad('shape is not a list')
  let count = 1
  for (const n of shape as unknown[]) {
    if (!isSize(n)) {
      throw new ModelError('shape-invalid', {
        file,
        tensor,
        what: `shape has ${describe(n)} for a dimension`,
        todo,
      })
    }
    count *= n
    // Checked at every step: the product of two safe integers is below 2^106, so it cannot wrap back to a small number.
    if (!Number.isSafeInteger(count * bits)) {
      throw new ModelError('shape-invalid', {
        file,
        tensor,
        what: `shape ${describe(shape)} has more elements than any file`,
        todo,
      })
    }
  }
  if (!Array.isArray(offsets) || offsets.length !== 2) throw bad('data_offsets is not a pair')
  const [begin, end] = offsets as [unknown, unknown]
  if (!isSize(begin) || !isSize(end) || end < begin) {
    throw new ModelError('offsets-invalid', {
      file,
      tensor,
      what: `data_offsets ${describe(offsets)} is not a byte range`,
      todo,
    })
  }
  if (count * bits !== (end - begin) * 8) {
    throw new ModelError('size-mismatch', {
      file,
      tensor,
      what: `${dtype} of shape ${describe(shape)} takes ${(count * bits) / 8} bytes, its range has ${end - begin}`,
      todo,
    })
  }
  return { dtype, shape: shape as number[], begin, end }
}

/** The ranges must tile the data section: no overlap, no hole, nothing beyond the end, nothing left over. */
function checkTiling(entries: Map<string, Entry>, dataBytes: number, file: string, todo: string): void {
  const ordered = [...entries].sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end)
  let at = 0
  for (const [tensor, { begin, end }] of ordered) {
    if (end > dataBytes) {
      throw new ModelError('offsets-invalid', {
        file,
        tensor,
        what: `its bytes ${begin}..${end} reach past the data, which ends at ${dataBytes}`,
        todo,
      })
    }
    if (begin !== at) {
      const what =
        begin < at
          ? `its bytes ${begin}..${end} overlap those of another tensor`
          : `bytes ${at}..${begin} before it belong to none`
      throw new ModelError('offsets-invalid', { file, tensor, what, todo })
    }
    at = end
  }
  if (at !== dataBytes) {
    throw new ModelError('offsets-invalid', {
      file,
      what: `${dataBytes - at} bytes at the end belong to no tensor`,
      todo,
    })
  }
}

/**
 * Open one safetensors file. Rejects with a ModelError: those of `parseHeader`, and `header-truncated`, `header-too-large`.
 * On failure the source is closed.
 */
export async function openSafetensors(source: ByteSource): Promise<TensorSource> {
  try {
    return new OneFile(source, ...(await readHeader(source)))
  } catch (error) {
    await source.close()
    throw error
  }
}

async function readHeader(source: ByteSource): Promise<[Map<string, Entry>, number]> {
  const file = source.name
  const todo = 'The file is cut short or not safetensors: download or save it again'
  if (source.size < 8) {
    throw new ModelError('header-truncated', {
      file,
      what: `${source.size} bytes are too few for a header`,
      todo,
    })
  }
  const prefix = new Uint8Array(8)
  await source.read(0, prefix)
  const length = new DataView(prefix.buffer).getBigUint64(0, true)
  if (length > BigInt(headerBytesMax)) {
    throw new ModelError('header-too-large', {
      file,
      what: `it claims a header of ${length} bytes; the limit is ${headerBytesMax}`,
      todo,
    })
  }
  const headerBytes = Number(length)
  if (8 + headerBytes > source.size) {
    throw new ModelError('header-truncated', {
      file,
      what: `it claims a header of ${headerBytes} bytes and has ${source.size - 8}`,
      todo,
    })
  }
  const bytes = new Uint8Array(headerBytes)
  await source.read(8, bytes)
  let text: string
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch (cause) {
    throw new ModelError('header-invalid', { file, what: 'the header is not UTF-8', todo }, cause)
  }
  return [parseHeader(text, source.size - 8 - headerBytes, file), 8 + headerBytes]
}

class OneFile implements TensorSource {
  readonly #source: ByteSource
  readonly #entries: Map<string, Entry>
  /** Where the data section begins in the file. */
  readonly #base: number

  constructor(source: ByteSource, entries: Map<string, Entry>, base: number) {
    this.#source = source
    this.#entries = entries
    this.#base = base
  }

  names(): string[] {
    return [...this.#entries.keys()]
  }

  has(name: string): boolean {
    return this.#entries.has(name)
  }

  info(name: string): TensorInfo {
    const { dtype, shape, begin, end } = this.#entry(name)
    return { dtype, shape, bytes: end - begin, file: this.#source.name }
  }

  async read(name: string): Promise<Float32Array> {
    const { shape } = this.#entry(name)
    return this.#elements(
      name,
      0,
      shape.reduce((a, b) => a * b, 1),
    )
  }

  async readRows(name: string, from: number, to: number): Promise<Float32Array> {
    const { shape } = this.#entry(name)
    const rows = shape[0] ?? 1
    if (!isSize(from) || !isSize(to) || from > to || to > rows) {
      throw new ModelError('range-invalid', {
        file: this.#source.name,
        tensor: name,
        what: `there are no rows ${from}..${to} in its ${rows}`,
        todo: 'Ask for rows it has',
      })
    }
    const width = shape.slice(1).reduce((a, b) => a * b, 1)
    return this.#elements(name, from * width, to * width)
  }

  async close(): Promise<void> {
    await this.#source.close()
  }

  #entry(tensor: string): Entry {
    const entry = this.#entries.get(tensor)
    if (entry) return entry
    throw missing(tensor, this.#source.name)
  }

  async #elements(tensor: string, from: number, to: number): Promise<Float32Array> {
    const { dtype, begin } = this.#entry(tensor)
    const file = this.#source.name
    if (!isFloat(dtype)) {
      throw new ModelError('dtype-unsupported', {
        file,
        tensor,
        what: `dtype ${dtype} cannot be read as float weights`,
        todo: 'Save the model as F32, F16 or BF16, unquantised',
      })
    }
    const size = floatBytes[dtype]
    let out: Float32Array
    try {
      out = new Float32Array(to - from)
    } catch (cause) {
      const what = `${to - from} values do not fit in memory at once`
      throw new ModelError(
        'range-invalid',
        { file, tensor, what, todo: 'Read it in smaller ranges of rows' },
        cause,
      )
    }
    const step = chunkBytes / size
    const buffer = new Uint8Array(Math.min(out.length * size, chunkBytes))
    for (let at = 0; at < out.length; at += step) {
      const part = out.subarray(at, Math.min(at + step, out.length))
      const bytes = buffer.subarray(0, part.length * size)
      await this.#source.read(this.#base + begin + (from + at) * size, bytes)
      const bad = decodeFloats(dtype, bytes, part)
      if (bad >= 0) {
        throw new ModelError('not-finite', {
          file,
          tensor,
          what: `element ${from + at + bad} is ${part[bad]}`,
          todo: 'The weights are damaged: get a sound copy',
        })
      }
    }
    return out
  }
}

/** An index file's map from tensor to shard file name. Throws ModelError `json-invalid`, `header-duplicate-key`, `header-invalid`, `path-unsafe`. */
export function parseIndex(text: string, file: string): Map<string, string> {
  const todo = 'The index is damaged: download or save it again'
  let root: unknown
  try {
    root = JSON.parse(text)
  } catch (cause) {
    throw new ModelError('json-invalid', { file, what: 'it is not JSON', todo }, cause)
  }
  const twice = findDuplicateKey(text)
  if (twice !== null)
    throw new ModelError('header-duplicate-key', { file, what: `it says ${quote(twice)} twice`, todo })
  if (!isObject(root) || !isObject(root.weight_map))
    throw new ModelError('header-invalid', { file, what: 'it has no weight_map', todo })
  const map = new Map<string, string>()
  for (const [tensor, shard] of Object.entries(root.weight_map)) {
    if (typeof shard !== 'string')
      throw new ModelError('header-invalid', { file, tensor, what: 'its shard is not a file name', todo })
    // A plain name in the same folder and nothing else: no separators of any system, no drive, no stream, no dot file.
    if (!/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}\.safetensors$/.test(shard)) {
      throw new ModelError('path-unsafe', {
        file,
        tensor,
        what: `its shard ${quote(shard)} is not a plain .safetensors file name`,
        todo: 'Keep shards beside the index',
      })
    }
    map.set(tensor, shard)
  }
  return map
}

/**
 * Open a sharded model from its index text; `open` gives the bytes of a shard by its (checked) name and may reject with
 * `file-missing`, which becomes `shard-missing`. Also rejects with `shard-lacks-tensor` and all of `openSafetensors`.
 */
export async function openSharded(
  text: string,
  file: string,
  open: (shard: string) => Promise<ByteSource>,
): Promise<TensorSource> {
  const map = parseIndex(text, file)
  const shards = new Map<string, TensorSource>()
  const close = async (): Promise<void> => {
    await Promise.all([...shards.values()].map((shard) => shard.close()))
  }
  try {
    for (const shard of new Set(map.values())) {
      try {
        shards.set(shard, await openSafetensors(await open(shard)))
      } catch (error) {
        if (!(error instanceof ModelError) || error.code !== 'file-missing') throw error
        throw new ModelError(
          'shard-missing',
          { file, what: `its shard ${shard} is not there`, todo: 'Download all shards' },
          error,
        )
      }
    }
    for (const [tensor, shard] of map) {
      if (!shards.get(shard)!.has(tensor)) {
        throw new ModelError('shard-lacks-tensor', {
          file,
          tensor,
          what: `${shard} does not hold it`,
          todo: 'Index and shards are of different versions: download both again',
        })
      }
    }
  } catch (error) {
    await close()
    throw error
  }
  const at = (tensor: string): TensorSource => {
    const shard = map.get(tensor)
    if (shard === undefined) throw missing(tensor, file)
    return shards.get(shard)!
  }
  return {
    names: () => [...map.keys()],
    has: (name) => map.has(name),
    info: (name) => at(name).info(name),
    read: async (name) => at(name).read(name),
    readRows: async (name, from, to) => at(name).readRows(name, from, to),
    close,
  }
}

/** The first key that any object in this (valid) JSON text has twice, or null. */
export function findDuplicateKey(text: string): string | null {
  const open: (Set<string> | null)[] = []
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i)
    if (c === 0x7b) open.push(new Set())
    else if (c === 0x5b) open.push(null)
    else if (c === 0x7d || c === 0x5d) open.pop()
    else if (c === 0x22) {
      const start = i
      let escaped = false
      for (i++; text.charCodeAt(i) !== 0x22; i++) {
        if (text.charCodeAt(i) === 0x5c) {
          escaped = true
          i++
        }
      }
      let next = i + 1
      while (isSpace(text.charCodeAt(next))) next++
      const keys = open.at(-1)
      if (keys && text.charCodeAt(next) === 0x3a) {
        const key = escaped ? (JSON.parse(text.slice(start, i + 1)) as string) : text.slice(start + 1, i)
        if (keys.has(key)) return key
        keys.add(key)
      }
    }
  }
  return null
}

function isSpace(c: number): boolean {
  return c === 0x20 || c === 0x0a || c === 0x0d || c === 0x09
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function isSize(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0
}

function isFloat(dtype: string): dtype is FloatDtype {
  return Object.hasOwn(floatBytes, dtype)
}

function describe(value: unknown): string {
  return quote(JSON.stringify(value) ?? String(value)).slice(1, -1)
}

function missing(tensor: string, file: string): ModelError {
  return new ModelError('tensor-missing', {
    file,
    tensor,
    what: 'it is not there',
    todo: 'Check that the model is complete',
  })
}
