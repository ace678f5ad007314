/** Drives the page through the rows of `bench kernels`. */

import type { Context } from '../main.ts'
import { EFFORT } from '../page/timing.ts'
import type { Row } from '../report.ts'
import { KERNEL_ROWS } from './kernels.ts'

export async function runKernels(context: Context): Promise<void> {
  for (const row of KERNEL_ROWS) {
    const { m, k, n, copies } = row.shape
    const shape = `${m}x${k}x${n}`
    if (!`${row.backend} ${row.name} ${shape}`.includes(context.options.only)) continue
    const outcome = await context.session.call('kernel', row, {
      ...EFFORT,
      rounds: context.options.rounds ?? EFFORT.rounds,
    })
    const best = outcome.peers.toSorted((a, b) => a.ms - b.ms)[0] ?? null
    const all = outcome.ours === null ? outcome.peers : [outcome.ours, ...outcome.peers]
    const finished: Row = {
      name: row.name,
      shape,
      backend: row.backend,
      unit: 'ms',
      ours: outcome.ours === null ? null : outcome.ours.ms / copies,
      peer: best === null ? null : best.ms / copies,
      peerName: best?.name ?? null,
      ratio: outcome.ours === null || best === null ? null : best.ms / outcome.ours.ms,
      gate: row.gate,
      aim: row.aim,
      all: all.map(({ name, ms, p5, p95, rounds }) => ({
        name,
        value: ms / copies,
        p5: p5 / copies,
        p95: p95 / copies,
        rounds,
        note: `${((2 * m * k * n * copies) / ms / 1e6).toFixed(1)} GOPS`,
      })),
      absent: outcome.absent,
      wrong: outcome.wrong,
    }
    context.done(finished)
  }
}
