/**
 * Plays a section of a Recording: steps as words in memory, one after the other.
 *
 * A step is 32 words: kernel, domain, work per row, then the kernel's params and buffer addresses in the order its function
 * names (layout.ts writes them). The caller leads: it offers a step that is large enough in parts, and takes parts itself
 * until none is left. Other threads take what they come in time for (`assist`), so the caller never waits for a thread that
 * the machine has not given a core to; only for parts that were begun.
 */
import { attention } from './attention'
import { heads } from './heads'
import { linear } from './linear'
import { digest, embed, gather, layernormQuant, pool, quant, rmsnormQuant } from './rows'
import { sample } from './sample'

export { probe } from './probe'

/** Bytes of a step, and where its kernel's own words begin. */
const STEP = 128
const ARGUMENTS = 12
/** Words at the front of memory (threads.ts and worker.ts know some). Offer: round << 16 | parts << 8 | next part. */
const OFFER: usize = 16
const DONE: usize = 20
const BROKEN: usize = 24
const ASLEEP: usize = 28
const PLAYING: usize = 32
const SCRATCH: usize = 36
const PER_THREAD: usize = 40
const STEP_OFFERED: usize = 44
const ROWS_OFFERED: usize = 48
/** Looks this often, some microseconds, before sleeping: cores belong to others. */
const SPINS = 2000
/** A thread that took a part is given this many waits of a second. Waits, not a clock: machines are put to sleep. */
const PATIENCE = 60
const SECOND: i64 = 1000000000

/**
 * Steps of `shareFrom` work (about multiply-adds) and more are shared.
 * @returns 0 when done, 1 when another thread broke, 2 when one took a part and never came back.
 */
export function play(
  steps: usize, count: i32, rows: i32, picks: i32, segments: i32, threads: i32, scratch: usize, perThread: usize,
  shareFrom: i32,
): i32 {
  const shared = ASC_FEATURE_THREADS && threads > 1
  if (shared) {
    store<usize>(SCRATCH, scratch)
    store<usize>(PER_THREAD, perThread)
    atomic.store<i32>(PLAYING, 1)
  }
  let failed = 0
  for (let i = 0; i < count && !failed; i++) {
    const step = steps + i * STEP
    const domain = load<i32>(step, 4)
    const n = domain == 0 ? rows : domain == 1 ? picks : segments
    if (!shared || <i64>n * <i64>load<i32>(step, 8) < shareFrom) run(step, n, 0, 1, scratch)
    else failed = lead(step, n, 2 * threads, scratch)
  }
  if (shared) {
    atomic.store<i32>(PLAYING, 0)
    offer(0)
  }
  return failed
}

/** Thread `thread` takes parts until the play is over. */
export function assist(thread: i32): void {
  if (!ASC_FEATURE_THREADS) return
  while (atomic.load<i32>(PLAYING) && !atomic.load<i32>(BROKEN)) {
    const part = take()
    if (part >= 0) {
      const scratch = load<usize>(SCRATCH) + <usize>thread * load<usize>(PER_THREAD)
      const parts = (atomic.load<i32>(OFFER) >> 8) & 255
      run(load<usize>(STEP_OFFERED), load<i32>(ROWS_OFFERED), part, parts, scratch)
      if (atomic.add<i32>(DONE, 1) == parts - 1) atomic.notify(DONE, -1)
      continue
    }
    const seen = atomic.load<i32>(OFFER)
    let spin = 0
    while (spin < SPINS && atomic.load<i32>(OFFER) == seen) spin++
    if (spin < SPINS || !atomic.load<i32>(PLAYING)) continue
    atomic.add<i32>(ASLEEP, 1)
    // Between taking and looking an offer may have come: a part left means no sleep.
    if (((seen >> 8) & 255) <= (seen & 255)) atomic.wait<i32>(OFFER, seen, SECOND)
    atomic.sub<i32>(ASLEEP, 1)
  }
}

function offer(parts: i32): void {
  if (!ASC_FEATURE_THREADS) return
  atomic.store<i32>(OFFER, (((atomic.load<i32>(OFFER) >>> 16) + 1) << 16) | (parts << 8))
  if (atomic.load<i32>(ASLEEP)) atomic.notify(OFFER, -1)
}

/** The next part of what is offered, or -1. What it is a part of stays put until it is done. */
function take(): i32 {
  if (!ASC_FEATURE_THREADS) return -1
  let seen = atomic.load<i32>(OFFER)
  while ((seen & 255) < ((seen >> 8) & 255)) {
    const was = atomic.cmpxchg<i32>(OFFER, seen, seen + 1)
    if (was == seen) return seen & 255
    seen = was
  }
  return -1
}

function lead(step: usize, n: i32, parts: i32, scratch: usize): i32 {
  if (!ASC_FEATURE_THREADS) return 0
  store<usize>(STEP_OFFERED, step)
  store<i32>(ROWS_OFFERED, n)
  atomic.store<i32>(DONE, 0)
  offer(parts)
  for (let part = take(); part >= 0; part = take()) {
    run(step, n, part, parts, scratch)
    atomic.add<i32>(DONE, 1)
  }
  for (let i = 0; i < SPINS; i++) if (atomic.load<i32>(DONE) == parts) return 0
  let patience = PATIENCE
  while (patience) {
    const done = atomic.load<i32>(DONE)
    if (done == parts) return 0
    if (atomic.load<i32>(BROKEN)) return 1
    if (atomic.wait<i32>(DONE, done, SECOND) == 2) patience--
  }
  return 2
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
    case 10: return digest(s, n, thread, threads)
    default: unreachable()
  }
}
