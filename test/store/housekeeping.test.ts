/** What is deleted, and when, by a clock that may be wrong. */
import { expect, test } from 'vitest'
import { RETENTION, tidier } from '../../coordinator/housekeeping.ts'
import { openLog } from '../../coordinator/log.ts'
import type { BatchRecord } from '../../coordinator/store/store.ts'
import { ModelStore } from './model.ts'

const HOUR_S = 3_600
const DAY_S = 24 * HOUR_S
const START = 1_800_000_000

/** A store with a batch that ended right now; `life` is what a process does each hour, beginning now. */
async function world() {
  const store = new ModelStore()
  const clock = { true: START, wrongBy: 0 }
  const life = (): (() => Promise<unknown>) =>
    tidier({ store, log: openLog('silent'), now: () => clock.true + clock.wrongBy, real: () => clock.true * 1000 })
  await store.createBatch({
    id: 'batch_1', tenant: 'public', endpoint: '/v1/embeddings', model: null, trust: 'fast', inputFile: 'f', input: '0', status: 'validating',
    total: 0, createdAt: START, expiresAt: START + DAY_S, at: {}, errors: [], metadata: null, outputFile: null, errorFile: null, extra: {},
  } satisfies BatchRecord)
  await store.changeBatch('batch_1', { status: 'completed', at: { completed: START } })
  const isKept = async (): Promise<boolean> => (await store.batch('batch_1')) !== null
  /** The hour of the true clock in which it went; null when it is there after all of them. */
  const goneAfter = async (tidy: () => Promise<unknown>, hours: number): Promise<number | null> => {
    for (let hour = 1; hour <= hours; hour++) {
      clock.true += HOUR_S
      await tidy()
      if (!(await isKept())) return hour
    }
    return null
  }
  return { clock, life, isKept, goneAfter }
} // prettier-ignore

test('by a right clock everything goes in the hour it is due', async () => {
  const { life, goneAfter } = await world()
  expect(await goneAfter(life(), 1_000)).toBe(RETENTION.batchesS / HOUR_S)
})

test('a clock that is years ahead for a day deletes nothing, also when the coordinator starts with it', async () => {
  for (const isRestarted of [false, true]) {
    const { clock, life, isKept, goneAfter } = await world()
    let tidy = life()
    await tidy()
    clock.wrongBy = 3_650 * DAY_S
    if (isRestarted) tidy = life()
    expect(await goneAfter(tidy, 24)).toBeNull()
    clock.wrongBy = -3_650 * DAY_S
    if (isRestarted) tidy = life()
    expect(await goneAfter(tidy, 24)).toBeNull()
    clock.wrongBy = 0
    expect(await isKept()).toBe(true)
  }
})

test('a clock that stays where it was set is believed in the end', async () => {
  const { clock, life, goneAfter } = await world()
  const tidy = life()
  await tidy()
  clock.wrongBy = 365 * DAY_S
  expect(await goneAfter(tidy, 40)).toBe(RETENTION.batchesS / DAY_S)
})
