// softmax(q·kᵀ)·v for one (row, head) by a whole workgroup, whatever the length: scores are made twice, once for the true
// maximum and once, TILE keys at a time, for probabilities. Sums are exact, so tiles and slices may come in any order.
// The kernel puts the query into `query` and says where keys and values are.
override H: u32 = 1;
override KV: u32 = 1;
override HD: u32 = 1;
override TILE: u32 = 256; // 16383·127·TILE must stay below 2^31
override CHUNKS: u32 = 1; // 16-byte chunks of a head: stride(HD) / 16

var<workgroup> query: array<vec4<u32>, CHUNKS>;
var<workgroup> weight: array<i32, TILE>; // probabilities of a tile, value scales folded in
// Σ weight·value = 128·high + low
var<workgroup> high: array<atomic<i32>, HD>;
var<workgroup> low: array<atomic<i32>, HD>;

// Uses slots 0 … 2. `at` is (row, head) in out; keys and values are KV rows base … base + length - 1 of `group`.
fn attend(at: u32, queryS: u32, base: u32, length: u32, group: u32, lane: u32) {
  let scale = queryScale(queryS);
  var most = 0u; // scores as u32 in the same order
  var vE = 0u; // 255 less the smallest exponent of a value
  for (var j = lane; j < length; j += WG) {
    most = max(most, ordered(score(scale, base + j, group)));
    vE = max(vE, 255u - (valueScale(base + j, group) & 255u));
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
      let s = valueScale(row, group);
      let w = scaleMantissa(s) >> min(31u, (s & 255u) - lowest);
      weight[j] = i32((p * w + 32768u) >> 16u);
    }
    workgroupBarrier();
    if (slice < slices) {
      for (var word = lane % words; word < words; word += WG) {
        var sum = vec4(0);
        for (var j = slice; j < size; j += slices) {
          sum += weight[j] * unpack4xI8(valueWord(base + start + j, group, word));
        }
        for (var i = 0u; i < 4u && 4u * word + i < HD; i++) {
          atomicAdd(&high[4u * word + i], sum[i] >> 7u);
          atomicAdd(&low[4u * word + i], sum[i] & 127);
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
  let m = mulm(scaleMantissa(s), layer.scoreM);
  return Scale(m >> 1u, scaleExponent(s) + layer.scoreE - 16 + i32(m & 1u));
}

fn score(scale: Scale, row: u32, group: u32) -> i32 {
  var acc = 0;
  for (var i = 0u; i < CHUNKS; i++) { acc += dot16(query[i], keyChunk(row, group, i)); }
  let s = keyScale(row, group);
  let m = mulm(scale.m, scaleMantissa(s));
  return rq(acc, m >> 1u, scale.e + scaleExponent(s) - 16 + i32(m & 1u));
}

fn ordered(x: i32) -> u32 { return u32(x) ^ 0x80000000u; }
