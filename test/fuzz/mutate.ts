/** Damage of every kind: to bytes, and to JSON that stays JSON. */
import type { Random } from '../harness/random.ts'

/** Flipped, cut, repeated, swapped, overwritten: 1 to 4 times. */
export function damageBytes(random: Random, bytes: Uint8Array): Buffer {
  let out = Buffer.from(bytes)
  for (let i = random.int(1, 4); i > 0; i--) {
    const at = random.int(0, Math.max(0, out.length - 1))
    const length = random.int(0, Math.min(64, out.length - at))
    switch (random.int(0, 6)) {
      case 0:
        if (out.length) out[at]! ^= 1 << random.int(0, 7)
        break
      case 1:
        if (out.length) out[at] = random.pick([0, 1, 0x7f, 0x80, 0xff, 0x0a, 0x22, 0x5b, 0x7b])
        break
      case 2:
        out = out.subarray(0, at)
        break
      case 3:
        out = Buffer.concat([out.subarray(0, at), out.subarray(at + length)])
        break
      case 4:
        out = Buffer.concat([out.subarray(0, at + length), out.subarray(at, at + length), out.subarray(at + length)])
        break
      case 5:
        out = Buffer.concat([out.subarray(0, at), random.fill(Buffer.alloc(length)), out.subarray(at)])
        break
      case 6:
        if (out.length >= at + 4) out.writeUInt32LE(random.pick([0, 1, 0x7fffffff, 0x80000000, 0xffffffff, random.u32()]), at)
    }
  }
  return out
} // prettier-ignore

const WORDS = [
  '__proto__',
  'constructor',
  'prototype',
  'toString',
  'length',
  'then',
  'toJSON',
  'valueOf',
  'model',
  'type',
  '',
  '0',
]

/** A value of the wrong kind, size or sign. */
export function strangeValue(random: Random): unknown {
  switch (random.int(0, 12)) {
    case 0:
      return random.pick([null, true, false, [], {}, '', 0, -0, -1])
    case 1:
      return random.pick([1e308, -1e308, 2 ** 53, -(2 ** 53), 2 ** 32, 2 ** 31, 0.1, 1e-320, 65_537])
    case 2:
      return random.pick(['\ud800', '\udfff\ud800', '\u0000', '\u202e', 'é'.repeat(300), '\n\r\n', '"\\', '../../etc/passwd', '%00', '💥'])
    case 3:
      return 'x'.repeat(random.pick([64, 65, 200, 1_000, 100_000]))
    case 4:
      return Array.from({ length: random.pick([1, 2, 65, 300]) }, () => random.int(-2, 70_000))
    case 5: {
      let deep: unknown = random.int(0, 1)
      for (let i = random.pick([2, 20, 2_000]); i > 0; i--) deep = random.int(0, 1) ? [deep] : { a: deep }
      return deep
    }
    case 6:
      return Object.fromEntries(Array.from({ length: random.pick([1, 3, 100]) }, (_, i) => [random.pick(WORDS) + i, i]))
    case 7:
      return String(random.u32())
    case 8:
      return random.u32()
    case 9:
      return [null]
    case 10:
      return random.pick(WORDS)
    case 11:
      return Array.from({ length: 3 }, () => strangeValue(random))
    default:
      return random.float() * 10 ** random.int(-5, 12)
  }
} // prettier-ignore

/** A copy with 1 to 3 places changed: replaced, removed, added, renamed. */
export function damageJson(random: Random, value: unknown): unknown {
  let out = structuredClone(value)
  for (let i = random.pick([1, 1, 2, 3]); i > 0; i--) out = once(random, out)
  return out
}

function once(random: Random, value: unknown): unknown {
  if (typeof value !== 'object' || value === null || random.float() < 0.1) return strangeValue(random)
  if (Array.isArray(value)) {
    const at = random.int(0, value.length)
    const copy = [...(value as unknown[])]
    if (at < copy.length && random.float() < 0.7) copy[at] = once(random, copy[at])
    else copy.splice(at, random.int(0, 1), strangeValue(random))
    return copy
  }
  const entries = Object.entries(value)
  const at = random.int(0, entries.length)
  const entry = entries[at]
  if (!entry || random.float() < 0.15) entries.push([random.pick(WORDS), strangeValue(random)])
  else if (random.float() < 0.18) entries.splice(at, 1)
  else if (random.float() < 0.1) entries[at] = [random.pick(WORDS), entry[1]]
  else entries[at] = [entry[0], once(random, entry[1])]
  // fromEntries makes `__proto__` a key like any other, as JSON.parse does.
  return Object.fromEntries(entries)
}
