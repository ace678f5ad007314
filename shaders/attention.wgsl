// softmax(q·kᵀ)·v for one (row, head) per workgroup, whatever the length: scores are made twice, once for the true
// maximum and once, TILE keys at a time, for probabilities. Σ p·v is exact, so tiles and slices may come in any order.
#import launch
#import xn1
#import exp2
#import sums

override WG: u32 = 64;
override H: u32 = 1;
override KV: u32 = 1;
override HD: u32 = 1;
override SCORE_M: u32 = 0;
override SCORE_E: i32 = 0;
override TILE: u32 = 256;

@group(0) @binding(1) var<uniform> rows: array<vec4<u32>, 1025>;  // header, then [n] (id, position, base, length)
@group(0) @binding(2) var<storage, read> q: array<vec4<u32>>;     // [n, H, stride(HD)] i8
@group(0) @binding(3) var<storage, read> qs: array<u32>;          // [n, H]
@group(0) @binding(4) var<storage, read> k: array<vec4<u32>>;     // [kvRows, KV, stride(HD)] i8
@group(0) @binding(5) var<storage, read> v: array<u32>;           // [kvRows, KV, stride(HD)] i8
@group(0) @binding(6) var<storage, read> kvs: array<u32>;         // [kvRows, 2, KV]
@group(0) @binding(7) var<storage, read> exp2: array<i32>;        // [257]
@group(0) @binding(8) var<storage, read_write> out: array<i32>;   // [n, H·HD]

override CHUNKS: u32 = 1; // 16-byte chunks of a head: stride(HD) / 16
var<workgroup> query: array<vec4<u32>, CHUNKS>;
var<workgroup> weight: array<i32, TILE>; // probabilities of a tile, value scales folded in
var<workgroup> high: array<atomic<i32>, HD>;
var<workgroup> low: array<atomic<i32>, HD>;

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) id: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let at = groupIndex(id, groups);
  let t = at / H;
  let head = at % H;
  if (t >= present()) { return; }
  let base = rows[t + 1u].z;
  let length = rows[t + 1u].w;
  let group = head * KV / H;
  for (var i = lane; i < CHUNKS; i += WG) { query[i] = q[at * CHUNKS + i]; }
  workgroupBarrier();

  let scale = queryScale(qs[at]);
  var most = 0u; // scores as u32 in the same order
  var vE = 0u; // 255 less the smallest exponent of a value
  for (var j = lane; j < length; j += WG) {
    most = max(most, ordered(score(scale, base + j, group)));
    vE = max(vE, 255u - (kvs[((base + j) * 2u + 1u) * KV + group] & 255u));
  }
  putMax(0u, most);
  putMax(1u, vE);
  workgroupBarrier();

  let maximum = got(0u);
  let lowest = 255u - got(1u);
  let words = 4u * CHUNKS;
  let slices = max(WG / words, 1u);
  let slice = lane / words;
  var total = 0u;
  for (var start = 0u; start < length; start += TILE) {
    let size = min(TILE, length - start);
    for (var j = lane; j < size; j += WG) {
      let row = base + start + j;
      let p = u32(exp2q(maximum - ordered(score(scale, row, group))));
      total += p;
      let valueScale = kvs[(row * 2u + 1u) * KV + group];
      let w = scaleMantissa(valueScale) >> min(31u, (valueScale & 255u) - lowest);
      weight[j] = i32((p * w + 32768u) >> 16u);
    }
    workgroupBarrier();
    if (slice < slices) {
      for (var word = lane % words; word < words; word += WG) {
        var hi = vec4(0);
        var lo = vec4(0);
        for (var j = slice; j < size; j += slices) {
          let x = unpack4xI8(v[((base + start + j) * KV + group) * words + word]);
          hi += (weight[j] >> 7u) * x;
          lo += (weight[j] & 127) * x;
        }
        for (var i = 0u; i < 4u && 4u * word + i < HD; i++) {
          atomicAdd(&high[4u * word + i], hi[i]);
          atomicAdd(&low[4u * word + i], lo[i]);
        }
      }
    }
    workgroupBarrier();
  }
  putSum(2u, total);
  workgroupBarrier();

  let shift = countLeadingZeros(got(2u));
  let reciprocal = min(65535u, 2147483648u / ((got(2u) << shift) >> 16u));
  for (var i = lane; i < HD; i += WG) {
    let sum = atomicLoad(&high[i]) + ((atomicLoad(&low[i]) + 64) >> 7u);
    out[at * HD + i] = rq(sum, reciprocal, 15 + i32(lowest) - 128 - i32(shift));
  }
}

// The query's own part of a score's scale: mantissa, and exponent less 16.
struct Scale { m: u32, e: i32 }
fn queryScale(s: u32) -> Scale {
  let m = mulm(scaleMantissa(s), SCORE_M);
  return Scale(m >> 1u, scaleExponent(s) + SCORE_E - 16 + i32(m & 1u));
}

fn score(scale: Scale, row: u32, group: u32) -> i32 {
  var acc = 0;
  for (var i = 0u; i < CHUNKS; i++) {
    let a = query[i];
    let b = k[(row * KV + group) * CHUNKS + i];
    acc += dot4I8Packed(a.x, b.x) + dot4I8Packed(a.y, b.y) + dot4I8Packed(a.z, b.z) + dot4I8Packed(a.w, b.w);
  }
  let keyScale = kvs[row * 2u * KV + group];
  let m = mulm(scale.m, scaleMantissa(keyScale));
  return rq(acc, m >> 1u, scale.e + scaleExponent(keyScale) - 16 + i32(m & 1u));
}

fn ordered(x: i32) -> u32 { return u32(x) ^ 0x80000000u; }
