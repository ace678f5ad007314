/**
 * A binary heap of things by time (or any number), earliest first; equal keys leave in the order they came. Three arrays side by
 * side: no object per entry, and comparing reads numbers only.
 */
export class Heap<T> {
  readonly #keys: number[] = []
  readonly #orders: number[] = []
  readonly #values: T[] = []
  #order = 0

  get size(): number {
    return this.#keys.length
  }

  /** Infinity when empty. */
  get key(): number {
    return this.#keys.length ? this.#keys[0]! : Infinity
  }

  get top(): T | undefined {
    return this.#values[0]
  }

  push(key: number, value: T): void {
    const keys = this.#keys
    const orders = this.#orders
    const values = this.#values
    const order = this.#order++
    let at = keys.length
    keys.push(key)
    orders.push(order)
    values.push(value)
    while (at > 0) {
      const parent = (at - 1) >> 1
      // What came later never goes before its equals.
      if (keys[parent]! <= key) break
      keys[at] = keys[parent]!
      orders[at] = orders[parent]!
      values[at] = values[parent]!
      at = parent
    }
    keys[at] = key
    orders[at] = order
    values[at] = value
  }

  pop(): T | undefined {
    const keys = this.#keys
    const orders = this.#orders
    const values = this.#values
    const first = values[0]
    const length = keys.length - 1
    if (length < 0) return undefined
    const key = keys.pop()!
    const order = orders.pop()!
    const value = values.pop()!
    if (length === 0) return first
    let at = 0
    for (;;) {
      let child = 2 * at + 1
      if (child >= length) break
      const other = child + 1
      if (other < length && isBefore(keys[other]!, orders[other]!, keys[child]!, orders[child]!))
        child = other
      if (!isBefore(keys[child]!, orders[child]!, key, order)) break
      keys[at] = keys[child]!
      orders[at] = orders[child]!
      values[at] = values[child]!
      at = child
    }
    keys[at] = key
    orders[at] = order
    values[at] = value
    return first
  }
}

const isBefore = (key: number, order: number, otherKey: number, otherOrder: number): boolean =>
  key < otherKey || (key === otherKey && order < otherOrder)
