// softmax(q·kᵀ)·v; one workgroup per (row, head).
#import launch
#import layer
#import xn1
#import exp2
#import sums
#import dot
#import attend

override WG: u32 = 64;

@group(0) @binding(1) var<uniform> rows: array<vec4<u32>, 1025>;  // header, then [n] (id, position, base, length)
@group(0) @binding(2) var<storage, read> q: array<vec4<u32>>;     // [n, H, stride(HD)] i8
@group(0) @binding(3) var<storage, read> qs: array<u32>;          // [n, H]
@group(0) @binding(4) var<storage, read> k: array<vec4<u32>>;     // [kvRows, KV, stride(HD)] i8
@group(0) @binding(5) var<storage, read> v: array<u32>;           // [kvRows, KV, stride(HD)] i8
@group(0) @binding(6) var<storage, read> kvs: array<u32>;         // [kvRows, 2, KV]
@group(0) @binding(7) var<storage, read> exp2: array<i32>;        // [257]
@group(0) @binding(8) var<storage, read_write> out: array<i32>;   // [n, H·HD]

fn keyChunk(row: u32, group: u32, i: u32) -> vec4<u32> { return k[(row * KV + group) * CHUNKS + i]; }
fn keyScale(row: u32, group: u32) -> u32 { return kvs[row * 2u * KV + group]; }
fn valueWord(row: u32, group: u32, word: u32) -> u32 { return v[(row * KV + group) * 4u * CHUNKS + word]; }
fn valueScale(row: u32, group: u32) -> u32 { return kvs[(row * 2u + 1u) * KV + group]; }

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) id: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let at = groupIndex(id, groups);
  let t = at / H;
  if (t >= present()) { return; }
  for (var i = lane; i < CHUNKS; i += WG) { query[i] = q[at * CHUNKS + i]; }
  workgroupBarrier();
  let row = rows[t + 1u];
  attend(at, qs[at], row.z, row.w, at % H * KV / H, lane);
}
