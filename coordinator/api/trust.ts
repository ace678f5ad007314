/** What anybody may check: receipts, evidence, the ledger, the lottery's secrets. Asking wakes nobody. */
import type { FastifyInstance } from 'fastify'
import { lastCheckpoint } from '../books/compaction.ts'
import type { Evidences } from '../books/evidence.ts'
import type { CoordinatorKey } from '../identity.ts'
import type { Ledger } from '../books/ledger.ts'
import type { Lottery } from '../books/lottery.ts'
import type { Receipts } from '../books/receipts.ts'
import type { Records } from '../books/records.ts'
import { sealed } from '../books/seal.ts'
import { ApiError } from './errors.ts'

export interface TrustOptions {
  receipts: Receipts
  evidences: Evidences
  ledger: Ledger
  records: Records
  lottery: Lottery
  key: CoordinatorKey
}

const PAGE = 1_000

export function addTrust(
  app: FastifyInstance,
  { receipts, evidences, ledger, records, lottery, key }: TrustOptions,
): void {
  app.get<{ Params: { id: string } }>('/v1/receipts/:id', async (request, reply) => {
    const { id } = request.params
    const receipt = /^rcpt_[\w-]{1,80}$/.test(id) ? await receipts.get(id) : null
    if (!receipt)
      throw new ApiError('not_found', `There is no receipt ${JSON.stringify(id)} here (any more).`, {
        param: 'id',
      })
    return reply.header('cache-control', 'no-store').send(receipt)
  })

  app.get<{ Params: { id: string } }>('/v1/evidence/:id', async (request, reply) => {
    const { id } = request.params
    const evidence = /^ev_\w{1,80}$/.test(id) ? await evidences.get(id) : null
    if (!evidence)
      throw new ApiError('not_found', `There is no evidence ${JSON.stringify(id)} here.`, { param: 'id' })
    return reply.send(evidence)
  })
  app.get<{ Querystring: Query }>('/v1/evidence', async (request, reply) => {
    const after = request.query.after ?? ''
    const data = await evidences.list(after, limitOf(request.query))
    return reply.header('cache-control', 'no-store').send({ object: 'list', data })
  })

  app.get<{ Querystring: Query }>('/v1/ledger', async (request, reply) => {
    const lines = await ledger.lines(wholeOf(request.query.after, 'after', 0), limitOf(request.query))
    return reply
      .header('cache-control', 'no-store')
      .type('application/x-ndjson')
      .send(lines.map((line) => `${JSON.stringify(line)}\n`).join(''))
  })
  app.get('/v1/ledger/head', async (_, reply) => {
    const head = await ledger.durableHead()
    const at = Math.floor(Date.now() / 1000)
    const signed = sealed({ format: 'chorale ledger head 1', ...head, at }, key)
    return reply.header('cache-control', 'no-store').send(signed)
  })

  app.get('/v1/ledger/checkpoint', async (_, reply) => {
    const checkpoint = await lastCheckpoint(records)
    if (!checkpoint) throw new ApiError('not_found', 'This ledger is whole: it begins with its first entry.')
    return reply.send(sealed({ format: 'chorale ledger checkpoint 1', ...checkpoint }, key))
  })

  app.get<{ Querystring: Query }>('/v1/lottery', async (request, reply) => {
    const after = wholeOf(request.query.after, 'after', 0)
    const past = await lottery.past(after, limitOf(request.query))
    return reply.header('cache-control', 'no-store').send({ current: lottery.current, past })
  })
}

interface Query {
  after?: string
  limit?: string
}

const limitOf = ({ limit }: Query): number => Math.min(PAGE, Math.max(1, wholeOf(limit, 'limit', PAGE)))

function wholeOf(text: string | undefined, param: string, otherwise: number): number {
  if (text === undefined) return otherwise
  if (/^\d{1,15}$/.test(text)) return Number(text)
  throw new ApiError('invalid_value', `'${param}' must be a whole number.`, { param })
}
