// The scalar arithmetic of xn1, function for function as in xn1.ts.
// A scale is one u32: m << 8 | (e + 128), value m·2^-e, m in [2^15, 2^16).

const I32_MAX = 0x7fffffff;
const ZERO_ROW_SCALE = (32768u << 8u) | 174u; // m = 32768, e = 46

fn packScale(m: u32, e: i32) -> u32 { return (m << 8u) | u32(e + 128); }
fn scaleMantissa(s: u32) -> u32 { return s >> 8u; }
fn scaleExponent(s: u32) -> i32 { return i32(s & 255u) - 128; }

fn umulhi(a: u32, b: u32) -> u32 {
  let al = a & 0xffffu;
  let ah = a >> 16u;
  let bl = b & 0xffffu;
  let bh = b >> 16u;
  let ll = al * bl;
  let lh = al * bh;
  let hl = ah * bl;
  let mid = (ll >> 16u) + (lh & 0xffffu) + (hl & 0xffffu);
  return ah * bh + (lh >> 16u) + (hl >> 16u) + (mid >> 16u);
}

fn smulhi(a: i32, b: i32) -> i32 {
  return i32(umulhi(u32(a), u32(b))) - select(0, b, a < 0) - select(0, a, b < 0);
}

// floor(a·m / 2^16), m: u16
fn mul16(a: i32, m: u32) -> i32 { return (a >> 16u) * i32(m) + i32((u32(a & 0xffff) * m) >> 16u); }

// floor(a·g / 2^16), g: i16 above -32768
fn mul16s(a: i32, g: i32) -> i32 { return (a >> 16u) * g + (((a & 0xffff) * g) >> 16u); }

// x / 2^s rounded half up, s ≥ 0
fn rshr(x: i32, s: i32) -> i32 {
  let rounded = ((x >> u32(max(s - 1, 0))) + 1) >> 1u;
  return select(select(x, rounded, s > 0), 0, s > 31);
}

// a + b, saturating in ±(2^31 - 1)
fn sadd(a: i32, b: i32) -> i32 {
  let s = a + b;
  let over = ((a ^ s) & (b ^ s)) < 0;
  return max(select(s, select(I32_MAX, -I32_MAX, a < 0), over), -I32_MAX);
}

// a - b, saturating in ±(2^31 - 1); the twin's sadd(a, -b), which holds for b = MIN too
fn ssub(a: i32, b: i32) -> i32 {
  let s = a - b;
  let over = ((a ^ b) & (a ^ s)) < 0;
  return max(select(s, select(I32_MAX, -I32_MAX, a < 0), over), -I32_MAX);
}

fn uabs(x: i32) -> u32 { return min(u32(select(x, -x, x < 0)), 0x7fffffffu); }

// round(acc·m·2^-e) half up, saturating; m: u16; e below -14 is -14
fn rq(acc: i32, m: u32, exponent: i32) -> i32 {
  let e = max(exponent, -14);
  let t = u32(acc & 0xffff) * m;
  let hi = (acc >> 16u) * i32(m) + i32(t >> 16u);
  if (e >= 17) { return rshr(hi, e - 16); }
  let k = u32(16 - e);
  let frac = t & 0xffffu;
  let limit = I32_MAX >> k;
  if (hi >= limit) { return I32_MAX; }
  if (hi < -limit) { return -I32_MAX; }
  if (e >= 1) { return (hi << k) + i32((frac + (1u << u32(e - 1))) >> u32(e)); }
  return (hi << k) + i32(frac << u32(-e));
}

// a·b = m·2^(16 - shift) for 16-bit mantissas; m << 1 | shift
fn mulm(a: u32, b: u32) -> u32 {
  let p = a * b;
  return select(((p >> 15u) << 1u) | 1u, (p >> 16u) << 1u, p >= 0x80000000u);
}

fn isqrt32(n: u32) -> u32 {
  var x = n;
  var r = 0u;
  var bit = 0x40000000u;
  for (var i = 0; i < 16; i++) {
    let t = r + bit;
    r >>= 1u;
    if (x >= t) {
      x -= t;
      r += bit;
    }
    bit >>= 2u;
  }
  return r;
}

