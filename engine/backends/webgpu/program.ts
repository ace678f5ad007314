/** A Recording on the device: buffers, pipelines and bind groups made once; run() only encodes. */
import { DTYPE_BYTES } from '../../../shaders/kernel.ts'
import type { BufferSpec, Counts, Recording, Step } from '../../recording.ts'
import type { Program } from '../backend.ts'
import type { Device } from './device.ts'
import { OutOfDeviceMemory } from './errors.ts'
import { folded, layerOf, type Launch } from './launches.ts'
import { matrixBytes, packPanels } from './panels.ts'
import { playOf, tierFor, type Play } from './play.ts'
import type { Compiled } from './shader.ts'
import type { Choice } from './variants.ts'

/** Most rows, picks or segments one run may have: `rows` is bound as a uniform of this many records. */
export const ROWS_MAX = 1024
/** Bytes of the largest uniform any kernel declares (rows: header and ROWS_MAX records). */
const UNIFORM_BYTES = 16 * (ROWS_MAX + 1)

interface Prepared extends Launch {
  compiled: Compiled
  group: GPUBindGroup
}
type Ready = Play<Prepared>

export class WebgpuProgram implements Program {
  readonly #device: Device
  readonly #specs: Recording['buffers']
  readonly #buffers: Map<string, GPUBuffer>
  readonly #sections: Map<string, Ready[]>
  readonly #uniforms: [counts: GPUBuffer, ...layers: GPUBuffer[]]
  readonly #max: Counts
  readonly #present = new Uint32Array(4)
  /** Words of which only some bytes were written so far, by buffer: WebGPU writes whole words. */
  readonly #partial = new Map<string, Map<number, Uint8Array>>()

  constructor(
    device: Device,
    recording: Recording,
    buffers: Map<string, GPUBuffer>,
    uniforms: [counts: GPUBuffer, ...layers: GPUBuffer[]],
    sections: Map<string, Ready[]>,
  ) {
    this.#device = device
    this.#specs = recording.buffers
    this.#max = recording.max
    this.#buffers = buffers
    this.#uniforms = uniforms
    this.#sections = sections
  }

  write(buffer: string, byteOffset: number, bytes: Uint8Array): void {
    const { queue } = this.#device.gpu
    const target = this.#buffer(buffer)
    const start = byteOffset & ~3
    const end = (byteOffset + bytes.length + 3) & ~3
    if (start === byteOffset && end === byteOffset + bytes.length) {
      queue.writeBuffer(target, start, bytes as Uint8Array<ArrayBuffer>)
      return
    }
    const whole = new Uint8Array(end - start)
    const words = this.#partial.get(buffer) ?? new Map<number, Uint8Array>()
    this.#partial.set(buffer, words)
    for (const word of [start, end - 4]) {
      const known = words.get(word)
      if (known) whole.set(known, word - start)
    }
    whole.set(bytes, byteOffset - start)
    for (const word of [start, end - 4]) words.set(word, whole.slice(word - start, word - start + 4))
    queue.writeBuffer(target, start, whole)
  }

  writeMatrix(buffer: string, row: number, bytes: Uint8Array): void {
    const { k } = this.#spec(buffer).matrix!
    if (row % 16 !== 0) throw new RangeError(`writeMatrix(${buffer}): row ${row} is no multiple of 16`)
    const offset = matrixBytes(row, k)
    this.#device.gpu.queue.writeBuffer(this.#buffer(buffer), offset, packPanels(bytes, k))
  }

