/** What a benchmark leaves behind: a JSON file for machines, a table for people. */

import { execFileSync } from 'node:child_process'
import os from 'node:os'

export interface Row {
  name: string
  shape: string
  backend: string
  /** A rate (`tok/s`, `texts/s`), the more the better; or a cost per piece of work, the less the better. */
  unit: 'ms' | 'tok/s' | 'texts/s' | 'kB' | 'dispatches'
  ours: number | null
  /** The best of the peers that gave right results. */
  peer: number | null
  peerName: string | null
  /** How many times as fast as the peer we are; null when either is missing. */
  ratio: number | null
  gate: number
  aim: number
  /** What gate and aim speak of: the ratio (default), or our own figure, which must not be above them. */
  gateOn?: 'ratio' | 'ours'
  /** Every contestant of the row with the spread of its rounds. */
  all: { name: string; value: number; p5: number; p95: number; rounds: number; note?: string }[]
  /** Who did not take part, and why. */
  absent: Record<string, string>
  /** Ours that gave a wrong answer: a fault, not a figure. */
  wrong: Record<string, string>
}

export interface Report {
  suite: string
  date: string
  versions: { ours: string; browser: string; node: string; peers: Record<string, string> }
  adapter: Record<string, string> | null
  /** `load`: processes that wanted a core in the minute before, on average. */
  machine: { cpu: string; cores: number; memoryGiB: number; os: string; load: number }
  threads: number
  rows: Row[]
}

/** The commit the working tree stands on; `+` when files differ from it. */
export function commit(folder: string): string {
  try {
    const git = (...args: string[]) =>
      execFileSync('git', args, { cwd: folder, stdio: 'pipe' }).toString().trim()
    return git('rev-parse', '--short=12', 'HEAD') + (git('status', '--porcelain', '-uno') === '' ? '' : '+')
  } catch {
    return 'unknown (no git here)'
  }
}

export function machine(): Report['machine'] {
  const cpus = os.cpus()
  return {
    cpu: cpus[0]?.model.trim() ?? 'unknown',
    cores: cpus.length,
    load: Math.round(10 * os.loadavg()[0]!) / 10,
    memoryGiB: Math.round(os.totalmem() / 2 ** 30),
    os: `${os.type()} ${os.release()} ${os.arch()}`,
  }
}

const figure = (value: number | null): string =>
  value === null ? '–' : value >= 100 ? value.toFixed(0) : value >= 1 ? value.toFixed(2) : value.toFixed(4)

export function verdict(row: Row): string {
  if (Object.keys(row.wrong).length > 0) return 'WRONG'
  if (row.gateOn === 'ours' && row.ours !== null) {
    return row.ours <= row.aim ? 'aim' : row.ours <= row.gate ? 'gate' : 'MISSED'
  }
  if (row.ratio === null) return row.ours === null ? 'ours not there yet' : 'no peer'
  return row.ratio >= row.aim ? 'aim' : row.ratio >= row.gate ? 'gate' : 'MISSED'
}

export function line(row: Row): string {
  const best = row.peerName ?? 'no peer'
  return [
    `${row.backend} ${row.name}`.padEnd(34),
    row.shape.padEnd(15),
    `${figure(row.ours)} ${row.unit}`.padStart(13),
    `${figure(row.peer)} ${row.unit}`.padStart(13),
    row.ratio === null ? '–'.padStart(8) : `${row.ratio.toFixed(2)}x`.padStart(8),
    `${row.gate}${row.gateOn === 'ours' ? '' : 'x'}`.padStart(6),
    ` ${verdict(row).padEnd(7)}`,
    ` ${best}`,
  ].join('')
}

export const HEADING = [
  'kernel'.padEnd(34),
  'shape'.padEnd(15),
  'ours'.padStart(13),
  'best peer'.padStart(13),
  'ratio'.padStart(8),
  'gate'.padStart(6),
  ' holds  ',
  ' peer',
].join('')
