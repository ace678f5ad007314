/** The volunteer's limits: defaults for this device, and remembering them, which begins with consent. */
import type { Rules } from '../picture.ts'

const key = 'chorale.rules'
const GB = 1e9

export const isMobile = (): boolean =>
  (navigator as { userAgentData?: { mobile: boolean } }).userAgentData?.mobile ??
  /Android|iPhone|iPad|Mobile/.test(navigator.userAgent)

export function defaultRules(): Rules {
  return {
    power: isMobile() ? 0.2 : 0.6,
    onBattery: 'pause',
    whileInUse: 'allow',
    onSaveData: 'pause',
    hours: null,
    diskBytesMax: 2 * GB,
    dataBytesPerDay: 1 * GB,
    engine: 'auto',
  }
}

/** What was chosen here before; anything odd in there falls back to the default. */
export function recalledRules(): Rules {
  const rules = defaultRules()
  let kept: Partial<Record<keyof Rules, unknown>> = {}
  try {
    kept = (JSON.parse(localStorage.getItem(key) ?? '{}') ?? {}) as typeof kept
  } catch {
    // No storage, or not ours: defaults.
  }
  const oneOf = <T>(value: unknown, allowed: readonly T[], fallback: T): T =>
    allowed.includes(value as T) ? (value as T) : fallback
  const bytes = (value: unknown, fallback: number): number =>
    typeof value === 'number' && value >= 0 && value <= 1e13 ? value : fallback
  const hour = (value: unknown): boolean => Number.isInteger(value) && (value as number) >= 0 && (value as number) < 24 // prettier-ignore
  const { hours } = kept
  return {
    power: oneOf(kept.power, [0.2, 0.6, 1] as const, rules.power),
    onBattery: oneOf(kept.onBattery, ['pause', 'allow'] as const, rules.onBattery),
    whileInUse: oneOf(kept.whileInUse, ['allow', 'light', 'pause'] as const, rules.whileInUse),
    onSaveData: oneOf(kept.onSaveData, ['pause', 'allow'] as const, rules.onSaveData),
    hours: Array.isArray(hours) && hours.length === 2 && hours.every(hour) ? [hours[0], hours[1]] : null,
    diskBytesMax: bytes(kept.diskBytesMax, rules.diskBytesMax),
    dataBytesPerDay: bytes(kept.dataBytesPerDay, rules.dataBytesPerDay),
    engine: oneOf(kept.engine, ['auto', 'webgpu', 'wasm'] as const, rules.engine),
  }
}

export function rememberRules(rules: Rules): void {
  try {
    localStorage.setItem(key, JSON.stringify(rules))
  } catch {
    // A private window may refuse: then they last as long as the page.
  }
}

export function forgetRules(): void {
  try {
    localStorage.removeItem(key)
  } catch {
    // Nothing was kept.
  }
}
