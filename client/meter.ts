/** How much came over the network today, kept across reloads where the browser lets us. */
import { get, set } from 'idb-keyval'
import type { DataMeter } from './driver.ts'

const key = 'chorale.data'
const saveEveryMs = 2_000

interface Kept {
  day: string
  bytes: number
}

const today = (): string => new Date().toDateString()

export async function dataMeter(): Promise<DataMeter> {
  const kept = await get<Kept>(key).catch(() => undefined)
  let count: Kept = kept?.day === today() ? kept : { day: today(), bytes: 0 }
  let timer: ReturnType<typeof setTimeout> | undefined
  const turn = (): void => {
    if (count.day !== today()) count = { day: today(), bytes: 0 }
  }
  return {
    today() {
      turn()
      return count.bytes
    },
    add(bytes) {
      turn()
      count.bytes += bytes
      timer ??= setTimeout(() => {
        timer = undefined
        // Losing the count costs nobody anything.
        void set(key, count).catch(() => undefined)
      }, saveEveryMs)
    },
  }
}
