/** What a check finds wrong is replaced before it is delivered; what was sent already can't be taken back, and is said to be wrong. */
import { beforeAll, expect, test } from 'vitest'
import type { ApiContext, Caller } from '../../coordinator/api/context.ts'
import { completion } from '../../coordinator/api/completions.ts'
import { classification, encodeRows } from '../../coordinator/api/encoders.ts'
import { answer } from '../../coordinator/api/generate.ts'
import type { ApiError } from '../../coordinator/api/errors.ts'
import type { EventStream } from '../../coordinator/api/sse.ts'
import type { Effect, Event, JobSummary } from '../../coordinator/core/events.ts'
import { Jobs } from '../../coordinator/jobs.ts'
import { Catalog, openServed } from '../../coordinator/models.ts'
import { Tokens } from '../../coordinator/tokens.ts'
import { packedFolder } from '../../tools/models.ts'
import type { JobId, Output, RequesterId, UnitId } from '../../protocol/index.ts'

let catalog: Catalog
beforeAll(async () => {
  const folders = await Promise.all(['tales-3m', 'intents-3m'].map((name) => packedFolder(name)))
  catalog = new Catalog(await Promise.all(folders.map(openServed)))
})

const summary: JobSummary = {
  units: 1, redispatched: 0, hedged: 0, queuedMs: 0, totalMs: 1, volunteers: [], verification: 'trusted',
} // prettier-ignore

/** The API's side of jobs; the test says what the core says. */
function desk(): {
  context: ApiContext
  caller: Caller
  events: Event[]
  sent: unknown[]
  say: (...effects: object[]) => void
} {
  const events: Event[] = []
  const sent: unknown[] = []
  const jobs = new Jobs((event) => void events.push(event))
  const stream = {
    send: (chunk: object) => void sent.push(chunk),
    fail: (error: ApiError) => void sent.push({ error: error.code, message: error.message }),
    end: () => void sent.push('[DONE]'),
  } as unknown as EventStream
  const caller: Caller = {
    requestId: 'req_1',
    requester: 'me' as RequesterId,
    priority: 'interactive',
    onGone: () => {},
    openStream: () => stream,
  }
  const context: ApiContext = {
    catalog,
    jobs,
    tokens: new Tokens(),
    trust: 'checked',
    classOf: () => 'house',
  }
  const say = (...effects: object[]): void => {
    const [submitted] = events
    const job = submitted?.type === 'job-submitted' ? submitted.job.id : ('' as JobId)
    for (const effect of effects)
      jobs.perform({ job, ...effect } as Effect, { receipt: 'rcpt_1', status: 'final' })
  }
  return { context, caller, events, sent, say }
}

const textOf = (...ids: number[]): Output => ({ kind: 'generate', position: 3, tokens: Uint32Array.from(ids), finish: 'length' }) // prettier-ignore
const corrected = (output: Output, first = 0): object => ({
  type: 'correct-unit', unit: 'u' as UnitId, first, count: 1, choice: output.kind === 'generate' ? first : null,
  identity: 'house', output, digest: '', root: null, isJobOpen: true,
}) // prettier-ignore
const drawn = (...tokens: number[]): object => ({ type: 'deliver-tokens', choice: 0, index: 0, tokens })
const finished = { type: 'finish-choice', choice: 0, finish: 'length', tokens: 3 }
const done = { type: 'finish-job', summary }
const [ONE, OTHER] = [[264, 463, 365], [264, 335, 1276]] // prettier-ignore

async function ask(
  body: object,
  effects: object[],
): Promise<{ text?: string; sent: unknown[]; events: Event[] }> {
  const { context, caller, events, sent, say } = desk()
  const generation = await completion(
    context,
    { model: 'tales-3m', prompt: [1, 2, 3], max_tokens: 3, ...body },
    'req_1',
  )
  const answered = answer(context, caller, generation)
  say({ type: 'accept-job', expectedWaitMs: 0 }, ...effects)
  const whole = (await answered) as { choices: { text: string; finish_reason: string }[] } | undefined
  return { text: whole?.choices[0]!.text, sent, events }
}

test('an answer that is whole when it is delivered has the right text, whenever it was put right', async () => {
  const { text: right } = await ask({}, [drawn(...OTHER), finished, done])
  const { text: wrong } = await ask({}, [drawn(...ONE), finished, done])
  expect(right).not.toBe(wrong)
  const early = await ask({}, [drawn(...ONE.slice(0, 2)), corrected(textOf(...OTHER)), finished, done])
  const late = await ask({}, [drawn(...ONE), finished, corrected(textOf(...OTHER)), done])
  const unseen = await ask({}, [corrected(textOf(...OTHER)), finished, done])
  expect([early.text, late.text, unseen.text]).toEqual([right, right, right])
  // A stop string is looked for in the right text.
  const stop = right!.trim().slice(0, 3)
  const cut = await ask({ stop }, [drawn(...ONE), finished, corrected(textOf(...OTHER)), done])
  expect(cut.text).toBe(right!.slice(0, right!.indexOf(stop)))
})

