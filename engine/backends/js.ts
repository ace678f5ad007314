/** The plain JavaScript backend: plays the kernels' own definitions. Slow, small, and right by definition. */
import type { Bytes, Dtype } from '../../shaders/kernel.ts'
import { stride } from '../../shaders/kernel.ts'
import type { Kernel } from '../../shaders/kernel.ts'
import { kernels } from '../../shaders/kernels.ts'
import type { Counts, Recording } from '../recording.ts'
import type { Backend, Program } from './backend.ts'

const arrays = { i8: Int8Array, i16: Int16Array, i32: Int32Array, u32: Uint32Array } satisfies Record<
  Dtype,
  unknown
>

export function openJs(): Backend {
  return {
    info: { name: 'js', description: 'plain JavaScript', software: false, threads: 1, variants: {} },
    lost: new Promise(() => {}),
    bindingBytesMax: 2 ** 31,
    load: async (recording) => new JsProgram(recording),
    close: async () => {},
  }
}

class JsProgram implements Program {
  readonly #recording: Recording
  readonly #buffers: Record<string, Bytes> = {}

  constructor(recording: Recording) {
    this.#recording = recording
    for (const [name, { dtype, length }] of Object.entries(recording.buffers))
      this.#buffers[name] = new arrays[dtype](length)
  }

  write(buffer: string, byteOffset: number, bytes: Uint8Array): void {
    this.#view(buffer).set(bytes, byteOffset)
  }

  writeMatrix(buffer: string, row: number, bytes: Uint8Array): void {
    const { k } = this.#recording.buffers[buffer]!.matrix!
    const target = this.#view(buffer)
    for (let r = 0; r * k < bytes.length; r++)
      target.set(bytes.subarray(r * k, r * k + k), (row + r) * stride(k))
  }

  run(sections: readonly string[], counts: Counts): void {
    for (const section of sections)
      for (const step of this.#recording.sections[section]!) {
        const bound = Object.fromEntries(
          Object.entries(step.buffers).map(([slot, name]) => [
            slot,
            name === null ? null : this.#buffers[name]!,
          ]),
        )
        const kernel = kernels[step.kernel] as unknown as Kernel
        kernel.run(step.params, bound, counts[step.domain])
      }
  }

  async read(buffer: string, byteOffset: number, byteLength: number): Promise<Uint8Array> {
    return this.#view(buffer).slice(byteOffset, byteOffset + byteLength)
  }

  async done(): Promise<void> {}
  free(): void {}

  #view(buffer: string): Uint8Array {
    const b = this.#buffers[buffer]!
    return new Uint8Array(b.buffer, b.byteOffset, b.byteLength)
  }
}
