/** sfc32 (C. Doty-Humphrey, PractRand): the pure machines' only chance, seeded, so that a history can be had again. */
export class Random {
  #a: number
  #b: number
  #c: number
  #counter = 1

  /** @param seed unsigned 32 bit */
  constructor(seed: number) {
    this.#a = 0x2545f491
    this.#b = seed >>> 0
    this.#c = 0x9e3779b9
    for (let i = 0; i < 15; i++) this.u32()
  }

  u32(): number {
    const t = (this.#a + this.#b + this.#counter) | 0
    this.#counter = (this.#counter + 1) | 0
    this.#a = this.#b ^ (this.#b >>> 9)
    this.#b = (this.#c + (this.#c << 3)) | 0
    this.#c = (((this.#c << 21) | (this.#c >>> 11)) + t) | 0
    return t >>> 0
  }

  /** 0 … n − 1, for n ≤ 2²¹ even to 1 part in 2³². */
  below(n: number): number {
    return Math.floor((this.u32() / 4294967296) * n)
  }
}
