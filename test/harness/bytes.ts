/** Equality of typed arrays, quick for millions of elements and clear about the first that differs. */

type Numbers = Exclude<ArrayBufferView, DataView> & ArrayLike<number | bigint>

/**
 * Throws unless both hold the same type and the same bytes (so −0 is not 0, and a NaN equals itself).
 * @param what the result under test, for the message: kernel, shape, backend
 */
export function sameBytes(actual: Numbers, expected: Numbers, what: string): void {
  const kind = (array: Numbers) => `${array.constructor.name}(${array.length})`
  if (kind(actual) !== kind(expected)) {
    throw new Error(`${what}: got ${kind(actual)}, expected ${kind(expected)}`)
  }
  const a = Buffer.from(actual.buffer, actual.byteOffset, actual.byteLength)
  const b = Buffer.from(expected.buffer, expected.byteOffset, expected.byteLength)
  if (a.equals(b)) return
  const width = actual.byteLength / actual.length
  const wrong: number[] = []
  for (let i = 0; i < actual.length; i++) {
    if (!a.subarray(i * width, i * width + width).equals(b.subarray(i * width, i * width + width)))
      wrong.push(i)
  }
  const shown = wrong.slice(0, 4).map((i) => `[${i}] is ${actual[i]}, expected ${expected[i]}`)
  throw new Error(`${what}: ${wrong.length} of ${actual.length} differ: ${shown.join('; ')}`)
}
