/** The short version of `npm run fuzz`. */
import { expect, inject, test } from 'vitest'
import { strangeValue } from './mutate.ts'
import { frameOf } from './frames.ts'
import { fuzz } from './fuzz.ts'
import { fault } from './requests.ts'
import { Random } from '../harness/random.ts'

test('damaged frames and requests: no exception escapes, memory is bounded, every code is one of the table', async () => {
  const seed = inject('seed')
  const report = await fuzz({ seed, frames: 20_000, socketShare: 40, requests: 2_000 })
  expect(report.findings, `npm run fuzz -- --seed ${seed}`).toEqual([])
  // Most of the damage is noticed, and not all of it: some frames still are frames.
  expect(report.frames.refused).toBeGreaterThan(10_000)
  expect(report.frames.refused).toBeLessThan(20_000)
})

test('the same seed and index are the same damage', () => {
  for (let i = 0; i < 50; i++) expect(frameOf(9, i).equals(frameOf(9, i))).toBe(true)
  const random = new Random(1)
  for (let i = 0; i < 500; i++) JSON.stringify(strangeValue(random))
})

test('what counts as a wrong answer', () => {
  const error = (code: string, message = 'why'): string => JSON.stringify({ error: { code, message } })
  expect(fault({ status: 400, text: error('invalid_json') })).toBeNull()
  expect(fault({ status: 200, text: '' })).toBeNull()
  expect(fault({ status: 404, text: error('invalid_json') })).not.toBeNull()
  expect(fault({ status: 500, text: error('internal') })).not.toBeNull()
  expect(fault({ status: 400, text: error('oops') })).not.toBeNull()
  expect(fault({ status: 400, text: error('invalid_json', '') })).not.toBeNull()
  expect(fault({ status: 502, text: '<html>' })).not.toBeNull()
})
