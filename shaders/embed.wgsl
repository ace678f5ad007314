// out = table[id]·scale[id] (+ positions[position]); one thread per value.
#import launch
#import xn1
#import panels

override WG: u32 = 64;
override D: u32 = 1;
override FROM: u32 = 0;
override COUNT: u32 = 1;
override HAS_POSITIONS: bool = false;

@group(0) @binding(1) var<uniform> rows: array<vec4<u32>, 1025>;    // header, then [n] (id, position, base, length)
@group(0) @binding(2) var<storage, read> table: array<u32>;         // [COUNT, stride(D)] i8 in panels
@group(0) @binding(3) var<storage, read> scale: array<u32>;         // [COUNT]
@group(0) @binding(4) var<storage, read> positions: array<i32>;     // [P, D]
@group(0) @binding(5) var<storage, read_write> out: array<i32>;     // [n, D]



@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) id: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let at = groupIndex(id, groups) * WG + lane;
  let t = at / D;
  if (t >= present()) { return; }
  let i = at % D;
  let row = rows[t + 1u];
  let token = row.x - FROM;
  if (token >= COUNT) { return; }
  let s = scale[token];
  let v = rq(byteOf(table[panelWord(token, i / 4u, (D + 15u) / 16u * 4u)], i % 4u), scaleMantissa(s), scaleExponent(s));
  if (HAS_POSITIONS) {
    out[at] = sadd(v, positions[row.y * D + i]);
  } else {
    out[at] = v;
  }
}
