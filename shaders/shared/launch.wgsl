// counts: rows, picks, segments of this run; a kernel runs over counts[DOMAIN].
// Grids over 65,535 workgroups are folded into y: groupIndex undoes it.
override DOMAIN: u32 = 0;

@group(0) @binding(0) var<uniform> counts: vec4<u32>;

fn present() -> u32 { return counts[DOMAIN]; }
fn groupIndex(id: vec3<u32>, groups: vec3<u32>) -> u32 { return id.x + id.y * groups.x; }
