/** What can go wrong on a GPU, by name. */

/** No WebGPU here, or an adapter that can't hold what is asked of it. */
export class WebgpuUnavailable extends Error {
  override name = 'WebgpuUnavailable'
}

/** A kernel the driver refused; the message carries its complaints beside the lines they are about. */
export class ShaderError extends Error {
  override name = 'ShaderError'
  readonly shader: string
  constructor(shader: string, message: string) {
    super(`kernel ${shader} does not compile on this device:\n${message}`)
    this.shader = shader
  }
}

/** The device went away (driver reset, memory pressure, sleep, close()): open a new backend and load again. */
export class DeviceLost extends Error {
  override name = 'DeviceLost'
}

/** The device refused a command; results after it mean nothing. */
export class DeviceFault extends Error {
  override name = 'DeviceFault'
}

/** The device has no room for a recording's buffers. */
export class OutOfDeviceMemory extends Error {
  override name = 'OutOfDeviceMemory'
}
