// RMSNorm and dynamic quantisation in one; one workgroup per row.
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

@group(0) @binding(1) var<storage, read> x: array<i32>;         // [n, D] Q(F)
@group(0) @binding(2) var<storage, read> gain: array<u32>;      // [D] i16
@group(0) @binding(3) var<storage, read_write> q: array<u32>;   // [n, stride(D)] i8, A15: low plane PLANE words behind
@group(0) @binding(4) var<storage, read_write> s: array<u32>;   // [n]
@group(0) @binding(5) var<uniform> rows: array<vec4<u32>, 1025>;          // header, then [n] (id, position, base, length)
@group(0) @binding(6) var<storage, read_write> trace: array<vec4<u32>>;   // [kvRows, LAYERS]

// Normalised by n1, times its gain.
fn scaled(o: u32, i: u32, n1: u32) -> i32 {
  let g = i32(gain[i / 2u] << (16u - 16u * (i % 2u))) >> 16u;
  return mul16s(x[o + i] << n1, g);
}
fn four(o: u32, i: u32, n1: u32) -> vec4<i32> {
  var v = vec4(0);
  for (var j = 0u; j < 4u; j++) {
    if (i + j < D) { v[j] = scaled(o, i + j, n1); }
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

  var most = 0u;
  var kept = 0u;
  for (var i = lane; i < D; i += WG) {
    let v = x[o + i];
    most = max(most, uabs(v));
    if (LAYERS != 0u) { digest(&kept, i, v); }
  }
  putMax(0u, most);
  if (LAYERS != 0u) { putDigest(lane, kept); }
  workgroupBarrier();

  if (LAYERS != 0u && lane == 0u) { trace[tracePlace(rows[t + 1u])] = gotDigest(D); }
  let maximum = got(0u);
  let n1 = headroom(maximum);
  var sum = vec2(0u);
  most = 0u;
  for (var i = lane; i < D; i += WG) {
    putSquare(&sum, top16(x[o + i], n1));
    most = max(most, uabs(scaled(o, i, n1)));
  }
  putSum(1u, sum.x);
  putSum(2u, sum.y);
  putMax(3u, most);
  workgroupBarrier();

  let by = quantiser(got(3u));
  for (var w = lane; w < words; w += WG) {
    let v = four(o, 4u * w, n1);
    q[t * words + w] = quantiseHigh(v, by);
    if (A15) { q[PLANE + t * words + w] = quantiseLow(v, by); }
  }
  if (lane == 0u) {
    let row = quantiserScale(by, got(3u), 0);
    let root = rootOf(1u, n1, EPS_M, EPS_K);
    let m = mulm(scaleMantissa(row), scaleMantissa(root));
    let scale = packScale(m >> 1u, scaleExponent(row) + 15 - scaleExponent(root) + i32(m & 1u));
    s[t] = select(scale, ZERO_ROW_SCALE, maximum == 0u);
  }
}
