/**
 * Who is next: start-time fair queueing (Goyal, Vin & Cheng, 1996) over requesters, in two bands.
 *
 * Each requester's flow has a start tag; the smallest is served, and its tag grows by cost ÷ weight. A flow that comes back
 * after a pause starts at the virtual time, so nobody saves up for later and nobody waits for more than one unit of each other.
 */
import type { Priority, RequesterId } from '../../protocol/index.ts'
import { Heap } from './heap.ts'
import { LIMITS } from './limits.ts'
import { added, NONE } from './lists.ts'

interface Flow<T> {
  readonly band: Band<T>
  start: number
  weight: number
  items: T[]
  /** Only items from here on are live. */
  head: number
  isQueued: boolean
}

class Band<T> {
  virtualTime = 0
  readonly flows = new Map<RequesterId, Flow<T>>()
  readonly heap = new Heap<Flow<T>>()
}

export class FairQueue<T> {
  readonly #bands: Record<Priority, Band<T>> = { interactive: new Band(), batch: new Band() }
  readonly #isOver: (item: T) => boolean
  #sinceBatch = 0
  #served: Flow<T> | undefined

  /** @param isOver an item with nothing left to serve; it is dropped when it comes to the front */
  constructor(isOver: (item: T) => boolean) {
    this.#isOver = isOver
  }

  push(item: T, priority: Priority, requester: RequesterId, weight = 1): void {
    const band = this.#bands[priority]
    let flow = band.flows.get(requester)
    if (!flow) {
      if (band.flows.size >= 10_000) prune(band)
      band.flows.set(requester, (flow = { band, start: 0, weight, items: NONE, head: 0, isQueued: false }))
    }
    flow.weight = weight
    flow.items = added(flow.items, item)
    if (!flow.isQueued) {
      flow.start = Math.max(flow.start, band.virtualTime)
      flow.isQueued = true
      band.heap.push(flow.start, flow)
    }
  }

  /** The next item, or undefined. It stays in front until charge() or until it is over. */
  peek(): T | undefined {
    const { interactive, batch } = this.#bands
    const isBatchFirst = this.#sinceBatch >= LIMITS.batchEvery - 1
    const flow =
      this.#front(isBatchFirst ? batch : interactive) ?? this.#front(isBatchFirst ? interactive : batch)
    this.#served = flow
    return flow?.items[flow.head]
  }

  /** The item last peeked was given work worth `cost`. */
  charge(cost: number): void {
    const flow = this.#served!
    const { band } = flow
    this.#sinceBatch = band === this.#bands.batch ? 0 : this.#sinceBatch + 1
    band.virtualTime = flow.start
    band.heap.pop()
    flow.start += cost / flow.weight
    band.heap.push(flow.start, flow)
  }

  /** Drops what is over from the front; empty flows leave the heap and keep their tag. */
  #front(band: Band<T>): Flow<T> | undefined {
    for (let flow = band.heap.top; flow; flow = band.heap.top) {
      while (flow.head < flow.items.length && this.#isOver(flow.items[flow.head]!)) flow.head++
      if (flow.head < flow.items.length) {
        if (flow.head > 1024 && 2 * flow.head > flow.items.length) {
          flow.items = flow.items.slice(flow.head)
          flow.head = 0
        }
        return flow
      }
      flow.items = NONE
      flow.head = 0
      flow.isQueued = false
      band.heap.pop()
    }
    return undefined
  }
}

function prune<T>(band: Band<T>): void {
  for (const [requester, flow] of band.flows)
    if (!flow.isQueued && flow.start <= band.virtualTime) band.flows.delete(requester)
}
