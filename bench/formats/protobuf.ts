/**
 * Just enough protobuf to write an ONNX file: varints, length-delimited fields, packed floats and ints.
 * https://protobuf.dev/programming-guides/encoding/
 */

export type Part = Uint8Array

const utf8 = new TextEncoder()

export function concat(parts: readonly Part[]): Uint8Array<ArrayBuffer> {
  let length = 0
  for (const part of parts) length += part.length
  const all = new Uint8Array(length)
  let at = 0
  for (const part of parts) {
    all.set(part, at)
    at += part.length
  }
  return all
}

/** A base-128 varint; negative numbers are written as 64-bit two's complement, ten bytes, as `int64` asks. */
export function varint(value: number | bigint): Part {
  let rest = BigInt.asUintN(64, BigInt(value))
  const bytes: number[] = []
  do {
    const low = Number(rest & 0x7fn)
    rest >>= 7n
    bytes.push(rest === 0n ? low : low | 0x80)
  } while (rest !== 0n)
  return Uint8Array.from(bytes)
}

export const intField = (field: number, value: number | bigint): Part =>
  concat([varint(field << 3), varint(value)])

export function floatField(field: number, value: number): Part {
  const bytes = new Uint8Array(5)
  bytes[0] = (field << 3) | 5
  new DataView(bytes.buffer).setFloat32(1, value, true)
  return bytes
}

export function bytesField(field: number, value: Part): Part {
  return concat([varint((field << 3) | 2), varint(value.length), value])
}

export const textField = (field: number, value: string): Part => bytesField(field, utf8.encode(value))

export const messageField = (field: number, parts: readonly Part[]): Part => bytesField(field, concat(parts))
