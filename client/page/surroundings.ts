/** What the page alone can see: visibility, battery, data saving, use. Looked at only after consent. */
import type { Surroundings } from '../picture.ts'
import { isMobile } from './rules.ts'

interface Battery extends EventTarget {
  charging: boolean
  level: number
}

const inUseMs = 3 * 60_000
/** Telling at most this often that the tab is in use. */
const useTickMs = 5_000

/** Calls `tell` now and at every change, until the signal ends it. */
export function watchSurroundings(tell: (s: Surroundings) => void, signal: AbortSignal): void {
  let battery: Battery | undefined
  let usedAt = -Infinity
  let useTimer: ReturnType<typeof setTimeout> | undefined
  const { connection, getBattery } = navigator as {
    connection?: EventTarget & { saveData?: boolean }
    getBattery?: () => Promise<Battery>
  }
  const look = (): void => {
    if (signal.aborted) return
    tell({
      isHidden: document.visibilityState === 'hidden',
      isMobile: isMobile(),
      onBattery: battery && !battery.charging,
      batteryLevel: battery?.level,
      saveData: connection?.saveData,
      inUse: performance.now() - usedAt < inUseMs,
    })
  }
  const used = (): void => {
    const now = performance.now()
    const before = usedAt
    usedAt = now
    clearTimeout(useTimer)
    useTimer = setTimeout(look, inUseMs + 100)
    if (now - before > useTickMs) look()
  }
  document.addEventListener('visibilitychange', look, { signal })
  connection?.addEventListener('change', look, { signal })
  for (const event of ['keydown', 'pointerdown', 'wheel'] as const)
    document.addEventListener(event, used, { signal, passive: true })
  signal.addEventListener('abort', () => clearTimeout(useTimer))
  getBattery?.call(navigator).then(
    (found) => {
      battery = found
      for (const event of ['chargingchange', 'levelchange']) found.addEventListener(event, look, { signal })
      look()
    },
    () => undefined,
  )
  look()
}
