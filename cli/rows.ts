/** Rows in the order of their texts: to stdout, or to a file that a later run goes on with, with a line that says how far it is. */
import { open } from 'node:fs/promises'
import type { FileHandle } from 'node:fs/promises'
import { UsageError } from './errors.ts'
import { RemoteError } from './remote.ts'
import type { Talk } from './talk.ts'

export interface RowsOptions {
  output?: string
  resume?: boolean
}

/** Fewer are there before a line about them could be read. */
const WORTH_A_LINE = 256
/** A coordinator that restarts, or is busy, is asked again for so long. */
const PATIENCE_MS = 600_000

export class Rows {
  /** Rows that an earlier run wrote. */
  readonly before: number
  readonly #talk: Talk
  readonly #file: FileHandle | null
  readonly #of: number
  readonly #begun = performance.now()
  #done: number

  private constructor(talk: Talk, of: number, file: FileHandle | null, before: number) {
    this.#talk = talk
    this.#of = of
    this.#file = file
    this.before = before
    this.#done = before
  }

  /** Throws UsageError for a file that is there already, or that has more rows than there are texts. */
  static async open(talk: Talk, texts: readonly string[], { output, resume }: RowsOptions): Promise<Rows> {
    if (output === undefined) {
      if (resume) throw new UsageError('--resume goes on with a file: name it with --output')
      return new Rows(talk, texts.length, null, 0)
    }
    const file = await open(output, resume ? 'a+' : 'ax+').catch((error: NodeJS.ErrnoException) => {
      throw new UsageError(
        error.code === 'EEXIST'
          ? `${output} exists. Go on with it by --resume, or remove it`
          : `${output}: ${error.message}`,
      )
    })
    try {
      const { rows, bytes, last } = await wholeRows(file)
      if (rows > texts.length)
        throw new UsageError(
          `${output} has ${rows} rows, and there are ${texts.length} texts: it is of other texts`,
        )
      if (talk.json && last !== null && textOf(last) !== texts[rows - 1])
        throw new UsageError(`${output}: row ${rows} is of another text than line ${rows}`)
      // A row that was cut off is written again.
      await file.truncate(bytes)
      if (rows > 0) talk.say(`${output} has ${rows} of ${texts.length} rows; going on.`)
      return new Rows(talk, texts.length, file, rows)
    } catch (error) {
      await file.close()
      throw error
    }
  }

  async write(rows: readonly string[]): Promise<void> {
    const text = rows.map((row) => `${row}\n`).join('')
    if (this.#file) await this.#file.appendFile(text)
    else await this.#talk.out(text)
    this.#done += rows.length
    // On the way to a terminal the rows themselves say how far it is.
    if (this.#of < WORTH_A_LINE || (!this.#file && process.stdout.isTTY)) return
    const perMs = (this.#done - this.before) / (performance.now() - this.#begun)
    const left = Math.ceil((this.#of - this.#done) / perMs / 1000)
    const figures = `${this.#done} of ${this.#of} rows, ${(1000 * perMs).toFixed(0)} rows/s${left > 0 ? `, about ${left} s left` : ''}`
    this.#talk.bar('Computing', this.#done, this.#of, figures)
  }

  async close(): Promise<void> {
    this.#talk.endLine()
    await this.#file?.close()
  }
}

/** How many rows a file has that end with a newline, and the last of them. */
async function wholeRows(file: FileHandle): Promise<{ rows: number; bytes: number; last: string | null }> {
  let [rows, bytes, last] = [0, 0, null as string | null]
  let held = Buffer.alloc(0)
  for await (const piece of file.createReadStream({ start: 0, autoClose: false })) {
    held = Buffer.concat([held, piece as Buffer])
    let from = 0
    for (let end = held.indexOf(10); end >= 0; end = held.indexOf(10, from)) {
      last = held.toString('utf8', from, end)
      from = end + 1
      rows++
    }
    bytes += from
    held = held.subarray(from)
  }
  return { rows, bytes, last }
}

function textOf(row: string): unknown {
  try {
    return (JSON.parse(row) as { text?: unknown }).text
  } catch {
    return undefined
  }
}

/** Asks again where the coordinator is away or has too much to do. Throws RemoteError for anything else, and after a while. */
export async function patiently<T>(ask: () => Promise<T>, talk: Talk): Promise<T> {
  const begun = performance.now()
  for (let pauseMs = 500; ; pauseMs = Math.min(10_000, 2 * pauseMs)) {
    try {
      return await ask()
    } catch (error) {
      const isPassing =
        error instanceof RemoteError &&
        (error.code === 'unreachable' || error.status === 429 || error.status === 503) &&
        // Waiting grants nothing.
        error.code !== 'insufficient_credits'
      if (!isPassing || performance.now() - begun > PATIENCE_MS) throw error
      talk.bar('Waiting', 0, 0, `${error.message} It is tried again.`)
      await new Promise((resolve) => setTimeout(resolve, pauseMs))
    }
  }
}
