/** The command as people and scripts meet it: results on stdout, talk on stderr, one line and a code for every mistake. */
import {
  cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync,
} from 'node:fs' // prettier-ignore
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { chorale, root } from './chorale.ts'
import type { Chorale, Ran } from './chorale.ts'

let c: Chorale
beforeAll(() => {
  c = chorale()
})
afterAll(() => c.remove())

interface Answer {
  digest: string
  backend: string
  prompt_tokens: number
  choices: Array<{ index: number; text: string; ids: number[]; finish: string }>
}

const answer = (ran: Ran): Answer => {
  expect(ran).toMatchObject({ code: 0 })
  return JSON.parse(ran.stdout) as Answer
}

/** One line, ours, and the code. */
function expectRefused(ran: Ran, code: number, ...words: string[]): void {
  expect(ran).toMatchObject({ code, stdout: '' })
  const lines = ran.stderr
    .trimEnd()
    .split('\n')
    .filter((line) => line.startsWith('chorale: '))
  expect(lines).toHaveLength(1)
  for (const word of words) expect(lines[0]).toContain(word)
  expect(ran.stderr).not.toMatch(/^\s+at /m)
}

describe('run', () => {
  test('two first starts at once both answer, and leave one pack in the cache', async () => {
    const args = ['run', 'tales-3m', '--json', '--max-tokens', '4', 'Once upon a time']
    const [a, b] = (await Promise.all([c.run(args), c.run(args)])).map(answer)
    expect(a!.choices).toEqual(b!.choices)
    expect(a!.digest).toBe(b!.digest)
    expect(readdirSync(join(c.cache, 'packs')).filter((f) => f.startsWith('tales-3m'))).toHaveLength(1)
    expect(readdirSync(join(c.cache, 'packs')).join()).not.toContain('partial')
  })

  test("greedy ids are the reference's", async () => {
    const { cases } = JSON.parse(readFileSync(join(root, 'models/tales-3m/reference.json'), 'utf8')) as {
      cases: Array<{ prompt: string; greedy_ids: number[] }>
    }
    const [first] = cases
    const { choices } = answer(
      await c.run(['run', 'tales-3m', '--json', '--temperature', '0', '--max-tokens', '64', first!.prompt]),
    )
    expect(choices[0]!.ids).toEqual(first!.greedy_ids)
  })

  test('js and wasm say the same, and what is streamed is what --json has', async () => {
    const args = ['run', 'tales-3m', '--seed', '7', '--max-tokens', '24', 'There once was a dragon who']
    const [js, wasm] = [
      answer(await c.run([...args, '--json', '--backend', 'js'])),
      answer(await c.run([...args, '--json', '--backend', 'wasm'])),
    ]
    expect([js.backend, wasm.backend]).toEqual(['js', 'wasm'])
    expect(wasm.choices).toEqual(js.choices)
    const plain = await c.run(args)
    expect(plain).toMatchObject({ code: 0, stderr: '', stdout: `${js.choices[0]!.text}\n` })
  })

  test('other seeds and choices say other things, the same ones the same', async () => {
    const args = ['run', 'tales-3m', '--json', '--max-tokens', '16', '--n', '3', 'One day,']
    const [a, b, other] = [
      answer(await c.run(args)),
      answer(await c.run(args)),
      answer(await c.run([...args, '--seed', '18446744073709551615'])),
    ]
    expect(a.choices).toEqual(b.choices)
    expect(new Set([...a.choices, ...other.choices].map((x) => x.text)).size).toBe(6)
    const single = answer(await c.run(['run', 'tales-3m', '--json', '--max-tokens', '16', 'One day,']))
    expect(single.choices[0]!.ids).toEqual(a.choices[0]!.ids)
  })

  test('the prompt may come from stdin, with - or without', async () => {
    const args = ['run', 'tales-3m', '--temperature', '0', '--max-tokens', '5']
    const given = await c.run([...args, 'Once upon a time'])
    for (const more of [['-'], []])
      expect(await c.run([...args, ...more], { input: 'Once upon a time\n' })).toEqual(given)
  })

  test('--stats and --quiet keep to stderr', async () => {
    const args = ['run', 'tales-3m', '--max-tokens', '3', 'A']
    const [loud, quiet] = [await c.run([...args, '--stats']), await c.run([...args, '--stats', '--quiet'])]
    expect(loud.stderr).toMatch(/prompt tokens.*first token after/)
    expect(quiet).toEqual({ code: 0, stdout: loud.stdout, stderr: '' })
  })

  test('a prompt beyond the context, and bytes that are no text, are refused', async () => {
    expectRefused(await c.run(['run', 'tales-3m', 'tale '.repeat(800)]), 3, 'tokens', 'Shorten')
    expectRefused(
      await c.run(['run', 'tales-3m', '-'], { input: new Uint8Array([0x61, 0xff, 0x62]) }),
      3,
      'UTF-8',
    )
    expectRefused(await c.run(['run', 'tales-3m', '--chat', 'hello']), 3, 'chat template')
    expectRefused(await c.run(['run', 'intents-3m', 'hello']), 3, 'chorale classify')
  })
})

