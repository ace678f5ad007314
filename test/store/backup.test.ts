/** `chorale backup` of a coordinator that serves, and of one that does not; `chorale restore`, and a network that goes on from it. */
import { execFile } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, expect, test } from 'vitest'
import { COMMAND } from '../chaos/processes.ts'
import { serve } from '../api/serve.ts'

const root = mkdtempSync(join(tmpdir(), 'chorale-backup-'))
afterAll(() => rmSync(root, { recursive: true, force: true }))

const run = promisify(execFile)
const chorale = (...args: string[]): Promise<{ stderr: string; code?: number }> =>
  run(process.execPath, [COMMAND, ...args]).catch((error: { stderr: string; code: number }) => error)

test('a backup is taken while serving, restored, and served from', async () => {
  const data = join(root, 'data')
  const first = await serve({ dataFolder: data })
  const file = new File(['{"custom_id":"a"}'], 'rows.jsonl')
  const { id } = await first.openai.files.create({ file, purpose: 'batch' })
  const live = join(root, 'live')
  expect((await chorale('backup', live, '--data', data)).stderr).toMatch(/^Copied .* MB to /)
  // What lets this machine's commands in is of this run only.
  expect(existsSync(join(live, 'running.json'))).toBe(false)
  expect(await chorale('backup', live, '--data', data)).toMatchObject({
    stderr: expect.stringMatching(/exists already/),
  })
  const guest = await first.post('/v1/backups', { folder: join(root, 'theirs') })
  expect(guest.status).toBe(401)
  await first.close(0)

  const restored = join(root, 'restored')
  expect((await chorale('restore', live, '--data', restored)).stderr).toContain('chorale serve --data')
  expect(await chorale('restore', live, '--data', restored)).toMatchObject({ code: 4 })
  expect(readFileSync(join(restored, 'coordinator.key'))).toEqual(readFileSync(join(data, 'coordinator.key')))
  const second = await serve({ dataFolder: restored })
  expect(second.publicKey).toBe(first.publicKey)
  expect(await (await second.openai.files.content(id)).text()).toBe('{"custom_id":"a"}')
  await second.close(0)
})

test('without a coordinator the folder itself is copied; where there is none, that is said', async () => {
  const data = join(root, 'still')
  await (await serve({ dataFolder: data })).close(0)
  expect((await chorale('backup', join(root, 'copy'), '--data', data)).stderr).toMatch(/^Copied/)
  expect(await chorale('backup', join(root, 'none'), '--data', join(root, 'nowhere'))).toMatchObject({
    code: 2,
  })
  expect(await chorale('restore', join(root, 'nowhere'), '--data', join(root, 'x'))).toMatchObject({
    code: 2,
  })
})
