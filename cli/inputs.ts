/** Texts from arguments, files and stdin. */
import { readFile, stat } from 'node:fs/promises'
import { textOfUtf8 } from '../engine/tokenizer.ts'
import { ModelError } from '../engine/weights/errors.ts'
import { UsageError } from './errors.ts'

/** All of stdin as text. Throws ModelError `text-invalid`, and UsageError where it is a terminal nobody spoke of. */
export async function readStdin(asked: boolean, what: string): Promise<string> {
  if (process.stdin.isTTY && !asked)
    throw new UsageError(`${what} is missing: give it as an argument, or - to read it from stdin`)
  const chunks: Buffer[] = []
  for await (const chunk of process.stdin) chunks.push(chunk as Buffer)
  return textOfUtf8(Buffer.concat(chunks))
}

/** The texts of `embed` and `classify`: the arguments; the lines of a file, if the only argument names one; the lines of stdin. */
export async function texts(given: readonly string[]): Promise<string[]> {
  if (given.length === 0 || (given.length === 1 && given[0] === '-'))
    return lines(await readStdin(given.length === 1, 'The text'))
  const only = given.length === 1 ? given[0]! : ''
  if (only !== '' && (await stat(only).then((s) => s.isFile(), () => false))) {
    try {
      return lines(textOfUtf8(await readFile(only)))
    } catch (cause) {
      if (cause instanceof ModelError) throw new ModelError('text-invalid', { file: only, what: 'it is not UTF-8', todo: 'Give a text file' }, cause)
      throw new ModelError('file-unreadable', { file: only, what: (cause as Error).message, todo: 'Name a file you may read' }, cause)
    }
  } // prettier-ignore
  return [...given]
}

function lines(text: string): string[] {
  if (text === '') return []
  return text.replace(/\r?\n$/, '').split(/\r?\n/)
}
