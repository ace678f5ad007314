// How matrices lie: panels of 16 rows; in a panel, chunk after chunk of K, each with the 16 rows' CHUNK words side by
// side. CHUNK 4 suits GPUs (16-byte loads, neighbours adjacent); 1 suits SIMD lanes of a CPU, where a lane keeps rows
// 2i, 2i + 1, 8 + 2i, 8 + 2i + 1 (pairs stay together for GATED). engine/backends/webgpu/panels.ts writes them.
override CHUNK: u32 = 4;

// Where row r of a panel lies among its 16.
fn placeInPanel(r: u32) -> u32 {
  return select(r, (r & 8u) | ((r & 1u) << 2u) | ((r & 7u) >> 1u), CHUNK == 1u);
}
// Word w (4 values) of a row in a matrix of `words` words per row.
fn panelWord(row: u32, w: u32, words: u32) -> u32 {
  return (row / 16u) * 16u * words + ((w / CHUNK) * 16u + placeInPanel(row % 16u)) * CHUNK + w % CHUNK;
}
