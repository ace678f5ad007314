/**
 * A set that can be sampled: add, remove and the i-th member in constant time, without hashing. Two numbers lie beside each
 * member, so that comparing 32 random ones out of 20,000 reads one short array instead of 32 scattered objects.
 */
export interface Member {
  /** Its place in each pool, by the pool's index; undefined where it is not in. */
  readonly places: (number | undefined)[]
}

export class Pool<T extends Member> {
  readonly #index: number
  readonly #items: T[] = []
  /** Of each member, the delay and the rate that add() was last told. */
  readonly numbers: number[] = []

  /** @param index small, and no other pool's of the same members */
  constructor(index: number) {
    this.#index = index
  }

  get size(): number {
    return this.#items.length
  }

  at(index: number): T {
    return this.#items[index]!
  }

  /** Adds, or renews the numbers of a member. */
  add(item: T, delay = 0, rate = 0): void {
    let place = item.places[this.#index]
    if (place === undefined) {
      item.places[this.#index] = place = this.#items.length
      this.#items.push(item)
    }
    this.numbers[2 * place] = delay
    this.numbers[2 * place + 1] = rate
  }

  remove(item: T): void {
    const place = item.places[this.#index]
    if (place === undefined) return
    item.places[this.#index] = undefined
    const last = this.#items.pop()!
    const rate = this.numbers.pop()!
    const delay = this.numbers.pop()!
    if (last === item) return
    this.#items[place] = last
    this.numbers[2 * place] = delay
    this.numbers[2 * place + 1] = rate
    last.places[this.#index] = place
  }

  [Symbol.iterator](): Iterator<T> {
    return this.#items[Symbol.iterator]()
  }
}
