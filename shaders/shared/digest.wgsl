// Row digests for the trace, see digest.ts: slots 6 … 9 of sums. WG is a multiple of 4, so a thread's values (lane, lane + WG, …)
// all belong to the same sum.
override LAYERS: u32 = 0; // 0: nothing is kept

fn digest(sum: ptr<function, u32>, i: u32, v: i32) {
  let t = (u32(v) + i * 0x9e3779b1u + 0x85ebca77u) * 0x85ebca6bu;
  *sum += (t ^ (t >> 15u)) * 0xc2b2ae35u;
}
fn putDigest(lane: u32, sum: u32) { putSum(6u + lane % 4u, sum); }

fn rotl(v: u32, by: u32) -> u32 { return (v << by) | (v >> (32u - by)); }
// After a barrier.
fn gotDigest(d: u32) -> vec4<u32> {
  var w = vec4(got(6u) ^ d, got(7u), got(8u), got(9u));
  for (var round = 0u; round < 2u; round++) {
    w.x += w.y;
    w.w = rotl(w.w ^ w.x, 16u);
    w.z += w.w;
    w.y = rotl(w.y ^ w.z, 12u);
    w.x += w.y;
    w.w = rotl(w.w ^ w.x, 8u);
    w.z += w.w;
    w.y = rotl(w.y ^ w.z, 7u);
  }
  return w;
}
// The place in a trace of a row with this record.
fn tracePlace(row: vec4<u32>) -> u32 { return (row.z + row.y) * LAYERS + layer.index; }
