/** Laws of the wire: what one end writes the other reads; whatever else arrives is a ProtocolError that says why. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  CLOSE,
  encodeFrame,
  encodeFromCoordinator,
  encodeFromVolunteer,
  FROM_COORDINATOR,
  FROM_VOLUNTEER,
  LIMITS,
  META_BYTES_MAX,
  negotiate,
  outputBytes,
  PAYLOAD_BYTES_MAX,
  parseFromCoordinator,
  parseFromVolunteer,
  ProtocolError,
} from '../../protocol/index.ts'
import type { FromVolunteer } from '../../protocol/index.ts'
import { fromCoordinator, fromVolunteer } from '../golden/frames/messages.ts'
import { law } from '../harness/random.ts'

const golden = (name: string): Uint8Array =>
  new Uint8Array(readFileSync(join(import.meta.dirname, '../golden/frames', `${name}.bin`)))
/** Optional fields that are undefined and ones that are missing are the same message. */
const plain = (value: unknown): unknown =>
  JSON.parse(
    JSON.stringify(value, (_, x) =>
      ArrayBuffer.isView(x) ? [x.constructor.name, ...(x as Uint32Array)] : x,
    ),
  )

function refusal(read: () => unknown): ProtocolError {
  try {
    read()
  } catch (error) {
    expect(error).toBeInstanceOf(ProtocolError)
    return error as ProtocolError
  }
  throw new Error('it was accepted')
}

describe('golden frames', () => {
  Object.entries(fromVolunteer).forEach(([name, message], sequence) => {
    test(`volunteer ${name}`, () => {
      const bytes = golden(`volunteer.${name}`)
      expect(Buffer.from(encodeFromVolunteer(message, sequence)).equals(bytes)).toBe(true)
      expect(plain(parseFromVolunteer(bytes))).toEqual(plain({ sequence, message }))
    })
  })
  Object.entries(fromCoordinator).forEach(([name, message], sequence) => {
    test(`coordinator ${name}`, () => {
      const bytes = golden(`coordinator.${name}`)
      expect(Buffer.from(encodeFromCoordinator(message, sequence)).equals(bytes)).toBe(true)
      expect(plain(parseFromCoordinator(bytes))).toEqual(plain({ sequence, message }))
    })
  })
  test('there is one for every type of message', () => {
    const types = (all: Record<string, { type: string }>) => new Set(Object.values(all).map((m) => m.type))
    expect(types(fromVolunteer)).toEqual(new Set(Object.keys(FROM_VOLUNTEER)))
    expect(types(fromCoordinator)).toEqual(new Set(Object.keys(FROM_COORDINATOR)))
  })
})

law('a frame at any offset of a buffer reads the same', (random) => {
  for (const [name, message] of Object.entries(fromVolunteer)) {
    const bytes = golden(`volunteer.${name}`)
    const shifted = new Uint8Array(bytes.length + 8).subarray(random.int(0, 7))
    shifted.set(bytes)
    expect(plain(parseFromVolunteer(shifted.subarray(0, bytes.length)).message)).toEqual(plain(message))
  }
})

law(
  'damaged frames are refused with a close code or read as some message, and nothing else is thrown',
  (random) => {
    const frames = [
      ...Object.keys(fromVolunteer).map((n) => golden(`volunteer.${n}`)),
      ...Object.keys(fromCoordinator).map((n) => golden(`coordinator.${n}`)),
    ]
    let refused = 0
    for (let i = 0; i < 20_000; i++) {
      const bytes = random.pick(frames).slice()
      for (let n = random.int(1, 4); n > 0; n--) bytes[random.int(0, bytes.length - 1)] = random.int(0, 255)
      const cut = random.int(0, 3) ? bytes : bytes.subarray(0, random.int(0, bytes.length))
      for (const parse of [parseFromVolunteer, parseFromCoordinator]) {
        try {
          parse(cut)
        } catch (error) {
          refused++
          expect(error).toBeInstanceOf(ProtocolError)
          expect(Object.values(CLOSE)).toContain((error as ProtocolError).code)
          expect((error as ProtocolError).message.length).toBeLessThanOrEqual(123)
        }
      }
    }
    expect(refused).toBeGreaterThan(20_000)
  },
)

test('metas of arbitrary JSON never do worse than a refusal', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 0, max: 255 }),
      fc.jsonValue(),
      fc.uint8Array({ maxLength: 40 }),
      (type, meta, payload) => {
        const bytes = encodeFrame(type, 0, meta, [payload])
        for (const parse of [parseFromVolunteer, parseFromCoordinator])
          expect(() => parse(bytes)).toThrow(ProtocolError)
      },
    ),
  )
})

