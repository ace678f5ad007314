/** The page's half of `bench kernels`: prepare, check, time. */

import type { Contestant, Prepared } from '../contestants/contestant.ts'
import { litertInt8 } from '../contestants/litert.ts'
import { ortWasm, ortWebgpu } from '../contestants/onnxruntime.ts'
import { tfjs } from '../contestants/tfjs.ts'
import type { KernelRow } from '../suites/kernels.ts'
import { disagreement, makeProblem } from './problem.ts'
import { interleave } from './timing.ts'
import type { Effort, Timing } from './timing.ts'

const PEERS: Record<KernelRow['backend'], Record<string, Contestant>> = {
  wasm: {
    'ort.u8i8': ortWasm.matMulIntegerU8,
    'ort.s8i8': ortWasm.matMulIntegerS8,
    'ort.dynamic': ortWasm.dynamicQuantizeMatMul,
    'ort.f32': ortWasm.matMul,
    'ort.nbits32': ortWasm.matMulNBits8[0]!,
    'ort.nbits128': ortWasm.matMulNBits8[1]!,
    'ort.nbits32f': ortWasm.matMulNBits8[2]!,
    'tfjs.f32': tfjs.wasm,
    'litert.int8': litertInt8,
  },
  webgpu: { 'ort.f32': ortWebgpu.matMul, 'tfjs.f32': tfjs.webgpu },
}

export interface KernelOutcome {
  ours: Timing | null
  peers: Timing[]
  /** Who did not take part, and why. */
  absent: Record<string, string>
  /** Ours, when its products were wrong. */
  wrong: Record<string, string>
}

export async function runKernelRow(
  row: KernelRow,
  ours: Contestant | null,
  effort: Effort,
): Promise<KernelOutcome> {
  const problem = makeProblem(row.shape)
  const absent: Record<string, string> = {}
  const wrong: Record<string, string> = {}
  const ready: { contestant: Contestant; prepared: Prepared }[] = []
  const admit = async (name: string, contestant: Contestant | undefined | null): Promise<void> => {
    if (contestant == null) {
      absent[name] = 'not there yet'
      return
    }
    let prepared: Prepared | null = null
    try {
      prepared = await contestant.prepare(problem)
      await prepared.run(1)
      const fault = disagreement(problem, await prepared.corner(), contestant.tolerance)
      if (fault !== null) throw new Error(`wrong result: ${fault}`)
      ready.push({ contestant, prepared })
    } catch (error) {
      prepared?.dispose()
      const list = contestant === ours ? wrong : absent
      list[contestant.name] = error instanceof Error ? error.message : String(error)
    }
  }
  await admit('ours', ours)
  for (const key of row.peers) await admit(key, PEERS[row.backend][key])
  const timed = ready.map(({ contestant, prepared }) => ({
    name: contestant.name,
    run: (n: number) => prepared.run(n),
  }))
  const timings = await interleave(timed, effort)
  for (const { prepared } of ready) prepared.dispose()
  const mine = ours !== null && ready[0]?.contestant === ours ? (timings[0] ?? null) : null
  return { ours: mine, peers: mine === null ? timings : timings.slice(1), absent, wrong }
}
