// From the projected row to int8 heads: (q/k RMSNorm,) RoPE, one scale per (row, head); one workgroup per (row, head).
#import launch
#import xn1
#import sums
#import quantise
#import head

override WG: u32 = 64;
override H: u32 = 1;
override KV: u32 = 1;
override HD: u32 = 1;
override ROPE: bool = false;
override QK_NORM: bool = false;
override EPS_M: u32 = 0;
override EPS_K: i32 = 0;

@group(0) @binding(1) var<uniform> rows: array<vec4<u32>, 1025>;      // header, then [n] (id, position, base, length)
@group(0) @binding(2) var<storage, read> qkv: array<i32>;             // [n, (H + 2·KV)·HD] Q16
@group(0) @binding(3) var<storage, read> ropeTable: array<u32>;       // [P, HD/2] cos | sin << 16, Q15
@group(0) @binding(4) var<storage, read> norm: array<u32>;            // [2, HD] i16
@group(0) @binding(5) var<storage, read_write> q: array<u32>;         // [n, H, stride(HD)] i8
@group(0) @binding(6) var<storage, read_write> qs: array<u32>;        // [n, H]
@group(0) @binding(7) var<storage, read_write> k: array<u32>;         // [kvRows, KV, stride(HD)] i8
@group(0) @binding(8) var<storage, read_write> v: array<u32>;         // [kvRows, KV, stride(HD)] i8
@group(0) @binding(9) var<storage, read_write> kvs: array<u32>;       // [kvRows, 2, KV]

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) id: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let at = groupIndex(id, groups);
  let t = at / (H + 2u * KV);
  let head = at % (H + 2u * KV);
  if (t >= present()) { return; }
  let row = rows[t + 1u];
  let s = prepareHead(at * HD, head, row.y, lane, 0u);

  let words = (HD + 15u) / 16u * 4u;
  let kvRow = row.z + row.y;
  for (var w = lane; w < words; w += WG) {
    let packed = headWord(w, s.by);
    if (head < H) {
      q[(t * H + head) * words + w] = packed;
    } else if (head < H + KV) {
      k[(kvRow * KV + head - H) * words + w] = packed;
    } else {
      v[(kvRow * KV + head - H - KV) * words + w] = packed;
    }
  }
  if (lane == 0u) {
    if (head < H) { qs[t * H + head] = s.scale; } else { kvs[kvRow * 2u * KV + head - H] = s.scale; }
  }
}
