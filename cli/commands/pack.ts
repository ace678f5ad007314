/** `chorale pack`, `chorale verify-pack`, `chorale ls`: making packs, checking them, finding them. */
import { createHash } from 'node:crypto'
import { readdir, stat } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import type { Command } from 'commander'
import * as v from 'valibot'
import { owners } from '../../engine/pack/manifest.ts'
import { ModelError } from '../../engine/weights/errors.ts'
import { cachedPacks, packsFolder } from '../../tools/cache.ts'
import { embedded, modelFolder, openPackFolder } from '../../tools/models.ts'
import { packFolder } from '../../tools/pack/folder.ts'
import { percent } from '../../tools/pack/quality.ts'
import type { Quality } from '../../tools/pack/quality.ts'
import { UsageError } from '../errors.ts'
import { common, integer } from '../options.ts'
import { bytes, table, Talk } from '../talk.ts'
import type { TalkOptions } from '../talk.ts'
import { ask, listRemote, remoteOf } from './ask.ts'
import type { AskOptions } from './ask.ts'

interface PackOptions extends TalkOptions {
  out?: string
  name?: string
  owner: { name: string; share: number }[]
  text?: string
  labels?: string
  tokens?: number
  quality: boolean
}

export function addPack(program: Command): void {
  common(
    program
      .command('pack <model>')
      .summary('turn a model into exact integers')
      .description(
        'Packs a Hugging Face folder, or an id owner/name[@revision] of the Hub, into exact integers: a folder with a manifest and hashed files. Says what it cost against the float model.',
      ),
  )
    .option('-o, --out <dir>', 'folder of the pack (default: <name>.pack here)')
    .option('--name <name>', 'what people call the model')
    .option(
      '--owner <name=share>',
      'who made the model, and which share (0 to 1) of what its work earns is theirs; repeatable',
      owner,
      [],
    )
    .option(
      '--text <file>',
      'text to calibrate on, its last quarter to measure on (default: a built-in text)',
    )
    .option(
      '--labels <file>',
      'labelled texts, to measure a classifier\'s accuracy: {"text", "label"} or text, tab, label per line',
    )
    .option(
      '--tokens <n>',
      'tokens to calibrate on (default: what takes a minute at most)',
      integer(1, 10_000_000),
    )
    .option('--no-quality', 'do not measure')
    .addHelpText(
      'after',
      `
Examples:
  chorale pack ./my-model -o my-model.pack
  chorale pack HuggingFaceTB/SmolLM2-135M-Instruct --text notes.txt
  chorale pack models/intents-3m --labels test.jsonl --json`,
    )
    .action(pack)
}

function owner(given: string, before: PackOptions['owner']): PackOptions['owner'] {
  const [, name, share] = /^(.+)=([\d.]+)$/.exec(given) ?? []
  const all = v.safeParse(owners, [...before, { name, share: Number(share) }])
  if (all.success) return all.output
  throw new UsageError(`--owner ${given}: ${all.issues[0].message}. Give it as name=share, like "Ada=0.05"`)
}

async function pack(name: string, options: PackOptions): Promise<void> {
  const talk = new Talk(options)
  if (options.name !== undefined && !(options.name.length >= 1 && options.name.length <= 200))
    throw new UsageError('--name must have 1 to 200 characters')
  if (options.labels !== undefined && !options.quality)
    throw new UsageError('--labels is for measuring, which --no-quality leaves out')
  const { folder, label } = await modelFolder(name, { onProgress: talk.progress })
  if (
    await stat(join(folder, 'manifest.json')).then(
      () => true,
      () => false,
    )
  )
    throw new ModelError('input-invalid', {
      file: name,
      what: 'it is a pack already',
      todo: 'Use it as it is, or name the model folder it was made from',
    })
  const out = options.out ?? `${label.split('/').at(-1)}.pack`
  const begun = performance.now()
  const done = await packFolder(folder, {
    out, name: options.name ?? label, owners: options.owner.length ? options.owner : undefined, text: options.text, labels: options.labels, tokens: options.tokens, quality: options.quality,
    onProgress: talk.progress,
  }) // prettier-ignore
  const seconds = (performance.now() - begun) / 1000
  talk.endLine()
  const { manifest, calibration, quality } = done
  if (talk.json) {
    const choices = Object.fromEntries(
      Array.from(calibration.choices, ([at, { a15, migrate }]) => [at, { a15, migrated: migrate !== null }]),
    )
    await talk.out(`${JSON.stringify({
      path: done.path, name: manifest.name, digest: done.digest, bytes: done.bytes, seconds: Number(seconds.toFixed(2)),
      calibration: { source: done.source, tokens: calibration.tokens, residual_bits: calibration.residualBits, choices }, quality,
    })}\n`) // prettier-ignore
    return
  }
  await talk.out(`${out}  ${bytes(done.bytes)}  ${done.digest}\n`)
  talk.say(`Packed in ${seconds.toFixed(1)} s, calibrated on ${calibration.tokens} tokens of ${done.source}.`)
  if (quality) await talk.out(qualityTable(quality))
  for (const miss of quality?.misses ?? []) talk.say(`Note: ${miss}.`)
}

