/** The power limit, under a clock of the test's own. */
import { expect, test } from 'vitest'
import { Duty } from '../../client/duty.ts'
import { law } from '../harness/random.ts'

law(
  'keeps busy ÷ (busy + idle) to the limit, whatever the bursts and however late the timers',
  async (random) => {
    for (const limit of [0.2, 0.6, 1]) {
      let now = 0
      let busy = 0
      const late = random.float() * 30
      const duty = new Duty(limit, {
        now: () => now,
        sleep: async (ms) => void (now += ms + random.float() * late),
      })
      const longest = [1, 5, 60, 400][random.int(0, 3)]!
      while (now < 60_000) {
        const burst = random.float() * longest
        now += burst
        busy += burst
        await duty.rest(burst)
      }
      const share = busy / now
      expect(share).toBeLessThanOrEqual(limit * 1.02)
      // And it is used: rest is owed, not invented.
      if (longest >= 5) expect(share).toBeGreaterThan(limit * 0.8)
      expect(Math.abs(duty.measured() - limit)).toBeLessThan(0.25 * limit + 0.05)
    }
  },
)

test('a limit that changes holds from the next burst on; an idle engine measures nothing', async () => {
  let now = 0
  let slept = 0
  const duty = new Duty(1, { now: () => now, sleep: async (ms) => void ((now += ms), (slept += ms)) })
  now += 100
  await duty.rest(100)
  expect(slept).toBe(0)
  duty.limit = 0.2
  now += 100
  await duty.rest(100)
  expect(slept).toBe(400)
  now += 20_000
  expect(duty.measured()).toBe(0)
})
