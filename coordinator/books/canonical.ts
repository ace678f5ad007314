/**
 * One spelling of every JSON value (RFC 8785): keys in the order of their UTF-16 code units, numbers and strings as
 * JSON.stringify writes them, no spaces. What is hashed or signed is always this.
 */
export type Json =
  null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json | undefined }

/** Keys whose value is undefined count as absent. Throws RangeError for numbers JSON has not. */
export function canonicalJson(value: Json): string {
  // As it is written most often: then one native call does it.
  return isInOrder(value) ? JSON.stringify(value) : spelled(value)
}

/** Whether JSON.stringify() would write it so: every number finite, all keys in order already. */
function isInOrder(value: Json): boolean {
  if (typeof value === 'number') return Number.isFinite(value)
  if (value === null || typeof value !== 'object') return true
  if (isArray(value)) return value.every(isInOrder)
  let before: string | undefined
  for (const key in value) {
    if (before !== undefined && key < before) return false
    before = key
    if (!isInOrder(value[key] ?? null)) return false
  }
  return true
}

function spelled(value: Json): string {
  if (typeof value === 'number' && !Number.isFinite(value))
    throw new RangeError(`${value} is nothing in JSON`)
  if (value === null || typeof value !== 'object') return JSON.stringify(value)
  if (isArray(value)) return `[${value.map(spelled).join(',')}]`
  const parts: string[] = []
  for (const key of Object.keys(value).sort()) {
    const item = value[key]
    if (item !== undefined) parts.push(`${JSON.stringify(key)}:${spelled(item)}`)
  }
  return `{${parts.join(',')}}`
}

/**
 * The fields of a document with their paths (`units.0.check.rate`), in canonical order. A list of plain values is one field, and
 * so is an empty list or object.
 */
export function fieldsOf(value: Json, path = ''): [path: string, value: Json][] {
  if (value === null || typeof value !== 'object') return [[path, value]]
  const items = isArray(value) ? [...value.entries()] : Object.entries(value).sort(byKey)
  const isPlain = isArray(value) && value.every((item) => item === null || typeof item !== 'object')
  if (isPlain || items.length === 0) return [[path, value]]
  return items.flatMap(([key, item]) =>
    item === undefined ? [] : fieldsOf(item, path === '' ? String(key) : `${path}.${key}`),
  )
}

const isArray = (value: Json): value is readonly Json[] => Array.isArray(value)
const byKey = ([a]: [string, unknown], [b]: [string, unknown]): number => (a < b ? -1 : 1)