test('a stream goes on where nothing wrong was sent, and ends with an error where something was', async () => {
  const codes = ({ sent }: { sent: unknown[] }): unknown[] => sent.filter((s) => s === '[DONE]' || (s as { error?: string }).error) // prettier-ignore
  const textSent = ({ sent }: { sent: unknown[] }): string =>
    sent.map((s) => (s as { choices?: { text?: string }[] }).choices?.[0]?.text ?? '').join('')
  const { text: right } = await ask({}, [drawn(...OTHER), finished, done])
  const untouched = await ask({ stream: true }, [corrected(textOf(...OTHER)), finished, done])
  expect(codes(untouched)).toEqual(['[DONE]'])
  expect(textSent(untouched)).toBe(right)
  const begun = await ask({ stream: true }, [
    drawn(...OTHER.slice(0, 1)),
    corrected(textOf(...OTHER)),
    finished,
    done,
  ])
  expect([...codes(begun), textSent(begun)]).toEqual(['[DONE]', right])
  const same = await ask({ stream: true }, [drawn(...OTHER), corrected(textOf(...OTHER)), finished, done])
  expect(codes(same)).toEqual(['[DONE]'])
  expect(textSent(same)).toBe(right)
  const wrong = await ask({ stream: true }, [drawn(...ONE), corrected(textOf(...OTHER))])
  expect(codes(wrong)).toMatchObject([{ error: 'verification_failed' }])
  // It says how far what was streamed is right.
  const { text: wrongText } = await ask({}, [drawn(...ONE), finished, done])
  let alike = 0
  while (wrongText![alike] === right![alike]) alike++
  expect(codes(wrong)).toMatchObject([{ message: expect.stringContaining(`first ${alike} are`) as string }])
  // Nobody reads on: the job goes with it.
  expect(wrong.events.at(-1)?.type).toBe('job-cancelled')
  const pieces = wrong.sent.filter((s) => (s as { choices?: unknown[] }).choices?.length)
  expect(pieces.length).toBeGreaterThan(0)
  for (const piece of pieces) expect(piece).toMatchObject({ volunteer: { status: 'provisional' } })
})

test('a stream says how much of it was checked already, as soon as it was', async () => {
  const checked = (tokens: number): object => ({ type: 'verify-tokens', choice: 0, tokens, by: 'house' })
  const { sent } = await ask({ stream: true }, [
    drawn(...ONE.slice(0, 2)),
    checked(2),
    { ...drawn(ONE[2]!), index: 2 },
    finished,
    // Of what is over its receipt tells.
    checked(3),
    done,
  ])
  const pieces = sent as { choices: { text: string }[]; volunteer?: { status: string; checked_tokens?: number } }[] // prettier-ignore
  expect(pieces.slice(0, 3).map(({ volunteer }) => volunteer)).toEqual(
    [0, 2, 2].map((checked_tokens) => ({ status: 'provisional', checked_tokens })),
  )
  expect(pieces[1]!.choices[0]!.text).toBe('')
  const { text } = await ask({}, [drawn(...ONE), finished, done])
  expect(pieces.map(({ choices }) => choices?.[0]?.text ?? '').join('')).toBe(text)
  // Text that replaces what was not streamed yet was computed by who checks: all of it is right.
  const begun = await ask({ stream: true }, [
    drawn(OTHER[0]!),
    corrected(textOf(...OTHER)),
    checked(3),
    finished,
    done,
  ])
  expect(begun.sent[2]).toMatchObject({ volunteer: { checked_tokens: 3 } })
})

test('rows that were put right are what is answered', async () => {
  const { context, caller, say } = desk()
  const encoding = await classification(context, { model: 'intents-3m', input: [[1, 2], [1, 3]] }, 'req_1') // prettier-ignore
  const width = encoding.model.labels!.length
  const rows = (label: number): Output => {
    const values = new Int32Array(width)
    values[label] = 1 << 20
    return { kind: 'classify', rows: 1, width, bits: 16, values }
  }
  const answered = encodeRows(context, caller, [encoding])
  const delivered = (first: number, label: number): object => ({ type: 'deliver-rows', first, ...rows(label), kind: undefined }) // prettier-ignore
  say(
    { type: 'accept-job', expectedWaitMs: 0 },
    delivered(0, 3),
    delivered(1, 4),
    corrected(rows(5), 1),
    done,
  )
  const [body] = (await answered) as { data: { label: string }[]; volunteer: object }[]
  const { labels } = encoding.model
  expect(body!.data.map(({ label }) => label)).toEqual([labels![3], labels![5]])
  expect(body!.volunteer).toMatchObject({ receipt: 'rcpt_1', status: 'final', verification: 'trusted' })
})
