// The digests of residual rows; one workgroup per row.
#import launch
#import layer
#import xn1
#import sums
#import digest

override WG: u32 = 64;
override D: u32 = 1;

@group(0) @binding(1) var<uniform> rows: array<vec4<u32>, 1025>;          // header, then [n] (id, position, base, length)
@group(0) @binding(2) var<storage, read> x: array<i32>;                   // [n, D]
@group(0) @binding(3) var<storage, read_write> trace: array<vec4<u32>>;   // [kvRows, LAYERS]

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) id: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let t = groupIndex(id, groups);
  if (t >= present()) { return; }
  var sum = 0u;
  for (var i = lane; i < D; i += WG) { digest(&sum, i, x[t * D + i]); }
  putDigest(lane, sum);
  workgroupBarrier();
  if (lane == 0u) { trace[tracePlace(rows[t + 1u])] = gotDigest(D); }
}
