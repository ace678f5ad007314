// heads and attention in one, for a single row: one workgroup per query head prepares its query and its group's key and
// value, and attends to the cache plus these. The first head of a group also writes them to the cache; that KV row is
// never read here, since another workgroup may be writing it.
#import launch
#import layer
#import xn1
#import exp2
#import sums
#import quantise
#import head
#import dot
#import attend

override WG: u32 = 64;
override ROPE: bool = false;
override QK_NORM: bool = false;
override EPS_M: u32 = 0;
override EPS_K: i32 = 0;

@group(0) @binding(1) var<uniform> rows: array<vec4<u32>, 1025>;   // header, then (id, position, base, length)
@group(0) @binding(2) var<storage, read> qkv: array<i32>;          // [1, (H + 2·KV)·HD] Q16
@group(0) @binding(3) var<storage, read> ropeTable: array<u32>;    // [P, HD/2] cos | sin << 16, Q15
@group(0) @binding(4) var<storage, read> norm: array<u32>;         // [2, HD] i16
@group(0) @binding(5) var<storage, read_write> k: array<u32>;      // [kvRows, KV, stride(HD)] i8
@group(0) @binding(6) var<storage, read_write> v: array<u32>;      // [kvRows, KV, stride(HD)] i8
@group(0) @binding(7) var<storage, read_write> kvs: array<u32>;    // [kvRows, 2, KV]
@group(0) @binding(8) var<storage, read> exp2: array<i32>;         // [257]
@group(0) @binding(9) var<storage, read_write> out: array<i32>;    // [1, H·HD]

var<workgroup> ownKey: array<u32, WORDS>;
var<workgroup> ownValue: array<u32, WORDS>;
override WORDS: u32 = 4u * CHUNKS;
var<private> own: u32; // the row's own KV row
var<private> ownScales: vec2<u32>;

fn keyChunk(row: u32, group: u32, i: u32) -> vec4<u32> {
  if (row == own) { return vec4(ownKey[4u * i], ownKey[4u * i + 1u], ownKey[4u * i + 2u], ownKey[4u * i + 3u]); }
  let at = ((row * KV + group) * CHUNKS + i) * 4u;
  return vec4(k[at], k[at + 1u], k[at + 2u], k[at + 3u]);
}
fn valueWord(row: u32, group: u32, word: u32) -> u32 {
  if (row == own) { return ownValue[word]; }
  return v[(row * KV + group) * WORDS + word];
}
fn keyScale(row: u32, group: u32) -> u32 {
  if (row == own) { return ownScales.x; }
  return kvs[row * 2u * KV + group];
}
fn valueScale(row: u32, group: u32) -> u32 {
  if (row == own) { return ownScales.y; }
  return kvs[(row * 2u + 1u) * KV + group];
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let head = id.x;
  let group = head * KV / H;
  let row = rows[1];
  own = row.z + row.y;

  let asked = prepareHead(head * HD, head, row.y, lane, 3u);
  for (var i = lane; i < CHUNKS; i += WG) {
    query[i] = vec4(
      headWord(4u * i, asked.by), headWord(4u * i + 1u, asked.by),
      headWord(4u * i + 2u, asked.by), headWord(4u * i + 3u, asked.by),
    );
  }
  workgroupBarrier();
  let key = prepareHead((H + group) * HD, H + group, row.y, lane, 8u);
  for (var i = lane; i < WORDS; i += WG) { ownKey[i] = headWord(i, key.by); }
  workgroupBarrier();
  let value = prepareHead((H + KV + group) * HD, H + KV + group, row.y, lane, 13u);
  for (var i = lane; i < WORDS; i += WG) { ownValue[i] = headWord(i, value.by); }
  workgroupBarrier();
  ownScales = vec2(key.scale, value.scale);

  if (head == 0u || (head - 1u) * KV / H != group) {
    for (var i = lane; i < WORDS; i += WG) {
      k[(own * KV + group) * WORDS + i] = ownKey[i];
      v[(own * KV + group) * WORDS + i] = ownValue[i];
    }
    if (lane == 0u) {
      kvs[own * 2u * KV + group] = key.scale;
      kvs[(own * 2u + 1u) * KV + group] = value.scale;
    }
  }
  attend(head, asked.scale, row.z, row.w, group, lane);
}
