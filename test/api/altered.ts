/** Documents that were changed: by whoever holds them, or by the coordinator, which signs what it likes. */
import { sign } from 'node:crypto'
import { expect } from 'vitest'
import { fieldsOf } from '../../coordinator/books/canonical.ts'
import type { Json } from '../../coordinator/books/canonical.ts'
import { DocumentError, parseDocument } from '../../coordinator/books/documents.ts'
import type { EvidenceBundle, Receipt } from '../../coordinator/books/documents.ts'
import { sealed } from '../../coordinator/books/seal.ts'
import type { Sealed } from '../../coordinator/books/seal.ts'
import type { CoordinatorKey } from '../../coordinator/identity.ts'
import { resultStatement } from '../../protocol/index.ts'
import type { AssignmentId, ModelDigest } from '../../protocol/index.ts'
import type { Volunteer } from './books.ts'

/** The coordinator's own word for something else: as it signs what it likes. */
export function resealed<T extends Sealed>(document: T, change: (body: T) => void, key: CoordinatorKey): T {
  const body = structuredClone(document)
  change(body)
  const { coordinator: _, seal: __, signature: ___, ...rest } = body
  return sealed(rest as unknown as { format: string }, key) as unknown as T
}

/** Changes each field in turn, to something else of its kind and to something of another, and expects it to be named. */
export function everyChangeIsNamed<T extends Receipt | EvidenceBundle>(
  document: T,
  flaw: (d: T) => { field: string } | null,
): void {
  expect(flawOf(document, flaw)).toBeNull()
  const fields = fieldsOf(document as unknown as Json)
  expect(fields.length).toBeGreaterThan(20)
  for (const [path, value] of fields)
    for (const other of othersOf(value)) {
      const changed = structuredClone(document)
      set(changed, path, other)
      const found = flawOf(changed, flaw)?.field
      // A bad element of a list is named with its place.
      expect(
        found === path || found?.startsWith(`${path}.`),
        `${path} as ${JSON.stringify(other)}: ${found}`,
      ).toBe(true)
    }
}

function othersOf(value: Json): Json[] {
  if (typeof value === 'number') return [value + 1, value / 2 + 0.25, null]
  if (typeof value === 'string') {
    const last = value.at(-1) ?? ''
    return [
      value.slice(0, -1) + (last === 'A' ? 'B' : 'A'),
      `${/^[0-9]/.test(value) ? '1' : 'a'}${value}`,
      value.slice(1),
      null,
      1,
    ]
  }
  if (Array.isArray(value))
    return value.length
      ? [value.toReversed(), value.slice(1), [...value, 7]].filter(
          (v) => JSON.stringify(v) !== JSON.stringify(value),
        )
      : [[7]]
  return value === null ? ['x', 0] : [null]
}

function set(document: object, path: string, value: Json): void {
  const keys = path.split('.')
  const last = keys.pop()!
  const parent = keys.reduce<Record<string, unknown>>((at, key) => at[key] as Record<string, unknown>, document as Record<string, unknown>) // prettier-ignore
  parent[last] = value
}

/** As a reader meets it: first the shape, then what it says. */
export function flawOf<T extends Receipt | EvidenceBundle>(
  document: T,
  flaw: (d: T) => { field: string } | null,
): { field: string } | null {
  try {
    return flaw(parseDocument(JSON.parse(JSON.stringify(document))) as T)
  } catch (error) {
    if (error instanceof DocumentError) return error
    throw error
  }
}

export function signedBy(
  who: Volunteer,
  { coordinator, request }: { coordinator: string; request: { model: string } },
  unit: { assignment: string; input: string | null; output: string | null; root: string | null },
): string {
  const { assignment, input, output, root } = unit
  const claim = { coordinator, assignment: assignment as AssignmentId, model: request.model as ModelDigest, input: input!, output: output!, root: root! } // prettier-ignore
  return sign(null, resultStatement(claim), who.secret).toString('base64url')
}