// 1/sqrt(sh·2^16 + sl) = inv·2^(j - 31), packed inv << 8 | (j + 128)
fn rsqrt48(sh: u32, sl: u32) -> u32 {
  if (sh == 0u && sl == 0u) { return packScale(65535u, 15); }
  let top = select(31 - i32(countLeadingZeros(sl)), 47 - i32(countLeadingZeros(sh)), sh > 0u);
  var j = (31 - top) >> 1u;
  var s = ((sh << 16u) | sl) << u32(2 * max(j, 0));
  if (top >= 30) {
    j = -((top - 30) >> 1u);
    let r = u32(-2 * j);
    if (r > 16u) {
      s = sh >> (r - 16u);
    } else if (r > 0u) {
      s = (sh << (16u - r)) + (sl >> r);
    } else {
      s = (sh << 16u) | sl;
    }
  }
  return packScale(min(2147483648u / isqrt32(s), 65535u), j);
}

// m·2^k as (high, low) in base 2^16, k clamped to [-16, 26]
fn shl48(m: u32, k: i32) -> vec2<u32> {
  if (k <= -16) { return vec2(0u, 0u); }
  if (k < 0) { return vec2(0u, m >> u32(-k)); }
  let c = u32(min(k, 26));
  if (c < 16u) { return vec2((m << c) >> 16u, (m << c) & 0xffffu); }
  return vec2(m << (c - 16u), 0u);
}

// a·b / 2^16 rounded half up, saturating
fn mulq16(a: i32, b: i32) -> i32 {
  let hi = smulhi(a, b);
  let lo = u32(a) * u32(b);
  if (hi >= 0x7fff) { return I32_MAX; }
  if (hi < -0x7fff) { return -I32_MAX; }
  return (hi << 16u) + i32((lo >> 16u) + ((lo >> 15u) & 1u));
}

// First word of Philox4x32-10 for counter (c0, c1, 0, 0), key (k0, k1)
fn philox(c0: u32, c1: u32, k0: u32, k1: u32) -> u32 {
  var x = vec4(c0, c1, 0u, 0u);
  var a = k0;
  var b = k1;
  for (var round = 0; round < 10; round++) {
    let h0 = umulhi(0xd2511f53u, x.x);
    let h1 = umulhi(0xcd9e8d57u, x.z);
    x = vec4(h1 ^ x.y ^ a, 0xcd9e8d57u * x.z, h0 ^ x.w ^ b, 0xd2511f53u * x.x);
    a += 0x9e3779b9u;
    b += 0xbb67ae85u;
  }
  return x.x;
}

// (x·2^n1) / 2^16 rounded: a normalised value to 16 bits
fn top16(x: i32, n1: u32) -> i32 { return (((x << n1) >> 15u) + 1) >> 1u; }

// Left shift that brings a row's largest |x| to bit 30; 0 for a row of zeros
fn headroom(maximum: u32) -> u32 { return select(countLeadingZeros(maximum) - 1u, 0u, maximum == 0u); }

fn quantise8(t: i32, r: u32) -> i32 { return ((mul16(t, r) >> 22u) + 1) >> 1u; }
fn quantise15(t: i32, r: u32) -> i32 { return ((mul16(t, r) >> 15u) + 1) >> 1u; }

// What a row's largest |x| says about its quantisation: shift, mantissa, reciprocal.
struct Quantiser { shift: u32, d: u32, r: u32 }
fn quantiser(maximum: u32) -> Quantiser {
  let shift = headroom(maximum);
  let d = max((maximum << shift) >> 15u, 1u);
  return Quantiser(shift, d, select(2130706432u / d, 0u, maximum == 0u));
}
// Scale of that row when its values are in Q(f).
fn quantiserScale(q: Quantiser, maximum: u32, f: i32) -> u32 {
  return select(packScale(q.d, i32(q.shift) - 15 + f), ZERO_ROW_SCALE, maximum == 0u);
}

fn pack4(v: vec4<i32>) -> u32 {
  let b = vec4<u32>(v) & vec4(255u);
  return b.x | (b.y << 8u) | (b.z << 16u) | (b.w << 24u);
}
fn byteOf(word: u32, i: u32) -> i32 { return i32(word << (24u - 8u * i)) >> 24u; }
