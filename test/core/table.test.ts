/** The table of what is open: a Map to whoever asks it, whatever is put in and taken out. */
import { expect } from 'vitest'
import { Table } from '../../coordinator/core/table.ts'
import { law } from '../harness/random.ts'
import type { Random } from '../harness/random.ts'

law('a table answers as a Map does, in its order, through any history', (random) => {
  for (let run = 0; run < 60; run++) history(random)
})

function history(random: Random): void {
  const table = new Table<string, number>()
  const map = new Map<string, number>()
  // Few keys meet again and again; many make it grow, and leave gaps.
  const keys = random.pick([3, 40, 3_000])
  const stays = random.float()
  for (let step = 0; step < 2_000; step++) {
    const key = `k${random.int(0, keys)}`
    if (random.float() < stays) {
      table.set(key, step)
      map.set(key, step)
    } else expect(table.delete(key)).toBe(map.delete(key))
    const other = `k${random.int(0, keys)}`
    expect(table.get(other)).toBe(map.get(other))
    expect(table.has(other)).toBe(map.has(other))
    expect(table.size).toBe(map.size)
    if (random.float() < 0.01) expect([...table.values()]).toEqual([...map.values()])
    if (random.float() < 0.001) {
      table.clear()
      map.clear()
    }
  }
  // What is taken out while it is gone through is left out.
  const seen: number[] = []
  const due: number[] = []
  for (const value of table.values()) {
    seen.push(value)
    for (const [key, other] of map) if (other === value + 1) table.delete(key)
  }
  const gone = new Set<number>()
  for (const value of map.values()) {
    if (gone.has(value)) continue
    due.push(value)
    gone.add(value + 1)
  }
  expect(seen).toEqual(due)
}
