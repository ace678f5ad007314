/** How log-probabilities lie in Logprobs.values: [tokens][1 + top][2]. */
import type { Logprobs } from './nouns.ts'

export const wordsPerToken = ({ top }: Pick<Logprobs, 'top'>): number => 2 * (1 + top)

/** Those of tokens [from, to), in the same memory. */
export function sliceLogprobs({ top, values }: Logprobs, from: number, to?: number): Logprobs {
  const words = wordsPerToken({ top })
  return { top, values: values.subarray(from * words, to === undefined ? undefined : to * words) }
}
