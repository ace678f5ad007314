/**
 * `npm start`: the whole network on this machine. A coordinator with the embedded models, two volunteers in a headless
 * browser (one with WebGPU, one without an adapter), a story and a few sentences through the API; then it keeps serving.
 * `--dev` serves the pages through Vite, which reloads them as they change.
 */
import { runningIn } from '../coordinator/data.ts'
import { BrowserError } from '../tools/browser.ts'
import { dataFolder } from '../tools/folders.ts'
import { HELPING, openVolunteerTab } from '../tools/tab.ts'
import type { VolunteerTab } from '../tools/tab.ts'
import { openCoordinator, banner, untilStopped } from './commands/serve.ts'
import type { ServeOptions } from './commands/serve.ts'
import { exitCodeOf, lineOf, UsageError } from './errors.ts'
import { builtPages, livePages } from './pages.ts'
import { computedBy, Remote } from './remote.ts'
import type { Report } from './remote.ts'
import { Talk } from './talk.ts'

const PROMPT = 'Once upon a time, a little fox found'
const SENTENCES = ['play some jazz', 'is it going to rain tomorrow', 'how much money is in my account']
/** A tab that is not of use by then is left to go on; the house answers meanwhile. */
const TABS_MS = 60_000

const isDev = process.argv.includes('--dev')
const talk = new Talk({})

async function start(): Promise<void> {
  const options: ServeOptions = {
    host: process.env.CHORALE_HOST ?? '127.0.0.1',
    port: Number(process.env.CHORALE_PORT ?? 8080),
    house: true,
    logLevel: 'warn',
    operator: 'this machine',
    maxVolunteers: 20_000,
    maxPerIp: 256,
  }
  if (!Number.isInteger(options.port) || options.port < 0 || options.port > 65535)
    throw new UsageError(`CHORALE_PORT=${process.env.CHORALE_PORT} is no port. Give a number from 0 to 65535`)
  const live = isDev ? await livePages() : null
  const folder = live ? null : await builtPages((line) => talk.say(line))
  const coordinator = await openCoordinator(options, talk, live ?? (folder ? { folder } : undefined))
  const { url } = coordinator
  // Its operator's own: since there are API keys in this data folder, it may need one.
  const remote = new Remote({ url, apiKey: runningIn(dataFolder())?.key })
  const tabs = live || folder ? await openTabs(url) : []
  await readiness(remote)
  const receipt = await ask(remote)
  if (receipt)
    talk.say(
      `\nIts receipt  ${url}/v1/receipts/${receipt}\n  npx chorale verify ${url}/v1/receipts/${receipt}`,
    )
  await talk.out(`\n${banner(coordinator, options, live !== null || folder !== null)}`)
  await untilStopped(async () => {
    await Promise.all(tabs.map((tab) => tab.close().catch(() => undefined)))
    await coordinator.close()
    await live?.close()
  }, talk)
}

/** Two volunteers, or none where there is no browser. */
async function openTabs(url: string): Promise<VolunteerTab[]> {
  talk.say('Opening two volunteers in a headless browser …')
  const open = async (webgpu: boolean): Promise<VolunteerTab> => {
    const tab = await openVolunteerTab(url, { webgpu, say: (line) => talk.say(`browser: ${line}`) })
    const state = await tab.until(HELPING, TABS_MS).catch((error: Error) => error.message)
    talk.say(`  volunteer ${webgpu ? 'with WebGPU' : 'without an adapter'}: ${state}`)
    return tab
  }
  // One after the other: the first may have to install the browser.
  const first = await open(true).catch((error: unknown) => error as Error)
  if (first instanceof Error) {
    const why =
      first instanceof BrowserError ? first.message : `the volunteer page did not open (${first.message})`
    talk.say(`${why}\nNo volunteers then: this machine's own engine, the house, answers.`)
    return []
  }
  const second = await open(false).catch((error: unknown) =>
    talk.say(`The second volunteer did not open: ${lineOf(error)}`),
  )
  return second ? [first, second] : [first]
}

/** Until every model has somebody, at most a minute: the house loads in seconds. */
async function readiness(remote: Remote): Promise<void> {
  for (let i = 0; i < 600; i++) {
    const { data } = await remote.get<{ data: { volunteer: { state: string } }[] }>('/v1/models')
    if (data.every((model) => model.volunteer.state === 'ready')) return
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
}

/** Returns the receipt of the story. */
async function ask(remote: Remote): Promise<string | undefined> {
  talk.say(`\nAsking tales-3m for a story …\n`)
  await talk.out(PROMPT)
  let report: Report | undefined
  const body = { model: 'tales-3m', prompt: PROMPT, max_tokens: 160, seed: 7 }
  for await (const chunk of remote.stream<{ choices: { text: string }[]; volunteer?: Report }>(
    '/v1/completions',
    body,
  )) {
    await talk.out(chunk.choices[0]?.text ?? '')
    report = chunk.volunteer ?? report
  }
  await talk.out('\n')
  if (report) talk.say(`  computed by ${computedBy(report)}`)

  talk.say('\nAsking intents-3m what some sentences want …\n')
  const answer = await remote.post<{ data: { label: string; probs: number[] }[]; volunteer: Report }>(
    '/v1/classify',
    {
      model: 'intents-3m',
      input: SENTENCES,
    },
  )
  for (const [i, { label, probs }] of answer.data.entries())
    await talk.out(
      `  ${SENTENCES[i]!.padEnd(36)} ${label.padEnd(20)} ${(100 * Math.max(...probs)).toFixed(1)} %\n`,
    )
  talk.say(`  computed by ${computedBy(answer.volunteer)}`)
  return report?.receipt
}

try {
  await start()
  process.exit(0)
} catch (error) {
  process.stderr.write(`chorale: ${lineOf(error)}\n`)
  process.exit(exitCodeOf(error))
}
