// Row digests for the trace, see digest.ts: slots 6 … 13 of sums. WG is a multiple of 4, so a thread's values (lane, lane + WG, …)
// all belong to the same two sums.
override LAYERS: u32 = 0; // 0: nothing is kept

fn digest(sum: ptr<function, vec2<u32>>, i: u32, v: i32) {
  var t = (u32(v) + i * 0x9e3779b1u + 0x85ebca77u) * 0x85ebca6bu;
  t = (t ^ (t >> 15u)) * 0xc2b2ae35u;
  *sum += vec2(t, (t ^ (t >> 13u)) * 0x27d4eb2fu);
}
fn putDigest(lane: u32, sum: vec2<u32>) {
  putSum(6u + lane % 4u, sum.x);
  putSum(10u + lane % 4u, sum.y);
}

fn rotl(v: u32, by: u32) -> u32 { return (v << by) | (v >> (32u - by)); }
// After a barrier.
fn gotDigest(d: u32) -> vec4<u32> {
  var w = vec4(
    got(6u) ^ rotl(got(11u), 16u) ^ d,
    got(7u) ^ rotl(got(12u), 16u),
    got(8u) ^ rotl(got(13u), 16u),
    got(9u) ^ rotl(got(10u), 16u),
  );
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
