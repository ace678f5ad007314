/**
 * Plays a section of a Recording: steps as words in memory, one after the other, shared out among the threads.
 *
 * A step is 32 words: kernel, domain, work per row, then the kernel's params and buffer addresses in the order its function
 * names (layout.ts writes them). Every thread calls `play` with the same arguments; thread 0 is the caller's own.
 */
import { attention } from './attention'
import { heads } from './heads'
import { linear } from './linear'
import { embed, gather, layernormQuant, pool, quant, rmsnormQuant } from './rows'
import { sample } from './sample'

export { probe } from './probe'

/** Bytes of a step, and where its kernel's own words begin. */
const STEP = 128
const ARGUMENTS = 12
/** The barrier's words in memory: threads that have arrived, and how often it has opened. */
const ARRIVED: usize = 16
const OPENED: usize = 20
const SPINS = 4000
/** Work (about multiply-adds) below which one thread is faster than waking the others. */
const ALONE: i64 = 100000

export function play(
  steps: usize, count: i32, rows: i32, picks: i32, segments: i32, thread: i32, threads: i32, scratch: usize,
): void {
  // Whether thread 0 has done something alone since the last barrier.
  let ahead = false
  for (let i = 0; i < count; i++) {
    const step = steps + i * STEP
    const domain = load<i32>(step, 4)
    const n = domain == 0 ? rows : domain == 1 ? picks : segments
    if (!ASC_FEATURE_THREADS || threads == 1) {
      run(step, n, 0, 1, scratch)
      continue
    }
    if (<i64>n * <i64>load<i32>(step, 8) < ALONE) {
      if (thread == 0) run(step, n, 0, 1, scratch)
      ahead = true
      continue
    }
    if (ahead) barrier(threads)
    run(step, n, thread, threads, scratch)
    barrier(threads)
    ahead = false
  }
  if (ASC_FEATURE_THREADS && threads > 1) barrier(threads)
}

function run(step: usize, n: i32, thread: i32, threads: i32, scratch: usize): void {
  const s = step + ARGUMENTS
  switch (load<i32>(step)) {
    case 0: return embed(s, n, thread, threads, scratch)
    case 1: return gather(s, n, thread, threads)
    case 2: return rmsnormQuant(s, n, thread, threads, scratch)
    case 3: return layernormQuant(s, n, thread, threads, scratch)
    case 4: return quant(s, n, thread, threads, scratch)
    case 5: return linear(s, n, thread, threads, scratch)
    case 6: return heads(s, n, thread, threads, scratch)
    case 7: return attention(s, n, thread, threads, scratch)
    case 8: return pool(s, n, thread, threads, scratch)
    case 9: return sample(s, n, thread, threads, scratch)
    default: unreachable()
  }
}

/** Nobody leaves before everybody came; also orders all memory before it with all after it. */
function barrier(threads: i32): void {
  if (!ASC_FEATURE_THREADS) return
  const round = atomic.load<i32>(OPENED)
  if (atomic.add<i32>(ARRIVED, 1) == threads - 1) {
    atomic.store<i32>(ARRIVED, 0)
    atomic.add<i32>(OPENED, 1)
    atomic.notify(OPENED, -1)
    return
  }
  for (let i = 0; i < SPINS; i++) if (atomic.load<i32>(OPENED) != round) return
  while (atomic.load<i32>(OPENED) == round) atomic.wait<i32>(OPENED, round, -1)
}
