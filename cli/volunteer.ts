/** `chorale volunteer`: this machine helps a coordinator, in a headless browser's tab or in Node, until it is stopped. */
import { join } from 'node:path'
import type { Command } from 'commander'
import { Option } from 'commander'
import { planOf, STRATEGIES } from '../client/adversary.ts'
import { sentenceOf } from '../client/page/sentence.ts'
import { startNodeVolunteer } from '../client/node.ts'
import type { Picture } from '../client/picture.ts'
import { say } from '../client/words.ts'
import { cacheFolder } from '../tools/folders.ts'
import { openVolunteerTab } from '../tools/tab.ts'
import { EXIT, UsageError } from './errors.ts'
import { common, integer } from './options.ts'
import { Talk } from './talk.ts'
import type { TalkOptions } from './talk.ts'

interface VolunteerOptions extends TalkOptions {
  url: string
  browser?: boolean
  node?: boolean
  power: keyof typeof powers
  backend: 'auto' | 'wasm' | 'webgpu'
  threads?: number
  key?: string
  adversary?: string
}

const powers = { light: 0.2, medium: 0.6, full: 1 } as const

export function addVolunteer(program: Command): void {
  common(
    program
      .command('volunteer')
      .summary('lend this machine to a coordinator')
      .description(
        'Joins a coordinator and computes what it assigns, until stopped. Once stopped it gives back what it holds: nobody waits for it.',
      ),
  )
    .addOption(
      new Option('--url <url>', 'the coordinator').default('http://127.0.0.1:8080').env('CHORALE_URL'),
    )
    .option('--node', 'in this process, with WASM, or Dawn where there is a GPU (the default)')
    .option('--browser', "in a headless browser's tab")
    .addOption(
      new Option('--power <limit>', 'share of the time the engine works: 20, 60 or 100 %')
        .choices(Object.keys(powers))
        .default('full'),
    )
    .addOption(
      new Option('--backend <name>', 'what computes; auto is whatever is faster')
        .choices(['auto', 'wasm', 'webgpu'])
        .default('auto'),
    )
    .option(
      '--threads <n>',
      'threads of the wasm backend (with --node; default half of the cores)',
      integer(1, 16),
    )
    .option(
      '--key <file>',
      'its key in PEM, made there if there is none (with --node; default identity.pem in the cache folder)',
    )
    .addOption(
      new Option(
        '--adversary <strategy>',
        'to try a coordinator of your own: lie, and be caught; strategies are listed below',
      ),
    )
    .addHelpText(
      'after',
      `
Strategies of --adversary:
${Object.entries(STRATEGIES)
  .map(([name, what]) => `  ${name.padEnd(15)} ${what}`)
  .join('\n')}

Examples:
  chorale volunteer --url http://127.0.0.1:8080
  chorale volunteer --browser --power medium
  chorale volunteer --backend wasm --threads 4 --json

With --json each change is a line {state, reason, backend, adapter, units, tokens, rows, computeMs, key, standing, evidence, duty}.`,
    )
    .action(volunteer)
}

async function volunteer(options: VolunteerOptions): Promise<void> {
  const talk = new Talk(options)
  const url = coordinatorUrl(options.url)
  if (options.browser && options.node)
    throw new UsageError('--browser and --node exclude each other: give one')
  if (options.browser && options.threads !== undefined)
    throw new UsageError('--threads is for --node: a tab takes half of the cores')
  if (options.browser && options.key !== undefined)
    throw new UsageError('--key is for --node: a tab makes its own')
  if (options.adversary !== undefined) checkStrategy(options.adversary)
  const stop = options.browser ? await inBrowser(url, options, talk) : await inNode(url, options, talk)
  await stopped(stop, talk)
}

