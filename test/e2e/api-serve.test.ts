/** The command as an operator and a requester use it: `chorale serve`, and the verbs with --url. */
import type { ChildProcess } from 'node:child_process'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { eventually, spawnStranger } from '../api/serve.ts'
import { chorale } from '../cli/chorale.ts'
import type { Ran } from '../cli/chorale.ts'

const command = chorale()
const started: ChildProcess[] = []
let url = ''
let server: Awaited<ReturnType<typeof serve>>

/** One coordinator per data folder: a second one is refused, whatever its port. */
let folders = 0
const newData = (): string => join(command.folder, `data-${folders++}`)

interface Banner {
  url: string
  page: string
  api: string
  status: string
  pid: number
}

async function serve(...args: string[]): Promise<Banner & { done: Promise<Ran>; child: ChildProcess }> {
  const { child, done } = command.start(['serve', '--port', '0', '--json', '--data', newData(), ...args])
  started.push(child)
  const line = await new Promise<string>((resolve, reject) => {
    child.stdout!.on('data', (text: string) => resolve(text))
    void done.then(({ stderr }) => reject(new Error(`it ended: ${stderr}`)))
  })
  return { ...(JSON.parse(line) as Banner), done, child }
}

beforeAll(async () => {
  server = await serve()
  ;({ url } = server)
  await eventually(async () => {
    const { data } = (await (await fetch(`${url}/v1/models`)).json()) as {
      data: { volunteer: { state: string } }[]
    }
    return data.every((model) => model.volunteer.state === 'ready')
  }, 'every model is ready')
})
afterAll(() => {
  for (const child of started) child.kill('SIGKILL')
  command.remove()
})

const ran = async (...args: string[]): Promise<Ran> => command.run([...args, '--url', url])

test('the banner names what is there, and it is there', async () => {
  const { page, api, status } = server
  expect((await fetch(page)).headers.get('content-security-policy')).toContain("default-src 'self'")
  expect((await fetch(page)).headers.get('cross-origin-embedder-policy')).toBe('require-corp')
  for (const path of ['chat', 'dashboard']) expect((await fetch(page + path)).status).toBe(200)
  expect((await fetch(`${api}/models`)).status).toBe(200)
  expect(await (await fetch(status)).json()).toMatchObject({
    operator: 'this network',
    coordinator: expect.stringMatching(/^[\w-]{43}$/),
    trust: { checks: 0, convicted: 0 },
  })
  expect(await (await fetch(`${url}/readyz`)).json()).toEqual({ status: 'ready', reason: null })
})
test('the network gives the very text that this machine gives, greedy and sampled', async () => {
  for (const options of [
    ['--temperature', '0'],
    ['--temperature', '0.9', '--seed', '12', '--n', '2'],
  ]) {
    const args = ['run', 'tales-3m', 'Once upon a time', '--max-tokens', '40', ...options]
    const [here, there] = [await command.run(args), await ran(...args)]
    expect(there).toMatchObject({ code: 0, stdout: here.stdout })
    expect(here.stdout.length).toBeGreaterThan(60)
  }
})

test('embed and classify give the same rows as here', async () => {
  for (const verb of ['embed', 'classify']) {
    const args = [verb, 'intents-3m', 'play some jazz', 'will it rain']
    const [here, there] = [await command.run(args), await ran(...args)]
    expect(there.stdout.split('\n').map((line) => line.split('\t')[0])).toEqual(
      here.stdout
        .split('\n')
        .map((line) =>
          verb === 'embed' && line
            ? String(Number(Math.fround(Number(line.split('\t')[0])).toFixed(8)))
            : line.split('\t')[0],
        ),
    )
    expect(there.code).toBe(0)
  }
})

test('ls says what the network has', async () => {
  const { stdout } = await ran('ls', '--json')
  expect((JSON.parse(stdout) as { id: string }[]).map((m) => m.id)).toEqual(['tales-3m', 'intents-3m'])
})

test('failures are one line, with the exit code of their kind', async () => {
  const cases: [string[], number, RegExp][] = [
    [['run', 'nope', 'a', '--url', url], 3, /no model "nope"/],
    [['run', 'tales-3m', 'a', '--url', url, '--backend', 'js'], 2, /--backend/],
    [['run', 'tales-3m', 'a', '--url', 'ftp://x'], 2, /--url/],
    [['run', 'tales-3m', 'a', '--url', 'http://127.0.0.1:9'], 7, /cannot be reached/],
    [['serve', '--port', new URL(url).port, '--data', newData()], 4, /in use.*--port/],
    [['serve', '--port', '99999'], 2, /port/],
    [
      ['serve', '--host', '203.0.113.7', '--port', '0', '--open', '--data', newData()],
      4,
      /no address of this machine/,
    ],
    [['serve', '--models', 'nope', '--port', '0'], 3, /nope/],
  ]
  for (const [args, code, words] of cases) {
    const result = await command.run(args)
    expect([args.join(' '), result.code]).toEqual([args.join(' '), code])
    expect(result.stderr).toMatch(words)
    expect(result.stderr.trim().split('\n').at(-1)).toMatch(/^chorale: /)
  }
})

test('stopped in the middle of an answer: it is finished, then it goes; volunteers are told when to come back', async () => {
  const mine = await serve('--no-house', '--trust', 'fast')
  const volunteer = await spawnStranger(mine.url, { restMs: 40, concurrency: 1 })
  try {
    const answer = await fetch(`${mine.url}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({
        model: 'tales-3m',
        prompt: 'Once',
        max_tokens: 30,
        temperature: 0,
        stream: true,
      }),
    })
    let text = ''
    let isAsked = false
    for await (const piece of answer.body!.pipeThrough(new TextDecoderStream())) {
      text += piece
      if (isAsked || !text.includes('"text"')) continue
      isAsked = true
      mine.child.kill('SIGTERM')
      await eventually(
        async () => (await fetch(`${mine.url}/readyz`).catch(() => null))?.status !== 200,
        'it is not ready any more',
      )
    }
    expect(text).toContain('[DONE]')
    expect((await mine.done).code).toBe(0)
    await eventually(() => volunteer.process.exitCode !== null, 'the volunteer was sent away')
  } finally {
    volunteer.kill()
  }
})

test('a second signal ends it at once', async () => {
  const mine = await serve('--no-house', '--trust', 'fast')
  const volunteer = await spawnStranger(mine.url, { restMs: 200, concurrency: 1 })
  try {
    const asked = fetch(`${mine.url}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ model: 'tales-3m', prompt: 'Once', max_tokens: 300, stream: true }),
    }).then((answer) => answer.text())
    asked.catch(() => undefined)
    await eventually(async () => {
      const { jobs } = (await (await fetch(`${mine.url}/v1/status`)).json()) as { jobs: { open: number } }
      return jobs.open === 1
    }, 'the job runs')
    mine.child.kill('SIGINT')
    await eventually(
      async () => (await fetch(`${mine.url}/readyz`).catch(() => null))?.status !== 200,
      'it is draining',
    )
    mine.child.kill('SIGINT')
    expect((await mine.done).code).toBe(130)
  } finally {
    volunteer.kill()
  }
})
