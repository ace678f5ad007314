/** Where settings come from: a flag before the environment, the environment before the file, the file before the default. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { chorale } from './chorale.ts'

const c = chorale()
afterAll(() => c.remove())

const write = (folder: string, settings: unknown): string => {
  const at = join(c.folder, folder)
  mkdirSync(at, { recursive: true })
  writeFileSync(
    join(at, 'chorale.config.json'),
    typeof settings === 'string' ? settings : JSON.stringify(settings),
  )
  return at
}

/** A coordinator that only says which of several it is. */
async function named(name: string): Promise<{ url: string; close: () => void }> {
  const server = createServer((_request, response) => {
    response.setHeader('content-type', 'application/json')
    const volunteer = { state: 'ready', tasks: [], context_length: 1, volunteers: 0, house: false }
    response.end(JSON.stringify({ object: 'list', data: [{ id: name, object: 'model', volunteer }] }))
  })
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    close: () => void server.close(),
  }
}

test('flag, then environment, then the command’s part of the file, then everybody’s, then the default', async () => {
  const servers = await Promise.all(['flag', 'env', 'own', 'all'].map(named))
  const [flag, env, own, all] = servers.map(({ url }) => url) as [string, string, string, string]
  const asked = async (args: string[], cwd: string, more: NodeJS.ProcessEnv = {}): Promise<string> => {
    const { code, stdout, stderr } = await c.run(['ls', '--json', ...args], {
      cwd,
      env: { CHORALE_URL: undefined, ...more },
    })
    expect([code, stderr]).toEqual([0, ''])
    const [first] = JSON.parse(stdout) as { id?: string }[]
    return first?.id ?? 'default'
  }
  const both = write('both', { url: all, ls: { url: own } })
  expect(await asked(['--url', flag], both, { CHORALE_URL: env })).toBe('flag')
  expect(await asked([], both, { CHORALE_URL: env })).toBe('env')
  expect(await asked([], both)).toBe('own')
  expect(await asked([], write('all', { url: all }))).toBe('all')
  expect(await asked([], write('none', {}))).toBe('default')
  // Another file, by flag and by environment.
  expect(await asked(['--config', join(both, 'chorale.config.json')], c.folder)).toBe('own')
  expect(await asked([], c.folder, { CHORALE_CONFIG: join(both, 'chorale.config.json') })).toBe('own')
  for (const { close } of servers) close()
})

test.each([
  ['{', /chorale\.config\.json can't be read as JSON/],
  ['[]', /is no JSON object/],
  [{ prot: 1 }, /prot is no option of chorale/],
  [{ serve: { prot: 1 } }, /serve\.prot is no option of chorale serve/],
  [{ serve: { port: 'many' } }, /serve\.port is "many"; it must be .*--port <n>/],
  [{ serve: { port: true } }, /serve\.port is true; it must be a text or a number/],
  [{ serve: { house: 'no' } }, /serve\.house is "no"; it must be true or false/],
  [{ 'log-level': 'loud' }, /log-level is "loud"; it must be .*--log-level/],
])('a file that says %j is refused in one line that names the key', async (settings, message) => {
  const { code, stdout, stderr } = await c.run(['serve'], { cwd: write('wrong', settings) })
  expect([code, stdout]).toEqual([3, ''])
  expect(stderr).toMatch(/^chorale: [^\n]*\n$/)
  expect(stderr).toMatch(message)
})

test('a file named that is not there is said so', async () => {
  const { code, stderr } = await c.run(['ls', '--config', 'nowhere.json'])
  expect(code).toBe(3)
  expect(stderr).toMatch(/^chorale: nowhere\.json can't be read.*--config/)
})

test('doctor says what is set and where, and keeps keys to itself', async () => {
  const cwd = write('doctor', {
    'api-key': 'hush',
    serve: { port: 9999, models: ['tales-3m'], house: false },
  })
  const { stdout } = await c.run(['doctor', '--json'], { cwd, env: { CHORALE_HOST: '0.0.0.0' } })
  const findings = JSON.parse(stdout) as { what: string; found: string }[]
  const { found } = findings.find(({ what }) => what === 'settings')!
  expect(found).toMatch(/--host "0\.0\.0\.0" from CHORALE_HOST/)
  expect(found).toMatch(/--port 9999 from [^,]*chorale\.config\.json: serve\.port/)
  expect(found).toMatch(/--models \["tales-3m"\] from/)
  expect(found).toMatch(/--api-key \(set\) from/)
  expect(stdout).not.toContain('hush')
})
