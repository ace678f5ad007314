// linear for few rows: one workgroup per row and PANELS·16 columns, K split over its threads.
#import launch
#import xn1
#import dot
#import epilogue
#import activation
#import product

override WG: u32 = 64; // a multiple of 16
override A15: bool = false;
override PLANE: u32 = 0; // words

@group(0) @binding(1) var<storage, read> q: array<vec4<u32>>;     // [rows, stride(K)] i8
@group(0) @binding(2) var<storage, read> s: array<u32>;           // [rows]
@group(0) @binding(3) var<storage, read> w: array<vec4<u32>>;     // [N, stride(K)] i8 in panels
@group(0) @binding(4) var<storage, read> ws: array<u32>;          // [N]
@group(0) @binding(5) var<storage, read> bias: array<i32>;        // [N]
@group(0) @binding(6) var<storage, read> table: array<i32>;       // [2049]
@group(0) @binding(7) var<storage, read_write> out: array<i32>;   // [rows, OUT_STRIDE]

var<private> row: u32; // its first chunk
fn activation(i: u32) -> vec4<u32> { return q[row + i]; }
fn activationLow(i: u32) -> vec4<u32> { return q[PLANE / 4u + row + i]; }

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  row = id.y * ((K + 15u) / 16u);
  product(id.y, s[id.y], id.x * PANELS, lane);
}
