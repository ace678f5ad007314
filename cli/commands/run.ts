/** `chorale run`: text from a prompt, as it is drawn. */
import type { Command } from 'commander'
import { Option } from 'commander'
import { generate } from '../../engine/decoder.ts'
import type { Sampling } from '../../engine/sampling.ts'
import { ModelError } from '../../engine/weights/errors.ts'
import { readStdin } from '../inputs.ts'
import { loadModel, openModel } from '../open.ts'
import { compute, integer, number, seed } from '../options.ts'
import type { ComputeOptions } from '../options.ts'
import { Talk } from '../talk.ts'
import { ask, remoteOf, runRemote } from './ask.ts'
import type { AskOptions } from './ask.ts'

interface RunOptions extends ComputeOptions, AskOptions {
  maxTokens: number
  temperature?: number
  topK?: number
  topP?: number
  seed: bigint
  n: number
  chat?: boolean
  stats?: boolean
}

export function addRun(program: Command): void {
  ask(
    compute(
      program
        .command('run <model> [prompt]')
        .summary('generate text from a prompt')
        .description(
          'Generates text from a prompt and prints it as it is drawn. The same model, prompt, settings and seed give the same text on every device.',
        ),
    ),
  )
    .option('--max-tokens <n>', 'tokens to draw at most', integer(1, 1_000_000), 256)
    .option('--temperature <t>', '0 is greedy; default: what the model recommends', number(0, 100))
    .option('--top-k <k>', 'draw from the k likeliest; 0 is all', integer(0, 2 ** 31))
    .option('--top-p <p>', 'draw from the likeliest that together have this probability', number(0, 1))
    .addOption(new Option('--seed <n>', 'decides every draw').argParser(seed).default(0n, '0'))
    .option('--n <n>', 'how many texts', integer(1, 64), 1)
    .option('--chat', "put the prompt through the model's chat template (the default where it has one)")
    .option('--no-chat', 'give the model the prompt as it is')
    .option('--stats', 'say how fast it went, on stderr')
    .addHelpText(
      'after',
      `
Examples:
  chorale run tales-3m "Once upon a time"
  chorale run tales-3m --temperature 0.8 --seed 7 --n 3 "There once was a dragon who"
  echo "One day, a little fox" | chorale run tales-3m -
  chorale run ./my-model --json "Hello" | jq .choices[0].text
  chorale run tales-3m --url http://127.0.0.1:8080 "Once upon a time"`,
    )
    .action(run)
}

async function run(name: string, given: string | undefined, options: RunOptions): Promise<void> {
  const talk = new Talk(options)
  const text =
    given === undefined || given === '-'
      ? (await readStdin(given === '-', 'The prompt')).replace(/\r?\n$/, '')
      : given
  const { backend, threads } = options
  const remote = remoteOf(options, { backend, threads })
  if (remote) return runRemote(remote, name, text, options, talk)
  const { pack, tokenizer, generation } = await openModel(name, ['generate'], talk)
  const asChat = options.chat ?? tokenizer.hasChatTemplate
  const prompt = asChat
    ? tokenizer.encode(tokenizer.chat([{ role: 'user', content: text }]), { special: false })
    : tokenizer.encode(text)
  if (prompt.length === 0)
    throw new ModelError('input-invalid', { what: 'the prompt is empty', todo: 'Give it some text' })
  const recommended = (key: string): number | undefined =>
    generation.do_sample === true && typeof generation[key] === 'number' ? generation[key] : undefined
  const sampling: Sampling = {
    temperature: options.temperature ?? recommended('temperature') ?? (generation.do_sample === true ? 1 : 0),
    topK: options.topK ?? recommended('top_k') ?? 0,
    topP: options.topP ?? recommended('top_p') ?? 1,
    seed: options.seed,
  }

  const { spec } = pack.manifest
  const begun = performance.now()
  const { model, backend: opened, close } = await loadModel(pack, {
    ...options, context: Math.min(spec.context, prompt.length + options.maxTokens), sequences: options.n,
  }) // prettier-ignore
  const loaded = performance.now()
  try {
    const choices = Array.from({ length: options.n }, (_, stream) => ({
      ids: [] as number[], text: '', finish: '', stream: tokenizer.stream(prompt), sampling: { ...sampling, stream },
    })) // prettier-ignore
    const requests = choices.map((c) => ({ prompt, maxTokens: options.maxTokens, sampling: c.sampling }))
    const live = !talk.json && options.n === 1
    let first = 0
    for await (const { index, id, finish } of generate(model, requests)) {
      first ||= performance.now()
      const choice = choices[index]!
      choice.ids.push(id)
      const piece = choice.stream.push(id) + (finish ? choice.stream.flush() : '')
      choice.text += piece
      if (finish) choice.finish = finish
      if (live && piece) await talk.out(piece)
    }
    const ended = performance.now()
    const drawn = choices.reduce((sum, c) => sum + c.ids.length, 0)
    if (talk.json) {
      await talk.out(`${JSON.stringify({
        model: pack.manifest.name, digest: pack.digest, backend: opened.info.name, device: opened.info.description,
        prompt_tokens: prompt.length,
        sampling: { temperature: sampling.temperature, top_k: sampling.topK, top_p: sampling.topP, seed: String(options.seed) },
        choices: choices.map(({ text: t, ids, finish }, index) => ({ index, text: t, ids, finish })),
        ms: { load: Math.round(loaded - begun), first_token: Math.round(first - loaded), all: Math.round(ended - loaded) },
      })}\n`) // prettier-ignore
    } else if (live) {
      await talk.out('\n')
    } else {
      for (const [i, { text: t }] of choices.entries())
        await talk.out(`${i ? '\n' : ''}[${i}]${/^\s/.test(t) ? '' : ' '}${t}\n`)
    }
    if (options.stats) {
      const rest = drawn - options.n
      talk.say(
        `${opened.info.description} · loaded in ${Math.round(loaded - begun)} ms · ${prompt.length} prompt tokens, first token after ${Math.round(first - loaded)} ms · ` +
          `${drawn} tokens${rest > 0 ? `, ${((1000 * rest) / (ended - first)).toFixed(1)} tokens/s` : ''}`,
      )
    }
  } finally {
    await close()
  }
}
