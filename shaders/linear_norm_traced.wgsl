// linear_norm that keeps the digests of the rows that come in, for a linear layer without activation: with a trace and a table
// it would bind more than the eight storage buffers that every device has.
#import linear_norm
#import digest

@group(0) @binding(7) var<storage, read_write> trace: array<vec4<u32>>;   // [kvRows, LAYERS]
@group(0) @binding(9) var<uniform> rows: array<vec4<u32>, 1025>;          // header, then [n] (id, position, base, length)

fn activated(x: i32) -> i32 { return x; }

// The first workgroup of a row digests it.
fn digestPart(isFirst: bool, o: u32, lane: u32) {
  if (!isFirst) { return; }
  var sum = 0u;
  for (var i = lane; i < K; i += WG) { digest(&sum, i, x[o + i]); }
  putDigest(lane, sum);
}
fn keepDigest(isFirst: bool, t: u32, lane: u32) {
  if (isFirst && lane == 0u) { trace[tracePlace(rows[t + 1u])] = gotDigest(K); }
}