describe('embed and classify', () => {
  test('a row per text, from arguments, a file and stdin alike', async () => {
    const lines = ['what is the weather in paris', 'play some jazz', '', 'ünïcödé ☃ 你好']
    writeFileSync(join(c.folder, 'texts.txt'), `${lines.join('\n')}\n`)
    for (const command of ['embed', 'classify']) {
      const byArguments = await c.run([command, 'intents-3m', '--json', ...lines])
      expect(byArguments.code).toBe(0)
      const rows = byArguments.stdout
        .trimEnd()
        .split('\n')
        .map((row) => JSON.parse(row) as { index: number; text: string })
      expect(rows.map((r) => [r.index, r.text])).toEqual(lines.map((text, i) => [i, text]))
      expect((await c.run([command, 'intents-3m', '--json', 'texts.txt'])).stdout).toBe(byArguments.stdout)
      expect(
        (await c.run([command, 'intents-3m', '--json', '-'], { input: lines.join('\r\n') })).stdout,
      ).toBe(byArguments.stdout)
      expect((await c.run([command, 'intents-3m', '--json', '--backend', 'js', 'texts.txt'])).stdout).toBe(
        byArguments.stdout,
      )
    }
    const table = (await c.run(['embed', 'intents-3m', 'texts.txt'])).stdout.trimEnd().split('\n')
    expect(table.map((row) => row.split('\t').map(Number).filter(Number.isFinite).length)).toEqual(
      lines.map(() => 192),
    )
  })

  test('labels and their probabilities, the likeliest first', async () => {
    const { stdout } = await c.run([
      'classify',
      'intents-3m',
      '--top',
      '151',
      'play some jazz',
      'how do you say hello in french',
    ])
    const rows = stdout
      .trimEnd()
      .split('\n')
      .map((row) => row.split('\t'))
    expect(rows.map((r) => r[0])).toEqual(['play_music', 'translate'])
    for (const row of rows) {
      const probabilities = row.filter((_, i) => i % 2).map(Number)
      expect(probabilities).toHaveLength(151)
      expect(probabilities).toEqual(probabilities.toSorted((a, b) => b - a))
      expect(probabilities.reduce((a, b) => a + b, 0)).toBeCloseTo(1, 1)
    }
  })

  test('a text that is too long is refused by number, or cut when asked', async () => {
    const args = ['classify', 'intents-3m', 'hello', 'word '.repeat(2000)]
    expectRefused(await c.run(args), 3, 'text 2', '--truncate')
    const cut = await c.run([...args, '--truncate'])
    expect(cut.stdout.trimEnd().split('\n')).toHaveLength(2)
  })

  test('nothing in, nothing out', async () => {
    expect(await c.run(['embed', 'intents-3m', '-'], { input: '' })).toMatchObject({ code: 0, stdout: '' })
  })
})

