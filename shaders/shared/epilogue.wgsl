// From int32 sums to stored outputs: requantise, bias, activation, then store, add to the residual, or gate.
// Needs ws, bias and out of the linear kernels, and activated() (activation.wgsl).
override N: u32 = 1;
override OUT_FROM: u32 = 0;
override OUT_STRIDE: u32 = 1;
override MODE: u32 = 0; // STORE, RESIDUAL, GATED of linear.ts
override ACT: u32 = 0;  // ACT_NONE, ACT_TABLE, ACT_TABLE_FLAT
override HAS_BIAS: bool = false;

// Sum of a row with scale `rowScale` in column c, as a value of the output.
fn requantised(acc: i32, rowScale: u32, c: u32) -> i32 {
  let channel = ws[c];
  let m = mulm(scaleMantissa(rowScale), scaleMantissa(channel));
  let v = rq(acc, m >> 1u, scaleExponent(rowScale) + scaleExponent(channel) - 16 + i32(m & 1u));
  if (HAS_BIAS) { return sadd(v, bias[c]); }
  return v;
}

// Columns c and c + 1 of row t, c even.
fn storePair(t: u32, rowScale: u32, c: u32, first: i32, second: i32) {
  if (c >= N) { return; }
  if (MODE == 2u) {
    let gate = activated(requantised(first, rowScale, c));
    out[t * OUT_STRIDE + OUT_FROM + c / 2u] = mulq16(gate, requantised(second, rowScale, c + 1u));
    return;
  }
  storeOne(t, rowScale, c, first);
  if (c + 1u < N) { storeOne(t, rowScale, c + 1u, second); }
}

fn storeOne(t: u32, rowScale: u32, c: u32, acc: i32) {
  let at = t * OUT_STRIDE + OUT_FROM + c;
  let value = activated(requantised(acc, rowScale, c));
  if (MODE == 1u) { out[at] = sadd(out[at], value); } else { out[at] = value; }
}
