/** `chorale volunteer`: this machine helps a coordinator, in a headless browser's tab or in Node, until it is stopped. */
import { join } from 'node:path'
import type { Command } from 'commander'
import { Option } from 'commander'
import { sentenceOf } from '../client/page/sentence.ts'
import { startNodeVolunteer } from '../client/node.ts'
import type { Picture } from '../client/picture.ts'
import { cacheFolder } from '../tools/cache.ts'
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
    .addHelpText(
      'after',
      `
Examples:
  chorale volunteer --url http://127.0.0.1:8080
  chorale volunteer --browser --power medium
  chorale volunteer --backend wasm --threads 4 --json

With --json each change is a line {state, reason, backend, adapter, units, tokens, rows, computeMs, duty}.`,
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

async function inNode(url: string, options: VolunteerOptions, talk: Talk): Promise<() => Promise<void>> {
  const report = reporter(talk)
  const node = await startNodeVolunteer(url, {
    folder: join(cacheFolder(), 'volunteer'),
    power: powers[options.power],
    engine: options.backend,
    threads: options.threads,
    onPicture: report,
    onEnd: (picture) => {
      if (picture.state !== 'stopped') process.exit(EXIT.failure)
    },
  })
  return () => node.stop()
}

/** Says what the page would say, when it changes. */
function reporter(talk: Talk): (picture: Picture) => void {
  let said = ''
  let saidState = ''
  return (p) => {
    const { sentence, key } = sentenceOf(p, Date.now())
    if (talk.json) {
      const { state, reason, engine, totals, duty } = p
      const { units, tokens, rows, computeMs } = totals
      const line = JSON.stringify({ state, reason, backend: engine?.backend, adapter: engine?.adapter, units, tokens, rows, computeMs: Math.round(computeMs) }) // prettier-ignore
      if (line !== said) void talk.out(`${JSON.stringify({ ...JSON.parse(line), duty: Number(duty.actual.toFixed(3)) })}\n`) // prettier-ignore
      said = line
      return
    }
    // A busy volunteer changes between these many times a second.
    const isBusy = ['working', 'standby'].includes(p.state)
    const state = isBusy ? 'on' : key
    if (state === saidState) return
    saidState = state
    talk.say(p.state === 'working' || p.state === 'standby' ? `Helping ${p.operator} (${p.engine?.adapter}).` : sentence) // prettier-ignore
  }
}

async function inBrowser(url: string, options: VolunteerOptions, talk: Talk): Promise<() => Promise<void>> {
  const tab = await openVolunteerTab(url, {
    webgpu: options.backend !== 'wasm',
    power: powers[options.power],
    engine: options.backend,
    say: (line) => talk.say(line),
    onState: (state, sentence) => {
      if (options.json) void talk.out(`${JSON.stringify({ state, sentence })}\n`)
      else talk.say(sentence || state)
      if (/^(failed|refused|outdated|unsupported)/.test(state)) process.exit(EXIT.failure)
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
