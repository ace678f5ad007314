/** Writes GGUF version 3: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md */

import { concat } from './protobuf.ts'

export type GgufValue =
  | { type: 'u32' | 'i32' | 'f32' | 'bool'; value: number }
  | { type: 'text'; value: string }
  | { type: 'texts'; value: readonly string[] }
  | { type: 'f32s'; value: Float32Array }
  | { type: 'i32s'; value: Int32Array }

const TYPE = { u32: 4, i32: 5, f32: 6, bool: 7, text: 8 }
const ARRAY = 9

export interface GgufTensor {
  name: string
  /** Outermost first, as everywhere else; GGUF writes them the other way round. */
  shape: readonly number[]
  format: 'f32' | 'q8_0'
  bytes: Uint8Array
}

const FORMAT = { f32: 0, q8_0: 8 }
const ALIGNMENT = 32

function packed(size: number, fill: (view: DataView) => void): Uint8Array {
  const bytes = new Uint8Array(size)
  fill(new DataView(bytes.buffer))
  return bytes
}
const u32 = (value: number) => packed(4, (v) => v.setUint32(0, value, true))
const u64 = (value: number) => packed(8, (v) => v.setBigUint64(0, BigInt(value), true))
const text = (value: string): Uint8Array => {
  const bytes = new TextEncoder().encode(value)
  return concat([u64(bytes.length), bytes])
}
const raw = (data: Float32Array | Int32Array): Uint8Array =>
  new Uint8Array(data.buffer, data.byteOffset, data.byteLength)

function encoded(it: GgufValue): Uint8Array {
  switch (it.type) {
    case 'u32':
    case 'i32':
      return concat([u32(TYPE[it.type]), u32(it.value)])
    case 'f32':
      return concat([u32(TYPE.f32), packed(4, (v) => v.setFloat32(0, it.value, true))])
    case 'bool':
      return concat([u32(TYPE.bool), Uint8Array.of(it.value)])
    case 'text':
      return concat([u32(TYPE.text), text(it.value)])
    case 'texts':
      return concat([u32(ARRAY), u32(TYPE.text), u64(it.value.length), ...it.value.map(text)])
    case 'f32s':
      return concat([u32(ARRAY), u32(TYPE.f32), u64(it.value.length), raw(it.value)])
    case 'i32s':
      return concat([u32(ARRAY), u32(TYPE.i32), u64(it.value.length), raw(it.value)])
  }
}

const padding = (length: number): Uint8Array => new Uint8Array((ALIGNMENT - (length % ALIGNMENT)) % ALIGNMENT)

export function gguf(
  metadata: Record<string, GgufValue>,
  tensors: readonly GgufTensor[],
): Uint8Array<ArrayBuffer> {
  const head: Uint8Array[] = [
    new TextEncoder().encode('GGUF'),
    u32(3),
    u64(tensors.length),
    u64(Object.keys(metadata).length),
  ]
  for (const [key, value] of Object.entries(metadata)) head.push(text(key), encoded(value))
  const body: Uint8Array[] = []
  let offset = 0
  for (const { name, shape, format, bytes } of tensors) {
    head.push(text(name), u32(shape.length), ...shape.toReversed().map(u64), u32(FORMAT[format]), u64(offset))
    const pad = padding(bytes.length)
    body.push(bytes, pad)
    offset += bytes.length + pad.length
  }
  const start = concat(head)
  return concat([start, padding(start.length), ...body])
}

/** Blocks of 32 values: an f16 scale, then 32 int8 (ggml's quantize_row_q8_0). The last dimension is a multiple of 32. */
export function q8(values: Float32Array): Uint8Array {
  const blocks = values.length / 32
  if (!Number.isInteger(blocks))
    throw new RangeError(`${values.length} values do not make whole blocks of 32`)
  const bytes = new Uint8Array(34 * blocks)
  const view = new DataView(bytes.buffer)
  for (let b = 0; b < blocks; b++) {
    let largest = 0
    for (let i = 0; i < 32; i++) largest = Math.max(largest, Math.abs(values[32 * b + i]!))
    const scale = largest / 127
    view.setUint16(34 * b, f16(scale), true)
    for (let i = 0; i < 32; i++)
      view.setInt8(34 * b + 2 + i, scale === 0 ? 0 : Math.round(values[32 * b + i]! / scale))
  }
  return bytes
}

/** A positive float to the bits of the nearest f16; enough for scales. */
function f16(value: number): number {
  if (value < 2 ** -24) return 0
  const exponent = Math.max(-14, Math.floor(Math.log2(value)))
  const mantissa = Math.round((value / 2 ** exponent) * 1024)
  // A mantissa below 1024 is a subnormal; one of 2048 carries into the exponent by itself.
  return mantissa < 1024 ? mantissa : ((exponent + 15) << 10) + (mantissa - 1024)
}