describe('a volunteer is refused, by name,', () => {
  const tokens = fromVolunteer.tokens as Extract<FromVolunteer, { type: 'tokens' }>
  const frame = (type: keyof typeof FROM_VOLUNTEER, meta: unknown, payload: Uint8Array[] = []) =>
    refusal(() => parseFromVolunteer(encodeFrame(FROM_VOLUNTEER[type], 0, meta, payload)))

  test('for a key nobody knows', () => {
    expect(frame('pong', { nonce: 1, extra: 1 }).message).toMatch(/pong: extra/)
    const polluted = encodeFrame(FROM_VOLUNTEER.pong, 0, JSON.parse('{"nonce":1,"__proto__":{"a":1}}'))
    expect(refusal(() => parseFromVolunteer(polluted)).code).toBe(CLOSE.malformed)
  })
  test('for claiming more than the bounds', () => {
    expect(frame('slots', { slots: LIMITS.slots + 1, concurrency: 1 }).message).toMatch(/slots: slots/)
    expect(frame('slots', { slots: 1.5, concurrency: 1 }).message).toMatch(/slots: slots/)
    expect(frame('slots', { slots: 1, concurrency: 2 ** 40 }).message).toMatch(/concurrency/)
  })
  test('for a payload that is shorter or longer than announced', () => {
    const meta = { assignment: 'a1', position: 0, count: 2, from: 0, signature: tokens.signature }
    expect(frame('tokens', meta, [new Uint8Array(7)]).message).toMatch(/ends 1 bytes early/)
    expect(frame('tokens', meta, [new Uint8Array(12)]).message).toMatch(/4 bytes of payload more/)
    expect(frame('pong', { nonce: 1 }, [new Uint8Array(1)]).message).toMatch(/1 bytes of payload more/)
  })
  test('for token ids beyond any vocabulary', () => {
    const bytes = encodeFromVolunteer({ ...tokens, tokens: Uint32Array.of(1, 2 ** 24) }, 0)
    expect(refusal(() => parseFromVolunteer(bytes)).message).toMatch(/16777216 at 1/)
  })
  test('for ids that are not plain words', () => {
    expect(frame('fail', { assignment: '../x', reason: 'returned', retryable: true }).message).toMatch(
      /assignment/,
    )
  })
  test('for a frame of another version or of the other side', () => {
    const bytes = golden('volunteer.pong')
    bytes[2] = 9
    expect(refusal(() => parseFromVolunteer(bytes)).code).toBe(CLOSE.version)
    expect(refusal(() => parseFromVolunteer(golden('coordinator.ping'))).message).toMatch(
      /nothing a volunteer sends/,
    )
  })
  test('for sizes beyond the limits, before anything is read', () => {
    const header = new Uint8Array(16)
    const view = new DataView(header.buffer)
    view.setUint16(0, 0x4843, true)
    view.setUint8(2, 1)
    view.setUint32(4, META_BYTES_MAX + 1, true)
    expect(refusal(() => parseFromVolunteer(header)).code).toBe(CLOSE.tooLarge)
    view.setUint32(4, 2, true)
    view.setUint32(8, PAYLOAD_BYTES_MAX + 1, true)
    expect(refusal(() => parseFromVolunteer(header)).code).toBe(CLOSE.tooLarge)
  })
})

test('a volunteer ignores keys of a newer coordinator', () => {
  const meta = { nonce: 5, hint: 'new' }
  expect(parseFromCoordinator(encodeFrame(FROM_COORDINATOR.ping, 0, meta)).message).toEqual({
    type: 'ping',
    nonce: 5,
  })
})

test('the payload of a result frame is what its digest names', () => {
  for (const name of ['result-generate', 'result-generate-logprobs', 'result-embed']) {
    const message = fromVolunteer[name]!
    if (message.type !== 'result') throw new Error(name)
    const bytes = encodeFromVolunteer(message, 0)
    const output = outputBytes(message.output)
    expect(Buffer.from(bytes.subarray(bytes.length - output.length)).equals(output)).toBe(true)
  }
})

test('the subprotocol is chosen by name, or not at all', () => {
  expect(negotiate(['chorale.v2', 'chorale.v1'])).toBe('chorale.v1')
  expect(negotiate(['chorale.v2'])).toBe(null)
  expect(negotiate([])).toBe(null)
})
