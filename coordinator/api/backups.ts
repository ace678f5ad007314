/** POST /v1/backups: a copy of everything kept, while the coordinator goes on. With a key of scope `admin`; see `chorale backup`. */
import path from 'node:path'
import type { FastifyInstance } from 'fastify'
import * as v from 'valibot'
import type { Store } from '../store/store.ts'
import { StoreError } from '../store/store.ts'
import { accessOf } from './access.ts'
import { parseBody } from './bodies.ts'
import { ApiError } from './errors.ts'

const backupBody = v.strictObject({
  /** On the coordinator's machine; must not exist. */
  folder: v.pipe(v.string(), v.minLength(1), v.maxLength(4_096)),
})

export function addBackups(app: FastifyInstance, store: Store): void {
  app.post('/v1/backups', async (request, reply) => {
    accessOf(request).need('admin')
    const { folder } = parseBody(backupBody, request.body)
    if (!path.isAbsolute(folder))
      throw new ApiError('invalid_value', `'folder' must be an absolute path.`, { param: 'folder' })
    try {
      await store.backup(folder)
    } catch (error) {
      if (error instanceof StoreError && error.code === 'conflict')
        throw new ApiError('conflict', error.message)
      throw error
    }
    return reply.send({ object: 'backup', folder })
  })
}
