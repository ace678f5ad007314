/**
 * Bytes → Message | ProtocolError. The only place where shapes from the other side are inspected: behind it every field
 * has its type, every list its bound, and every payload the length its meta announces.
 *
 * What volunteers send is checked strictly (an unknown key is an error); what coordinators send may hold keys of a newer
 * minor version, which are dropped, so an older volunteer keeps working.
 */
import * as v from 'valibot'
import { CLOSE, ProtocolError } from './errors.ts'
import { decodeFrame } from './frame.ts'
import { LIMITS } from './limits.ts'
import { wordsPerToken } from './logprobs.ts'
import { FROM_COORDINATOR, FROM_VOLUNTEER } from './messages.ts'
import type { FromCoordinator, FromVolunteer } from './messages.ts'
import type { Assignment, AssignmentId, Logprobs, ModelDigest, UnitId, VolunteerId } from './nouns.ts'

const whole = (low: number, high: number) =>
  v.pipe(v.number(), v.integer(), v.minValue(low), v.maxValue(high))
const count = (high: number) => whole(0, high)
const real = (low: number, high: number) => v.pipe(v.number(), v.minValue(low), v.maxValue(high))
const text = (chars: number) => v.pipe(v.string(), v.maxLength(chars))
const id = <T extends string>() =>
  v.pipe(v.string(), v.regex(/^[A-Za-z0-9_-]{1,64}$/), v.transform((s) => s as T)) // prettier-ignore
const hash = v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/))
const digest = v.pipe(hash, v.transform((s) => s as ModelDigest)) // prettier-ignore
/** 32 and 64 bytes; the unused bits of the last character are zero, so that a key has one spelling. */
const publicKey = v.pipe(v.string(), v.regex(/^[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]$/))
const signature = v.pipe(v.string(), v.regex(/^[A-Za-z0-9_-]{85}[AQgw]$/))
/** A day: longer than any lease, estimate or delay that means something. */
const DAY = 86_400_000
const millis = count(DAY)

const assignmentId = id<AssignmentId>()
const pauseReason = v.picklist([
  'user', 'battery', 'pressure', 'in-use', 'hours', 'data-cap', 'save-data', 'metered', 'hidden', 'frozen', 'device-lost',
]) // prettier-ignore
const modelStatus = v.strictObject({
  digest,
  state: v.picklist(['absent', 'downloading', 'compiling', 'ready', 'failed']),
  etaMs: v.optional(millis),
  context: v.optional(whole(1, LIMITS.tokensPerSequence)),
  readMs: v.optional(real(0, DAY)),
  drawMs: v.optional(real(0, DAY)),
})
const modelStatuses = v.pipe(v.array(modelStatus), v.maxLength(LIMITS.modelsPerVolunteer))
const slots = count(LIMITS.slots)
const concurrency = whole(1, LIMITS.slots)
const logprobsMeta = v.optional(v.strictObject({ top: count(LIMITS.logprobs) }))
const position = count(LIMITS.tokensPerSequence)

/** Metas of what volunteers send, by type byte. */
const fromVolunteer = {
  [FROM_VOLUNTEER.hello]: v.strictObject({
    version: whole(1, 1000),
    client: text(LIMITS.textChars),
    capability: v.strictObject({
      backend: v.picklist(['webgpu', 'wasm', 'js']),
      adapter: text(LIMITS.textChars),
      numerics: v.literal('xn1'),
      memoryBytes: count(2 ** 50),
      models: modelStatuses,
    }),
    slots,
    concurrency,
    isHidden: v.boolean(),
    paused: v.optional(pauseReason),
    held: v.pipe(v.array(assignmentId), v.maxLength(LIMITS.held)),
    publicKey,
    signature,
  }),
  [FROM_VOLUNTEER.result]: v.strictObject({
    assignment: assignmentId,
    output: v.variant('kind', [
      v.strictObject({
        kind: v.literal('generate'),
        position,
        count: whole(1, LIMITS.tokensPerSequence),
        finish: v.picklist(['stop', 'length']),
        logprobs: logprobsMeta,
      }),
      v.strictObject({
        kind: v.picklist(['embed', 'classify']),
        rows: whole(1, LIMITS.rowsPerUnit),
        width: whole(1, 131_072),
        bits: count(30),
      }),
    ]),
    digest: hash,
    computeMs: real(0, DAY),
    input: hash,
    root: hash,
    signature,
  }),
  [FROM_VOLUNTEER.tokens]: v.strictObject({
    assignment: assignmentId,
    position,
    count: whole(1, LIMITS.tokensPerSequence),
    logprobs: logprobsMeta,
    signature,
    from: position,
  }),
  [FROM_VOLUNTEER.fail]: v.strictObject({
    assignment: assignmentId,
    reason: v.picklist([
      'returned',
      'model-missing',
      'input-invalid',
      'out-of-memory',
      'device-lost',
      'engine-error',
    ]),
    retryable: v.boolean(),
    detail: v.optional(text(LIMITS.detailChars)),
  }),
  [FROM_VOLUNTEER.slots]: v.strictObject({ slots, concurrency }),
  [FROM_VOLUNTEER.state]: v.strictObject({
    state: v.picklist(['open', 'paused', 'draining']),
    reason: v.optional(pauseReason),
    isHidden: v.boolean(),
  }),
  [FROM_VOLUNTEER.models]: v.strictObject({ models: modelStatuses }),
  [FROM_VOLUNTEER.pong]: v.strictObject({ nonce: count(2 ** 32 - 1) }),
  [FROM_VOLUNTEER.leaves]: v.strictObject({ assignment: assignmentId, count: count(LIMITS.leaves) }),
}

