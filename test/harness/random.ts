/** Random inputs that can be had again: every failure names the SEED that repeats it. */
import { inject, test } from 'vitest'

/** sfc32 (C. Doty-Humphrey, PractRand): 128 bits of state, passes PractRand and BigCrush. */
export class Random {
  readonly seed: number
  #a: number
  #b: number
  #c: number
  #counter = 1

  /** @param seed unsigned 32 bit  @param stream another sequence under the same seed, e.g. a test's name */
  constructor(seed: number, stream = '') {
    this.seed = seed
    this.#a = hash(stream)
    this.#b = seed >>> 0
    this.#c = 0x9e3779b9
    for (let i = 0; i < 15; i++) this.u32()
  }

  /** 0 … 2³² − 1. */
  u32(): number {
    const t = (this.#a + this.#b + this.#counter) | 0
    this.#counter = (this.#counter + 1) | 0
    this.#a = this.#b ^ (this.#b >>> 9)
    this.#b = (this.#c + (this.#c << 3)) | 0
    this.#c = (((this.#c << 21) | (this.#c >>> 11)) + t) | 0
    return t >>> 0
  }

  /** [0, 1), 53 bits. */
  float(): number {
    return ((this.u32() >>> 5) * 2 ** 26 + (this.u32() >>> 6)) / 2 ** 53
  }

  /** A whole number from `low` to `high`, both included. */
  int(low: number, high: number): number {
    return low + Math.floor(this.float() * (high - low + 1))
  }

  /** Standard normal (Box–Muller). */
  normal(): number {
    return Math.sqrt(-2 * Math.log(1 - this.float())) * Math.cos(2 * Math.PI * this.float())
  }

  pick<T>(from: readonly T[]): T {
    if (from.length === 0) throw new RangeError('nothing to pick from')
    return from[this.int(0, from.length - 1)]!
  }

  /** Fills an integer array with whole numbers from `low` to `high` (default: all its type can hold). */
  fill<T extends Int8Array | Uint8Array | Int16Array | Uint16Array | Int32Array | Uint32Array>(
    array: T,
    low?: number,
    high?: number,
  ): T {
    const bits = array.BYTES_PER_ELEMENT * 8
    const signed = array instanceof Int8Array || array instanceof Int16Array || array instanceof Int32Array
    const from = low ?? (signed ? -(2 ** (bits - 1)) : 0)
    const to = high ?? (signed ? 2 ** (bits - 1) - 1 : 2 ** bits - 1)
    for (let i = 0; i < array.length; i++) array[i] = this.int(from, to)
    return array
  }

  int8(length: number, low?: number, high?: number): Int8Array<ArrayBuffer> {
    return this.fill(new Int8Array(length), low, high)
  }

  int32(length: number, low?: number, high?: number): Int32Array<ArrayBuffer> {
    return this.fill(new Int32Array(length), low, high)
  }

  bytes(length: number): Uint8Array<ArrayBuffer> {
    return this.fill(new Uint8Array(length))
  }

  /** Normal float32 values. */
  normals(length: number, scale = 1): Float32Array<ArrayBuffer> {
    return Float32Array.from({ length }, () => scale * this.normal())
  }
}

/**
 * A test that must hold for whatever it draws. Each has its own stream of the run's seed, so it draws the same
 * alone as in company.
 */
export function law(name: string, body: (random: Random) => void | Promise<void>): void {
  test(name, async () => {
    const seed = inject('seed')
    try {
      await body(new Random(seed, name))
    } catch (error) {
      if (error instanceof Error) error.message = `[SEED=${seed} repeats this] ${error.message}`
      throw error
    }
  })
}

/** FNV-1a, 32 bit. */
function hash(text: string): number {
  let h = 0x811c9dc5
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193)
  return h
}
