// out[r] = x[picks[r]]; one thread per value.
#import launch

override WG: u32 = 64;
override D: u32 = 1;

@group(0) @binding(1) var<storage, read> x: array<i32>;          // [rows, D]
@group(0) @binding(2) var<storage, read> picks: array<u32>;      // [n]
@group(0) @binding(3) var<storage, read_write> out: array<i32>;  // [n, D]

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) id: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let at = groupIndex(id, groups) * WG + lane;
  let r = at / D;
  if (r >= present()) { return; }
  out[at] = x[picks[r] * D + at % D];
}
