// The next token of each sequence, without a sort: one workgroup per sequence. The order "logit falling, id rising" is
// cut by radix selection over logits, 8 bits at a time: once by count (top-k), once by mass (top-p). Equal logits have
// equal probability, so what is left is how many of the last class stay, lowest ids first.
#import launch
#import xn1
#import exp2
#import sums

override WG: u32 = 256;
override VOCAB: u32 = 1;
override CAPACITY: u32 = 1;

@group(0) @binding(1) var<storage, read> logits: array<i32>;           // [n, VOCAB] Q16
@group(0) @binding(2) var<storage, read> exp2: array<i32>;             // [257]
@group(0) @binding(3) var<storage, read_write> records: array<u32>;    // [n, 12], see RECORD of sample.ts
@group(0) @binding(4) var<storage, read_write> rows: array<u32>;       // row r becomes (id, position, base, position + 1)
@group(0) @binding(5) var<storage, read_write> out: array<u32>;        // [n, CAPACITY]

const BLOCKS = 256u; // ids fall into this many runs for the draw
var<workgroup> bins: array<atomic<u32>, 256>;
var<workgroup> blockMass: array<atomic<u32>, BLOCKS>; // mass above the cut, per run of ids
var<workgroup> blockEqual: array<atomic<u32>, BLOCKS>; // ids at the cut, per run of ids
var<workgroup> chosen: vec4<u32>;

fn ordered(x: i32) -> u32 { return u32(x) ^ 0x80000000u; }

// p = exp2q((max - logit)·1/T)
fn probability(distance: u32, inverse: u32) -> u32 {
  let high = umulhi(distance, inverse);
  if (high >= 16u) { return 0u; }
  return u32(exp2q((high << 16u) | ((distance * inverse) >> 16u)));
}

// Where a cut falls: keys above `key` stay whole, and `left` (a count or a mass) of those equal to it.
struct Cut { key: u32, left: u32 }

// The largest key such that keys ≥ it hold at least `wanted`, counting ids or, `byMass`, probabilities; only keys ≥
// `least` take part. `left` = wanted less what keys above hold.
fn cutAt(o: u32, wanted: u32, byMass: bool, least: u32, maximum: u32, inverse: u32, lane: u32) -> Cut {
  var prefix = 0u;
  var left = wanted;
  for (var shift = 24i; shift >= 0; shift -= 8) {
    for (var b = lane; b < 256u; b += WG) { atomicStore(&bins[b], 0u); }
    workgroupBarrier();
    // Above the byte under count, a key must agree with the prefix.
    let mask = select(0xffffffffu << (u32(shift) + 8u), 0u, shift == 24);
    for (var i = lane; i < VOCAB; i += WG) {
      let key = ordered(logits[o + i]);
      if ((key & mask) == prefix && key >= least) {
        let amount = select(1u, probability(maximum - key, inverse), byMass);
        if (amount > 0u) { atomicAdd(&bins[(key >> u32(shift)) & 255u], amount); }
      }
    }
    workgroupBarrier();
    if (lane == 0u) {
      var b = 255u;
      for (; b > 0u; b--) {
        let held = atomicLoad(&bins[b]);
        if (held >= left) { break; }
        left -= held;
      }
      chosen = vec4(b, left, 0u, 0u);
    }
    let found = workgroupUniformLoad(&chosen);
    prefix |= found.x << u32(shift);
    left = found.y;
  }
  return Cut(prefix, left);
}