describe('pack, verify-pack, ls', () => {
  test('what was packed is whole, listed, and answers; damage is found', async () => {
    const packed = await c.run([
      'pack',
      join(root, 'models/tales-3m'),
      '-o',
      'tales.pack',
      '--tokens',
      '128',
      '--json',
    ])
    expect(packed).toMatchObject({ code: 0 })
    const { digest, quality } = JSON.parse(packed.stdout) as {
      digest: string
      quality: { loss: { relative: number } }
    }
    expect(quality.loss.relative).toBeLessThan(0.005)
    expect((await c.run(['verify-pack', 'tales.pack', '--digest', digest])).stdout).toContain(digest)
    expect(answer(await c.run(['run', 'tales.pack', '--json', '--max-tokens', '2', 'A'])).digest).toBe(digest)
    expectRefused(await c.run(['verify-pack', 'tales.pack', '--digest', '0'.repeat(64)]), 3, digest)
    expectRefused(await c.run(['pack', 'tales.pack']), 3, 'pack already')

    const file = join(c.folder, 'tales.pack/block-2.bin')
    const bytes = readFileSync(file)
    const sound = Buffer.from(bytes)
    bytes[1000]! ^= 4
    writeFileSync(file, bytes)
    expectRefused(await c.run(['verify-pack', 'tales.pack']), 3, 'block-2.bin')
    expectRefused(await c.run(['run', 'tales.pack', 'A']), 3, 'block-2.bin')
    writeFileSync(file, sound.subarray(0, 5000))
    expectRefused(await c.run(['verify-pack', 'tales.pack']), 3, 'block-2.bin', 'ends at byte 5000')
    writeFileSync(file, Buffer.concat([sound, Buffer.from('x')]))
    expectRefused(await c.run(['verify-pack', 'tales.pack']), 3, 'block-2.bin')
  })

  test('people get a table', async () => {
    const { code, stdout, stderr } = await c.run([
      'pack',
      join(root, 'models/intents-3m'),
      '-o',
      'intents.pack',
      '--tokens',
      '128',
    ])
    expect(code).toBe(0)
    expect(stdout).toMatch(/^intents\.pack .*[0-9a-f]{64}$/m)
    expect(stdout).toMatch(/cosine, least and mean +0\.999/)
    expect(stderr).toMatch(/^Calibrating …\nQuantising …\nMeasuring …\nPacked in/)
    expect(stderr).not.toContain('\r')
  })

  test('ls knows the embedded models, packed or not', async () => {
    await c.run(['classify', 'intents-3m', 'hello'])
    const known = JSON.parse((await c.run(['ls', '--json'])).stdout) as Array<{
      name: string
      kind: string
      path: string | null
    }>
    expect(known.map((k) => [k.name, k.kind])).toEqual(
      expect.arrayContaining([
        ['tales-3m', 'embedded'],
        ['intents-3m', 'embedded'],
      ]),
    )
    for (const { path } of known) if (path) expect(existsSync(join(path, 'manifest.json'))).toBe(true)
    const fresh = JSON.parse(
      (await c.run(['ls', '--json'], { env: { CHORALE_CACHE: join(c.folder, 'none') } })).stdout,
    ) as unknown[]
    expect(fresh).toHaveLength(2)
  })

  test('a pack that is interrupted leaves nothing and exits 130', async () => {
    const { child, done } = c.start(['pack', join(root, 'models/tales-3m'), '-o', 'stopped.pack'])
    child.stderr!.once('data', () => child.kill('SIGINT'))
    expect((await done).code).toBe(130)
    expect(readdirSync(c.folder).filter((f) => f.startsWith('stopped'))).toEqual([])
  })

  test('models that are none are refused by name', async () => {
    mkdirSync(join(c.folder, 'empty'), { recursive: true })
    mkdirSync(join(c.folder, 'odd'), { recursive: true })
    writeFileSync(
      join(c.folder, 'odd/config.json'),
      '{"architectures": ["MambaForCausalLM"], "model_type": "mamba"}',
    )
    writeFileSync(join(c.folder, 'weights.bin'), 'x')
    expectRefused(await c.run(['pack', 'empty']), 3, 'empty', 'config.json')
    expectRefused(await c.run(['pack', 'odd']), 3, 'odd')
    expectRefused(await c.run(['pack', 'weights.bin']), 3, 'weights.bin')
    expectRefused(await c.run(['verify-pack', 'empty']), 3, 'manifest.json')
    expectRefused(await c.run(['run', 'no-such-model', 'x']), 3, 'no-such-model', 'tales-3m')
    expectRefused(await c.run(['run', 'owner/name', 'x']), 1, 'owner/name', 'HF_HUB_OFFLINE')
    const unreachable = { HF_HUB_OFFLINE: '', HF_ENDPOINT: 'http://127.0.0.1:9' }
    expectRefused(
      await c.run(['run', 'owner/name', 'x'], { env: unreachable }),
      1,
      '127.0.0.1:9',
      'local model folder',
    )
  })
})

