/** `chorale verify` where nothing is at hand: the model comes from the coordinator that signed, chunk by chunk, each checked. */
import { spawn } from 'node:child_process'
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Report } from '../../cli/verify.ts'
import { packFolder } from '../../tools/pack/folder.ts'
import { root } from '../cli/chorale.ts'
import { eventually, serve } from './serve.ts'
import type { Served } from './serve.ts'

let folder: string
let served: Served
let receipt: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'chorale-verify-'))
  const pack = join(folder, 'nano.pack')
  await packFolder(join(root, 'test/fixtures/gpt2-nano'), { out: pack, name: 'nano' })
  served = await serve({ models: [pack], house: true, trust: 'checked' })
  await eventually(async () => (await fetch(`${served.url}/readyz`)).ok, 'the house is ready')
  const answer = await served.post('/v1/completions', { model: 'nano', prompt: [1, 2, 3], max_tokens: 5, temperature: 0 }) // prettier-ignore
  receipt = ((await answer.json()) as { volunteer: { receipt: string } }).volunteer.receipt
})
afterAll(async () => {
  await served?.close(0)
  await rm(folder, { recursive: true, force: true })
})

function chorale(
  cache: string,
  ...args: string[]
): Promise<{ code: number | null; stdout: string; stderr: string }> {
  const env = { ...process.env, CHORALE_CACHE: cache }
  const child = spawn(process.execPath, [join(root, 'bin/chorale.js'), ...args], { stdio: ['ignore', 'pipe', 'pipe'], env }) // prettier-ignore
  const said = { stdout: '', stderr: '' }
  for (const stream of ['stdout', 'stderr'] as const)
    child[stream].setEncoding('utf8').on('data', (text: string) => (said[stream] += text))
  return new Promise((resolve) => void child.on('close', (code) => resolve({ code, ...said })))
}

test('with an empty cache the model is read from the coordinator; altered, the answer is still found out', async () => {
  const cache = join(folder, 'cache')
  const url = `${served.url}/v1/receipts/${receipt}`
  const { code, stdout, stderr } = await chorale(cache, 'verify', url, '--json')
  expect(code, stderr).toBe(0)
  expect(JSON.parse(stdout) as Report).toMatchObject({
    ok: true,
    units: [{ output: 'equal', root: 'equal' }],
  })
  // Nothing is packed or kept for it.
  expect(await readdir(join(cache, 'packs')).catch(() => [])).toEqual([])
  const file = join(folder, 'receipt.json')
  const text = await (await fetch(url)).text()
  await writeFile(file, text.replace('"macs":', '"macs":1'))
  const altered = await chorale(cache, 'verify', file, '--url', served.url)
  expect([altered.code, altered.stdout]).toEqual([1, expect.stringContaining('units.0.macs')])
})