const sampling = v.object({
  temperature: real(0, 100),
  topK: count(2 ** 31),
  topP: real(0, 1),
  seed: v.pipe(
    v.string(),
    v.regex(/^\d{1,20}$/),
    v.check((s) => BigInt(s) < 1n << 64n, 'a whole number below 2^64'),
  ),
  stream: count(2 ** 32 - 1),
})
const offers = v.pipe(
  v.array(
    v.object({
      digest,
      name: text(LIMITS.textChars),
      task: v.picklist(['generate', 'embed', 'classify']),
      path: v.pipe(text(LIMITS.textChars), v.regex(/^\/[\w./-]*$/)),
      bytes: count(2 ** 50),
      context: whole(1, LIMITS.tokensPerSequence),
      demand: real(0, 1e9),
    }),
  ),
  v.maxLength(LIMITS.modelsServed),
)
const held = v.pipe(v.array(assignmentId), v.maxLength(LIMITS.held))

/** Metas of what coordinators send, by type byte. */
const fromCoordinator = {
  [FROM_COORDINATOR.welcome]: v.object({
    version: whole(1, 1000),
    volunteer: id<VolunteerId>(),
    settings: v.object({
      pingMs: whole(100, DAY),
      silentMs: whole(100, DAY),
      progressMs: millis,
      reconnectMsMax: whole(100, DAY),
    }),
    models: offers,
    keep: held,
    operator: text(LIMITS.textChars),
  }),
  [FROM_COORDINATOR.assign]: v.object({
    assignments: v.pipe(
      v.array(
        v.object({
          id: assignmentId,
          unit: id<UnitId>(),
          kind: v.picklist(['generate', 'embed', 'classify']),
          model: digest,
          lengths: v.pipe(
            v.array(whole(1, LIMITS.tokensPerSequence)),
            v.minLength(1),
            v.maxLength(LIMITS.rowsPerUnit),
          ),
          generate: v.optional(
            v.object({
              maxTokens: whole(1, LIMITS.tokensPerSequence),
              sampling,
              replay: v.optional(count(LIMITS.tokensPerSequence)),
              logprobs: v.optional(count(LIMITS.logprobs)),
            }),
          ),
          leaseMs: millis,
          priority: v.picklist(['interactive', 'batch']),
        }),
      ),
      v.minLength(1),
      v.maxLength(LIMITS.assignmentsPerFrame),
    ),
  }),
  [FROM_COORDINATOR.cancel]: v.object({ assignments: held }),
  [FROM_COORDINATOR.models]: v.object({ models: offers }),
  [FROM_COORDINATOR.ping]: v.object({ nonce: count(2 ** 32 - 1) }),
  [FROM_COORDINATOR.drain]: v.object({ retryMs: millis }),
  [FROM_COORDINATOR.challenge]: v.object({
    nonce: v.pipe(v.string(), v.regex(/^[A-Za-z0-9_-]{22,64}$/)),
    coordinator: publicKey,
  }),
  [FROM_COORDINATOR.disclose]: v.object({ assignment: assignmentId }),
  [FROM_COORDINATOR.standing]: v.object({
    standing: v.object({
      accepted: count(Number.MAX_SAFE_INTEGER),
      checked: count(Number.MAX_SAFE_INTEGER),
      checkRate: real(0, 1),
      pending: count(Number.MAX_SAFE_INTEGER),
      vested: count(Number.MAX_SAFE_INTEGER),
    }),
  }),
  [FROM_COORDINATOR.error]: v.object({ code: text(LIMITS.idChars), message: text(LIMITS.detailChars) }),
}

