/** Streams a pack's verified bytes into a program's buffers: never more than a chunk and sixteen rows in between. */
import type { Program } from '../backends/backend.ts'
import type { BufferSpec, Recording } from '../recording.ts'
import { tensorBytes } from './manifest.ts'
import type { TensorEntry } from './manifest.ts'
import type { Pack } from './reader.ts'

export interface LoadProgress {
  loaded: number
  total: number
}

interface Sink {
  /** Byte range of the tensor that this buffer takes. */
  from: number
  to: number
  accept(tensorOffset: number, bytes: Uint8Array): void
}

export async function loadWeights(
  pack: Pack,
  recording: Recording,
  program: Program,
  onProgress?: (p: LoadProgress) => void,
): Promise<void> {
  // prettier-ignore
  const wanted = new Map<string, Array<{ entry: TensorEntry; sinks: Sink[] }>>()
  const byTensor = new Map<string, { entry: TensorEntry; sinks: Sink[] }>()
  for (const [name, spec] of Object.entries(recording.buffers)) {
    if (!spec.source) continue
    const entry = pack.manifest.tensors[spec.source.tensor]!
    const target = byTensor.get(spec.source.tensor) ?? { entry, sinks: [] }
    if (!byTensor.has(spec.source.tensor)) {
      byTensor.set(spec.source.tensor, target)
      wanted.set(entry.file, [...(wanted.get(entry.file) ?? []), target])
    }
    target.sinks.push(sink(name, spec, entry, program))
  }

  const total = [...wanted.keys()].reduce((n, file) => n + pack.manifest.files[file]!.bytes, 0)
  let loaded = 0
  for (const [file, tensors] of wanted) {
    let offset = 0
    for await (const chunk of pack.chunks(file)) {
      for (const { entry, sinks } of tensors) {
        for (const { from, to, accept } of sinks) {
          const start = Math.max(entry.offset + from, offset)
          const end = Math.min(entry.offset + to, offset + chunk.length)
          if (start < end) accept(start - entry.offset - from, chunk.subarray(start - offset, end - offset))
        }
      }
      offset += chunk.length
      loaded += chunk.length
      onProgress?.({ loaded, total })
      // Lets the device drain its staging memory, so that the peak stays near the packed size.
      await program.done()
    }
  }
}

/** A sink takes a tensor's bytes in order, in pieces of any size. */
function sink(name: string, spec: BufferSpec, entry: TensorEntry, program: Program): Sink {
  const rowBytes = tensorBytes(entry) / entry.shape[0]!
  const from = spec.source!.from * rowBytes
  const to = spec.source!.to * rowBytes
  // Both kinds are handed on in groups of 16 rows or words, so that no backend meets an odd offset.
  const group = spec.matrix ? 16 * rowBytes : 16
  let carry = new Uint8Array(0)
  const hand = (at: number, bytes: Uint8Array): void =>
    spec.matrix ? program.writeMatrix(name, at / rowBytes, bytes) : program.write(name, at, bytes)
  return {
    from,
    to,
    accept(offset, bytes) {
      let at = offset - carry.length
      let rest = bytes
      if (carry.length) {
        const missing = Math.min(group - carry.length, rest.length)
        const joined = new Uint8Array(carry.length + missing)
        joined.set(carry)
        joined.set(rest.subarray(0, missing), carry.length)
        carry = joined
        rest = rest.subarray(missing)
        if (carry.length === group || at + carry.length === to - from) {
          hand(at, carry)
          at += carry.length
          carry = new Uint8Array(0)
        }
      }
      if (!rest.length) return
      const isEnd = at + rest.length === to - from
      const whole = isEnd ? rest.length : Math.floor(rest.length / group) * group
      if (whole) hand(at, rest.subarray(0, whole))
      carry = rest.slice(whole)
    },
  }
}
