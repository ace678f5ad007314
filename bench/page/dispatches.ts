/** Counts what a page asks of its GPU, whoever asks: every engine in it goes through these two methods. */

export interface GpuCounts {
  dispatches: number
  passes: number
}

const counts: GpuCounts = { dispatches: 0, passes: 0 }
let watching = false

/** Starts counting (once); returns the counters, which go on. */
export function gpuCounts(): GpuCounts {
  if (watching || typeof GPUComputePassEncoder === 'undefined') return counts
  watching = true
  const pass = GPUComputePassEncoder.prototype
  const direct = pass.dispatchWorkgroups
  pass.dispatchWorkgroups = function (...args: Parameters<typeof direct>) {
    counts.dispatches++
    direct.apply(this, args)
  }
  const indirect = pass.dispatchWorkgroupsIndirect
  pass.dispatchWorkgroupsIndirect = function (...args: Parameters<typeof indirect>) {
    counts.dispatches++
    indirect.apply(this, args)
  }
  const encoder = GPUCommandEncoder.prototype
  const begin = encoder.beginComputePass
  encoder.beginComputePass = function (...args: Parameters<typeof begin>) {
    counts.passes++
    return begin.apply(this, args)
  }
  return counts
}

export function stopCounting<T>(before: GpuCounts, work: T): GpuCounts & { work: T } {
  return { dispatches: counts.dispatches - before.dispatches, passes: counts.passes - before.passes, work }
}