export interface Parsed<Message> {
  sequence: number
  message: Message
}

/** A frame that arrived at a coordinator. Throws ProtocolError; nothing else, whatever the bytes. */
export function parseFromVolunteer(bytes: Uint8Array): Parsed<FromVolunteer> {
  const { type, sequence, meta, payload } = decodeFrame(bytes)
  const take = new Payload(payload)
  switch (type) {
    case FROM_VOLUNTEER.hello:
      return { sequence, message: { type: 'hello', ...check('hello', fromVolunteer[type], meta, take) } }
    case FROM_VOLUNTEER.result: {
      const { output, ...result } = check('result', fromVolunteer[type], meta)
      if (output.kind !== 'generate') {
        const { kind, rows, width, bits } = output
        const values = take.ints('result', rows * width)
        take.end('result')
        return {
          sequence,
          message: { type: 'result', ...result, output: { kind, rows, width, bits, values } },
        }
      }
      const { kind, position, finish } = output
      const tokens = take.ids('result', output.count)
      const logprobs = take.logprobs('result', output.count, output.logprobs)
      take.end('result')
      return {
        sequence,
        message: { type: 'result', ...result, output: { kind, position, tokens, finish, logprobs } },
      }
    }
    case FROM_VOLUNTEER.tokens: {
      const { count, logprobs, ...progress } = check('tokens', fromVolunteer[type], meta)
      const tokens = take.ids('tokens', count)
      const message = {
        type: 'tokens',
        ...progress,
        tokens,
        logprobs: take.logprobs('tokens', count, logprobs),
      } as const
      take.end('tokens')
      return { sequence, message }
    }
    case FROM_VOLUNTEER.fail:
      return { sequence, message: { type: 'fail', ...check('fail', fromVolunteer[type], meta, take) } }
    case FROM_VOLUNTEER.slots:
      return { sequence, message: { type: 'slots', ...check('slots', fromVolunteer[type], meta, take) } }
    case FROM_VOLUNTEER.state:
      return { sequence, message: { type: 'state', ...check('state', fromVolunteer[type], meta, take) } }
    case FROM_VOLUNTEER.models:
      return { sequence, message: { type: 'models', ...check('models', fromVolunteer[type], meta, take) } }
    case FROM_VOLUNTEER.pong:
      return { sequence, message: { type: 'pong', ...check('pong', fromVolunteer[type], meta, take) } }
    case FROM_VOLUNTEER.leaves: {
      const { assignment, count } = check('leaves', fromVolunteer[type], meta)
      const leaves = take.bytes('leaves', 32 * count)
      take.end('leaves')
      return { sequence, message: { type: 'leaves', assignment, leaves } }
    }
    default:
      throw new ProtocolError(CLOSE.malformed, `frame: type ${type} is nothing a volunteer sends`)
  }
}

