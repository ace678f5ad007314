/** `chorale init`: the settings of a coordinator in a file, to be changed by hand. */
import { existsSync, writeFileSync } from 'node:fs'
import { resolve } from 'node:path'
import type { Command } from 'commander'
import { embedded } from '../../tools/models.ts'
import { USUAL } from '../config.ts'
import { dataFolder } from '../../tools/folders.ts'
import { EnvironmentError } from '../errors.ts'
import { common } from '../options.ts'
import { Talk } from '../talk.ts'
import type { TalkOptions } from '../talk.ts'

export function addInit(program: Command): void {
  common(
    program
      .command('init')
      .summary('write settings for a coordinator here')
      .description(
        `Writes ${USUAL} in this folder, with what chorale serve does without it. One that is there is left alone.`,
      ),
  )
    .addHelpText('after', '\nExamples:\n  chorale init && chorale serve')
    .action(async (options: TalkOptions) => {
      const talk = new Talk(options)
      const file = resolve(USUAL)
      const isNew = !existsSync(file)
      if (isNew) write(file)
      talk.say(
        isNew
          ? `Wrote ${file}. Next: chorale serve, and for callers elsewhere: chorale keys create NAME.`
          : `${file} is there already, and stays as it is.`,
      )
      if (talk.json) await talk.out(`${JSON.stringify({ file, isNew })}\n`)
    })
}

/** Throws EnvironmentError. */
function write(file: string): void {
  const serve = {
    host: '127.0.0.1',
    port: 8080,
    models: embedded,
    operator: 'this network',
    data: dataFolder(),
  }
  try {
    writeFileSync(file, `${JSON.stringify({ serve }, null, 2)}\n`, { flag: 'wx' })
  } catch (cause) {
    throw new EnvironmentError(
      `${file} can't be written (${(cause as Error).message}). Go to a folder you may write to`,
      {
        cause,
      },
    )
  }
}
