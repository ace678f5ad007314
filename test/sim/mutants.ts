/** The core with one guard removed: a simulator that can't tell it from the real one tests nothing. */
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import type { Options } from './options.ts'
import type { Make } from './world.ts'

const root = join(import.meta.dirname, '../..')

export interface Mutation {
  what: string
  file: string
  /** Must be there exactly once. */
  guard: string
  instead: string
  /** Worlds in which it matters. */
  change?: Partial<Options>
}

export const MUTATIONS: Mutation[] = [
  {
    what: 'tokens that were delivered before are delivered again',
    file: 'streams.ts',
    guard: 'const known = Math.min(drawn.length - at, tokens.length)',
    instead: 'const known = Math.min(0, at)',
  },
  {
    what: 'a volunteer may hold two copies of one unit',
    file: 'scheduler.ts',
    guard: 'if (copy.identity === v.identity) return false',
    instead: '',
  },
  {
    what: 'an answered unit stays open for a second answer',
    file: 'jobs.ts',
    guard: 'for (const id of unit.leases) s.leases.delete(id)',
    instead: '',
  },
  {
    what: 'slots are not counted',
    file: 'classes.ts',
    guard: 'const isIdle = isWillingNow && v.held.length < Math.min(v.concurrency, v.slots)',
    instead: 'const isIdle = isWillingNow',
  },
  {
    what: 'units of a volunteer that leaves are forgotten',
    file: 'leases.ts',
    guard: "if (unit.state === 'leased' && unit.copies.length === 0) makeReady(s, unit)",
    instead: '',
  },
  {
    what: 'a broken stream begins again from its prompt',
    file: 'planner.ts',
    guard: 'if (drawn.length) {',
    instead: 'if (drawn.length < 0) {',
  },
  {
    what: 'silent volunteers are waited for',
    file: 'coordinator.ts',
    guard: 'checkVolunteer(s, timer.volunteer)',
    instead: 'timer.volunteer.strikes += 0',
  },
  {
    what: 'the shape of an answer is not looked at',
    file: 'results.ts',
    guard: 'if (flaw) return refuse(s, v, lease, flaw)',
    instead: '',
  },
  {
    what: 'neighbours check each other, and anybody whom only the trusted may check',
    file: 'checks.ts',
    guard: "if (who === 'trusted' || r.network === claim.by.network || r.isAccused) return false",
    instead: '',
  },
  {
    what: 'whoever contradicts an answer is believed',
    file: 'checks.ts',
    guard: '} else if (r.isTrusted) {',
    instead: '} else if (r.identity) {',
    // It takes liars that were checked often enough to check others.
    change: {
      liars: 0.3, hostile: 0, units: 200, partsMax: 1, volunteers: 14, unitMs: 20, generate: 0.2, faultMs: 60_000,
      policy: { probation: 2, beta: 1, floor: 0.3, windowResults: 20, awayMs: 10_000 },
    }, // prettier-ignore
  },
  {
    what: 'whoever contradicts a text that is being written is believed',
    file: 'texts.ts',
    guard: '} else if (r.isTrusted) {',
    instead: '} else if (r.identity) {',
    change: {
      liars: 0.3, hostile: 0, units: 200, partsMax: 1, volunteers: 14, unitMs: 20, generate: 0.8, tokensMax: 60, faultMs: 60_000,
      policy: { probation: 2, beta: 1, floor: 0.3, windowResults: 20, awayMs: 10_000, textShare: 8, chunk: 3 },
    }, // prettier-ignore
  },
  {
    what: 'a closed key is let in again',
    file: 'volunteers.ts',
    guard: 'if (s.records.get(identity)?.isConvicted) {',
    instead: 'if (s.records.get(identity)?.isConvicted && s.now < 0) {',
  },
  {
    what: 'checked answers are delivered before they are checked',
    file: 'decide.ts',
    guard: "const isFast = spec.trust === 'fast'",
    instead: 'const isFast = true',
  },
  {
    what: 'a convict keeps its credit',
    file: 'disputes.ts',
    guard: 'burn(s, by, open)',
    instead: '',
  },
  {
    what: 'what a job did not need stays reserved',
    file: 'jobs.ts',
    guard: 'settleUp(s, job, error !== undefined && OURS.includes(error.code))',
    instead: '',
  },
  {
    what: 'a takeover begins where it likes',
    file: 'planner.ts',
    guard: 'drawn.length ? { ...options, replay: drawn.length } : options',
    instead: 'options',
  },
]

/** Writes the mutant beside the build caches and loads it. */
export async function mutate({ file, guard, instead }: Mutation, name: string): Promise<Make> {
  const home = join(root, '.cache/mutants', name)
  rmSync(home, { recursive: true, force: true })
  mkdirSync(join(home, 'coordinator'), { recursive: true })
  cpSync(join(root, 'coordinator/core'), join(home, 'coordinator/core'), { recursive: true })
  cpSync(join(root, 'protocol'), join(home, 'protocol'), { recursive: true })
  const path = join(home, 'coordinator/core', file)
  const text = readFileSync(path, 'utf8')
  if (text.split(guard).length !== 2)
    throw new Error(`${file} no longer has the guard \`${guard}\` once: update the mutation`)
  writeFileSync(path, text.replace(guard, instead))
  const url = pathToFileURL(join(home, 'coordinator/core/coordinator.ts')).href
  const { Coordinator } = (await import(
    /* @vite-ignore */ url
  )) as typeof import('../../coordinator/core/coordinator.ts')
  return (options) => new Coordinator(options)
}
