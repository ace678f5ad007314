/**
 * Commits to an answer: leaves and root of its trace, as trace.ts defines them, by WASM where that is to be had. A short unit is
 * half a millisecond of work and thirty blocks of SHA-256.
 */
import { wasmBytes } from './backends/wasm/source.ts'
import { DIGEST_WORDS } from '../shaders/digest.ts'
import { hex } from './hex.ts'
import { chunkOf, leafCount, leavesOf, rootOf } from './trace.ts'

export interface Commitment {
  /** 32 bytes each, as leavesOf() gives them. */
  leaves: Uint8Array
  /** As rootOf() gives it. */
  root: string
  /** SHA-256 of the output's canonical bytes, in lower-case hex: the last leaf. */
  digest: string
}

/**
 * @param sequences per sequence the rows' digests u32[length][layers][4]
 * @param output the output's canonical bytes
 */
export type Commit = (sequences: readonly Uint32Array[], layers: number, output: Uint8Array) => Commitment

/** In plain JavaScript; the twin of what openCommit() gives. */
export function commit(...[sequences, layers, output]: Parameters<Commit>): Commitment {
  const leaves = leavesOf(sequences, layers, output)
  return { leaves, root: rootOf(leaves), digest: hex(leaves.subarray(-32)) }
}

let opening: Promise<Commit> | undefined

/** The fastest there is, the same for all who ask; never rejects. */
export const openCommit = (): Promise<Commit> => (opening ??= open().catch(() => commit))

/** The exports of backends/wasm/assembly/trace.ts. */
interface Exports {
  memory: WebAssembly.Memory
  free(): number
  fold(digests: number, rows: number, layers: number, folds: number, folded: number, chunk: number, leaves: number): number
  close(folds: number, layers: number, leaves: number): number
  root(leaves: number, count: number, nodes: number): void
  hash(at: number, bytes: number, out: number): void
} // prettier-ignore

const PAGE_BYTES = 65_536
/** Digests are folded in pieces of about this size. */
const PIECE_BYTES = 65_536

async function open(): Promise<Commit> {
  const { instance } = await WebAssembly.instantiate(await wasmBytes('trace'))
  const { memory, free, fold, close, root, hash } = instance.exports as unknown as Exports
  const start = free()
  let bytes = new Uint8Array(memory.buffer)
  let words = new Uint32Array(memory.buffer)
  const reserve = (end: number): void => {
    if (end <= bytes.length) return
    memory.grow(Math.ceil((end - bytes.length) / PAGE_BYTES))
    bytes = new Uint8Array(memory.buffer)
    words = new Uint32Array(memory.buffer)
  }
  return (sequences, layers, output) => {
    const width = layers * DIGEST_WORDS
    const shape = { lengths: sequences.map((s) => s.length / width), layers }
    const chunk = chunkOf(shape)
    const count = leafCount(shape)
    const rowsMax = Math.max(1, Math.floor(PIECE_BYTES / (4 * width)))
    const folds = start
    const digests = folds + 4 * width
    const leaves = digests + 4 * width * rowsMax
    const nodes = leaves + 32 * count
    reserve(nodes + Math.max(32 * count, output.length))
    bytes.fill(0, folds, digests)
    let next = leaves
    let folded = 0
    for (const sequence of sequences) {
      for (let at = 0; at < sequence.length; at += rowsMax * width) {
        const piece = sequence.subarray(at, at + rowsMax * width)
        const rows = piece.length / width
        words.set(piece, digests / 4)
        const closed = Math.floor((folded + rows) / chunk)
        folded = fold(digests, rows, layers, folds, folded, chunk, next)
        next += 32 * layers * closed
      }
    }
    if (folded > 0) next = close(folds, layers, next)
    // Where the nodes will be: they come after.
    bytes.set(output, nodes)
    hash(nodes, output.length, next)
    root(leaves, count, nodes)
    return {
      leaves: bytes.slice(leaves, nodes),
      root: hex(bytes.subarray(nodes, nodes + 32)),
      digest: hex(bytes.subarray(next, next + 32)),
    }
  }
}
