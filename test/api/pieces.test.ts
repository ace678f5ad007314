/** The small parts of the API, each by itself. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { expect, inject, test } from 'vitest'
import { base64 } from '../../coordinator/api/encoders.ts'
import { ERRORS } from '../../coordinator/api/errors.ts'
import { ChoiceText } from '../../coordinator/api/text.ts'
import { Clock } from '../../coordinator/clock.ts'
import { Driver } from '../../coordinator/driver.ts'
import { parseRange } from '../../coordinator/files.ts'
import type { Event } from '../../coordinator/core/events.ts'
import type { JobId } from '../../protocol/index.ts'

test('the document lists every error code as it is', () => {
  const text = readFileSync(join(import.meta.dirname, '../../docs/api.md'), 'utf8')
  const rows = [...text.matchAll(/^\| `(\w+)` \| (\d+) \| (\w+) \| (yes|no) \|$/gm)].map(
    ([, code, status, type, retry]) => [code, { status: Number(status), type, retry: retry === 'yes' }],
  )
  expect(Object.fromEntries(rows)).toEqual(ERRORS)
})

test('embeddings in base64 are little-endian floats', () => {
  expect(base64(Float32Array.of(0.1, -0.5, 1))).toBe('zczMPQAAAL8AAIA/')
})

test('ranges of bytes', () => {
  const cases: [string | undefined, ReturnType<typeof parseRange>][] = [
    [undefined, null], ['bytes=0-9', [0, 9]], ['bytes=90-', [90, 99]], ['bytes=-5', [95, 99]], ['bytes=-500', [0, 99]], ['bytes=50-5000', [50, 99]],
    ['bytes=100-', 'unsatisfiable'], ['bytes=-0', 'unsatisfiable'], ['bytes=9-5', null], ['bytes=0-1,5-6', null], ['lines=1-2', null], ['bytes=-', null],
  ] // prettier-ignore
  for (const [header, expected] of cases) expect(parseRange(header, 100), String(header)).toEqual(expected)
})

test('a stop string cuts the same text however it arrives in pieces', () => {
  const letters = fc.string({ unit: fc.constantFrom('a', 'b', 'c'), maxLength: 40 })
  const stops = fc.array(fc.string({ unit: fc.constantFrom('a', 'b', 'c'), minLength: 1, maxLength: 4 }), {
    maxLength: 3,
  })
  fc.assert(
    fc.property(
      letters,
      stops,
      fc.array(fc.integer({ min: 1, max: 7 }), { minLength: 1 }),
      (text, stops, sizes) => {
        const pieces: string[] = []
        for (let at = 0, i = 0; at < text.length; i++)
          pieces.push(text.slice(at, (at += sizes[i % sizes.length]!)))
        const decoder = { push: (id: number) => pieces[id]!, flush: () => '' }
        const choice = new ChoiceText(decoder, stops)
        let out = ''
        const seen: string[] = []
        for (let id = 0; id < pieces.length && !choice.isStopped; id++) {
          out += choice.push(id)
          seen.push(out)
        }
        out += choice.end()
        // By definition: letter by letter, until some stop string is complete.
        let expected = text
        for (let n = 1; n <= text.length; n++) {
          const complete = stops.filter((stop) => text.slice(0, n).endsWith(stop))
          if (complete.length === 0) continue
          expected = text.slice(0, n - Math.max(...complete.map((stop) => stop.length)))
          break
        }
        expect(out).toBe(expected)
        // What was given out is never taken back.
        for (const part of seen) expect(expected.startsWith(part)).toBe(true)
      },
    ),
    { numRuns: 2000, seed: inject('seed') },
  )
})

test('the clock leaves out what the process slept through, and nothing else', () => {
  let real = 0
  let turns: (() => void)[] = []
  const clock = new Clock(
    () => real,
    (callback) => turns.push(callback),
  )
  const endTurn = (): void => {
    for (const callback of turns) callback()
    turns = []
  }
  endTurn()
  // Waiting for events is no standstill.
  for (real = 1000; real <= 60_000; real += 1000) {
    clock.beat()
    endTurn()
  }
  real = 60_400
  expect(clock.now()).toBe(60_400)
  endTurn()
  // A turn of 20 s counts for one, while it lasts and afterwards.
  real = 60_500
  expect(clock.now()).toBe(60_500)
  real = 80_500
  expect(clock.now()).toBe(61_500)
  endTurn()
  expect(clock.now()).toBe(61_500)
  clock.beat()
  endTurn()
  real = 81_000
  expect(clock.now()).toBe(62_000)
  endTurn()
  // The machine was suspended for an hour: its beat learns it before anybody else asks.
  real += 3_600_000
  clock.beat()
  expect(clock.now()).toBeLessThan(64_000)
  const before = clock.now()
  endTurn()
  real += 700
  expect(clock.now()).toBe(before + 700)
  clock.stop()
})

test('the driver handles events in their order, also those that effects give rise to, and wakes the core in time', async () => {
  let now = 0
  const handled: string[] = []
  const core = {
    wake: Infinity,
    handle(event: Event) {
      if (event.type === 'job-cancelled') throw new Error('boom')
      handled.push(`${event.type}@${now}`)
      if (event.type === 'models-changed')
        return [{ type: 'finish-drain' as const }, { type: 'finish-drain' as const }]
      this.wake = event.type === 'drain-started' ? now + 20 : Infinity
      return []
    },
    wakeAt() {
      return this.wake
    },
  }
  let effects = 0
  const driver = new Driver(
    core,
    () => {
      handled.push(`effect ${++effects}`)
      if (effects === 1) driver.submit({ type: 'drain-started', graceMs: 0, retryMs: 0 })
    },
    (error, what) => handled.push(`${String(error)} in ${what}`),
    () => now,
  )
  driver.submit({ type: 'models-changed', models: [] })
  expect(handled).toEqual(['models-changed@0', 'effect 1', 'effect 2', 'drain-started@0'])
  now = 25
  await new Promise((resolve) => setTimeout(resolve, 60))
  expect(handled.at(-1)).toBe('time-passed@25')
  driver.submit({ type: 'job-cancelled', job: 'boom' as JobId, reason: '' })
  expect(handled.at(-1)).toBe('Error: boom in job-cancelled')
  driver.submit({ type: 'time-passed' })
  expect(handled.at(-1)).toBe('time-passed@25')
  driver.stop()
  const { length } = handled
  driver.submit({ type: 'time-passed' })
  expect(handled).toHaveLength(length)
})