describe('nonsense is a usage error that names what is wrong', () => {
  const cases: Array<[string[], ...string[]]> = [
    [['rum', 'tales-3m'], 'rum', 'Did you mean run?'],
    [['run'], 'model'],
    [['run', 'tales-3m', 'a', 'b'], 'arguments'],
    [['run', 'tales-3m', '--temprature', '1', 'x'], '--temprature', '--temperature'],
    [['run', 'tales-3m', '--temperature', 'NaN', 'x'], '--temperature', 'NaN'],
    [['run', 'tales-3m', '--temperature', '-1', 'x'], '--temperature', '-1'],
    [['run', 'tales-3m', '--temperature', 'Infinity', 'x'], '--temperature'],
    [['run', 'tales-3m', '--temperature', '', 'x'], '--temperature'],
    [['run', 'tales-3m', '--max-tokens', '0', 'x'], '--max-tokens'],
    [['run', 'tales-3m', '--max-tokens', '1.5', 'x'], '--max-tokens'],
    [['run', 'tales-3m', '--max-tokens', '0x10', 'x'], '--max-tokens'],
    [['run', 'tales-3m', '--top-p', '1.01', 'x'], '--top-p'],
    [['run', 'tales-3m', '--top-k', '-3', 'x'], '--top-k'],
    [['run', 'tales-3m', '--seed', '-3', 'x'], '--seed'],
    [['run', 'tales-3m', '--seed', '18446744073709551616', 'x'], '--seed'],
    [['run', 'tales-3m', '--n', '1e3', 'x'], '--n'],
    [['run', 'tales-3m', '--backend', 'cuda', 'x'], '--backend', 'wasm'],
    [['run', 'tales-3m', '--threads', '0', 'x'], '--threads'],
    [['classify', 'intents-3m', '--top', 'many', 'x'], '--top'],
    [['pack', 'models', '--tokens', '-5'], '--tokens'],
    [['pack', 'x', '--no-quality', '--labels', 'y'], '--labels', '--no-quality'],
    [['verify-pack', 'x', '--digest', 'abc'], '--digest'],
  ] // prettier-ignore
  for (const [args, ...words] of cases)
    test(args.join(' '), async () => {
      expectRefused(await c.run(args), 2, ...words)
    })
})

test('--help is there for every command, with examples', async () => {
  for (const command of [
    '',
    'run',
    'embed',
    'classify',
    'pack',
    'verify-pack',
    'ls',
    'doctor',
    'serve',
    'init',
    'volunteer',
  ]) {
    const { code, stdout, stderr } = await c.run([command, '--help'].filter(Boolean))
    expect([code, stderr]).toEqual([0, ''])
    expect(stdout).toContain(`Usage: chorale ${command}`.trim())
    expect(stdout).toContain(`chorale ${command}`)
    expect(stdout).toContain('Examples:')
  }
  expect((await c.run(['--version'])).stdout).toMatch(/^\d+\.\d+\.\d+\n$/)
})

