/** A batch over real tabs, while tabs come and go and the coordinator is killed: every row once, the bytes of an undisturbed run. */
import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import OpenAI from 'openai'
import { afterAll, expect, test } from 'vitest'
import { launchBrowser } from '../../tools/browser.ts'
import { HELPING, openVolunteerTab } from '../../tools/tab.ts'
import { root } from '../cli/chorale.ts'

const folder = mkdtempSync(join(tmpdir(), 'chorale-bulk-'))
let coordinator: ChildProcess | undefined
afterAll(() => {
  coordinator?.kill('SIGKILL')
  rmSync(folder, { recursive: true, force: true, maxRetries: 3 })
})

/** Resolves with its address once it serves. */
function start(port: number): Promise<string> {
  const args = ['serve', '--port', String(port), '--data', folder, '--models', 'intents-3m', '--json']
  const child = spawn(process.execPath, [join(root, 'bin/chorale.js'), ...args], { stdio: ['ignore', 'pipe', 'ignore'] })
  coordinator = child
  return new Promise((resolve, reject) => {
    child.stdout.once('data', (line) => resolve((JSON.parse(String(line)) as { url: string }).url))
    child.once('exit', (code) => reject(new Error(`the coordinator ended with ${code} before it served`)))
  })
} // prettier-ignore

const n = 3_000
const textOf = (i: number): string => `play song number ${i} of ${i % 97} by somebody`

test('3,000 embeddings, two tabs of which one leaves, a coordinator killed twice', async () => {
  const url = await start(0)
  const port = Number(new URL(url).port)
  const browser = await launchBrowser({ webgpu: false })
  try {
    const tab = (): ReturnType<typeof openVolunteerTab> => openVolunteerTab(url, { browser, engine: 'wasm' })
    const tabs = await Promise.all([tab(), tab()])
    await Promise.all(tabs.map((one) => one.until(HELPING)))
    const openai = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'none', maxRetries: 10 })
    const rows = Array.from({ length: n }, (_, i) =>
      JSON.stringify({ custom_id: `row ${i}`, method: 'POST', url: '/v1/embeddings', body: { model: 'intents-3m', input: textOf(i) } }),
    ) // prettier-ignore
    const file = await openai.files.create({ file: new File([rows.join('\n')], 'rows.jsonl'), purpose: 'batch' })
    let batch = await openai.batches.create({ input_file_id: file.id, endpoint: '/v1/embeddings', completion_window: '24h' })
    const upTo = async (done: number): Promise<void> => {
      while (!batch.completed_at && batch.request_counts!.completed < done) {
        await new Promise((resolve) => setTimeout(resolve, 50))
        batch = await openai.batches.retrieve(batch.id)
      }
    }
    for (const share of [0.1, 0.5]) {
      await upTo(share * n)
      expect(batch.completed_at, 'it is killed while it works').toBeNull()
      const ended = new Promise((resolve) => coordinator!.once('exit', resolve))
      coordinator!.kill('SIGKILL')
      await ended
      await start(port)
      // Whoever stays finds its way back by itself.
      if (share === 0.1) await tabs[0]!.page.close()
      else await tab()
    }
    await upTo(Infinity)
    expect(batch).toMatchObject({ status: 'completed', request_counts: { total: n, completed: n, failed: 0 } })
    const lines = (await (await openai.files.content(batch.output_file_id!)).text()).trim().split('\n')
    expect(lines).toHaveLength(n)
    const answers = new Map<string, number[]>()
    const classes = new Set<string>()
    for (const line of lines) {
      const { custom_id, response } = JSON.parse(line)
      answers.set(custom_id, response.body.data[0].embedding)
      for (const one of response.body.volunteer.computed_by) classes.add(one.class)
    }
    expect([...classes]).toContain('wasm')
    for (let from = 0; from < n; from += 1_000) {
      const input = Array.from({ length: 1_000 }, (_, i) => textOf(from + i))
      const alone = await openai.embeddings.create({ model: 'intents-3m', input, encoding_format: 'float' })
      for (const { index, embedding } of alone.data)
        expect(answers.get(`row ${from + index}`), textOf(from + index)).toEqual(embedding)
    }
  } finally {
    await browser.close()
  }
}) // prettier-ignore
