/**
 * Settings from a file: what --config or CHORALE_CONFIG names, else chorale.config.json here. A flag wins over the environment,
 * the environment over the file, the file over the default. Keys are the names of options; those of one command alone stand
 * below its name:
 *
 *   { "url": "http://127.0.0.1:9000", "serve": { "port": 9000, "models": ["tales-3m"], "house": false } }
 */
import { existsSync, readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import type { Command, Option } from 'commander'
import { ConfigError } from './errors.ts'

/** Read where no other file is named. */
export const USUAL = 'chorale.config.json'

type Settings = Record<string, unknown>

export interface Config {
  /** Undefined: there is none. */
  file?: string
  settings: Settings
}

/** @param named by --config or CHORALE_CONFIG. Throws ConfigError for a file that can't be read or is no JSON object. */
export function readConfig(named: string | undefined): Config {
  const file = named ?? (existsSync(USUAL) ? USUAL : undefined)
  if (file === undefined) return { settings: {} }
  let settings: unknown
  try {
    settings = JSON.parse(readFileSync(file, 'utf8'))
  } catch (cause) {
    const todo = named === undefined ? 'Mend it or take it away' : 'Name another with --config'
    throw new ConfigError(`${file} can't be read as JSON (${(cause as Error).message}). ${todo}`, { cause })
  }
  if (!isObject(settings)) throw new ConfigError(`${file} is no JSON object: {"option": value, …}`)
  return { file: resolve(file), settings }
}

/** Gives a command's options what the file says, where neither flag nor environment does. Throws ConfigError, naming the key. */
export function applyConfig(program: Command, command: Command): void {
  const { file, settings } = readConfig(command.getOptionValue('config') as string | undefined)
  if (file === undefined) return
  checkKeys(program, settings, file)
  for (const option of command.options) {
    const key = option.attributeName()
    const source = command.getOptionValueSource(key)
    if (key === 'config' || (source !== undefined && source !== 'default')) continue
    const found = find(settings, command, option)
    if (!found) continue
    command.setOptionValueWithSource(key, valueOf(option, found.value, `${file}: ${found.path}`), 'config')
  }
}

/** What an option would be for a command, and where from. */
export function settingOf(command: Command, option: Option, { file, settings }: Config): { value: unknown; from: string } {
  const env = option.envVar
  if (env !== undefined && process.env[env] !== undefined) return { value: process.env[env], from: env }
  const found = file === undefined ? undefined : find(settings, command, option)
  if (found) return { value: valueOf(option, found.value, `${file}: ${found.path}`), from: `${file}: ${found.path}` }
  return { value: option.defaultValue, from: 'default' }
} // prettier-ignore

const nameOf = (option: Option): string => (option.long ?? '').replace(/^--(no-)?/, '')

/** The file's word for an option: the command's own before everybody's. */
function find(settings: Settings, command: Command, option: Option): { value: unknown; path: string } | undefined {
  const names = namesOf(command)
  const name = nameOf(option)
  for (let n = names.length; n >= 0; n--) {
    let at: unknown = settings
    for (const part of names.slice(0, n)) at = isObject(at) ? at[part] : undefined
    if (isObject(at) && Object.hasOwn(at, name) && !isCommand(command, names.slice(0, n), name))
      return { value: at[name], path: [...names.slice(0, n), name].join('.') }
  }
  return undefined
} // prettier-ignore

/** `batch`, `submit` of chorale batch submit. */
function namesOf(command: Command): string[] {
  const names: string[] = []
  for (let at: Command | null = command; at?.parent; at = at.parent) names.unshift(at.name())
  return names
}

/** Whether a key at this place names a command and not an option. */
function isCommand(command: Command, place: readonly string[], name: string): boolean {
  let at = command
  while (at.parent) at = at.parent
  for (const part of place) at = at.commands.find((c) => c.name() === part) ?? at
  return at.commands.some((c) => c.name() === name)
}

/** A key that no command knows is a slip of the pen, not something to pass over. */
function checkKeys(program: Command, settings: Settings, file: string): void {
  const optionsOf = (command: Command): string[] => [
    ...command.options.map(nameOf),
    ...command.commands.flatMap(optionsOf),
  ]
  const check = (command: Command, at: Settings, path: string): void => {
    const options = new Set(optionsOf(command))
    for (const [key, value] of Object.entries(at)) {
      const sub = command.commands.find((c) => c.name() === key)
      if (sub && isObject(value)) check(sub, value, `${path}${key}.`)
      else if (!options.has(key) || key === 'config')
        throw new ConfigError(`${file}: ${path}${key} is no option of chorale ${path.replaceAll('.', ' ')}`.trim())
    }
  }
  check(program, settings, '')
} // prettier-ignore

function valueOf(option: Option, value: unknown, where: string): unknown {
  const wrong = (wanted: string): never => {
    throw new ConfigError(`${where} is ${JSON.stringify(value)}; it must be ${wanted}`)
  }
  if (option.isBoolean() || option.negate)
    return typeof value === 'boolean' ? value : wrong('true or false')
  const parse = (one: unknown, before: unknown): unknown => {
    if (typeof one !== 'string' && typeof one !== 'number')
      return wrong(option.variadic ? 'a list of texts' : 'a text or a number')
    try {
      return option.parseArg ? option.parseArg(String(one), before) : String(one)
    } catch (error) {
      return wrong(`right for ${option.flags}: ${(error as Error).message}`)
    }
  }
  if (!Array.isArray(value)) return option.variadic ? [parse(value, undefined)] : parse(value, undefined)
  if (option.variadic) return value.map((one) => parse(one, undefined))
  // An option that may be given again gathers what it gets.
  return value.reduce<unknown>((before, one) => parse(one, before), undefined)
} // prettier-ignore

const isObject = (value: unknown): value is Settings =>
  typeof value === 'object' && value !== null && !Array.isArray(value)
