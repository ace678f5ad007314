/** A binary heap of things by time (or any number), earliest first; equal keys leave in the order they came. */
interface Node<T> {
  key: number
  order: number
  value: T
}

export class Heap<T> {
  #nodes: Node<T>[] = []
  #order = 0

  get size(): number {
    return this.#nodes.length
  }

  /** Infinity when empty. */
  get key(): number {
    return this.#nodes.length ? this.#nodes[0]!.key : Infinity
  }

  get top(): T | undefined {
    return this.#nodes[0]?.value
  }

  push(key: number, value: T): void {
    const nodes = this.#nodes
    const node = { key, order: this.#order++, value }
    let at = nodes.length
    nodes.push(node)
    while (at > 0) {
      const parent = (at - 1) >> 1
      const above = nodes[parent]!
      if (!isBefore(node, above)) break
      nodes[at] = above
      at = parent
    }
    nodes[at] = node
  }

  pop(): T | undefined {
    const nodes = this.#nodes
    const first = nodes[0]
    const last = nodes.pop()
    if (first === undefined || last === undefined || first === last) return first?.value
    const length = nodes.length
    let at = 0
    for (;;) {
      let child = 2 * at + 1
      if (child >= length) break
      if (child + 1 < length && isBefore(nodes[child + 1]!, nodes[child]!)) child++
      if (!isBefore(nodes[child]!, last)) break
      nodes[at] = nodes[child]!
      at = child
    }
    nodes[at] = last
    return first.value
  }
}

function isBefore<T>(a: Node<T>, b: Node<T>): boolean {
  return a.key < b.key || (a.key === b.key && a.order < b.order)
}
