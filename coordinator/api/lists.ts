/** Lists in pages, as OpenAI's clients walk them. */
import * as v from 'valibot'
import type { Page } from '../store/store.ts'
import { ApiError } from './errors.ts'

const page = {
  limit: v.optional(v.pipe(v.string(), v.regex(/^\d{1,5}$/, 'It must be a whole number'))),
  after: v.optional(v.pipe(v.string(), v.maxLength(200))),
  order: v.optional(v.picklist(['asc', 'desc'])),
}
type PageEntries = typeof page

/** A query with those of a page. Throws ApiError naming the first thing that is wrong. */
export function parseQuery<E extends v.ObjectEntries>(
  entries: E,
  query: unknown,
): v.InferOutput<v.StrictObjectSchema<E & PageEntries, undefined>> {
  const parsed = v.safeParse(v.strictObject({ ...entries, ...page }), query, { abortEarly: true })
  if (parsed.success) return parsed.output as v.InferOutput<v.StrictObjectSchema<E & PageEntries, undefined>>
  const [issue] = parsed.issues
  const param = issue.path?.map((item) => String(item.key)).join('.').slice(0, 100) ?? null // prettier-ignore
  if (issue.expected === 'never')
    throw new ApiError('unsupported_parameter', `'${param}' is not supported here.`, { param })
  throw new ApiError('invalid_value', `'${param}': ${issue.message}.`, { param })
}

/** A page as it is sent, of what was found: one more than its limit when there are more. */
export const listOf = (
  found: readonly { id: string }[],
  { limit }: Page,
  data: readonly unknown[],
): object => ({
  object: 'list',
  data,
  first_id: found[0]?.id ?? null,
  last_id: found[data.length - 1]?.id ?? null,
  has_more: found.length > limit,
})

export function pageOf(
  { limit, after, order }: { limit?: string; after?: string; order?: 'asc' | 'desc' },
  max: number,
  byDefault = max,
): Page {
  const wanted = limit === undefined ? byDefault : Number(limit)
  if (wanted < 1 || wanted > max)
    throw new ApiError('invalid_value', `'limit' must be from 1 to ${max}.`, { param: 'limit' })
  return { after, limit: wanted, order: order ?? 'desc' }
}
