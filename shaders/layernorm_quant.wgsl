// LayerNorm, then dynamic quantisation; one workgroup per row.
#import launch
#import layer
#import xn1
#import sums
#import quantise
#import digest

override WG: u32 = 64;
override D: u32 = 1;
override EPS_M: u32 = 0;
override EPS_K: i32 = 0;
override PLANE: u32 = 0; // words
override Y: u32 = 0; // the normalised row: 0 dropped, 1 kept in y, 2 kept in x

@group(0) @binding(1) var<storage, read_write> x: array<i32>;   // [n, D] Q(F)
@group(0) @binding(2) var<storage, read> gain: array<u32>;      // [D] i16
@group(0) @binding(3) var<storage, read> bias: array<i32>;      // [D]
@group(0) @binding(4) var<storage, read_write> y: array<i32>;   // [n, D]
@group(0) @binding(5) var<storage, read_write> q: array<u32>;   // [n, stride(D)] i8, A15: low plane PLANE words behind
@group(0) @binding(6) var<storage, read_write> s: array<u32>;   // [n]
@group(0) @binding(7) var<uniform> rows: array<vec4<u32>, 1025>;          // header, then [n] (id, position, base, length)
@group(0) @binding(8) var<storage, read_write> trace: array<vec4<u32>>;   // [kvRows, LAYERS]

// What a whole row shares.
struct Row { o: u32, mean: i32, n1: u32, m: u32, e: i32, flat: bool }

fn normalised(row: Row, i: u32) -> i32 {
  let g = i32(gain[i / 2u] << (16u - 16u * (i % 2u))) >> 16u;
  let v = rq(mul16s(ssub(x[row.o + i], row.mean) << row.n1, g), row.m, row.e);
  return select(sadd(v, bias[i]), bias[i], row.flat);
}
fn four(row: Row, i: u32) -> vec4<i32> {
  var v = vec4(0);
  for (var j = 0u; j < 4u; j++) {
    if (i + j < D) { v[j] = normalised(row, i + j); }
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
  let o = t * D;
  let words = (D + 15u) / 16u * 4u;

  var sh = 0;
  var sl = 0u;
  var kept = 0u;
  for (var i = lane; i < D; i += WG) {
    let v = x[o + i];
    if (LAYERS != 0u && Y == 0u) { digest(&kept, i, v); }
    sh += v >> 16u;
    sl += u32(v & 0xffff);
  }
  putSum(0u, u32(sh));
  putSum(1u, sl);
  workgroupBarrier();

  let mean = meanOf(i32(got(0u)), got(1u), D);
  var most = 0u;
  for (var i = lane; i < D; i += WG) { most = max(most, uabs(ssub(x[o + i], mean))); }
  putMax(2u, most);
  workgroupBarrier();

  let maximum = got(2u);
  let n1 = headroom(maximum);
  var sum = vec2(0u);
  for (var i = lane; i < D; i += WG) { putSquare(&sum, top16(ssub(x[o + i], mean), n1)); }
  putSum(3u, sum.x);
  putSum(4u, sum.y);
  workgroupBarrier();

  let root = rootOf(3u, n1, EPS_M, EPS_K);
  let m = mulm(scaleMantissa(root), layer.cM);
  let row = Row(o, mean, n1, m >> 1u, layer.cE - scaleExponent(root) + i32(m & 1u), maximum == 0u);
  most = 0u;
  for (var i = lane; i < D; i += WG) {
    let v = normalised(row, i);
    most = max(most, uabs(v));
    if (LAYERS != 0u && Y != 0u) { digest(&kept, i, v); }
  }
  putMax(5u, most);
  if (LAYERS != 0u) { putDigest(lane, kept); }
  workgroupBarrier();

  let by = quantiser(got(5u));
  for (var w = lane; w < words; w += WG) {
    let v = four(row, 4u * w);
    q[t * words + w] = quantiseHigh(v, by);
    if (A15) { q[PLANE + t * words + w] = quantiseLow(v, by); }
    if (Y != 0u) {
      for (var j = 0u; j < 4u && 4u * w + j < D; j++) {
        if (Y == 1u) { y[o + 4u * w + j] = v[j]; } else { x[o + 4u * w + j] = v[j]; }
      }
    }
  }
  if (lane == 0u) {
    s[t] = quantiserScale(by, got(5u), 16);
    if (LAYERS != 0u) { trace[tracePlace(rows[t + 1u])] = gotDigest(D); }
  }
}
