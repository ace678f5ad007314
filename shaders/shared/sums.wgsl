// Reductions over a workgroup, by atomics: integers give the same result in any order. A slot serves once per
// workgroup (it starts at zero), and is read after a barrier.

var<workgroup> slot: array<atomic<u32>, 18>;

fn putMax(i: u32, v: u32) { atomicMax(&slot[i], v); }
fn putSum(i: u32, v: u32) { atomicAdd(&slot[i], v); }
fn got(i: u32) -> u32 { return atomicLoad(&slot[i]); }

// Σ top16(x)² in two halves: slots i (high) and i + 1 (low).
fn putSquare(sum: ptr<function, vec2<u32>>, v: i32) {
  let square = u32(v * v);
  *sum += vec2(square >> 16u, square & 0xffffu);
}

// rowRsqrt of the twin from those two slots, eps = epsM·2^epsK in units of x².
fn rootOf(i: u32, n1: u32, epsM: u32, epsK: i32) -> u32 {
  let eps = shl48(epsM, epsK - 2 * (16 - i32(n1)));
  let sl = got(i + 1u) + eps.y;
  return rsqrt48(got(i) + eps.x + (sl >> 16u), sl & 0xffffu);
}

// exactMean of the twin from Σ (v >> 16) and Σ (v & 0xffff) over n values.
fn meanOf(sh: i32, sl: u32, n: u32) -> i32 {
  let d = i32(n);
  let whole = sh / d - select(0, 1, sh % d < 0);
  return whole * 65536 + i32((u32(sh - whole * d) * 65536u + sl + (n >> 1u)) / n);
}
