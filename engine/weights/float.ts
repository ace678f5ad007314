/** The three float formats weights come in, decoded to float32. Every f16 and bf16 value is exactly a float32. */

export type FloatDtype = 'F32' | 'F16' | 'BF16'

export const floatBytes: Record<FloatDtype, 2 | 4> = { F32: 4, F16: 2, BF16: 2 }

/** One IEEE 754 binary16, given by its bits, as a number. */
export function f16ToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1
  const exponent = (bits >> 10) & 31
  const fraction = bits & 1023
  if (exponent === 0) return sign * fraction * 2 ** -24
  if (exponent === 31) return fraction ? NaN : sign * Infinity
  return sign * (1024 + fraction) * 2 ** (exponent - 25)
}

// 65,536 entries (256 kB), built on first use: a look-up is several times faster than the arithmetic above.
let f16Table: Float32Array | null = null

/**
 * Decode `out.length` little-endian floats from the start of `bytes` into `out`.
 * Returns the index of the first value that is NaN or infinite, or -1.
 */
export function decodeFloats(dtype: FloatDtype, bytes: Uint8Array, out: Float32Array): number {
  const n = out.length
  const size = floatBytes[dtype]
  if (bytes.length < n * size)
    throw new RangeError(`decodeFloats: ${bytes.length} bytes hold no ${n} ${dtype} values`)
  // Typed-array views need alignment, which a header of any length does not give: copy when it is off.
  const source = bytes.byteOffset % size === 0 ? bytes : bytes.slice(0, n * size)
  // Whether any exponent is all ones, found on the way: adding 1 to such an exponent carries into bit 15 of `carry`.
  let carry = 0
  if (dtype === 'F32') {
    const word = new Uint32Array(source.buffer, source.byteOffset, n)
    for (let i = 0; i < n; i++) carry |= ((word[i]! >>> 16) & 0x7f80) + 0x80
    out.set(new Float32Array(source.buffer, source.byteOffset, n))
  } else if (dtype === 'F16') {
    const table = (f16Table ??= Float32Array.from({ length: 65536 }, (_, bits) => f16ToNumber(bits)))
    const half = new Uint16Array(source.buffer, source.byteOffset, n)
    for (let i = 0; i < n; i++) {
      const bits = half[i]!
      carry |= (bits & 0x7c00) + 0x400
      out[i] = table[bits]!
    }
  } else {
    const half = new Uint16Array(source.buffer, source.byteOffset, n)
    const word = new Uint32Array(out.buffer, out.byteOffset, n)
    for (let i = 0; i < n; i++) {
      const bits = half[i]!
      carry |= (bits & 0x7f80) + 0x80
      word[i] = bits << 16
    }
  }
  return carry & 0x8000 ? out.findIndex((v) => !Number.isFinite(v)) : -1
}
