// One head of one row, prepared by a whole workgroup: q/k norm and RoPE into headValues, and its scale.
// Needs qkv, ropeTable, norm and the overrides of heads.wgsl; uses five slots from `slots` on.

var<workgroup> headValues: array<i32, HD>;

struct PreparedHead { by: Quantiser, scale: u32 }

fn prepareHead(o: u32, head: u32, position: u32, lane: u32, slots: u32) -> PreparedHead {
  let isValue = head >= H + KV;
  var f = 16;
  var root = 0u;
  var most = 0u;
  for (var i = lane; i < HD; i += WG) {
    let x = qkv[o + i];
    headValues[i] = x;
    most = max(most, uabs(x));
  }
  putMax(slots, most);
  workgroupBarrier();
  var maximum = got(slots);

  if (QK_NORM && !isValue) {
    let n1 = headroom(maximum);
    let g0 = select(HD, 0u, head < H);
    var sum = vec2(0u);
    most = 0u;
    for (var i = lane; i < HD; i += WG) {
      putSquare(&sum, top16(headValues[i], n1));
      let g = i32(norm[(g0 + i) / 2u] << (16u - 16u * ((g0 + i) % 2u))) >> 16u;
      let x = mul16s(headValues[i] << n1, g);
      headValues[i] = x;
      most = max(most, uabs(x));
    }
    putSum(slots + 1u, sum.x);
    putSum(slots + 2u, sum.y);
    putMax(slots + 3u, most);
    workgroupBarrier();
    root = rootOf(slots + 1u, n1, EPS_M, EPS_K);
    maximum = got(slots + 3u);
    f = 15;
  }

  if (ROPE && !isValue) {
    let n1 = headroom(maximum);
    let half = HD / 2u;
    most = 0u;
    for (var i = lane; i < half; i += WG) {
      let word = ropeTable[position * half + i];
      let c = i32(word << 16u) >> 16u;
      let s = i32(word) >> 16u;
      let re = clamp(top16(headValues[i], n1), -32767, 32767);
      let im = clamp(top16(headValues[i + half], n1), -32767, 32767);
      headValues[i] = re * c - im * s;
      headValues[i + half] = im * c + re * s;
      most = max(most, max(uabs(re * c - im * s), uabs(im * c + re * s)));
    }
    if (HD % 2u == 1u && lane == 0u) { // the odd one out is rounded, not turned
      let x = clamp(top16(headValues[HD - 1u], n1), -32767, 32767);
      headValues[HD - 1u] = x;
      most = max(most, uabs(x));
    }
    putMax(slots + 4u, most);
    workgroupBarrier();
    maximum = got(slots + 4u);
    f += i32(n1) - 1;
  }

  let by = quantiser(maximum);
  var scale = quantiserScale(by, maximum, f);
  if (QK_NORM && !isValue) {
    let m = mulm(scaleMantissa(scale), scaleMantissa(root));
    scale = packScale(m >> 1u, scaleExponent(scale) - scaleExponent(root) + i32(m & 1u));
  }
  return PreparedHead(by, scale);
}

// Word w of the prepared head as int8.
fn headWord(w: u32, by: Quantiser) -> u32 {
  var x = vec4(0);
  for (var j = 0u; j < 4u; j++) {
    if (4u * w + j < HD) { x[j] = headValues[4u * w + j]; }
  }
  return quantiseHigh(x, by);
}
