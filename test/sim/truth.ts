/** What the simulated models compute: a hash of the input instead of a network, so that every answer can be judged. */

const mix = (h: number, x: number): number => {
  h = Math.imul(h ^ x, 0x9e3779b1)
  return h ^ (h >>> 15)
}

export const VOCAB = 1000
export const END = 7
export const WIDTH = 2

/** A sequence's state: everything the next token depends on. */
export function read(ids: ArrayLike<number>, seed: string, stream: number): number {
  let h = mix(stream + 1, Number(BigInt(seed) & 0xffffffffn))
  for (let i = 0; i < ids.length; i++) h = mix(h, ids[i]!)
  return h
}

/** The next token, and the state after it. About one in 50 is the end. */
export function draw(h: number): { id: number; next: number } {
  const r = mix(h, 0x5bd1e995) >>> 0
  const id = r % 50 === 0 ? END : 10 + (r % (VOCAB - 10))
  return { id, next: mix(h, id) }
}

/** The whole answer to a prompt. */
export function generate(
  prompt: ArrayLike<number>,
  seed: string,
  stream: number,
  maxTokens: number,
  context: number,
): number[] {
  const tokens: number[] = []
  let h = read(prompt, seed, stream)
  while (tokens.length < maxTokens && prompt.length + tokens.length < context) {
    const { id, next } = draw(h)
    tokens.push(id)
    h = next
    if (id === END) break
  }
  return tokens
}

/** One row's result, i32[WIDTH]. */
export function encode(row: ArrayLike<number>): [number, number] {
  const h = read(row, '0', 0)
  return [h | 0, mix(h, 1) | 0]
}
