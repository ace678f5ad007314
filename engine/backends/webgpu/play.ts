/**
 * The peephole: a section's steps as plays, each with two ways to launch it. With few rows present (a decoder's next
 * token) neighbouring steps run fused; with many they run one by one.
 */
import type { Domain, Step } from '../../recording.ts'
import { launchOf, type Launch } from './launches.ts'
import type { Choice } from './variants.ts'

export interface Play<L = Launch> {
  domain: Domain
  /** Up to this many rows `few` is played, above it `many`. */
  fewMax: number
  few: L[]
  many: L[]
}

export function playOf(steps: readonly Step[], choice: Choice): Play[] {
  return steps.map((step) => ({
    domain: step.domain,
    fewMax: choice.fewMax,
    few: [launchOf(step, choice, true)],
    many: [launchOf(step, choice, false)],
  }))
}