/** A frame that arrived at a volunteer. Throws ProtocolError; nothing else, whatever the bytes. */
export function parseFromCoordinator(bytes: Uint8Array): Parsed<FromCoordinator> {
  const { type, sequence, meta, payload } = decodeFrame(bytes)
  const take = new Payload(payload)
  switch (type) {
    case FROM_COORDINATOR.welcome:
      return {
        sequence,
        message: { type: 'welcome', ...check('welcome', fromCoordinator[type], meta, take) },
      }
    case FROM_COORDINATOR.assign: {
      const metas = check('assign', fromCoordinator[type], meta).assignments
      const assignments = metas.map(({ lengths, ...rest }, i): Assignment => {
        if ((rest.kind === 'generate') !== (rest.generate !== undefined))
          throw new ProtocolError(CLOSE.malformed, `assign: assignments.${i}.generate does not fit its kind`)
        if (rest.kind === 'generate' && lengths.length !== 1)
          throw new ProtocolError(
            CLOSE.malformed,
            `assign: assignments.${i}.lengths has more than one prompt`,
          )
        if ((rest.generate?.replay ?? 0) >= lengths[0]!)
          throw new ProtocolError(CLOSE.malformed, `assign: assignments.${i}.replay leaves no prompt`)
        return { ...rest, inputs: lengths.map((n) => take.ids('assign', n)) }
      })
      take.end('assign')
      return { sequence, message: { type: 'assign', assignments } }
    }
    case FROM_COORDINATOR.cancel:
      return { sequence, message: { type: 'cancel', ...check('cancel', fromCoordinator[type], meta, take) } }
    case FROM_COORDINATOR.models:
      return { sequence, message: { type: 'models', ...check('models', fromCoordinator[type], meta, take) } }
    case FROM_COORDINATOR.ping:
      return { sequence, message: { type: 'ping', ...check('ping', fromCoordinator[type], meta, take) } }
    case FROM_COORDINATOR.drain:
      return { sequence, message: { type: 'drain', ...check('drain', fromCoordinator[type], meta, take) } }
    case FROM_COORDINATOR.challenge:
      return {
        sequence,
        message: { type: 'challenge', ...check('challenge', fromCoordinator[type], meta, take) },
      }
    case FROM_COORDINATOR.disclose:
      return {
        sequence,
        message: { type: 'disclose', ...check('disclose', fromCoordinator[type], meta, take) },
      }
    case FROM_COORDINATOR.standing:
      return {
        sequence,
        message: { type: 'standing', ...check('standing', fromCoordinator[type], meta, take) },
      }
    case FROM_COORDINATOR.error:
      return { sequence, message: { type: 'error', ...check('error', fromCoordinator[type], meta, take) } }
    default:
      throw new ProtocolError(CLOSE.malformed, `frame: type ${type} is nothing a coordinator sends`)
  }
}

/** @param empty given for messages that carry no payload */
function check<S extends v.GenericSchema>(
  name: string,
  schema: S,
  meta: unknown,
  empty?: Payload,
): v.InferOutput<S> {
  const parsed = v.safeParse(schema, meta, { abortEarly: true })
  if (!parsed.success) {
    const issue = parsed.issues[0]
    const path = v.getDotPath(issue)
    // Whoever has no key can be told from whoever speaks another language.
    const isUnsigned = (path === 'publicKey' || path === 'signature') && issue.input === undefined
    throw new ProtocolError(
      isUnsigned ? CLOSE.unauthorized : CLOSE.malformed,
      `${name}: ${path ? `${path}: ` : ''}${isUnsigned ? 'it is missing' : issue.message}`.slice(0, 120),
    )
  }
  empty?.end(name)
  return parsed.output
}

/** Reads typed arrays one after another; they are views of the frame. */
class Payload {
  readonly #bytes: Uint8Array
  #at = 0

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes
  }

  ids(name: string, length: number): Uint32Array {
    const ids = new Uint32Array(this.#bytes.buffer, this.#take(name, length), length)
    for (let i = 0; i < length; i++)
      if (ids[i]! >= LIMITS.tokenId)
        throw new ProtocolError(
          CLOSE.malformed,
          `${name}: token id ${ids[i]} at ${i} is beyond any vocabulary`,
        )
    return ids
  }

  bytes(name: string, length: number): Uint8Array {
    const offset = this.#take(name, length / 4)
    return new Uint8Array(this.#bytes.buffer, offset, length)
  }

  ints(name: string, length: number): Int32Array {
    return new Int32Array(this.#bytes.buffer, this.#take(name, length), length)
  }

  logprobs(name: string, tokens: number, meta: { top: number } | undefined): Logprobs | undefined {
    return meta && { top: meta.top, values: this.ints(name, tokens * wordsPerToken(meta)) }
  }

  end(name: string): void {
    const left = this.#bytes.length - this.#at
    if (left)
      throw new ProtocolError(
        CLOSE.malformed,
        `${name}: ${left} bytes of payload more than its meta announces`,
      )
  }

  #take(name: string, words: number): number {
    const left = this.#bytes.length - this.#at
    if (4 * words > left)
      throw new ProtocolError(CLOSE.malformed, `${name}: payload ends ${4 * words - left} bytes early`)
    const offset = this.#bytes.byteOffset + this.#at
    this.#at += 4 * words
    return offset
  }
}
