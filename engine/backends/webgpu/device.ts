/** One GPU device: opened with all the room its adapter has, watched for loss and faults, read through a ring. */
import { DeviceFault, DeviceLost, WebgpuUnavailable } from './errors.ts'
import { Shaders } from './shader.ts'
import { gpuChoice, softwareChoice, type Choice } from './variants.ts'

/** Limits that matter to us; asked for as the adapter has them, the rest stays at WebGPU's defaults. */
const wanted = [
  'maxBufferSize', // whole vocabularies
  'maxStorageBufferBindingSize',
  'maxComputeWorkgroupStorageSize', // larger tiles
  'maxComputeInvocationsPerWorkgroup',
  'maxComputeWorkgroupSizeX',
] as const

export class Device {
  readonly gpu: GPUDevice
  readonly description: string
  readonly software: boolean
  readonly shaders: Shaders
  choice: Choice
  /** Bound where a kernel variant reads or writes nothing. */
  readonly nothing: GPUBuffer
  readonly nowhere: GPUBuffer
  /** Multiply-adds recorded before a submission is split, so that none holds the GPU for long. */
  workPerSubmit: number
  /** Resolves when it went by itself or refused a command; never after destroy(). */
  readonly lost: Promise<Error>
  readonly #gone: Promise<never>
  #fault: Error | null = null
  readonly #free: GPUBuffer[] = []

  constructor(gpu: GPUDevice, adapter: GPUAdapter, languageFeatures: ReadonlySet<string> | undefined) {
    this.gpu = gpu
    const { vendor, architecture, device, description } = adapter.info
    this.description = [vendor, architecture || device, description && `(${description})`]
      .filter(Boolean)
      .join(' ')
    this.software =
      (adapter.info.isFallbackAdapter ?? false) ||
      /swiftshader|llvmpipe|lavapipe|software/i.test(this.description)
    this.choice = this.software ? softwareChoice : gpuChoice
    this.shaders = new Shaders(gpu, languageFeatures)
    this.workPerSubmit = this.software ? 1e8 : 5e9 // 50 ms at 2 and at 100 billion a second
    // STORAGE | UNIFORM, and large enough for the rows of program.ts
    this.nothing = gpu.createBuffer({ label: 'nothing', size: 16 * 1025, usage: 0x80 | 0x40 })
    // Four places, 256 bytes apart: no two bindings for writing may overlap.
    this.nowhere = gpu.createBuffer({ label: 'nowhere', size: 1024, usage: 0x80 })
    this.#gone = gpu.lost.then(({ reason, message }) => {
      throw new DeviceLost(`GPU ${this.description} lost (${reason}): ${message}`)
    })
    this.#gone.catch((error: unknown) => (this.#fault ??= error as Error))
    this.lost = new Promise((resolve) => {
      void gpu.lost.then(({ reason, message }) => {
        if (reason !== 'destroyed')
          resolve(new DeviceLost(`GPU ${this.description} lost (${reason}): ${message}`))
      })
      gpu.addEventListener('uncapturederror', (event) => {
        this.#fault ??= new DeviceFault(event.error.message)
        resolve(this.#fault)
      })
    })
  }

  get bindingBytesMax(): number {
    return Math.min(this.gpu.limits.maxBufferSize, this.gpu.limits.maxStorageBufferBindingSize)
  }

  /** Bytes of a buffer once everything before has run; start and size in whole words. */
  async read(buffer: GPUBuffer, start: number, size: number): Promise<Uint8Array> {
    if (this.#fault) throw this.#fault
    const found = this.#free.findIndex((free) => free.size >= size)
    // 4 KiB at least, so that the small reads of a decoder share a few. MAP_READ | COPY_DST
    const landing =
      found >= 0
        ? this.#free.splice(found, 1)[0]!
        : this.gpu.createBuffer({
            label: 'landing',
            size: Math.max(4096, Math.ceil(size / 16) * 16),
            usage: 0x01 | 0x08,
          })
    const encoder = this.gpu.createCommandEncoder()
    encoder.copyBufferToBuffer(buffer, start, landing, 0, size)
    this.gpu.queue.submit([encoder.finish()])
    try {
      await Promise.race([landing.mapAsync(1, 0, size), this.#gone])
    } catch (error) {
      landing.destroy()
      throw this.#fault ?? error
    }
    const bytes = new Uint8Array(landing.getMappedRange(0, size).slice(0))
    landing.unmap()
    if (this.#free.length < 4) this.#free.push(landing)
    else landing.destroy()
    if (this.#fault) throw this.#fault
    return bytes
  }

  async done(): Promise<void> {
    await Promise.race([this.gpu.queue.onSubmittedWorkDone(), this.#gone])
    if (this.#fault) throw this.#fault
  }

  destroy(): void {
    this.gpu.destroy()
  }
}

/** @throws WebgpuUnavailable */
export async function openDevice(given?: GPUAdapter): Promise<Device> {
  const gpu = typeof navigator === 'undefined' ? undefined : navigator.gpu
  if (!given && !gpu) {
    throw new WebgpuUnavailable(
      'no navigator.gpu here: WebGPU needs a browser that has it and a secure context',
    )
  }
  const adapter = given ?? (await gpu!.requestAdapter({ powerPreference: 'high-performance' }))
  if (!adapter)
    throw new WebgpuUnavailable('navigator.gpu gives no adapter: no GPU, or a driver the browser rejects')
  const requiredLimits: Record<string, number> = {}
  for (const limit of wanted) requiredLimits[limit] = adapter.limits[limit]
  const features = (['subgroups', 'timestamp-query'] as const).filter((feature) =>
    adapter.features.has(feature),
  )
  const device = await adapter.requestDevice({ label: 'chorale', requiredLimits, requiredFeatures: features })
  // Dawn in Node has no navigator.gpu; it knows the whole language.
  const language = gpu?.wgslLanguageFeatures ?? new Set(['packed_4x8_integer_dot_product'])
  return new Device(device, adapter, language)
}
