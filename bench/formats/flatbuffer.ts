/**
 * Just enough FlatBuffers to write a .tflite file: a tree of tables, vectors, strings and scalars, laid out front to back
 * (children after their parent, so that every offset points forward). https://flatbuffers.dev/internals/
 */

export type Value =
  | { kind: 'u8' | 'i8' | 'bool' | 'u32' | 'i32'; value: number }
  | { kind: 'text'; value: string }
  /** Raw vector: `count` elements of `size` bytes. */
  | { kind: 'raw'; bytes: Uint8Array; count: number; size: number }
  | { kind: 'tables'; items: Table[] }
  | { kind: 'table'; table: Table }

/** Slot number in the schema → value. Absent slots keep their defaults. */
export type Table = Record<number, Value>

export const u8 = (value: number): Value => ({ kind: 'u8', value })
export const i8 = (value: number): Value => ({ kind: 'i8', value })
export const bool = (value: boolean): Value => ({ kind: 'bool', value: Number(value) })
export const u32 = (value: number): Value => ({ kind: 'u32', value })
export const i32 = (value: number): Value => ({ kind: 'i32', value })
export const text = (value: string): Value => ({ kind: 'text', value })
export const table = (it: Table): Value => ({ kind: 'table', table: it })
export const tables = (items: Table[]): Value => ({ kind: 'tables', items })

export function vector(data: Int32Array | Float32Array | BigInt64Array | Uint8Array | Int8Array): Value {
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
  return { kind: 'raw', bytes, count: data.length, size: data.BYTES_PER_ELEMENT }
}

const width = (value: Value): number =>
  value.kind === 'u8' || value.kind === 'i8' || value.kind === 'bool' ? 1 : 4

class Writer {
  #bytes = new Uint8Array(1 << 16)
  #view = new DataView(this.#bytes.buffer)
  length = 0

  /** Room for `size` bytes, placed so that what comes `before` bytes in is a multiple of `align`; returns where it begins. */
  reserve(size: number, align: number, before = 0): number {
    let at = this.length
    while ((at + before) % align !== 0) at++
    this.length = at + size
    while (this.length > this.#bytes.length) {
      const grown = new Uint8Array(this.#bytes.length * 2)
      grown.set(this.#bytes)
      this.#bytes = grown
      this.#view = new DataView(grown.buffer)
    }
    return at
  }

  u16 = (at: number, value: number): void => this.#view.setUint16(at, value, true)
  u32 = (at: number, value: number): void => this.#view.setUint32(at, value, true)
  u8 = (at: number, value: number): void => this.#view.setUint8(at, value)
  raw = (at: number, bytes: Uint8Array): void => this.#bytes.set(bytes, at)
  finished = (): Uint8Array<ArrayBuffer> => this.#bytes.slice(0, this.length)
}

function writeTable(out: Writer, it: Table): number {
  const slots = Object.keys(it).map(Number)
  const slotCount = Math.max(-1, ...slots) + 1
  const vtable = out.reserve(4 + 2 * slotCount, 2)
  // Four-byte fields first, then single bytes: every field lands aligned.
  const order = slots.toSorted((a, b) => width(it[b]!) - width(it[a]!))
  const size = 4 + order.reduce((sum, slot) => sum + width(it[slot]!), 0)
  const at = out.reserve(size, 4)
  out.u16(vtable, 4 + 2 * slotCount)
  out.u16(vtable + 2, size)
  out.u32(at, at - vtable)
  let field = at + 4
  const children: [place: number, value: Value][] = []
  for (const slot of order) {
    const value = it[slot]!
    out.u16(vtable + 4 + 2 * slot, field - at)
    if (value.kind === 'u32' || value.kind === 'i32') out.u32(field, value.value >>> 0)
    else if (value.kind === 'u8' || value.kind === 'i8' || value.kind === 'bool')
      out.u8(field, value.value & 255)
    else children.push([field, value])
    field += width(value)
  }
  for (const [place, value] of children) out.u32(place, writeChild(out, value) - place)
  return at
}

function writeChild(out: Writer, value: Value): number {
  switch (value.kind) {
    case 'table':
      return writeTable(out, value.table)
    case 'text': {
      const bytes = new TextEncoder().encode(value.value)
      const at = out.reserve(4 + bytes.length + 1, 4)
      out.u32(at, bytes.length)
      out.raw(at + 4, bytes)
      return at
    }
    case 'raw': {
      // Bytes are weights, which TFLite wants on 16; other elements on their own size.
      const at = out.reserve(4 + value.bytes.length, value.size === 1 ? 16 : Math.max(4, value.size), 4)
      out.u32(at, value.count)
      out.raw(at + 4, value.bytes)
      return at
    }
    case 'tables': {
      const at = out.reserve(4 + 4 * value.items.length, 4)
      out.u32(at, value.items.length)
      value.items.forEach((item, i) => {
        const place = at + 4 + 4 * i
        out.u32(place, writeTable(out, item) - place)
      })
      return at
    }
    default:
      throw new Error(`a ${value.kind} is no child`)
  }
}

/** A finished buffer with `root` and a four-letter file identifier. */
export function flatbuffer(root: Table, identifier: string): Uint8Array<ArrayBuffer> {
  const out = new Writer()
  out.reserve(8, 4)
  out.raw(4, new TextEncoder().encode(identifier))
  out.u32(0, writeTable(out, root))
  return out.finished()
}
