// attention over many rows: one workgroup per head and QUERIES rows. Thread l serves query l % QUERIES throughout: scores
// of every CHUNKS-th key, then 16 values of the head's output. First the true maximum of each row, then TILE keys at a
// time probabilities and their products; sums are exact, so tiles may be of any size. Rows may be of any sequence.
#import launch
#import layer
#import xn1
#import exp2
#import dot

override H: u32 = 1;
override KV: u32 = 1;
override HD: u32 = 1;
override CHUNKS: u32 = 1; // 16-byte chunks of a head: stride(HD) / 16
override QUERIES: u32 = 1;
override WG: u32 = QUERIES * CHUNKS;
override TILE: u32 = 64; // 16383·127·TILE must stay below 2^31

@group(0) @binding(1) var<uniform> rows: array<vec4<u32>, 1025>;  // header, then [n] (id, position, base, length)
@group(0) @binding(2) var<storage, read> q: array<vec4<u32>>;     // [n, H, stride(HD)] i8
@group(0) @binding(3) var<storage, read> qs: array<u32>;          // [n, H]
@group(0) @binding(4) var<storage, read> k: array<vec4<u32>>;     // [kvRows, KV, stride(HD)] i8
@group(0) @binding(5) var<storage, read> v: array<vec4<u32>>;     // [kvRows, KV, stride(HD)] i8
@group(0) @binding(6) var<storage, read> kvs: array<u32>;         // [kvRows, 2, KV]
@group(0) @binding(7) var<storage, read> exp2: array<i32>;        // [257]
@group(0) @binding(8) var<storage, read_write> out: array<i32>;   // [n, H·HD]

override QUERY_CHUNKS: u32 = QUERIES * CHUNKS;
override WEIGHTS: u32 = QUERIES * TILE;
var<workgroup> query: array<vec4<u32>, QUERY_CHUNKS>; // [CHUNKS, QUERIES]
var<workgroup> weight: array<i32, WEIGHTS>; // [TILE, QUERIES] probabilities, value scales folded in
var<workgroup> most: array<atomic<u32>, QUERIES>; // largest score, as u32 in the same order
var<workgroup> exponent: array<atomic<u32>, QUERIES>; // 255 less the smallest exponent of a value
var<workgroup> total: array<atomic<u32>, QUERIES>;

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) id: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let at = groupIndex(id, groups);
  let head = at % H;
  let first = at / H * QUERIES;
  if (first >= present()) { return; }
  let group = head * KV / H;
  let mine = lane % QUERIES;
  let part = lane / QUERIES;
  let isPresent = first + mine < present();
  let t = min(first + mine, present() - 1u);
  let base = rows[t + 1u].z;
  let length = rows[t + 1u].w;
  var longest = 0u;
  for (var i = first; i < min(first + QUERIES, present()); i++) { longest = max(longest, rows[i + 1u].w); }

  query[part * QUERIES + mine] = q[(t * H + head) * CHUNKS + part];
  workgroupBarrier();

  let scale = queryScale(qs[t * H + head]);
  var top = 0u;
  var vE = 0u;
  for (var j = part; j < length; j += CHUNKS) {
    top = max(top, ordered(score(scale, mine, base + j, group)));
    vE = max(vE, 255u - (kvs[((base + j) * 2u + 1u) * KV + group] & 255u));
  }
  atomicMax(&most[mine], top);
  atomicMax(&exponent[mine], vE);
  workgroupBarrier();

  let maximum = atomicLoad(&most[mine]);
  let lowest = 255u - atomicLoad(&exponent[mine]);
  var sum = 0u;
  // 16 outputs: Σ weight·value = 128·high + low
  var high = array<vec4<i32>, 4>();
  var low = array<vec4<i32>, 4>();
  for (var start = 0u; start < longest; start += TILE) {
    for (var j = part; j < TILE; j += CHUNKS) {
      var folded = 0u;
      if (start + j < length) {
        let row = base + start + j;
        let p = u32(exp2q(maximum - ordered(score(scale, mine, row, group))));
        sum += p;
        let s = kvs[(row * 2u + 1u) * KV + group];
        folded = (p * (scaleMantissa(s) >> min(31u, (s & 255u) - lowest)) + 32768u) >> 16u;
      }
      weight[j * QUERIES + mine] = i32(folded);
    }
    workgroupBarrier();
    var s0 = vec4(0);
    var s1 = vec4(0);
    var s2 = vec4(0);
    var s3 = vec4(0);
    for (var j = 0u; j < min(TILE, longest - start); j++) {
      let w = weight[j * QUERIES + mine];
      let x = v[((base + start + j) * KV + group) * CHUNKS + part];
      s0 += w * bytes(x.x);
      s1 += w * bytes(x.y);
      s2 += w * bytes(x.z);
      s3 += w * bytes(x.w);
    }
    high[0] += s0 >> vec4(7u);
    high[1] += s1 >> vec4(7u);
    high[2] += s2 >> vec4(7u);
    high[3] += s3 >> vec4(7u);
    low[0] += s0 & vec4(127);
    low[1] += s1 & vec4(127);
    low[2] += s2 & vec4(127);
    low[3] += s3 & vec4(127);
    workgroupBarrier();
  }
  atomicAdd(&total[mine], sum);
  workgroupBarrier();
  if (!isPresent) { return; }

  let mass = atomicLoad(&total[mine]);
  let shift = countLeadingZeros(mass);
  let reciprocal = min(65535u, 2147483648u / ((mass << shift) >> 16u));
  for (var i = 0u; i < 16u && 16u * part + i < HD; i++) {
    let x = high[i / 4u][i % 4u] + ((low[i / 4u][i % 4u] + 64) >> 7u);
    out[(t * H + head) * HD + 16u * part + i] = rq(x, reciprocal, 15 + i32(lowest) - 128 - i32(shift));
  }
}

fn bytes(word: u32) -> vec4<i32> {
  if (F32) { return vec4<i32>(placed(word) * vec4(1.0, 0x1p-8, 0x1p-16, 0x1p-24)); }
  return unpack4xI8(word);
}

// The query's own part of a score's scale: mantissa, and exponent less 16.
struct Scale { m: u32, e: i32 }
fn queryScale(s: u32) -> Scale {
  let m = mulm(scaleMantissa(s), layer.scoreM);
  return Scale(m >> 1u, scaleExponent(s) + layer.scoreE - 16 + i32(m & 1u));
}

fn score(scale: Scale, mine: u32, row: u32, group: u32) -> i32 {
  var acc = 0;
  for (var i = 0u; i < CHUNKS; i++) {
    acc += dot16(query[i * QUERIES + mine], k[(row * KV + group) * CHUNKS + i]);
  }
  let s = kvs[row * 2u * KV + group];
  let m = mulm(scale.m, scaleMantissa(s));
  return rq(acc, m >> 1u, scale.e + scaleExponent(s) - 16 + i32(m & 1u));
}

fn ordered(x: i32) -> u32 { return u32(x) ^ 0x80000000u; }
