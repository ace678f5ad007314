// What differs from layer to layer, as a uniform and not as overrides: one pipeline then serves all layers.
struct Layer { cM: u32, cE: i32, scoreM: u32, scoreE: i32, index: u32 }

@group(0) @binding(10) var<uniform> layer: Layer;
