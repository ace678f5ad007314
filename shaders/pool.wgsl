// A sentence's vector from its rows; one workgroup per segment.
#import launch
#import xn1
#import sums

override WG: u32 = 64;
override D: u32 = 1;
override MEAN: bool = false;
override UNIT: bool = false;

@group(0) @binding(1) var<storage, read> x: array<i32>;          // [rows, D]
@group(0) @binding(2) var<storage, read> segments: array<u32>;   // [n, 2] first row, rows
@group(0) @binding(3) var<storage, read_write> out: array<i32>;  // [n, D]

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) id: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let segment = groupIndex(id, groups);
  if (segment >= present()) { return; }
  let first = segments[2u * segment];
  let length = segments[2u * segment + 1u];
  let o = segment * D;

  // Each thread reads back only what it wrote itself.
  var most = 0u;
  for (var i = lane; i < D; i += WG) {
    var v = x[first * D + i];
    if (MEAN) {
      var sh = 0;
      var sl = 0u;
      for (var j = 0u; j < length; j++) {
        let part = x[(first + j) * D + i];
        sh += part >> 16u;
        sl += u32(part & 0xffff);
      }
      v = meanOf(sh, sl, length);
    }
    out[o + i] = v;
    most = max(most, uabs(v));
  }
  if (!UNIT) { return; }
  putMax(0u, most);
  workgroupBarrier();

  let maximum = got(0u);
  let n1 = headroom(maximum);
  var sum = vec2(0u);
  for (var i = lane; i < D; i += WG) { putSquare(&sum, top16(out[o + i], n1)); }
  putSum(1u, sum.x);
  putSum(2u, sum.y);
  workgroupBarrier();

  let root = rootOf(1u, n1, 0u, 0);
  for (var i = lane; i < D; i += WG) {
    let v = rq(out[o + i] << n1, scaleMantissa(root), 23 - scaleExponent(root));
    out[o + i] = select(v, 0, maximum == 0u);
  }
}
