/**
 * Which products this engine computes with.
 *
 * The relaxed dot does 16 products an instruction where `i32x4.dot_i16x8_s` does 8, but what it makes of a second operand
 * beyond 0 … 127 is left to the engine. The relaxed SIMD proposal has every engine choose once and keep to it, so it can be
 * asked: if extremes and random values come out as u8·s8 (x86 with VNNI) or s8·s8 (ARM, VNNI-INT8) sums, cold and after
 * the optimising compiler had its turn, it is used that way. Where pairs saturate (older x86) it is not used at all.
 */
import { wasmBytes } from './source.ts'

/** How a matrix is stored: in pairs of k, in fours of k, or in fours with 128 added to every weight. */
export const PAIRS = 1
export const FOURS = 2
export const FOURS_OFFSET = 3
export type Packing = typeof PAIRS | typeof FOURS | typeof FOURS_OFFSET

export type Products = 'dot_i16x8' | 'relaxed_dot_s8' | 'relaxed_dot_u8'

export interface Variant {
  products: Products
  packing: Packing
  module: WebAssembly.Module
}

interface Kernels {
  probe(x: number, w: number, out: number, count: number): void
}

const vectors = 1024
const at = { x: 1024, w: 1024 + 16 * vectors, out: 1024 + 32 * vectors }
/** Enough for V8 to have swapped in optimised code. */
const warmMs = 8

const found = new Map<string, Promise<Variant>>()

/**
 * The fastest exact variant, asked once per process.
 * @param wanted only `dot_i16x8`, which is exact everywhere; or whatever is best
 */
export function chooseVariant(shared: boolean, wanted: 'best' | 'dot_i16x8'): Promise<Variant> {
  const key = `${shared} ${wanted}`
  let variant = found.get(key)
  if (!variant) {
    variant = choose(shared, wanted)
    found.set(key, variant)
    variant.catch(() => found.delete(key))
  }
  return variant
}

async function choose(shared: boolean, wanted: 'best' | 'dot_i16x8'): Promise<Variant> {
  const suffix = shared ? '-threads' : ''
  if (wanted === 'best') {
    const bytes = await wasmBytes(`kernels-relaxed${suffix}`)
    if (WebAssembly.validate(bytes)) {
      const module = await WebAssembly.compile(bytes)
      const products = await ask(module, shared)
      if (products) return { products, packing: products === 'relaxed_dot_u8' ? FOURS_OFFSET : FOURS, module }
    }
  }
  const module = await WebAssembly.compile(await wasmBytes(`kernels${suffix}`))
  return { products: 'dot_i16x8', packing: PAIRS, module }
}

/** The reading of the second operand that all results agree with, or none. */
async function ask(module: WebAssembly.Module, shared: boolean): Promise<Products | undefined> {
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 1, shared })
  const instance = await WebAssembly.instantiate(module, { env: { memory } })
  const { probe } = instance.exports as unknown as Kernels
  const x = new Int8Array(memory.buffer, at.x, 16 * vectors)
  const w = new Uint8Array(memory.buffer, at.w, 16 * vectors)
  const out = new Int32Array(memory.buffer, at.out, 4 * vectors)
  fill(x, w)
  const signed = new Int8Array(memory.buffer, at.w, 16 * vectors)
  const expected = { relaxed_dot_u8: sums(x, w), relaxed_dot_s8: sums(x, signed) }
  const start = 0x12345678
  const agrees = (products: keyof typeof expected): boolean => {
    out.fill(start)
    probe(at.x, at.w, at.out, vectors)
    return expected[products].every((sum, i) => out[i] === start + sum)
  }
  const answer = (['relaxed_dot_u8', 'relaxed_dot_s8'] as const).find(agrees)
  if (!answer) return undefined
  const until = performance.now() + warmMs
  while (performance.now() < until) for (let i = 0; i < 50; i++) probe(at.x, at.w, at.out, vectors)
  return agrees(answer) ? answer : undefined
}

/** Every pairing of extremes within four products, then anything. */
function fill(x: Int8Array, w: Uint8Array): void {
  const xs = [-127, 127, -1, 0]
  const ws = [255, 1, 128, 127]
  let state = 1
  const random = (): number => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) >>> 16
  for (let i = 0; i < x.length; i++) {
    const four = i >> 2
    const extreme = four < 2048
    x[i] = extreme ? xs[(four >> (2 * (i & 3))) & 3]! : (random() % 255) - 127
    w[i] = extreme ? ws[(four >> (i & 3)) & (four >> 9)]! : 1 + (random() % 255)
  }
}

function sums(x: Int8Array, w: Int8Array | Uint8Array): Int32Array {
  return Int32Array.from({ length: x.length / 4 }, (_, i) => {
    let sum = 0
    for (let j = 4 * i; j < 4 * i + 4; j++) sum += x[j]! * w[j]!
    return sum
  })
}
