/** What every command takes, and numbers that are numbers. */
import type { Command } from 'commander'
import { InvalidArgumentError, Option } from 'commander'
import type { BackendName } from '../engine/backends/backend.ts'
import type { TalkOptions } from './talk.ts'

export const common = (command: Command): Command =>
  command
    .addOption(
      new Option('--config <file>', 'settings (default: chorale.config.json, where there is one)').env(
        'CHORALE_CONFIG',
      ),
    )
    .option('--json', 'only JSON on stdout')
    .option('-q, --quiet', 'nothing on stderr but errors')
    .option('-v, --verbose', 'the stack of an error')

export interface ComputeOptions extends TalkOptions {
  backend: BackendName | 'auto'
  threads?: number
}

/** Which backend computes. All give the same bytes. */
export const compute = (command: Command): Command =>
  common(command)
    .addOption(
      new Option('--backend <name>', 'what computes; the bytes are the same')
        .choices(['auto', 'js', 'wasm', 'webgpu'])
        .default('auto'),
    )
    .option('--threads <n>', 'threads of the wasm backend', integer(1, 16))

/** A whole number in [low, high]. */
export const integer =
  (low: number, high: number = Number.MAX_SAFE_INTEGER) =>
  (text: string): number => {
    const value = Number(text)
    if (!/^[+-]?\d+$/.test(text.trim()) || !(value >= low && value <= high))
      throw new InvalidArgumentError(`It must be a whole number ${range(low, high)}.`)
    return value
  }

/** A number in [low, high]. */
export const number =
  (low: number, high: number) =>
  (text: string): number => {
    const value = Number(text)
    if (text.trim() === '' || !(value >= low && value <= high))
      throw new InvalidArgumentError(`It must be a number ${range(low, high)}.`)
    return value
  }

/** Up to 64 bits. */
export function seed(text: string): bigint {
  if (!/^\d{1,20}$/.test(text) || BigInt(text) >= 2n ** 64n)
    throw new InvalidArgumentError('It must be a whole number from 0 to 2^64 - 1.')
  return BigInt(text)
}

const range = (low: number, high: number): string =>
  high === Number.MAX_SAFE_INTEGER ? `of at least ${low}` : `from ${low} to ${high}`
