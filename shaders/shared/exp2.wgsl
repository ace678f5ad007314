// round(16383·2^-u), u in Q16. Needs `exp2`, round(16383·2^16·2^(-k/256)), k = 0 … 256.
fn exp2q(u: u32) -> i32 {
  let k = (u & 0xffffu) >> 8u;
  let a = exp2[k];
  let e = a - (((a - exp2[k + 1u]) * i32(u & 255u)) >> 8u);
  return select(rshr(e, i32(u >> 16u) + 16), 0, u >= 0x100000u);
}
