/** The core with one guard removed: a simulator that can't tell it from the real one tests nothing. */
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import type { Make } from './world.ts'

const root = join(import.meta.dirname, '../..')

export interface Mutation {
  what: string
  file: string
  /** Must be there exactly once. */
  guard: string
  instead: string
}

export const MUTATIONS: Mutation[] = [
  {
    what: 'tokens that were delivered before are delivered again',
    file: 'results.ts',
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
    file: 'state.ts',
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
