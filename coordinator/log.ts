/** One line of JSON per event (pino), to stderr: stdout is for what was asked for. Never a prompt, never an answer. */
import { pino } from 'pino'
import type { Logger } from 'pino'

export type Log = Logger
export const LOG_LEVELS = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'] as const
export type LogLevel = (typeof LOG_LEVELS)[number]

export function openLog(level: LogLevel): Log {
  return pino({ level, base: undefined }, pino.destination({ dest: 2, sync: true }))
}
