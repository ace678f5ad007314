/**
 * Which exit code a failure has: 0 ok, 1 failure, 2 usage, 3 bad model, key file, settings or input, 4 environment (port, browser), 5 refused key, 6 ended with failed rows,
 * 7 unreachable, 8 deadline passed, 130 interrupted.
 */
import { CommanderError } from 'commander'
import { KeyFileError } from '../client/keyfile.ts'
import { StoreError } from '../coordinator/store/store.ts'
import { ModelError } from '../engine/weights/errors.ts'
import { HubError } from '../tools/hub.ts'
import { RemoteError, remoteExitCode } from './remote.ts'

export const EXIT = {
  ok: 0,
  failure: 1,
  usage: 2,
  input: 3,
  environment: 4,
  /** It ended, and some rows failed. */
  rowsFailed: 6,
  interrupted: 130,
  terminated: 143,
} as const

/** The command line itself is wrong. */
export class UsageError extends Error {
  override name = 'UsageError'
}

/** This machine lacks something: a port, a browser. */
export class EnvironmentError extends Error {
  override name = 'EnvironmentError'
}

/** The file of settings is wrong. */
export class ConfigError extends Error {
  override name = 'ConfigError'
}

export function exitCodeOf(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.ok : EXIT.usage
  if (error instanceof UsageError) return EXIT.usage
  if (error instanceof ConfigError) return EXIT.input
  if (error instanceof EnvironmentError) return EXIT.environment
  if (error instanceof StoreError)
    return error.code === 'corrupt' || error.code === 'newer' ? EXIT.input : EXIT.environment
  if (error instanceof KeyFileError) return EXIT.input
  if (error instanceof RemoteError) return remoteExitCode(error)
  if (error instanceof ModelError)
    return error.code === 'memory-exceeded' || error.code === 'backend-unavailable'
      ? EXIT.failure
      : EXIT.input
  if (error instanceof HubError)
    return error.code === 'unreachable' || error.code === 'failed' ? EXIT.failure : EXIT.input
  return missingFile(error) === null ? EXIT.failure : EXIT.input
}

/** The name of a file that somebody meant and that is not there. */
function missingFile(error: unknown): string | null {
  const { code, path } = (error ?? {}) as NodeJS.ErrnoException
  return code === 'ENOENT' && path !== undefined ? path : null
}

/** One line for people: what is wrong and what to do. */
export function lineOf(error: unknown): string {
  const missing = missingFile(error)
  if (missing !== null) return `There is no ${missing}. Name a file that is there`
  const text = error instanceof Error ? error.message : String(error)
  return oneLine(text) || 'it failed without saying why. Run it again with --verbose'
}

/** Commander writes `error: … \n(Did you mean …?)`; ours is one line. */
export const oneLine = (text: string): string =>
  text
    .replace(/^error: /, '')
    .trim()
    .replace(/\s*\n\s*/g, ' ')
