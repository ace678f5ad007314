/**
 * A map from ids to what comes and goes by the ten thousand: what is open now. In the order it was set, like Map.
 *
 * Map makes itself a new table every so often, and each old one points to the next: once one of them is old enough to be
 * collected seldom, what was in the later ones is kept in memory with it, long after it was deleted. This one goes on in the
 * same arrays (docs/decisions/0011).
 */
export class Table<K extends string, V> {
  /** Entries side by side, in the order they were set; a deleted one leaves a gap until the next sweep. */
  #keys = Array<K | undefined>(ROOM_MIN).fill(undefined)
  #values = Array<V | undefined>(ROOM_MIN).fill(undefined)
  #hashes = new Int32Array(ROOM_MIN)
  /** Open addressing with linear probing: the entry's place + 1, or 0. Twice as many slots as there is room for entries. */
  #slots = new Int32Array(2 * ROOM_MIN)
  /** Entries and gaps. */
  #length = 0
  #size = 0

  get size(): number {
    return this.#size
  }

  has(key: string): boolean {
    return this.#find(key, hashOf(key)) >= 0
  }

  get(key: string): V | undefined {
    const slot = this.#find(key, hashOf(key))
    return slot < 0 ? undefined : this.#values[this.#slots[slot]! - 1]
  }

  set(key: K, value: V): void {
    const hash = hashOf(key)
    const slot = this.#find(key, hash)
    if (slot >= 0) {
      this.#values[this.#slots[slot]! - 1] = value
      return
    }
    if (this.#length === this.#hashes.length) this.#sweep()
    const place = this.#length++
    this.#keys[place] = key
    this.#values[place] = value
    this.#hashes[place] = hash
    this.#link(place)
    this.#size++
  }

  delete(key: string): boolean {
    const slot = this.#find(key, hashOf(key))
    if (slot < 0) return false
    const place = this.#slots[slot]! - 1
    this.#keys[place] = undefined
    this.#values[place] = undefined
    this.#unlink(slot)
    this.#size--
    return true
  }

  clear(): void {
    this.#keys.fill(undefined)
    this.#values.fill(undefined)
    this.#slots.fill(0)
    this.#length = this.#size = 0
  }

  /** Entries may be deleted meanwhile, and are then left out; none may be set. */
  *values(): Generator<V> {
    for (let place = 0; place < this.#length; place++) {
      const value = this.#values[place]
      if (value !== undefined) yield value
    }
  }

  /** The slot that has a key, or -1. */
  #find(key: string, hash: number): number {
    const slots = this.#slots
    const mask = slots.length - 1
    for (let slot = hash & mask; ; slot = (slot + 1) & mask) {
      const place = slots[slot]! - 1
      if (place < 0) return -1
      if (this.#hashes[place] === hash && this.#keys[place] === key) return slot
    }
  }

  #link(place: number): void {
    const slots = this.#slots
    const mask = slots.length - 1
    let slot = this.#hashes[place]! & mask
    while (slots[slot] !== 0) slot = (slot + 1) & mask
    slots[slot] = place + 1
  }

  /** Empties a slot, and moves up those behind it that would no longer be found (Knuth, TAOCP 3, 6.4, algorithm R). */
  #unlink(slot: number): void {
    const slots = this.#slots
    const mask = slots.length - 1
    let gap = slot
    for (let next = (gap + 1) & mask; slots[next] !== 0; next = (next + 1) & mask) {
      const home = this.#hashes[slots[next]! - 1]! & mask
      if (((next - home) & mask) < ((next - gap) & mask)) continue
      slots[gap] = slots[next]!
      gap = next
    }
    slots[gap] = 0
  }

  /** Closes the gaps, in the same arrays; makes more room where less than half were gaps. */
  #sweep(): void {
    const keys = this.#keys
    const values = this.#values
    const hashes = this.#hashes
    let to = 0
    for (let from = 0; from < this.#length; from++) {
      if (values[from] === undefined) continue
      keys[to] = keys[from]
      values[to] = values[from]
      hashes[to++] = hashes[from]!
    }
    // Not by their length, which would have them allocated anew.
    keys.fill(undefined, to)
    values.fill(undefined, to)
    this.#length = to
    if (2 * to > hashes.length) this.#grow()
    this.#slots.fill(0)
    for (let place = 0; place < to; place++) this.#link(place)
  }

  #grow(): void {
    const more = Array<undefined>(this.#keys.length).fill(undefined)
    this.#keys = this.#keys.concat(more)
    this.#values = this.#values.concat(more)
    const hashes = new Int32Array(2 * this.#hashes.length)
    hashes.set(this.#hashes)
    this.#hashes = hashes
    this.#slots = new Int32Array(2 * hashes.length)
  }
}

const ROOM_MIN = 16

/** FNV-1a over UTF-16 code units, 32 bits. Keys are the coordinator's own: nobody can choose them to collide. */
function hashOf(key: string): number {
  let h = 0x811c9dc5
  for (let i = 0; i < key.length; i++) h = Math.imul(h ^ key.charCodeAt(i), 0x01000193)
  return h ^ (h >>> 15)
}
