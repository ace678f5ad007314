/**
 * A set that can be sampled: add, remove and the i-th member in constant time, without hashing. Two numbers lie beside each
 * member, so that comparing 32 random ones out of 20,000 reads two short arrays instead of 32 scattered objects.
 */
export interface Member {
  /** Its place in each pool, by the pool's index; undefined where it is not in. */
  readonly places: (number | undefined)[]
}

export class Pool<T extends Member> {
  readonly #index: number
  readonly #items: T[] = []
  /** Of each member, what add() was last told. */
  readonly delays: number[] = []
  readonly rates: number[] = []

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
    this.delays[place] = delay
    this.rates[place] = rate
  }

  remove(item: T): void {
    const place = item.places[this.#index]
    if (place === undefined) return
    item.places[this.#index] = undefined
    const last = this.#items.pop()!
    const delay = this.delays.pop()!
    const rate = this.rates.pop()!
    if (last === item) return
    this.#items[place] = last
    this.delays[place] = delay
    this.rates[place] = rate
    last.places[this.#index] = place
  }

  [Symbol.iterator](): Iterator<T> {
    return this.#items[Symbol.iterator]()
  }
}
