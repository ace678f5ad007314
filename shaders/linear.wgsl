// int8 × int8 → int32 → one requantisation: out = act(x·Wᵀ + bias). Each thread keeps 4 rows × 4 columns in registers and
// reads straight from storage: neighbours in x take neighbouring columns, whose 16-byte chunks lie side by side.
#import launch
#import xn1
#import dot
#import operands
#import epilogue
#import activation

override WG: u32 = 64; // threads, 4 columns each
override K: u32 = 1;

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
