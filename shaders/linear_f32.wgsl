// linear with sums kept in f32, exactly: 1024 products of int8 stay below 2^24. Each thread keeps 8 rows × 4 columns in
// registers, unpacks every byte once, and reads straight from storage.
#import launch
#import xn1
#import dot
#import operands
#import epilogue
#import activation

override WG: u32 = 64; // threads, 4 columns each
override K: u32 = 1;

const ROWS = 8u;

// Sums of rows t … t + 7 in columns c … c + 3; `plane` is the first chunk of the row plane.
fn sums(plane: u32, t: u32, c: u32) -> array<vec4<i32>, ROWS> {
  let chunks = (K + 15u) / 16u;
  let panel = (c / 16u) * 16u * chunks + c % 16u;
  let last = present() - 1u;
  let a0 = plane + min(t + 0u, last) * chunks;
  let a1 = plane + min(t + 1u, last) * chunks;
  let a2 = plane + min(t + 2u, last) * chunks;
  let a3 = plane + min(t + 3u, last) * chunks;
  let a4 = plane + min(t + 4u, last) * chunks;
  let a5 = plane + min(t + 5u, last) * chunks;
  let a6 = plane + min(t + 6u, last) * chunks;
  let a7 = plane + min(t + 7u, last) * chunks;
  var acc = array<vec4<i32>, ROWS>();
  for (var start = 0u; start < chunks; start += 64u) {
    let end = min(chunks, start + 64u);
    var f0 = vec4(0.0);
    var f1 = vec4(0.0);
    var f2 = vec4(0.0);
    var f3 = vec4(0.0);
    var f4 = vec4(0.0);
    var f5 = vec4(0.0);
    var f6 = vec4(0.0);
    var f7 = vec4(0.0);
    for (var i = start; i < end; i++) {
      let w0 = w[panel + 16u * i];
      let w1 = w[panel + 16u * i + 1u];
      let w2 = w[panel + 16u * i + 2u];
      let w3 = w[panel + 16u * i + 3u];
      let q0 = q[a0 + i];
      let q1 = q[a1 + i];
      let q2 = q[a2 + i];
      let q3 = q[a3 + i];
      let q4 = q[a4 + i];
      let q5 = q[a5 + i];
      let q6 = q[a6 + i];
      let q7 = q[a7 + i];
      let w00 = placed(w0.x);
      let w10 = placed(w1.x);
      let w20 = placed(w2.x);
      let w30 = placed(w3.x);
      let q00 = small(q0.x);
      let d00 = vec4(dot(q00, w00), dot(q00, w10), dot(q00, w20), dot(q00, w30));
      let q10 = small(q1.x);
      let d10 = vec4(dot(q10, w00), dot(q10, w10), dot(q10, w20), dot(q10, w30));
      let q20 = small(q2.x);
      let d20 = vec4(dot(q20, w00), dot(q20, w10), dot(q20, w20), dot(q20, w30));
      let q30 = small(q3.x);
      let d30 = vec4(dot(q30, w00), dot(q30, w10), dot(q30, w20), dot(q30, w30));
      let q40 = small(q4.x);
      let d40 = vec4(dot(q40, w00), dot(q40, w10), dot(q40, w20), dot(q40, w30));
      let q50 = small(q5.x);
      let d50 = vec4(dot(q50, w00), dot(q50, w10), dot(q50, w20), dot(q50, w30));
      let q60 = small(q6.x);
      let d60 = vec4(dot(q60, w00), dot(q60, w10), dot(q60, w20), dot(q60, w30));
      let q70 = small(q7.x);
      let d70 = vec4(dot(q70, w00), dot(q70, w10), dot(q70, w20), dot(q70, w30));
      let w01 = placed(w0.y);
      let w11 = placed(w1.y);
      let w21 = placed(w2.y);
      let w31 = placed(w3.y);
      let q01 = small(q0.y);
      let d01 = vec4(dot(q01, w01), dot(q01, w11), dot(q01, w21), dot(q01, w31));
      let q11 = small(q1.y);
      let d11 = vec4(dot(q11, w01), dot(q11, w11), dot(q11, w21), dot(q11, w31));
      let q21 = small(q2.y);
      let d21 = vec4(dot(q21, w01), dot(q21, w11), dot(q21, w21), dot(q21, w31));
      let q31 = small(q3.y);
      let d31 = vec4(dot(q31, w01), dot(q31, w11), dot(q31, w21), dot(q31, w31));
      let q41 = small(q4.y);
      let d41 = vec4(dot(q41, w01), dot(q41, w11), dot(q41, w21), dot(q41, w31));
      let q51 = small(q5.y);
      let d51 = vec4(dot(q51, w01), dot(q51, w11), dot(q51, w21), dot(q51, w31));
      let q61 = small(q6.y);
      let d61 = vec4(dot(q61, w01), dot(q61, w11), dot(q61, w21), dot(q61, w31));
      let q71 = small(q7.y);
      let d71 = vec4(dot(q71, w01), dot(q71, w11), dot(q71, w21), dot(q71, w31));
      let w02 = placed(w0.z);
      let w12 = placed(w1.z);
      let w22 = placed(w2.z);
      let w32 = placed(w3.z);
      let q02 = small(q0.z);
      let d02 = vec4(dot(q02, w02), dot(q02, w12), dot(q02, w22), dot(q02, w32));
      let q12 = small(q1.z);
      let d12 = vec4(dot(q12, w02), dot(q12, w12), dot(q12, w22), dot(q12, w32));
      let q22 = small(q2.z);
      let d22 = vec4(dot(q22, w02), dot(q22, w12), dot(q22, w22), dot(q22, w32));
      let q32 = small(q3.z);
      let d32 = vec4(dot(q32, w02), dot(q32, w12), dot(q32, w22), dot(q32, w32));
      let q42 = small(q4.z);
      let d42 = vec4(dot(q42, w02), dot(q42, w12), dot(q42, w22), dot(q42, w32));
      let q52 = small(q5.z);
      let d52 = vec4(dot(q52, w02), dot(q52, w12), dot(q52, w22), dot(q52, w32));
      let q62 = small(q6.z);
      let d62 = vec4(dot(q62, w02), dot(q62, w12), dot(q62, w22), dot(q62, w32));
      let q72 = small(q7.z);
      let d72 = vec4(dot(q72, w02), dot(q72, w12), dot(q72, w22), dot(q72, w32));
      let w03 = placed(w0.w);
      let w13 = placed(w1.w);
      let w23 = placed(w2.w);
      let w33 = placed(w3.w);
      let q03 = small(q0.w);
      let d03 = vec4(dot(q03, w03), dot(q03, w13), dot(q03, w23), dot(q03, w33));
      let q13 = small(q1.w);
      let d13 = vec4(dot(q13, w03), dot(q13, w13), dot(q13, w23), dot(q13, w33));
      let q23 = small(q2.w);
      let d23 = vec4(dot(q23, w03), dot(q23, w13), dot(q23, w23), dot(q23, w33));
      let q33 = small(q3.w);
      let d33 = vec4(dot(q33, w03), dot(q33, w13), dot(q33, w23), dot(q33, w33));
      let q43 = small(q4.w);
      let d43 = vec4(dot(q43, w03), dot(q43, w13), dot(q43, w23), dot(q43, w33));
      let q53 = small(q5.w);
      let d53 = vec4(dot(q53, w03), dot(q53, w13), dot(q53, w23), dot(q53, w33));
      let q63 = small(q6.w);
      let d63 = vec4(dot(q63, w03), dot(q63, w13), dot(q63, w23), dot(q63, w33));
      let q73 = small(q7.w);
      let d73 = vec4(dot(q73, w03), dot(q73, w13), dot(q73, w23), dot(q73, w33));
      f0 += (d00 + d01) + (d02 + d03);
      f1 += (d10 + d11) + (d12 + d13);
      f2 += (d20 + d21) + (d22 + d23);
      f3 += (d30 + d31) + (d32 + d33);
      f4 += (d40 + d41) + (d42 + d43);
      f5 += (d50 + d51) + (d52 + d53);
      f6 += (d60 + d61) + (d62 + d63);
      f7 += (d70 + d71) + (d72 + d73);
    }
    acc[0] += vec4<i32>(f0);
    acc[1] += vec4<i32>(f1);
    acc[2] += vec4<i32>(f2);
    acc[3] += vec4<i32>(f3);
    acc[4] += vec4<i32>(f4);
    acc[5] += vec4<i32>(f5);
    acc[6] += vec4<i32>(f6);
    acc[7] += vec4<i32>(f7);
  }
  return acc;
}

@compute @workgroup_size(WG)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let c = 4u * id.x;
  let t = ROWS * id.y;
  if (c >= N) { return; }
  var acc = sums(0u, t, c);
  if (A15) {
    let low = sums(PLANE / 4u, t, c);
    for (var r = 0u; r < ROWS; r++) { acc[r] += (low[r] + vec4(64)) >> vec4(7u); }
  }
  for (var r = 0u; r < ROWS && t + r < present(); r++) {
    storePair(t + r, s[t + r], c, acc[r].x, acc[r].y);
    storePair(t + r, s[t + r], c + 2u, acc[r].z, acc[r].w);
  }
}
