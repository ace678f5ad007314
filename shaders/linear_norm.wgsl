// linear for few rows with the step before it inside: every workgroup normalises and quantises its row into its own
// memory (cheap beside the weights it reads), then multiplies. PROLOGUE: 1 quant, 2 rmsnorm_quant, 3 layernorm_quant.
#import linear_norm
#import activation

@group(0) @binding(7) var<storage, read> table: array<i32>;       // [2049]

fn digestPart(isFirst: bool, o: u32, lane: u32) {}
fn keepDigest(isFirst: bool, t: u32, lane: u32) {}