test('doctor says what is here, in lines and in JSON', async () => {
  const { code, stdout } = await c.run(['doctor', '--json'])
  expect(code).toBe(0)
  const findings = JSON.parse(stdout) as Array<{ what: string; state: string; remedy?: string }>
  expect(findings.map((f) => f.what)).toEqual([
    'node',
    'machine',
    'settings',
    'wasm',
    'webgpu',
    'auto',
    'browser',
    'cache',
    'models',
    'hub',
  ])
  for (const { state, remedy } of findings) expect(state === 'ok' || remedy).toBeTruthy()
  writeFileSync(join(c.folder, 'blocked'), '')
  const bad = await c.run(['doctor'], { env: { CHORALE_CACHE: join(c.folder, 'blocked') } })
  expect(bad.code).toBe(4)
  expect(bad.stdout).toMatch(/^fail {2}cache .*CHORALE_CACHE/m)
})

test('a coordinator that cannot serve says why before it promises anything', async () => {
  const serve = (...more: string[]): Promise<Ran> => c.run(['serve', '--port', '0', ...more])
  writeFileSync(join(c.folder, 'a-file'), '')
  expectRefused(await serve('--data', 'a-file'), 4, 'a-file', '--data')
  mkdirSync(join(c.folder, 'damaged'))
  writeFileSync(join(c.folder, 'damaged', 'chorale.db'), 'x'.repeat(100_000))
  expectRefused(await serve('--data', 'damaged'), 4, 'chorale.db', 'damaged', 'backup')
  // A folder that takes no others: mkdir's own `recursive` never comes back from it.
  if (existsSync('/proc/self')) expectRefused(await serve('--data', '/proc/x'), 4, '/proc/x', '--data')
  const { stdout } = await c.run(['ls', '--json'])
  const { path } = (JSON.parse(stdout) as { name: string; path: string | null }[]).find(
    (m) => m.name === 'tales-3m',
  )!
  for (const [name, spoil] of [
    ['gone', (file: string) => rmSync(file)],
    ['cut-short', (file: string) => truncateSync(file, 100)],
  ] as const) {
    cpSync(path!, join(c.folder, name), { recursive: true })
    spoil(join(c.folder, name, 'block-1.bin'))
    expectRefused(await serve('--data', `data-${name}`, '--models', name), 3, 'block-1.bin')
  }
})

test('a file that is not there is named', async () => {
  for (const args of [['verify'], ['ledger', 'verify']])
    expectRefused(await c.run([...args, 'nowhere.json']), 3, 'nowhere.json')
})

test('init writes settings that serve takes, and never over some that are there', async () => {
  const cwd = join(c.folder, 'new')
  mkdirSync(cwd)
  const { code, stdout } = await c.run(['init', '--json'], { cwd })
  expect([code, JSON.parse(stdout)]).toMatchObject([0, { isNew: true }])
  const before = readFileSync(join(cwd, 'chorale.config.json'), 'utf8')
  expect(JSON.parse(before)).toMatchObject({
    serve: { host: '127.0.0.1', port: 8080, models: ['tales-3m', 'intents-3m'] },
  })
  expect((await c.run(['doctor', '--json'], { cwd })).stdout).toContain('chorale.config.json: serve.port')
  expect((await c.run(['init'], { cwd })).code).toBe(0)
  expect(readFileSync(join(cwd, 'chorale.config.json'), 'utf8')).toBe(before)
})

test('a cache that cannot be written is said so', async () => {
  writeFileSync(join(c.folder, 'blocked'), '')
  expectRefused(
    await c.run(['run', 'tales-3m', 'x'], { env: { CHORALE_CACHE: join(c.folder, 'blocked') } }),
    3,
    'CHORALE_CACHE',
  )
})

test('--verbose adds the stack', async () => {
  const { code, stderr } = await c.run(['run', 'no-such-model', 'x', '--verbose'])
  expect(code).toBe(3)
  expect(stderr).toMatch(/^chorale: .*\nModelError: .*\n\s+at /)
})
