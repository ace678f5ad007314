// What a linear layer alone reads and writes.
override A15: bool = false;
override PLANE: u32 = 0; // words

@group(0) @binding(1) var<storage, read> q: array<vec4<u32>>;     // [rows, stride(K)] i8
@group(0) @binding(2) var<storage, read> s: array<u32>;           // [rows]
@group(0) @binding(3) var<storage, read> w: array<vec4<u32>>;     // [N, stride(K)] i8 in panels
@group(0) @binding(4) var<storage, read> ws: array<u32>;          // [N]
@group(0) @binding(5) var<storage, read> bias: array<i32>;        // [N]
@group(0) @binding(6) var<storage, read> table: array<i32>;       // [2049]
@group(0) @binding(7) var<storage, read_write> out: array<i32>;   // [rows, OUT_STRIDE]
