/** The `chorale` command. */
import { readFileSync, rmSync } from 'node:fs'
import { Command, CommanderError } from 'commander'
import { unfinished } from '../tools/pack/writer.ts'
import { addBatch } from './commands/batch.ts'
import { addBackup } from './commands/backup.ts'
import { addDoctor } from './commands/doctor.ts'
import { addClassify, addEmbed } from './commands/encode.ts'
import { addInit } from './commands/init.ts'
import { addKeys } from './commands/keys.ts'
import { addLedger } from './commands/ledger.ts'
import { addLs, addPack, addVerifyPack } from './commands/pack.ts'
import { addRun } from './commands/run.ts'
import { addServe } from './commands/serve.ts'
import { addVerify } from './commands/verify.ts'
import { addVolunteer } from './volunteer.ts'
import { applyConfig } from './config.ts'
import { exitCodeOf, EXIT, lineOf, oneLine } from './errors.ts'

export async function main(args: readonly string[]): Promise<void> {
  // A reader that has seen enough (`| head`) is no failure.
  process.stdout.on('error', (error: NodeJS.ErrnoException) =>
    process.exit(error.code === 'EPIPE' ? EXIT.ok : EXIT.failure),
  )
  for (const [signal, code] of [['SIGINT', EXIT.interrupted], ['SIGTERM', EXIT.terminated]] as const)
    process.on(signal, () => {
      for (const folder of unfinished) rmSync(folder, { recursive: true, force: true, maxRetries: 3 })
      process.exit(code)
    }) // prettier-ignore
  // Dawn's promises alone do not keep a process alive: it would end in the middle of a command.
  const alive = setInterval(() => {}, 1_000)
  try {
    await commands().parseAsync([...args], { from: 'user' })
  } catch (error) {
    process.exitCode = exitCodeOf(error)
    // Commander has said its own already.
    if (error instanceof CommanderError) return
    const verbose = args.includes('--verbose') || args.includes('-v')
    process.stderr.write(`${process.stderr.isTTY ? '\r\u001b[2K' : ''}chorale: ${lineOf(error)}\n`)
    if (verbose && error instanceof Error)
      process.stderr.write(
        `${error.stack}\n${error.cause instanceof Error ? `because of ${error.cause.stack}\n` : ''}`,
      )
  } finally {
    clearInterval(alive)
  }
}

function commands(): Command {
  const { version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as {
    version: string
  }
  const program = new Command('chorale')
    .description('Verified AI inference in exact integers: the same bytes on every device.')
    .version(version)
    .exitOverride()
    .configureOutput({
      outputError: (text, write) => write(`chorale: ${oneLine(text)} (see ${'`'}chorale --help${'`'})\n`),
    })
    .addHelpText(
      'after',
      `
Examples:
  chorale run tales-3m "Once upon a time"
  chorale classify intents-3m "play some jazz"
  chorale pack ./my-model && chorale run ./my-model.pack "Hello"
  chorale doctor

A model is a folder (Hugging Face layout or a pack), tales-3m, intents-3m, or owner/name[@revision] of the Hub.
Packs are kept in CHORALE_CACHE (see chorale ls). Settings: flags, then CHORALE_… in the environment, then chorale.config.json
({"url": …, "serve": {"port": …}}), then defaults; chorale doctor says which hold. Exit codes: 0 ok, 1 failure, 2 usage, 3 bad model, settings or input,
4 this machine (port, browser, data folder), 5 refused key, 6 ended with failed rows, 7 unreachable, 8 deadline, 130 and 143 signals.`,
    )
  for (const add of [
    addServe,
    addInit,
    addBatch,
    addKeys,
    addRun,
    addEmbed,
    addClassify,
    addPack,
    addVerify,
    addLedger,
    addBackup,
    addVerifyPack,
    addLs,
    addDoctor,
    addVolunteer,
  ])
    add(program)
  // The line of a subcommand is read before; a flag or the environment says more than a file.
  program.hook('preAction', (_program, command) => applyConfig(program, command))
  return program
}
