// 16 products of int8, exactly: by integer dot products, or in f32, where every sum below 2^24 is exact. F32 is for GPUs
// without an integer dot product, and for software ones; it unpacks bytes without shifts: masked where they stand,
// converted, and rid of their place value on one side.
override F32: bool = false;

// The four bytes b of a word as b[j]·256^j.
fn placed(word: u32) -> vec4<f32> {
  let masked = vec4(word ^ 0x808080u) & vec4(0xffu, 0xff00u, 0xff0000u, 0xff000000u);
  return vec4<f32>(vec4<i32>(masked)) - vec4(128.0, 32768.0, 8388608.0, 0.0);
}
// … as b[j]·256^-j, so that dot(small(a), placed(b)) = Σ a[j]·b[j].
fn small(word: u32) -> vec4<f32> {
  return placed(word) * vec4(1.0, 0x1p-16, 0x1p-32, 0x1p-48);
}

fn dot16(a: vec4<u32>, b: vec4<u32>) -> i32 {
  if (F32) {
    return i32((dot(small(a.x), placed(b.x)) + dot(small(a.y), placed(b.y))) +
      (dot(small(a.z), placed(b.z)) + dot(small(a.w), placed(b.w))));
  }
  return dot4I8Packed(a.x, b.x) + dot4I8Packed(a.y, b.y) + dot4I8Packed(a.z, b.z) + dot4I8Packed(a.w, b.w);
}
