/**
 * Merkle trees as in RFC 6962 §2.1: a leaf is hashed after a 0 byte, a node after a 1 byte, so neither passes for the other.
 * SHA-256 is given by the caller: what it comes from differs between a tab, a server and the simulator.
 */
export type Hash = (bytes: Uint8Array) => Uint8Array

const LEAF = 0
const NODE = 1

function tagged(tag: number, ...parts: Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(1 + parts.reduce((n, part) => n + part.length, 0))
  whole[0] = tag
  let at = 1
  for (const part of parts) {
    whole.set(part, at)
    at += part.length
  }
  return whole
}

/** @param leaves 32 bytes each, at least one  @returns 32 bytes */
export function merkleRoot(leaves: readonly Uint8Array[], hash: Hash): Uint8Array {
  if (leaves.length === 0) throw new RangeError('a tree has at least one leaf')
  return rootOf(leaves, 0, leaves.length, hash)
}

function rootOf(leaves: readonly Uint8Array[], from: number, to: number, hash: Hash): Uint8Array {
  if (to - from === 1) return hash(tagged(LEAF, leaves[from]!))
  const middle = from + split(to - from)
  return hash(tagged(NODE, rootOf(leaves, from, middle, hash), rootOf(leaves, middle, to, hash)))
}

/** The largest power of two below n. */
const split = (n: number): number => 2 ** (31 - Math.clz32(n - 1))

/** What shows that a leaf lies under a root: the neighbours on the way up, lowest first. */
export function merklePath(leaves: readonly Uint8Array[], index: number, hash: Hash): Uint8Array[] {
  const path: Uint8Array[] = []
  let from = 0
  let to = leaves.length
  while (to - from > 1) {
    const middle = from + split(to - from)
    if (index < middle) {
      path.push(rootOf(leaves, middle, to, hash))
      to = middle
    } else {
      path.push(rootOf(leaves, from, middle, hash))
      from = middle
    }
  }
  return path.toReversed()
}

/** The root that a leaf and its path lead to. */
export function rootFromPath(
  leaf: Uint8Array,
  index: number,
  count: number,
  path: readonly Uint8Array[],
  hash: Hash,
): Uint8Array | null {
  // The sides on the way down; the path is read from its end.
  const isRight: boolean[] = []
  let from = 0
  let to = count
  if (index < 0 || index >= count) return null
  while (to - from > 1) {
    const middle = from + split(to - from)
    isRight.push(index >= middle)
    if (index < middle) to = middle
    else from = middle
  }
  if (path.length !== isRight.length) return null
  return path.reduce(
    (node, neighbour, i) => {
      const right = isRight[isRight.length - 1 - i]!
      return hash(right ? tagged(NODE, neighbour, node) : tagged(NODE, node, neighbour))
    },
    hash(tagged(LEAF, leaf)),
  )
}