@compute @workgroup_size(WG)
fn main(
  @builtin(workgroup_id) id: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let r = groupIndex(id, groups);
  if (r >= present()) { return; }
  let o = r * VOCAB;
  let record = r * 12u;

  var most = 0u;
  for (var i = lane; i < VOCAB; i += WG) { most = max(most, ordered(logits[o + i])); }
  putMax(0u, most);
  workgroupBarrier();
  let maximum = got(0u);
  var best = 0u; // the lowest id, as the largest of its complement
  for (var i = lane; i < VOCAB; i += WG) {
    if (ordered(logits[o + i]) == maximum) { best = max(best, ~i); }
  }
  putMax(1u, best);
  if (lane == 0u) { chosen = vec4(records[record], records[record + 1u], 0u, 0u); }
  let asked = workgroupUniformLoad(&chosen);
  let inverse = asked.x;
  var token = ~got(1u);
  if (inverse != 0u) { token = drawn(o, record, maximum, inverse, asked.y, lane); }

  if (lane == 0u) {
    let position = records[record + 6u];
    let count = records[record + 7u];
    if (count < CAPACITY) { out[r * CAPACITY + count] = token; }
    rows[4u + 4u * r] = token;
    rows[5u + 4u * r] = position;
    rows[6u + 4u * r] = records[record + 8u];
    rows[7u + 4u * r] = position + 1u;
    records[record + 6u] = position + 1u;
    records[record + 7u] = count + 1u;
  }
}

fn drawn(o: u32, record: u32, maximum: u32, inverse: u32, topK: u32, lane: u32) -> u32 {
  // top-k: everything above `kept.key`, and kept.left of those at it
  var kept = Cut(0u, VOCAB);
  if (topK != 0u && topK < VOCAB) { kept = cutAt(o, topK, false, 0u, maximum, inverse, lane); }

  var above = 0u;
  var equal = 0u;
  for (var i = lane; i < VOCAB; i += WG) {
    let key = ordered(logits[o + i]);
    if (key > kept.key) { above += probability(maximum - key, inverse); }
    equal += u32(key == kept.key);
  }
  putSum(2u, above);
  putSum(3u, equal);
  workgroupBarrier();

  // top-p: the same of those, by mass
  let edge = probability(maximum - kept.key, inverse);
  let mass = got(2u) + min(kept.left, got(3u)) * edge;
  let topP = records[record + 2u];
  let product = mass * topP;
  let share = (umulhi(mass, topP) << 16u) + (product >> 16u) + u32((product & 0xffffu) != 0u);
  if (lane == 0u) { chosen = vec4(max(share, 1u), got(2u), 0u, 0u); }
  let goal = workgroupUniformLoad(&chosen);
  var cut = Cut(kept.key, 0u);
  if (goal.y >= goal.x) {
    cut = cutAt(o, goal.x, true, kept.key + 1u, maximum, inverse, lane);
  } else {
    cut.left = goal.x - goal.y;
  }
  let p = probability(maximum - cut.key, inverse);
  let stay = (cut.left + p - 1u) / max(p, 1u); // of the last class
  // Threshold found; now the draw, over kept ids in rising order.
  let run = (VOCAB + BLOCKS - 1u) / BLOCKS;
  for (var i = lane; i < VOCAB; i += WG) {
    let key = ordered(logits[o + i]);
    if (key > cut.key) { atomicAdd(&blockMass[i / run], probability(maximum - key, inverse)); }
    if (key == cut.key) { atomicAdd(&blockEqual[i / run], 1u); }
  }
  workgroupBarrier();
  if (lane == 0u) {
    var sum = stay * p;
    for (var b = 0u; b < BLOCKS; b++) { sum += atomicLoad(&blockMass[b]); }
    let random = philox(records[record + 6u], records[record + 5u], records[record + 3u], records[record + 4u]);
    let draw = umulhi(random, sum);
    var passed = 0u; // mass of the runs before
    var room = stay; // ids of the last class still to come
    var b = 0u;
    for (; b + 1u < BLOCKS; b++) {
      let here = min(atomicLoad(&blockEqual[b]), room);
      let held = atomicLoad(&blockMass[b]) + here * p;
      if (passed + held > draw) { break; }
      passed += held;
      room -= here;
    }
    chosen = vec4(b * run, passed, room, draw);
    var i = b * run;
    for (; i < VOCAB; i++) {
      let key = ordered(logits[o + i]);
      if (key > cut.key) { passed += probability(maximum - key, inverse); }
      if (key == cut.key && room > 0u) {
        passed += p;
        room -= 1u;
      }
      if (passed > draw) { break; }
    }
    chosen.x = i;
  }
  return workgroupUniformLoad(&chosen).x;
}