/** Ends the process when asked to, work given back first; asked twice, at once. */
function stopped(stop: () => Promise<void>, talk: Talk): Promise<never> {
  return new Promise(() => {
    let isAsked = false
    for (const signal of ['SIGINT', 'SIGTERM'] as const) {
      process.removeAllListeners(signal)
      process.on(signal, () => {
        if (isAsked) process.exit(EXIT.interrupted)
        isAsked = true
        talk.say('Giving back what is in hand.')
        stop().then(
          () => process.exit(EXIT.ok),
          () => process.exit(EXIT.failure),
        )
      })
    }
  })
}

function checkStrategy(name: string): void {
  try {
    planOf(name)
  } catch (error) {
    throw new UsageError(`--adversary: ${(error as Error).message}`)
  }
}

async function inNode(url: string, options: VolunteerOptions, talk: Talk): Promise<() => Promise<void>> {
  const report = reporter(talk, url)
  const node = await startNodeVolunteer(url, {
    folder: join(cacheFolder(), 'volunteer'),
    power: powers[options.power],
    engine: options.backend,
    threads: options.threads,
    key: options.key,
    adversary: options.adversary,
    onPicture: report,
    onEnd: (picture) => {
      process.exit(picture.state === 'stopped' ? EXIT.ok : EXIT.failure)
    },
  })
  return () => node.stop()
}

/** Says what the page would say, when it changes. */
function reporter(talk: Talk, url: string): (picture: Picture) => void {
  let said = ''
  let saidState = ''
  return (p) => {
    const { sentence, key } = sentenceOf(p, Date.now())
    if (talk.json) {
      const { state, reason, engine, totals, duty, publicKey, standing, evidence } = p
      const { units, tokens, rows, computeMs } = totals
      const line = JSON.stringify({ state, reason, backend: engine?.backend, adapter: engine?.adapter, units, tokens, rows, computeMs: Math.round(computeMs), key: publicKey, standing, evidence }) // prettier-ignore
      if (line !== said) void talk.out(`${JSON.stringify({ ...JSON.parse(line), duty: Number(duty.actual.toFixed(3)) })}\n`) // prettier-ignore
      said = line
      return
    }
    // A busy volunteer changes between these many times a second.
    const isBusy = ['working', 'standby'].includes(p.state)
    const state = isBusy ? 'on' : key
    if (state === saidState) return
    saidState = state
    talk.say(isBusy ? `Helping ${p.operator} (${p.engine?.adapter}).` : withoutTab(p, sentence, url))
  }
}

/** What the page says otherwise, having buttons and more than one line. */
function withoutTab(p: Picture, sentence: string, url: string): string {
  if (p.state === 'second-tab')
    return 'Another volunteer with this key has joined: give each of yours a --key of its own.'
  if (p.state === 'reconnecting' && p.operator === '')
    return `${url} cannot be reached. Trying again until it can: is chorale serve running there?`
  if (p.state === 'convicted')
    return `${sentence} ${say('convicted.what', { reason: p.reason ?? '' })} ${say('convicted.evidence')}: ${new URL(p.evidence ?? '', url).href} ${say('convicted.cause')}`
  return sentence
}

async function inBrowser(url: string, options: VolunteerOptions, talk: Talk): Promise<() => Promise<void>> {
  const tab = await openVolunteerTab(url, {
    webgpu: options.backend !== 'wasm',
    power: powers[options.power],
    engine: options.backend,
    adversary: options.adversary,
    say: (line) => talk.say(line),
    onState: (state, sentence) => {
      if (options.json) void talk.out(`${JSON.stringify({ state, sentence })}\n`)
      else talk.say(sentence || state)
      if (/^(failed|refused|convicted|outdated|unsupported)/.test(state)) process.exit(EXIT.failure)
    },
  })
  return () => tab.close()
}

function coordinatorUrl(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined
  if (!url || !/^https?:$/.test(url.protocol))
    throw new UsageError(
      `--url is ${JSON.stringify(text)}; give the coordinator's address, like http://127.0.0.1:8080`,
    )
  return url.href
}
