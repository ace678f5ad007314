/** WGSL text to pipelines: bindings read from the text itself, every pipeline made asynchronously and kept. */
import { shaderSource } from '../../../shaders/source.ts'
import { ShaderError } from './errors.ts'

export interface Binding {
  binding: number
  name: string
  type: GPUBufferBindingType
}

export interface Compiled {
  pipeline: GPUComputePipeline
  layout: GPUBindGroupLayout
  bindings: Binding[]
}

/** Stand-ins where a browser lacks the language feature; module scope may shadow a builtin. */
const packedStandIns = `
fn unpack4xI8(a: u32) -> vec4<i32> { return vec4<i32>(vec4(a) << vec4(24u, 16u, 8u, 0u)) >> vec4(24u); }
fn dot4I8Packed(a: u32, b: u32) -> i32 {
  let p = unpack4xI8(a) * unpack4xI8(b);
  return p.x + p.y + p.z + p.w;
}
`

/** What a kernel binds, from its declarations. */
export function bindingsOf(source: string): Binding[] {
  const declared = source.matchAll(
    /@group\(0\) @binding\((\d+)\) var<(uniform|storage)(?:, *(read|read_write))?> (\w+):/g,
  )
  return Array.from(declared, ([, binding, space, access, name]) => ({
    binding: Number(binding),
    name: name!,
    type: space === 'uniform' ? 'uniform' : access === 'read_write' ? 'storage' : 'read-only-storage',
  }))
}

export class Shaders {
  readonly #device: GPUDevice
  readonly #standIns: string
  readonly #modules = new Map<string, { module: GPUShaderModule; source: string }>()
  readonly #pipelines = new Map<string, Promise<Compiled>>()

  constructor(device: GPUDevice, languageFeatures: ReadonlySet<string> | undefined) {
    this.#device = device
    this.#standIns = languageFeatures?.has('packed_4x8_integer_dot_product') ? '' : packedStandIns
  }

  /**
   * The pipeline of a kernel under these override constants; the same one for the same question.
   * @throws ShaderError
   */
  compile(shader: string, constants: Record<string, number>): Promise<Compiled> {
    const { source } = this.#module(shader)
    // Constants a kernel does not declare are an error in WebGPU, and would make two pipelines of one.
    const declared = Object.fromEntries(
      Object.entries(constants).filter(([name]) => new RegExp(`override ${name}\\b`).test(source)),
    )
    const key = `${shader} ${JSON.stringify(declared)}`
    let compiled = this.#pipelines.get(key)
    if (!compiled) {
      compiled = this.#compile(shader, declared)
      this.#pipelines.set(key, compiled)
    }
    return compiled
  }

  async #compile(shader: string, constants: Record<string, number>): Promise<Compiled> {
    const { module, source } = this.#module(shader)
    const bindings = bindingsOf(source)
    const entries = bindings.map(({ binding, type }) => ({ binding, visibility: 4, buffer: { type } })) // 4: COMPUTE
    const layout = this.#device.createBindGroupLayout({ label: shader, entries })
    try {
      const pipeline = await this.#device.createComputePipelineAsync({
        label: shader,
        layout: this.#device.createPipelineLayout({ bindGroupLayouts: [layout] }),
        compute: { module, entryPoint: 'main', constants },
      })
      return { pipeline, layout, bindings }
    } catch (error) {
      const said = error instanceof Error ? error.message : String(error)
      throw new ShaderError(
        shader,
        (await complaints(module, source)) || `${said} (${JSON.stringify(constants)})`,
      )
    }
  }

  #module(shader: string): { module: GPUShaderModule; source: string } {
    let known = this.#modules.get(shader)
    if (!known) {
      const source = shaderSource(shader) + this.#standIns
      known = { module: this.#device.createShaderModule({ label: shader, code: source }), source }
      this.#modules.set(shader, known)
    }
    return known
  }
}

async function complaints(module: GPUShaderModule, source: string): Promise<string> {
  const lines = source.split('\n')
  const { messages } = await module.getCompilationInfo()
  return messages
    .filter(({ type }) => type === 'error')
    .map(({ lineNum, message }) => {
      const around = lines.slice(Math.max(0, lineNum - 3), lineNum + 2)
      const shown = around.map((line, i) => `${String(Math.max(1, lineNum - 2) + i).padStart(5)} | ${line}`)
      return `line ${lineNum}: ${message}\n${shown.join('\n')}`
    })
    .join('\n')
}
