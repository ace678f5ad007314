/** Every kernel over shapes and values chosen to be awkward. */
import { Draw } from '../draw.ts'
import type { Case } from '../play.ts'
import { attentionCases, headsCases } from './attention.ts'
import { linearCases } from './linear.ts'
import { normCases } from './norms.ts'
import { rowCases } from './rows.ts'
import { sampleCases } from './sample.ts'

export type MakeDraw = (stream: string) => Draw

/** All cases, in a fixed order; data are drawn when a case is reached, each from its own stream of the seed. */
export function* cases(seed: number): Generator<Case> {
  for (const make of [rowCases, normCases, linearCases, headsCases, attentionCases, sampleCases])
    yield* make((stream) => new Draw(seed, stream))
}

export const nameOf = ({ kernel, name }: Case): string => `${kernel}: ${name}`
