// linear over many rows on a GPU: 64×64 outputs per workgroup, operands staged 64 values of K at a time, 4×4 outputs per
// thread. A thread keeps rows ty + 16·i and columns 2·tx, 2·tx + 1, 2·tx + 32, 2·tx + 33 (pairs stay together for GATED).
#import launch
#import xn1
#import dot
#import operands
#import epilogue
#import activation

override K: u32 = 1;

var<workgroup> rowTile: array<vec4<u32>, 256>; // [4 chunks, 64 rows]
var<workgroup> columnTile: array<vec4<u32>, 256>; // [4 chunks, 64 columns]

fn sums(plane: u32, t0: u32, c0: u32, lane: u32) -> array<vec4<i32>, 4> {
  let chunks = (K + 15u) / 16u;
  let panels = (N + 15u) / 16u;
  // What this thread stages: for rows neighbours take neighbouring chunks of a row, for columns a panel's own order.
  let stagedRow = min(t0 + lane / 4u, present() - 1u);
  let stagedPanel = min(c0 / 16u + lane / 64u, panels - 1u);
  let tx = lane % 16u;
  let ty = lane / 16u;
  var acc = array<vec4<i32>, 4>();
  for (var start = 0u; start < chunks; start += 4u) {
    let rowChunk = start + lane % 4u;
    let columnChunk = start + (lane / 16u) % 4u;
    var a = vec4(0u);
    var b = vec4(0u);
    if (rowChunk < chunks) { a = q[plane + stagedRow * chunks + rowChunk]; }
    if (columnChunk < chunks) { b = w[(stagedPanel * chunks + columnChunk) * 16u + lane % 16u]; }
    workgroupBarrier();
    rowTile[(lane % 4u) * 64u + lane / 4u] = a;
    columnTile[((lane / 16u) % 4u) * 64u + (lane / 64u) * 16u + lane % 16u] = b;
    workgroupBarrier();
    for (var i = 0u; i < 4u; i++) {
      let w0 = columnTile[i * 64u + 2u * tx];
      let w1 = columnTile[i * 64u + 2u * tx + 1u];
      let w2 = columnTile[i * 64u + 2u * tx + 32u];
      let w3 = columnTile[i * 64u + 2u * tx + 33u];
      let a0 = rowTile[i * 64u + ty];
      let a1 = rowTile[i * 64u + ty + 16u];
      let a2 = rowTile[i * 64u + ty + 32u];
      let a3 = rowTile[i * 64u + ty + 48u];
      acc[0] += vec4(dot16(a0, w0), dot16(a0, w1), dot16(a0, w2), dot16(a0, w3));
      acc[1] += vec4(dot16(a1, w0), dot16(a1, w1), dot16(a1, w2), dot16(a1, w3));
      acc[2] += vec4(dot16(a2, w0), dot16(a2, w1), dot16(a2, w2), dot16(a2, w3));
      acc[3] += vec4(dot16(a3, w0), dot16(a3, w1), dot16(a3, w2), dot16(a3, w3));
    }
  }
  return acc;
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let c0 = id.x * 64u;
  let t0 = id.y * 64u;
  var acc = sums(0u, t0, c0, lane);
  if (A15) {
    let low = sums(PLANE / 4u, t0, c0, lane);
    for (var i = 0u; i < 4u; i++) { acc[i] += (low[i] + vec4(64)) >> vec4(7u); }
  }
  let c = c0 + 2u * (lane % 16u);
  for (var i = 0u; i < 4u; i++) {
    let t = t0 + lane / 16u + 16u * i;
    if (t < present()) {
      storePair(t, s[t], c, acc[i].x, acc[i].y);
      storePair(t, s[t], c + 32u, acc[i].z, acc[i].w);
    }
  }
}
