// int8 × int8 → int32 → one requantisation: out = act(x·Wᵀ + bias). Each thread keeps 4 rows × 4 columns in registers and
// reads straight from storage: neighbours in x take neighbouring columns, whose 16-byte chunks lie side by side.
#import launch
#import xn1
#import dot
#import epilogue
#import activation

override WG: u32 = 64; // threads, 4 columns each
override K: u32 = 1;
override A15: bool = false;
override PLANE: u32 = 0; // words

@group(0) @binding(1) var<storage, read> q: array<vec4<u32>>;     // [rows, stride(K)] i8
@group(0) @binding(2) var<storage, read> s: array<u32>;           // [rows]
@group(0) @binding(3) var<storage, read> w: array<vec4<u32>>;     // [N, stride(K)] i8 in panels
@group(0) @binding(4) var<storage, read> ws: array<u32>;          // [N]
@group(0) @binding(5) var<storage, read> bias: array<i32>;        // [N]
@group(0) @binding(6) var<storage, read> table: array<i32>;       // [2049]
@group(0) @binding(7) var<storage, read_write> out: array<i32>;   // [rows, OUT_STRIDE]

// Sums of 4 columns from c over one row of chunks from `at`.
fn sums(at: array<u32, 4>, c: u32) -> array<vec4<i32>, 4> {
  let chunks = (K + 15u) / 16u;
  let panel = (c / 16u) * 16u * chunks + c % 16u;
  var acc = array<vec4<i32>, 4>();
  for (var i = 0u; i < chunks; i++) {
    let w0 = w[panel + 16u * i];
    let w1 = w[panel + 16u * i + 1u];
    let w2 = w[panel + 16u * i + 2u];
    let w3 = w[panel + 16u * i + 3u];
    for (var r = 0u; r < 4u; r++) {
      let a = q[at[r] + i];
      acc[r] += vec4(dot16(a, w0), dot16(a, w1), dot16(a, w2), dot16(a, w3));
    }
  }
  return acc;
}

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let c = 4u * id.x;
  let t = 4u * id.y;
  if (c >= N) { return; }
  let chunks = (K + 15u) / 16u;
  let last = present() - 1u;
  var at = array(t, min(t + 1u, last), min(t + 2u, last), min(t + 3u, last));
  for (var r = 0u; r < 4u; r++) { at[r] *= chunks; }
  var acc = sums(at, c);
  if (A15) {
    for (var r = 0u; r < 4u; r++) { at[r] += PLANE / 4u; }
    let low = sums(at, c);
    for (var r = 0u; r < 4u; r++) { acc[r] += (low[r] + vec4(64)) >> vec4(7u); }
  }
  for (var r = 0u; r < 4u && t + r <= last; r++) {
    storePair(t + r, s[t + r], c, acc[r].x, acc[r].y);
    storePair(t + r, s[t + r], c + 2u, acc[r].z, acc[r].w);
  }
}
