/** `npm start`, as the README's first command runs it: with a browser, and on a machine that has none. */
import { spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, expect, test } from 'vitest'
import { eventually } from '../api/serve.ts'

const root = join(import.meta.dirname, '../..')
const cache = mkdtempSync(join(tmpdir(), 'chorale-start-'))
let child: ReturnType<typeof spawn> | undefined
afterEach(() => {
  child?.kill('SIGKILL')
  rmSync(cache, { recursive: true, force: true })
})

async function start(
  env: NodeJS.ProcessEnv,
): Promise<{ stdout: () => string; stderr: () => string; url: string; code: Promise<number | null> }> {
  const one = spawn(process.execPath, [join(root, 'cli/start.ts')], {
    cwd: root, env: { ...process.env, CHORALE_PORT: '0', CHORALE_CACHE: cache, CHORALE_DATA: join(cache, 'data'), ...env }, stdio: ['ignore', 'pipe', 'pipe'],
  }) // prettier-ignore
  child = one
  let [stdout, stderr] = ['', '']
  one.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text))
  one.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text))
  const code = new Promise<number | null>((resolve) => one.on('close', resolve))
  await new Promise<void>((resolve, reject) => {
    one.stdout.on('data', () => stdout.includes('Ctrl-C') && resolve())
    void code.then((ended) => reject(new Error(`it ended with ${ended}: ${stderr}`)))
  })
  const url = /API +(http\S+)\/v1/.exec(stdout)![1]!
  return { stdout: () => stdout, stderr: () => stderr, url, code }
}

async function keepsServingThenStops({ url, code }: Awaited<ReturnType<typeof start>>): Promise<void> {
  expect((await fetch(`${url}/readyz`)).status).toBe(200)
  expect((await fetch(`${url}/v1/models`)).status).toBe(200)
  child!.kill('SIGINT')
  expect(await code).toBe(0)
  await eventually(() => fetch(url).then(() => false, () => true), 'the port is free again') // prettier-ignore
}

test('without any browser the house answers, and says so', async () => {
  // Its own questions need no key of yours, also where the API is closed to others.
  const keys = ['keys', 'create', 'team', '--data', join(cache, 'data')]
  expect(spawnSync(process.execPath, [join(root, 'bin/chorale.js'), ...keys]).status).toBe(0)
  const started = await start({ CHORALE_BROWSER: join(cache, 'no-browser') })
  expect(started.stderr()).toMatch(/CHORALE_BROWSER/)
  expect(started.stderr()).toMatch(/house, answers/)
  // The two pipes arrive in any order.
  await eventually(
    () => started.stderr().match(/computed by house/g)?.length === 2,
    'the house computed both',
  )
  expect(started.stdout()).toMatch(/Once upon a time, a little fox found .{100}/s)
  expect(started.stdout()).toMatch(/play some jazz +play_music/)
  await keepsServingThenStops(started)
})

test('with a browser two volunteers join, and they answer', async () => {
  const started = await start({})
  expect(started.stderr()).toMatch(/volunteer with WebGPU: (working|standby|hidden|throttled)/)
  expect(started.stderr()).toMatch(/volunteer without an adapter: (working|standby|hidden|throttled)/)
  await eventually(
    () => started.stderr().match(/computed by (webgpu|wasm)/g)?.length === 2,
    'volunteers computed both',
  )
  const status = (await (await fetch(`${started.url}/v1/status`)).json()) as {
    volunteers: { list: { isHouse: boolean }[] }
  }
  expect(status.volunteers.list.filter((v) => !v.isHouse)).toHaveLength(2)
  await keepsServingThenStops(started)
})
