// Dynamic per-row quantisation of a linear layer's input; one workgroup per row.
#import launch
#import xn1
#import sums
#import quantise

override WG: u32 = 64;
override D: u32 = 1;
override PLANE: u32 = 0; // words

@group(0) @binding(1) var<storage, read> x: array<i32>;         // [n, D] Q16
@group(0) @binding(2) var<storage, read_write> q: array<u32>;   // [n, stride(D)] i8, A15: low plane PLANE words behind
@group(0) @binding(3) var<storage, read_write> s: array<u32>;   // [n]

fn four(o: u32, i: u32) -> vec4<i32> {
  var v = vec4(0);
  for (var j = 0u; j < 4u; j++) {
    if (i + j < D) { v[j] = x[o + i + j]; }
  }
  return v;
}

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) id: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let t = groupIndex(id, groups);
  if (t >= present()) { return; }
  let words = (D + 15u) / 16u * 4u;

  var most = 0u;
  for (var i = lane; i < D; i += WG) { most = max(most, uabs(x[t * D + i])); }
  putMax(0u, most);
  workgroupBarrier();

  let maximum = got(0u);
  let by = quantiser(maximum);
  for (var w = lane; w < words; w += WG) {
    let v = four(t * D, 4u * w);
    q[t * words + w] = quantiseHigh(v, by);
    if (A15) { q[PLANE + t * words + w] = quantiseLow(v, by); }
  }
  if (lane == 0u) { s[t] = quantiserScale(by, maximum, 16); }
}
