/** The coordinator's own account of itself, as far as a page shows it. Fields it does not give stay undefined. */
export interface Status {
  operator?: string
  /** Of all models it serves. */
  downloadBytes?: number
  /** Without the house, which is the coordinator's own. */
  volunteers?: number
  /** Units nobody works on yet. */
  queued?: number
  /** Volunteers with work in hand, without the house. */
  running?: number
  raw: unknown
}

const record = (value: unknown): Record<string, unknown> =>
  typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {}

/** Undefined when it can't be had. */
export async function fetchStatus(): Promise<Status | undefined> {
  try {
    const answer = await fetch('/v1/status', { headers: { accept: 'application/json' } })
    if (!answer.ok) return undefined
    return readStatus(await answer.json())
  } catch {
    return undefined
  }
}

export function readStatus(raw: unknown): Status {
  const all = record(raw)
  const models = Array.isArray(all.models) ? all.models.map(record) : []
  const volunteers = record(all.volunteers)
  const houses = (Array.isArray(volunteers.list) ? volunteers.list.map(record) : []).filter(
    (v) => v.isHouse === true,
  )
  const guests = (value: unknown, ours: number): number | undefined =>
    typeof value === 'number' ? Math.max(0, value - ours) : undefined
  return {
    operator: typeof all.operator === 'string' ? all.operator : undefined,
    downloadBytes: sum(models.map((m) => m.bytes)),
    volunteers: guests(volunteers.connected, houses.length),
    queued: sum(models.map((m) => m.readyUnits)),
    running: guests(volunteers.busy, houses.filter((v) => Number(v.held) > 0).length),
    raw,
  }
}

function sum(values: readonly unknown[]): number | undefined {
  let total = 0
  for (const value of values) {
    if (typeof value !== 'number') return undefined
    total += value
  }
  return values.length ? total : undefined
}
