/** The smallest kernel there is, to know that a device computes: used on Dawn in Node and in the page. */
const code = `
@group(0) @binding(0) var<storage, read_write> data: array<i32>;
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x < arrayLength(&data)) { data[id.x] += 1; }
}`

export async function addOneOn(device: GPUDevice, values: Int32Array<ArrayBuffer>): Promise<Int32Array> {
  const size = values.byteLength
  const data = device.createBuffer({
    size,
    usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST,
  })
  const back = device.createBuffer({ size, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST })
  device.queue.writeBuffer(data, 0, values)
  const pipeline = await device.createComputePipelineAsync({
    layout: 'auto',
    compute: { module: device.createShaderModule({ code }) },
  })
  const entries = [{ binding: 0, resource: { buffer: data } }]
  const encoder = device.createCommandEncoder()
  const pass = encoder.beginComputePass()
  pass.setPipeline(pipeline)
  pass.setBindGroup(0, device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries }))
  pass.dispatchWorkgroups(Math.ceil(values.length / 64))
  pass.end()
  encoder.copyBufferToBuffer(data, 0, back, 0, size)
  device.queue.submit([encoder.finish()])
  await back.mapAsync(GPUMapMode.READ)
  const out = new Int32Array(back.getMappedRange().slice(0))
  device.destroy()
  return out
}
