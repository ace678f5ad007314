// linear for few rows: one workgroup per row and PANELS·16 columns, K split over its threads.
#import launch
#import xn1
#import dot
#import operands
#import epilogue
#import activation
#import product

override WG: u32 = 64; // a multiple of 16

var<private> row: u32; // its first chunk
fn activation(i: u32) -> vec4<u32> { return q[row + i]; }
fn activationLow(i: u32) -> vec4<u32> { return q[PLANE / 4u + row + i]; }

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  row = id.y * ((K + 15u) / 16u);
  product(id.y, s[id.y], id.x * PANELS, lane);
}
