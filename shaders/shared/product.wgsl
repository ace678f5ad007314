// One row times the columns of PANELS panels by a whole workgroup: thread l takes column l % 16 of a panel and every
// (WG/16)th chunk of K, so a workgroup's loads lie side by side; parts meet in atomics, which add exactly in any order.
// The kernel says where the row's chunks are: activation(i), activationLow(i).
override K: u32 = 1;
override PANELS: u32 = 1;
override SUMS: u32 = 16u * PANELS;
override SUMS_LOW: u32 = select(1u, SUMS, A15);

var<workgroup> sum: array<atomic<i32>, SUMS>;
var<workgroup> sumLow: array<atomic<i32>, SUMS_LOW>;

fn product(t: u32, rowScale: u32, first: u32, lane: u32) {
  let chunks = (K + 15u) / 16u;
  let column = lane % 16u;
  for (var p = 0u; p < PANELS; p++) {
    let panel = first + p;
    if (panel * 16u >= N) { break; }
    var acc = 0;
    var low = 0;
    for (var i = lane / 16u; i < chunks; i += WG / 16u) {
      let b = w[(panel * chunks + i) * 16u + column];
      acc += dot16(activation(i), b);
      if (A15) { low += dot16(activationLow(i), b); }
    }
    atomicAdd(&sum[p * 16u + column], acc);
    if (A15) { atomicAdd(&sumLow[p * 16u + column], low); }
  }
  workgroupBarrier();
  for (var pair = lane; pair < 8u * PANELS; pair += WG) {
    storePair(t, rowScale, first * 16u + 2u * pair, total(2u * pair), total(2u * pair + 1u));
  }
}

fn total(i: u32) -> i32 {
  if (A15) { return atomicLoad(&sum[i]) + ((atomicLoad(&sumLow[i]) + 64) >> 7u); }
  return atomicLoad(&sum[i]);
}
