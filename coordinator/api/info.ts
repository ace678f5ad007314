/** What can be asked here and how the network is: models, status, health. Asking wakes nobody. */
import { readFileSync } from 'node:fs'
import type { FastifyInstance } from 'fastify'
import { PROTOCOL } from '../../protocol/index.ts'
import type { View } from '../core/view.ts'
import type { Served } from '../models.ts'
import { tasksOf } from './context.ts'
import type { ApiContext } from './context.ts'
import { ApiError } from './errors.ts'

export interface InfoOptions {
  context: ApiContext
  view: () => View
  /** Whole seconds since the start. */
  uptimeS: () => number
  /** For people: whose network this is. */
  operator: string
  /** Signs receipts. */
  publicKey: string
  /** What was done waits for room on the disk. */
  isDiskFull: () => boolean
}

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
  version: string
}

export function addInfo(
  app: FastifyInstance,
  { context, view, uptimeS, operator, publicKey, isDiskFull }: InfoOptions,
): void {
  const describe = (model: Served, status: View): object => {
    const now = status.models.find(({ digest }) => digest === model.digest)!
    const { core } = model
    return {
      id: model.id,
      object: 'model',
      created: model.created,
      owned_by: model.id.includes('/') ? model.id.split('/')[0] : 'chorale',
      volunteer: {
        state: stateOf(now),
        tasks: tasksOf(model),
        context_length: core.context,
        dimensions: (core.embed ?? core).width || null,
        labels: model.labels?.length ?? null,
        volunteers: now.volunteers,
        house: now.houses > 0,
        eta_ms: now.etaMs,
        license: model.license,
        revision: model.digest,
      },
    }
  }

  app.get('/v1/models', (_, reply) => {
    const status = view()
    return reply.send({ object: 'list', data: context.catalog.all.map((model) => describe(model, status)) })
  })
  // A wildcard: ids of the Hub have a slash in them.
  app.get<{ Params: { '*': string } }>('/v1/models/*', (request, reply) => {
    const model = context.catalog.get(request.params['*'])
    if (!model)
      throw new ApiError(
        'model_not_found',
        `There is no model ${JSON.stringify(request.params['*'])} here.`,
        { param: 'model' },
      )
    return reply.send(describe(model, view()))
  })
  app.get('/v1/status', (_, reply) => {
    const status = view()
    const models = status.models.map((one) => ({
      ...one,
      bytes: context.catalog.get(one.digest)!.core.bytes,
    }))
    return reply
      .header('cache-control', 'no-store')
      .send({ operator, coordinator: publicKey, version, uptime_s: uptimeS(), ...status, models })
  })
  app.get('/healthz', (_, reply) => reply.send({ status: 'ok' }))
  app.get('/readyz', (_, reply) => {
    const status = view()
    const reason = status.isDraining
      ? 'draining'
      : isDiskFull()
        ? 'the disk takes no writes'
        : status.models.some((model) => stateOf(model) === 'ready')
          ? null
          : 'no volunteer is ready for any model'
    if (reason) void reply.code(503).header('retry-after', 5)
    return reply.send({ status: reason ? 'unavailable' : 'ready', reason })
  })
  app.get('/version', (_, reply) =>
    reply.send({ name: 'chorale', version, protocol: PROTOCOL, numerics: 'xn1' }),
  )
}

function stateOf(model: View['models'][number]): 'ready' | 'loading' | 'down' {
  return model.volunteers || model.houses ? 'ready' : model.loading ? 'loading' : 'down'
}
