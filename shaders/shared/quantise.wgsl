// Dynamic quantisation of four values of a row at a time; what quantiseRow does in the twin.
override A15: bool = false;

// Four values, shifted up by the row's quantiser, as packed int8: the high plane, and with A15 the low one.
fn quantiseHigh(v: vec4<i32>, by: Quantiser) -> u32 {
  let t = v << vec4(by.shift);
  if (A15) {
    let h = vec4(quantise15(t.x, by.r), quantise15(t.y, by.r), quantise15(t.z, by.r), quantise15(t.w, by.r));
    return pack4((h + vec4(64)) >> vec4(7u));
  }
  return pack4(vec4(quantise8(t.x, by.r), quantise8(t.y, by.r), quantise8(t.z, by.r), quantise8(t.w, by.r)));
}
fn quantiseLow(v: vec4<i32>, by: Quantiser) -> u32 {
  let t = v << vec4(by.shift);
  let h = vec4(quantise15(t.x, by.r), quantise15(t.y, by.r), quantise15(t.z, by.r), quantise15(t.w, by.r));
  return pack4(h - (((h + vec4(64)) >> vec4(7u)) << vec4(7u)));
}
