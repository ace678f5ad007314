/** Short lists: a coordinator has a few of them for every unit in hand, and a large one has ten thousands of those. */

/** The empty list, one for all: never written to. */
export const NONE: never[] = []

/**
 * A short list with one more. Of the first it makes a list of its own, just as long: push() would make room for sixteen more,
 * and hardly any unit has a second copy, or a small job a second unit.
 */
export function added<T>(list: T[], item: T): T[] {
  if (list.length === 0) return [item]
  list.push(item)
  return list
}

/** Takes one item out of a short list, if it is there; the others keep their order. */
export function takeOut<T>(list: T[], item: T): boolean {
  let at = list.indexOf(item)
  if (at < 0) return false
  for (; at < list.length - 1; at++) list[at] = list[at + 1]!
  list.pop()
  return true
}