  run(sections: readonly string[], counts: Counts): void {
    const device = this.#device
    for (const domain of ['rows', 'picks', 'segments'] as const)
      if (counts[domain] > this.#max[domain])
        throw new RangeError(
          `run over ${counts[domain]} ${domain}: this recording was made for ${this.#max[domain]}`,
        )
    const { gpu } = device
    const now = this.#present
    if (now[0] !== counts.rows || now[1] !== counts.picks || now[2] !== counts.segments) {
      now[0] = counts.rows
      now[1] = counts.picks
      now[2] = counts.segments
      gpu.queue.writeBuffer(this.#uniforms[0], 0, now)
    }
    let encoder = gpu.createCommandEncoder()
    let pass = encoder.beginComputePass()
    let work = 0
    let bound: GPUComputePipeline | null = null
    for (const section of sections) {
      const plays = this.#sections.get(section)
      if (!plays)
        throw new RangeError(
          `no section ${section} in this recording: ${[...this.#sections.keys()].join(', ')}`,
        )
      for (const play of plays) {
        const n = counts[play.domain]
        if (n === 0) continue
        const launches = tierFor(play, n)
        for (const { compiled, group, groups, work: cost } of launches) {
          const here = cost(n)
          if (work > 0 && work + here > device.workPerSubmit) {
            pass.end()
            gpu.queue.submit([encoder.finish()])
            encoder = gpu.createCommandEncoder()
            pass = encoder.beginComputePass()
            work = 0
            bound = null
          }
          work += here
          if (bound !== compiled.pipeline) pass.setPipeline((bound = compiled.pipeline))
          pass.setBindGroup(0, group)
          const [x, y] = folded(groups(n))
          pass.dispatchWorkgroups(x, y)
        }
      }
    }
    pass.end()
    gpu.queue.submit([encoder.finish()])
  }

  async read(buffer: string, byteOffset: number, byteLength: number): Promise<Uint8Array> {
    const start = byteOffset & ~3
    const size = ((byteOffset + byteLength + 3) & ~3) - start
    const bytes = await this.#device.read(this.#buffer(buffer), start, size)
    return bytes.subarray(byteOffset - start, byteOffset - start + byteLength)
  }

  done(): Promise<void> {
    return this.#device.done()
  }

  free(): void {
    for (const buffer of this.#buffers.values()) buffer.destroy()
    for (const buffer of this.#uniforms) buffer.destroy()
  }

  /** Dispatches of a section for n rows, picks and segments: what a token costs the CPU. */
  dispatches(section: string, counts: Counts): number {
    const plays = this.#sections.get(section) ?? []
    return plays.reduce((sum, p) => sum + tierFor(p, counts[p.domain]).length, 0)
  }

  #buffer(name: string): GPUBuffer {
    const buffer = this.#buffers.get(name)
    if (!buffer) throw new RangeError(`no buffer ${name} in this recording`)
    return buffer
  }

  #spec(name: string): BufferSpec {
    return this.#specs[name]!
  }
}

/**
 * @throws ShaderError, OutOfDeviceMemory, RangeError (more rows than the kernels take)
 */
export async function loadProgram(
  device: Device,
  recording: Recording,
  choice: Choice = device.choice,
): Promise<WebgpuProgram> {
  const { gpu } = device
  for (const [domain, most] of Object.entries(recording.max))
    if (most > ROWS_MAX)
      throw new RangeError(`${most} ${domain} in one run: the WebGPU backend takes ${ROWS_MAX}`)

  const uniform = new Set<string>()
  for (const step of allSteps(recording)) if (step.buffers.rows) uniform.add(step.buffers.rows)
  gpu.pushErrorScope('out-of-memory')
  const buffers = new Map<string, GPUBuffer>()
  for (const [name, spec] of Object.entries(recording.buffers)) {
    const bytes = spec.matrix
      ? matrixBytes(spec.matrix.rows, spec.matrix.k)
      : spec.length * DTYPE_BYTES[spec.dtype]
    const size = Math.max(Math.ceil(bytes / 16) * 16, uniform.has(name) ? UNIFORM_BYTES : 16)
    if (size > gpu.limits.maxBufferSize || size > gpu.limits.maxStorageBufferBindingSize) {
      gpu.popErrorScope().catch(() => undefined)
      throw new OutOfDeviceMemory(
        `buffer ${name} takes ${size} bytes; this device binds ${device.bindingBytesMax}: split it by rows`,
      )
    }
    // STORAGE | UNIFORM | COPY_SRC | COPY_DST
    const usage = 0x80 | 0x04 | 0x08 | (uniform.has(name) ? 0x40 : 0)
    buffers.set(name, gpu.createBuffer({ label: name, size, usage }))
  }
  const counts = gpu.createBuffer({ label: 'counts', size: 16, usage: 0x40 | 0x08 })
  const layers = new Map<string, GPUBuffer>()
  const layerBuffer = (words: Int32Array<ArrayBuffer>): GPUBuffer => {
    const key = words.join()
    let buffer = layers.get(key)
    if (!buffer) {
      layers.set(key, (buffer = gpu.createBuffer({ label: 'layer', size: 32, usage: 0x40 | 0x08 })))
      gpu.queue.writeBuffer(buffer, 0, words)
    }
    return buffer
  }
  const failed = await gpu.popErrorScope()
  if (failed) {
    for (const buffer of buffers.values()) buffer.destroy()
    throw new OutOfDeviceMemory(`no room on ${device.description} for this recording: ${failed.message}`)
  }

  const prepare = async (launch: Launch): Promise<Prepared> => {
    const compiled = await device.shaders.compile(launch.shader, launch.constants)
    let unwritten = 0
    const entries = compiled.bindings.map(({ binding, name, type }) => {
      if (name === 'counts') return { binding, resource: { buffer: counts } }
      if (name === 'layer') return { binding, resource: { buffer: layerBuffer(layerOf(launch.params)) } }
      const bound = launch.buffers[name]
      if (bound) return { binding, resource: { buffer: buffers.get(bound)! } }
      if (type !== 'storage') return { binding, resource: { buffer: device.nothing } }
      return { binding, resource: { buffer: device.nowhere, offset: 256 * unwritten++, size: 16 } }
    })
    return {
      ...launch,
      compiled,
      group: gpu.createBindGroup({ label: launch.shader, layout: compiled.layout, entries }),
    }
  }
  const sections = new Map<string, Ready[]>()
  await Promise.all(
    Object.keys(recording.sections).map(async (name) => {
      const plays = playOf(name, recording, choice, gpu.limits.maxComputeWorkgroupStorageSize).map(
        async ({ domain, tiers }) => ({
          domain,
          tiers: await Promise.all(
            tiers.map(async ({ most, launches }) => ({
              most,
              launches: await Promise.all(launches.map(prepare)),
            })),
          ),
        }),
      )
      sections.set(name, await Promise.all(plays))
    }),
  )
  return new WebgpuProgram(device, recording, buffers, [counts, ...layers.values()], sections)
}

function* allSteps(recording: Recording): Generator<Step> {
  for (const steps of Object.values(recording.sections)) yield* steps
}
