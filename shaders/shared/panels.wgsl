// How matrices lie: panels of 16 rows; in a panel, 16-byte chunk after chunk of K, each with the 16 rows' side by side, so
// that neighbours in N read neighbouring bytes. engine/backends/webgpu/panels.ts writes them.

// Word w (4 values) of a row in a matrix of `words` words per row.
fn panelWord(row: u32, w: u32, words: u32) -> u32 {
  return (row / 16u) * 16u * words + ((w / 4u) * 16u + row % 16u) * 4u + w % 4u;
}
