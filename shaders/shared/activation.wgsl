// A linear layer's activation by table.
// 2049 entries over [-16, 16) in Q16, linear in between; tails: left the first entry, right x itself or the last.
fn activated(x: i32) -> i32 {
  if (ACT == 0u) { return x; }
  if (x >= 1048576) { return select(table[2048], x, ACT == 1u); }
  if (x < -1048576) { return table[0]; }
  let u = x + 1048576;
  let k = u >> 10u;
  let a = table[k];
  return a + (((table[k + 1] - a) * (u & 1023) + 512) >> 10u);
}