function qualityTable({ loss, top1, cosine, accuracy, tokens, sequences, backend }: Quality): string {
  const rows: string[][] = []
  if (loss)
    rows.push([
      'loss, nats/token',
      loss.float.toFixed(4),
      loss.exact.toFixed(4),
      `${loss.relative >= 0 ? '+' : ''}${percent(loss.relative)}`,
    ])
  if (top1 !== undefined) rows.push(['same first choice', '', '', percent(top1)])
  if (cosine)
    rows.push(['cosine, least and mean', '', '', `${cosine.min.toFixed(5)}  ${cosine.mean.toFixed(5)}`])
  if (accuracy)
    rows.push([
      `accuracy on ${accuracy.count}`,
      percent(accuracy.float),
      percent(accuracy.exact),
      `${(100 * (accuracy.exact - accuracy.float)).toFixed(2)} points`,
    ])
  return table([`${tokens} tokens, ${sequences} texts`, 'float', 'exact', `(${backend})`], rows)
}

export function addVerifyPack(program: Command): void {
  common(
    program
      .command('verify-pack <dir>')
      .summary('check every byte of a pack')
      .description(
        'Hashes every chunk and every file of a pack and compares them with its manifest, and the manifest with a digest if one is given.',
      ),
  )
    .option('--digest <hex>', 'the SHA-256 the manifest must have', (text: string) => text.toLowerCase())
    .addHelpText(
      'after',
      `
Examples:
  chorale verify-pack my-model.pack
  chorale verify-pack my-model.pack --digest 3f1c…`,
    )
    .action(verify)
}

async function verify(dir: string, options: TalkOptions & { digest?: string }): Promise<void> {
  const talk = new Talk(options)
  if (options.digest !== undefined && !/^[0-9a-f]{64}$/.test(options.digest))
    throw new UsageError('--digest must be 64 hex digits')
  const opened = await openPackFolder(dir)
  if (options.digest !== undefined && options.digest !== opened.digest) {
    throw new ModelError('digest-mismatch', {
      file: dir,
      what: `its digest is ${opened.digest}`,
      todo: 'This is another model or a damaged one: get it again',
    })
  }
  let total = 0
  let chunks = 0
  for (const [file, entry] of Object.entries(opened.manifest.files)) {
    const whole = createHash('sha256')
    for await (const chunk of opened.chunks(file)) {
      whole.update(chunk)
      total += chunk.length
      chunks++
    }
    if (whole.digest('hex') !== entry.sha256)
      throw new ModelError('chunk-mismatch', {
        file: join(dir, file),
        what: 'the file does not have the hash the manifest gives',
        todo: 'Get the pack again',
      })
    const { size } = await stat(join(dir, file))
    if (size !== entry.bytes)
      throw new ModelError('chunk-mismatch', {
        file: join(dir, file),
        what: `it has ${size} bytes, the manifest says ${entry.bytes}`,
        todo: 'Get the pack again',
      })
  }
  const unlisted = (await readdir(dir)).filter(
    (f) => f !== 'manifest.json' && !Object.hasOwn(opened.manifest.files, f),
  )
  if (unlisted.length) talk.say(`Note: not part of the pack: ${unlisted.join(', ')}`)
  const files = Object.keys(opened.manifest.files).length
  await talk.out(talk.json
    ? `${JSON.stringify({ ok: true, path: resolve(dir), name: opened.manifest.name, digest: opened.digest, bytes: total, files, chunks, unlisted })}\n`
    : `ok  ${opened.manifest.name}  ${files} files, ${chunks} chunks, ${bytes(total)}  ${opened.digest}\n`) // prettier-ignore
}

export function addLs(program: Command): void {
  ask(
    common(
      program
        .command('ls')
        .summary('list the models at hand')
        .description(
          'Lists the embedded models and the packs in the cache; with --url those of a coordinator.',
        ),
    ),
  )
    .addHelpText(
      'after',
      `
Examples:
  chorale ls
  chorale ls --json | jq -r .[].path`,
    )
    .action(list)
}

async function list(options: TalkOptions & AskOptions): Promise<void> {
  const talk = new Talk(options)
  const remote = remoteOf(options)
  if (remote) return listRemote(remote, talk)
  const known: Array<Record<string, string | number | null>> = embedded.map((name) => ({
    name,
    kind: 'embedded',
    task: null,
    bytes: null,
    digest: null,
    path: null,
  }))
  for (const { path, bytes: size } of await cachedPacks()) {
    const opened = await openPackFolder(path).catch((error: unknown) => {
      talk.say(`Note: ${(error as Error).message}`)
      return null
    })
    if (!opened) continue
    const { name, spec } = opened.manifest
    const entry = { name, kind: 'cached', task: spec.task, bytes: size, digest: opened.digest, path }
    // An embedded model that was packed already is one row; older packs of it are rows of their own.
    const at = known.findIndex((k) => k.name === name && k.kind === 'embedded' && k.path === null)
    if (at >= 0) known[at] = { ...entry, kind: 'embedded' }
    else known.push(entry)
  }
  if (talk.json) return talk.out(`${JSON.stringify(known)}\n`)
  await talk.out(table(['name', 'kind', 'task', 'packed', 'digest'], known.map((k) => [
    String(k.name), String(k.kind), String(k.task ?? ''), k.bytes === null ? 'at first use' : bytes(Number(k.bytes)), String(k.digest ?? '').slice(0, 16),
  ]))) // prettier-ignore
  talk.say(`Cache: ${packsFolder()}`)
}
