/**
 * Values between a test and a page as bytes: what structured clone takes and tests need, with typed arrays raw.
 *
 * u32 length of the JSON · JSON · padding to 8 · the arrays' bytes, each aligned to 8. An object with the key `$` in
 * the JSON stands for something JSON has no word for.
 */

type Json = null | boolean | number | string | Json[] | { [key: string]: Json }

const arrays = {
  Int8Array,
  Uint8Array,
  Uint8ClampedArray,
  Int16Array,
  Uint16Array,
  Int32Array,
  Uint32Array,
  Float32Array,
  Float64Array,
  BigInt64Array,
  BigUint64Array,
}
type ArrayName = keyof typeof arrays

const align = (n: number) => (n + 7) & ~7

/** @throws TypeError for a value that can't travel (functions, symbols, class instances), naming where it is. */
export function encode(value: unknown): Uint8Array<ArrayBuffer> {
  const parts: { at: number; bytes: Uint8Array }[] = []
  let end = 0
  const add = (bytes: Uint8Array): number => {
    const at = end
    parts.push({ at, bytes })
    end = align(at + bytes.byteLength)
    return at
  }
  const walk = (v: unknown, path: string): Json => {
    switch (typeof v) {
      case 'string':
      case 'boolean':
        return v
      case 'number':
        return Number.isFinite(v) && !Object.is(v, -0)
          ? v
          : { $: 'number', v: Object.is(v, -0) ? '-0' : String(v) }
      case 'undefined':
        return { $: 'undefined' }
      case 'bigint':
        return { $: 'bigint', v: String(v) }
      case 'object':
        break
      default:
        throw new TypeError(`a ${typeof v} can't travel to or from the page: ${path}`)
    }
    if (v === null) return null
    if (Array.isArray(v)) return v.map((one, i) => walk(one, `${path}[${i}]`))
    if (ArrayBuffer.isView(v) && v.constructor.name in arrays) {
      const bytes = new Uint8Array(v.buffer, v.byteOffset, v.byteLength)
      return { $: v.constructor.name, at: add(bytes), length: (v as Uint8Array).length }
    }
    if (v instanceof ArrayBuffer)
      return { $: 'ArrayBuffer', at: add(new Uint8Array(v)), length: v.byteLength }
    if (v instanceof Map)
      return { $: 'Map', v: [...v].map(([k, one]) => [walk(k, `${path} key`), walk(one, `${path}.get`)]) }
    if (v instanceof Set) return { $: 'Set', v: [...v].map((one) => walk(one, `${path} member`)) }
    const proto: unknown = Object.getPrototypeOf(v)
    if (proto !== null && proto !== Object.prototype && (proto as object).constructor?.name !== 'Object') {
      throw new TypeError(
        `a ${(proto as object).constructor?.name} can't travel to or from the page: ${path}`,
      )
    }
    const entries = Object.entries(v).map(([k, one]): [string, Json] => [k, walk(one, `${path}.${k}`)])
    return '$' in v ? { $: 'object', v: entries } : Object.fromEntries(entries)
  }
  const json = new TextEncoder().encode(JSON.stringify(walk(value, 'value')))
  const start = align(4 + json.length)
  const out = new Uint8Array(start + end)
  new DataView(out.buffer).setUint32(0, json.length, true)
  out.set(json, 4)
  for (const { at, bytes } of parts) out.set(bytes, start + at)
  return out
}

/** The value `encode` was given; its arrays are copies of their own. */
export function decode(message: Uint8Array): unknown {
  const view = new DataView(message.buffer, message.byteOffset, message.byteLength)
  const length = view.getUint32(0, true)
  const start = align(4 + length)
  const raw = (at: number, bytes: number) => message.slice(start + at, start + at + bytes).buffer
  const walk = (v: Json): unknown => {
    if (v === null || typeof v !== 'object') return v
    if (Array.isArray(v)) return v.map(walk)
    if (!('$' in v)) return Object.fromEntries(Object.entries(v).map(([k, one]) => [k, walk(one)]))
    switch (v.$) {
      case 'undefined':
        return undefined
      case 'number':
        return Number(v.v)
      case 'bigint':
        return BigInt(v.v as string)
      case 'Map':
        return new Map((v.v as [Json, Json][]).map(([k, one]) => [walk(k), walk(one)]))
      case 'Set':
        return new Set((v.v as Json[]).map(walk))
      case 'object':
        return Object.fromEntries((v.v as [string, Json][]).map(([k, one]) => [k, walk(one)]))
      case 'ArrayBuffer':
        return raw(v.at as number, v.length as number)
      default: {
        const kind = arrays[v.$ as ArrayName]
        return new kind(raw(v.at as number, (v.length as number) * kind.BYTES_PER_ELEMENT))
      }
    }
  }
  return walk(JSON.parse(new TextDecoder().decode(message.subarray(4, 4 + length))) as Json)
}
