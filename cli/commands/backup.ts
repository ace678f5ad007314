/** `chorale backup` and `chorale restore`: everything a coordinator keeps, as one folder, at one moment, while it serves. */
import { cp, mkdir, readdir, rm, stat } from 'node:fs/promises'
import path from 'node:path'
import type { Command } from 'commander'
import { Option } from 'commander'
import { runningIn } from '../../coordinator/data.ts'
import { DATABASE } from '../../coordinator/store/database.ts'
import { openStore } from '../../coordinator/store/sqlite.ts'
import { dataFolder } from '../../tools/folders.ts'
import { EnvironmentError, UsageError } from '../errors.ts'
import { common } from '../options.ts'
import { Remote } from '../remote.ts'
import { Talk } from '../talk.ts'
import type { TalkOptions } from '../talk.ts'

interface Where extends TalkOptions {
  data?: string
}

const where = (command: Command): Command =>
  common(command).addOption(
    new Option('--data <dir>', 'the coordinator’s data folder (default: as of `chorale serve`)').env(
      'CHORALE_DATA',
    ),
  )

export function addBackup(program: Command): void {
  where(
    program
      .command('backup <folder>')
      .summary('copy everything a coordinator keeps')
      .description(
        'Copies the database, the files and the coordinator’s key into a new folder, as they are at one moment. The coordinator may go on serving. Keep the folder safe: with the key one can sign as this coordinator.',
      ),
  )
    .addHelpText(
      'after',
      `
Examples:
  chorale backup ~/backups/$(date +%F)
  chorale restore ~/backups/2026-11-21 --data ./network && chorale serve --data ./network`,
    )
    .action(backup)
  where(
    program
      .command('restore <folder>')
      .summary('make a backup the data of a coordinator')
      .description('Checks a backup and copies it to a data folder that has no data yet.'),
  ).action(restore)
}

async function backup(to: string, options: Where): Promise<void> {
  const talk = new Talk(options)
  const folder = path.resolve(to)
  const from = options.data ?? dataFolder()
  const running = runningIn(from)
  if (running) await new Remote({ url: running.url, apiKey: running.key }).post('/v1/backups', { folder })
  else {
    if (!(await exists(path.join(from, DATABASE))))
      throw new UsageError(`${from} has no data of a coordinator. Name its folder with --data`)
    const store = await openStore(from)
    try {
      await store.backup(folder)
    } finally {
      await store.close()
    }
  }
  const bytes = await sizeOf(folder)
  talk.say(`Copied ${(bytes / 1e6).toFixed(1)} MB to ${folder}.`)
  if (talk.json) await talk.out(`${JSON.stringify({ folder, bytes })}\n`)
}

async function restore(from: string, options: Where): Promise<void> {
  const talk = new Talk(options)
  const folder = options.data ?? dataFolder()
  if (!(await exists(path.join(from, DATABASE))))
    throw new UsageError(`${from} is no backup of a coordinator`)
  if ((await exists(folder)) && (await readdir(folder)).length)
    throw new EnvironmentError(
      `${folder} has something in it already. Move it away, or restore elsewhere with --data`,
    )
  // It is looked at before anything is copied; damage says so with the file's name.
  await (await openStore(from)).close()
  await mkdir(folder, { recursive: true, mode: 0o700 })
  try {
    await cp(from, folder, { recursive: true })
    await rm(path.join(folder, 'pid'), { force: true })
    await (await openStore(folder)).close()
  } catch (error) {
    await rm(folder, { recursive: true, force: true })
    throw error
  }
  talk.say(`Restored to ${folder}. Start it with: chorale serve --data ${folder}`)
  if (talk.json) await talk.out(`${JSON.stringify({ folder })}\n`)
}

const exists = (file: string): Promise<boolean> =>
  stat(file).then(
    () => true,
    () => false,
  )

async function sizeOf(folder: string): Promise<number> {
  let bytes = 0
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true }))
    if (entry.isFile()) bytes += (await stat(path.join(entry.parentPath, entry.name))).size
  return bytes
}
