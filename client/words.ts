/** What is said to people: every sentence is in en.json, numbers come with units. */
import en from './en.json' with { type: 'json' }

export type Word = keyof typeof en

/** The sentence with its {names} filled in. */
export function say(word: Word, values: Readonly<Record<string, string | number>> = {}): string {
  return en[word].replace(/\{(\w+)\}/g, (hole, name: string) =>
    name in values ? String(values[name]) : hole,
  )
}

/** A word that has a form for one and a form for others. */
export type Countable = Word extends infer W ? (W extends `${infer Stem}.one` ? Stem : never) : never

const plurals = new Intl.PluralRules('en')

/** The form that fits the number, with {count} and {names} filled in. */
export const sayCount = (word: Countable, n: number, values: Readonly<Record<string, string>> = {}): string =>
  say(`${word}.${plurals.select(n) === 'one' ? 'one' : 'other'}`, { ...values, count: count(n) })

export const hasWord = (word: string): word is Word => Object.hasOwn(en, word)

const locale = 'en'
const percentFormat = new Intl.NumberFormat(locale, { style: 'percent', maximumFractionDigits: 0 })
const countFormat = new Intl.NumberFormat(locale, { maximumFractionDigits: 0 })
const rateFormat = new Intl.NumberFormat(locale, { maximumSignificantDigits: 2 })
const sizeUnits = ['byte', 'kilobyte', 'megabyte', 'gigabyte', 'terabyte'] as const

export const percent = (share: number): string => percentFormat.format(share).replace('%', ' %')
export const count = (n: number): string => countFormat.format(n)
export const rate = (n: number): string => rateFormat.format(n)

export function size(bytes: number): string {
  let unit = 0
  while (bytes >= 1000 && unit < sizeUnits.length - 1) {
    bytes /= 1000
    unit++
  }
  if (unit === 0) return `${count(bytes)} B`
  const digits = unit > 1 && bytes < 10 ? 1 : 0
  return new Intl.NumberFormat(locale, { style: 'unit', unit: sizeUnits[unit], maximumFractionDigits: digits }).format(bytes) // prettier-ignore
}

/** Coarse on purpose. */
export function duration(ms: number): string {
  const seconds = ms / 1000
  if (ms > 0 && seconds < 1) return new Intl.NumberFormat(locale, { style: 'unit', unit: 'millisecond', maximumFractionDigits: 0 }).format(ms) // prettier-ignore
  const [value, unit] =
    seconds < 90 ? [seconds, 'second'] : seconds < 5400 ? [seconds / 60, 'minute'] : [seconds / 3600, 'hour']
  return new Intl.NumberFormat(locale, { style: 'unit', unit, unitDisplay: 'short', maximumFractionDigits: 0 }).format(value) // prettier-ignore
}

export const clockTime = (at: number): string =>
  new Intl.DateTimeFormat(locale, { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' }).format(at)
