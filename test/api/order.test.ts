/** Signatures are checked in another thread; what a volunteer says is heard as if they were checked on the spot. */
import { createHash } from 'node:crypto'
import fc from 'fast-check'
import { afterAll, expect, test } from 'vitest'
import type { Checker } from '../../coordinator/sockets.ts'
import { outputBytes, resultStatement } from '../../protocol/index.ts'
import type { AssignmentId, Result } from '../../protocol/index.ts'
import { eventually } from './serve.ts'
import { closeAll, COORDINATOR, HASH, MODEL, open, signed } from './shell.ts'

afterAll(closeAll)

/** An answer of one token; `isGood`: under a signature of what it says. */
function result(assignment: string, isGood = true): Result & { type: 'result' } {
  const output = { kind: 'generate', position: 1, tokens: Uint32Array.of(7), finish: 'length' } as const
  const digest = createHash('sha256').update(outputBytes(output)).digest('hex')
  const claim = { coordinator: COORDINATOR, assignment, model: MODEL, input: HASH, output: digest, root: HASH }
  const signature = signed(isGood ? resultStatement(claim) : Buffer.from('something else'))
  return { type: 'result', assignment: assignment as AssignmentId, output, digest, computeMs: 1, input: HASH, root: HASH, signature }
} // prettier-ignore

const said = fc.oneof(
  fc.record({ what: fc.constant('pong' as const), pause: fc.boolean() }),
  fc.record({ what: fc.constantFrom('awaited' as const, 'unasked' as const), pause: fc.boolean() }),
)

test('it is heard in the order it was said, whatever waits for a check, and all of it before the volunteer is gone', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(said, { maxLength: 60 }), fc.integer({ min: 1, max: 5 }), async (all, waitingFrames) => {
      const stage = await open({ waitingFrames })
      const due: (number | string)[] = []
      for (const [i, { what, pause }] of all.entries()) {
        const name = what === 'pong' ? i : `a${i}`
        due.push(name)
        if (what === 'awaited') stage.awaited.add(`a${i}`)
        if (what === 'pong') stage.say({ type: 'pong', nonce: i })
        // Nobody will point to the signature of what nobody waits for.
        else stage.say(result(`a${i}`, what === 'awaited'))
        if (pause) await new Promise(setImmediate)
      }
      stage.socket.close()
      await stage.ended
      await eventually(() => stage.left !== undefined, 'it is gone')
      expect(stage.heard).toEqual(due)
    }),
    { numRuns: 25 },
  )
}) // prettier-ignore

test('of a signature that is not of what it says, nothing is heard, nor of what comes behind it', async () => {
  await fc.assert(
    fc.asyncProperty(fc.nat(20), fc.nat(20), async (before, behind) => {
      const stage = await open()
      for (let i = 0; i <= before + behind; i++) {
        stage.awaited.add(`a${i}`)
        stage.say(result(`a${i}`, i !== before))
        stage.say({ type: 'pong', nonce: i })
      }
      expect((await stage.ended).code).toBe(4401)
      expect(stage.heard).toEqual(Array.from({ length: before }, (_, i) => [`a${i}`, i]).flat())
      expect(stage.left).toMatch('signature is not this volunteer')
    }),
    { numRuns: 10 },
  )
})

test('an answer that came before it was asked for is believed no sooner: its signature is checked when it is', async () => {
  for (const isGood of [true, false]) {
    const stage = await open()
    stage.awaited.add('a')
    stage.say(result('a'))
    stage.say(result('after-a', isGood))
    if (isGood) await eventually(() => stage.heard.join() === 'a,after-a', 'both are heard')
    else {
      expect((await stage.ended).code).toBe(4401)
      expect(stage.heard).toEqual(['a'])
    }
  }
})

test('who sends answers faster than they are checked is not read any more: what waits is bounded', async () => {
  const verdicts: ((isGood: boolean) => void)[] = []
  const checker: Checker = {
    backlog: 0,
    check: (_key, _statement, _signature, onVerdict) => void verdicts.push(onVerdict),
    close: () => {},
  }
  const stage = await open({ waitingFrames: 16 }, checker)
  stage.awaited.add('a')
  const one = result('a', false)
  const FLOOD = 50_000
  for (let i = 0; i < FLOOD; i++) stage.say(one)
  await eventually(async () => {
    const before = verdicts.length
    await new Promise((resolve) => setTimeout(resolve, 200))
    return before > 0 && before === verdicts.length
  }, 'no more is read')
  // What had been read from the system in one piece, 64 KiB, and the frames that may wait.
  expect(verdicts.length).toBeLessThan(500)
  expect(stage.socket.bufferedAmount).toBeGreaterThan(0)
  for (const verdict of verdicts) verdict(false)
  expect((await stage.ended).code).toBe(4401)
  expect(stage.heard).toEqual([])
})
