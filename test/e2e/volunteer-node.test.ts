/** `chorale volunteer`, the real command: joins, computes the same bytes, gives back and goes when it is told to. */
import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { packedFolder } from '../../tools/models.ts'
import { openWorld, story, until } from './world.ts'
import type { World } from './world.ts'

const binary = join(import.meta.dirname, '../../cli/main.ts')
let world: World
let cache: string
const started: ChildProcess[] = []

beforeAll(async () => {
  const models = await Promise.all(['tales-3m', 'intents-3m'].map((name) => packedFolder(name)))
  cache = await mkdtemp(join(tmpdir(), 'chorale-volunteer-'))
  world = await openWorld({ models })
})
afterAll(async () => {
  for (const child of started) child.kill('SIGKILL')
  await world.close()
  await rm(cache, { recursive: true })
})

interface Run {
  child: ChildProcess
  out: () => string
  err: () => string
  ended: Promise<number | null>
}

function chorale(...args: string[]): Run {
  let [out, err] = ['', '']
  const main = `import { main } from ${JSON.stringify(binary)}; await main(process.argv.slice(1))`
  const child = spawn(process.execPath, ['--input-type=module', '-e', main, '--', 'volunteer', ...args], {
    env: { ...process.env, CHORALE_CACHE: cache },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  started.push(child)
  child.stdout.on('data', (text: Buffer) => (out += text.toString()))
  child.stderr.on('data', (text: Buffer) => (err += text.toString()))
  return { child, out: () => out, err: () => err, ended: new Promise((done) => child.on('exit', done)) }
}

const here = (): number => world.status().volunteers.connected
const ready = (): boolean => world.status().models.every((m) => m.volunteers > 0)

test('in Node: joins, answers, says each change as a line of JSON, leaves when interrupted', async () => {
  const run = chorale('--url', world.url, '--json')
  await until(ready, 'it is ready', 60_000)
  const { text } = await story(world.direct, 'Once upon a time')
  expect(text.length).toBeGreaterThan(20)
  await until(() => /"units":1/.test(run.out()), 'it counts the unit')
  const lines = run
    .out()
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as { state: string; backend: string })
  expect(lines.every(({ state }) => typeof state === 'string')).toBe(true)
  expect(lines.at(-1)!.backend).toBe('wasm')
  expect((await readdir(join(cache, 'volunteer'))).length).toBeGreaterThan(4)
  run.child.kill('SIGINT')
  expect(await run.ended).toBe(0)
  await until(() => here() === 0, 'it left')

  // Again: the models are there already.
  const before = world.wire.bytes
  const again = chorale('--url', world.url, '--power', 'light')
  await until(ready, 'it is ready again', 60_000)
  expect(world.wire.bytes - before).toBeLessThan(100_000)
  const second = await story(world.direct, 'Once upon a time')
  expect(second.text).toBe(text)
  expect(again.err()).toContain('Helping the test')
  again.child.kill('SIGTERM')
  expect(await again.ended).toBe(0)
})

test('a story begun in one process and killed there ends the same in another', async () => {
  const ask = (): ReturnType<typeof story> =>
    story(world.direct, 'The old owl', { max_tokens: 200, temperature: 1, seed: 3 })
  const first = chorale('--url', world.url, '--power', 'light', '--json')
  await until(ready, 'the first is ready', 60_000)
  const { text } = await ask()
  const answer = ask()
  await until(() => world.status().volunteers.list.some(({ held }) => held > 0), 'it has the unit')
  first.child.kill('SIGKILL')
  const second = chorale('--url', world.url, '--json')
  expect((await answer).text).toBe(text)
  second.child.kill('SIGINT')
  await second.ended
})

test('what makes no sense is refused in one line that says what to do', async () => {
  for (const [args, says] of [
    [['--url', 'not a url'], /--url is "not a url"; give the coordinator's address/],
    [['--url', 'ftp://example.org'], /--url/],
    [['--browser', '--node'], /exclude each other/],
    [['--browser', '--threads', '2'], /--threads is for --node/],
    [['--power', 'enormous'], /light, medium, full/],
    [['--browser', '--key', 'k.pem'], /--key is for --node/],
    [['--adversary', 'angel'], /"angel": there are lazy-random, /],
    [['--adversary', 'sleeper:soon'], /there are lazy-random, /],
  ] as const) {
    const run = chorale(...args)
    expect(await run.ended, args.join(' ')).toBe(2)
    expect(run.err()).toMatch(says)
    expect(run.err().trim().split('\n').length).toBe(1)
  }
})

test('its key is a file of its own: the same at each start, and refused where it is none', async () => {
  const key = join(cache, 'mine.pem')
  const who = async (...args: string[]): Promise<string> => {
    const run = chorale('--url', world.url, '--json', ...args)
    await until(() => here() === 1, 'it joined')
    await until(() => /"key":"[\w-]{43}"/.test(run.out()), 'it says its key')
    run.child.kill('SIGINT')
    expect(await run.ended).toBe(0)
    await until(() => here() === 0, 'it left')
    return /"key":"([\w-]{43})"/.exec(run.out())![1]!
  }
  const [mine, again, usual] = [await who('--key', key), await who('--key', key), await who()]
  expect(again).toBe(mine)
  expect(usual).not.toBe(mine)
  await writeFile(key, 'no key at all')
  const run = chorale('--url', world.url, '--key', key)
  expect(await run.ended).toBe(3)
  expect(run.err()).toContain(`${key} holds no private key`)
  expect(await readFile(key, 'utf8')).toBe('no key at all')
})

test('two with one key: the older says why it goes, and the newer stays', async () => {
  const older = chorale('--url', world.url)
  await until(() => here() === 1, 'the first joined')
  const newer = chorale('--url', world.url)
  expect(await older.ended).toBe(1)
  expect(older.err()).toContain(
    'Another volunteer with this key has joined: give each of yours a --key of its own',
  )
  await until(() => here() === 1, 'the second is there')
  newer.child.kill('SIGINT')
  expect(await newer.ended).toBe(0)
})

test('no coordinator yet: it waits and joins when there is one', async () => {
  world.wire.isUp = false
  const run = chorale('--url', world.url, '--json')
  await until(() => /"state":"reconnecting"/.test(run.out()), 'it says that it waits')
  world.wire.isUp = true
  await until(() => here() === 1, 'it joined')
  run.child.kill('SIGINT')
  expect(await run.ended).toBe(0)
})
