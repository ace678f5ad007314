// What linear_norm.wgsl and linear_norm_traced.wgsl share. They say what activated() does, and what becomes of the rows' digests:
// digestPart() before a barrier, keepDigest() after it.
#import launch
#import layer
#import xn1
#import sums
#import quantise
#import dot
#import epilogue
#import product

override WG: u32 = 64; // a multiple of 16
override PROLOGUE: u32 = 1;
override EPS_M: u32 = 0;
override EPS_K: i32 = 0;

@group(0) @binding(1) var<storage, read> x: array<i32>;           // [rows, K]
@group(0) @binding(2) var<storage, read> gain: array<u32>;        // [K] i16
@group(0) @binding(3) var<storage, read> shift: array<i32>;       // [K] the LayerNorm's bias
@group(0) @binding(4) var<storage, read> w: array<vec4<u32>>;     // [N, stride(K)] i8 in panels
@group(0) @binding(5) var<storage, read> ws: array<u32>;          // [N]
@group(0) @binding(6) var<storage, read> bias: array<i32>;        // [N]
@group(0) @binding(8) var<storage, read_write> out: array<i32>;   // [rows, OUT_STRIDE]

override CHUNKS: u32 = 1; // stride(K) / 16
override CHUNKS_LOW: u32 = 1; // the same with A15, else 1
var<workgroup> high: array<vec4<u32>, CHUNKS>;
var<workgroup> low: array<vec4<u32>, CHUNKS_LOW>;
fn activation(i: u32) -> vec4<u32> { return high[i]; }
fn activationLow(i: u32) -> vec4<u32> { return low[i]; }

// What a whole row shares: see rmsnorm_quant.wgsl and layernorm_quant.wgsl.
struct Row { o: u32, mean: i32, n1: u32, m: u32, e: i32, flat: bool }

fn gainAt(i: u32) -> i32 { return i32(gain[i / 2u] << (16u - 16u * (i % 2u))) >> 16u; }
fn centred(row: Row, i: u32) -> i32 {
  if (PROLOGUE == 3u) { return ssub(x[row.o + i], row.mean); }
  return x[row.o + i];
}
fn normalised(row: Row, i: u32) -> i32 {
  if (PROLOGUE == 1u) { return x[row.o + i]; }
  let v = mul16s(centred(row, i) << row.n1, gainAt(i));
  if (PROLOGUE == 2u) { return v; }
  return select(sadd(rq(v, row.m, row.e), shift[i]), shift[i], row.flat);
}
fn four(row: Row, i: u32) -> vec4<i32> {
  var v = vec4(0);
  for (var j = 0u; j < 4u; j++) {
    if (i + j < K) { v[j] = normalised(row, i + j); }
  }
  return v;
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let t = id.y;
  var row = Row(t * K, 0, 0u, 0u, 0, false);
  let isFirst = id.x == 0u;
  digestPart(isFirst, row.o, lane);
  var maximum = 1u;
  var root = 0u;
  if (PROLOGUE == 3u) {
    var sh = 0;
    var sl = 0u;
    for (var i = lane; i < K; i += WG) {
      let v = x[row.o + i];
      sh += v >> 16u;
      sl += u32(v & 0xffff);
    }
    putSum(0u, u32(sh));
    putSum(1u, sl);
    workgroupBarrier();
    row.mean = meanOf(i32(got(0u)), got(1u), K);
  }
  if (PROLOGUE >= 2u) {
    var most = 0u;
    for (var i = lane; i < K; i += WG) { most = max(most, uabs(centred(row, i))); }
    putMax(2u, most);
    workgroupBarrier();
    maximum = got(2u);
    row.n1 = headroom(maximum);
    row.flat = maximum == 0u;
    var square = vec2(0u);
    for (var i = lane; i < K; i += WG) { putSquare(&square, top16(centred(row, i), row.n1)); }
    putSum(3u, square.x);
    putSum(4u, square.y);
    workgroupBarrier();
    root = rootOf(3u, row.n1, EPS_M, EPS_K);
    let m = mulm(scaleMantissa(root), layer.cM);
    row.m = m >> 1u;
    row.e = layer.cE - scaleExponent(root) + i32(m & 1u);
  }
  var most = 0u;
  for (var i = lane; i < K; i += WG) { most = max(most, uabs(normalised(row, i))); }
  putMax(5u, most);
  workgroupBarrier();

  keepDigest(isFirst, t, lane);
  let by = quantiser(got(5u));
  for (var i = lane; i < CHUNKS; i += WG) {
    let a = four(row, 16u * i);
    let b = four(row, 16u * i + 4u);
    let c = four(row, 16u * i + 8u);
    let d = four(row, 16u * i + 12u);
    high[i] = vec4(quantiseHigh(a, by), quantiseHigh(b, by), quantiseHigh(c, by), quantiseHigh(d, by));
    if (A15) { low[i] = vec4(quantiseLow(a, by), quantiseLow(b, by), quantiseLow(c, by), quantiseLow(d, by)); }
  }
  var scale = quantiserScale(by, got(5u), select(16, 0, PROLOGUE == 2u));
  if (PROLOGUE == 2u) {
    let m = mulm(scaleMantissa(scale), scaleMantissa(root));
    let whole = packScale(m >> 1u, scaleExponent(scale) + 15 - scaleExponent(root) + i32(m & 1u));
    scale = select(whole, ZERO_ROW_SCALE, maximum == 0u);
  }
  workgroupBarrier();
  product(t, scale, id.x * PANELS, lane);
}
