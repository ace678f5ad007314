/** `chorale ledger verify`: does a coordinator's ledger add up, and is it the one that was signed? */
import { createReadStream } from 'node:fs'
import { readdir, readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Command } from 'commander'
import { DocumentError, parseDocument, RECEIPT_FORMAT } from '../../coordinator/books/documents.ts'
import type { Receipt } from '../../coordinator/books/documents.ts'
import type { LedgerLine } from '../../coordinator/books/audit.ts'
import { EXIT, UsageError } from '../errors.ts'
import { verifyLedger } from '../ledger.ts'
import type { CheckpointDocument, LedgerHeadDocument, LedgerReport, LedgerSources } from '../ledger.ts'
import { common } from '../options.ts'
import { Remote, RemoteError } from '../remote.ts'
import { Talk } from '../talk.ts'
import type { TalkOptions } from '../talk.ts'

interface LedgerOptions extends TalkOptions {
  receipts?: string[]
  archive?: string[]
}

const PAGE = 1_000

export function addLedger(program: Command): void {
  const ledger = program.command('ledger').summary('check who is owed what for which work')
  common(
    ledger
      .command('verify <url|file>')
      .summary('check a ledger: chain, sums, balances, receipts')
      .description(
        'Reads a coordinator’s whole ledger, or one saved as lines of JSON, and checks the chain of hashes, the sum of every entry, every balance, that no unit was paid twice, and that the signed head is its end. Receipts given have to be in it, unit for unit. Exit 1: it does not add up; the entry is named.',
      ),
  )
    .option(
      '--archive <file...>',
      'the beginning of a ledger that was compacted: its files ledger-FIRST-LAST.jsonl, in order',
    )
    .option('--receipts <file...>', 'receipts, or folders of them, that the ledger must agree with')
    .addHelpText(
      'after',
      `
Examples:
  chorale ledger verify http://127.0.0.1:8080
  curl -s 'http://127.0.0.1:8080/v1/ledger' > ledger.jsonl && chorale ledger verify ledger.jsonl --receipts receipt.json`,
    )
    .action(run)
}

async function run(target: string, options: LedgerOptions): Promise<void> {
  const talk = new Talk(options)
  const receipts = await receiptsOf(options.receipts ?? [])
  const archive = options.archive ?? []
  const sources = /^https?:/.test(target)
    ? await online(target, archive)
    : { lines: saved([...archive, target]) }
  const report = await verifyLedger({ ...sources, receipts })
  if (!report.ok) process.exitCode = EXIT.failure
  await talk.out(talk.json ? `${JSON.stringify(report)}\n` : textOf(report))
}

/** The head first: entries that come while it is read lie behind it. */
async function online(url: string, archive: readonly string[]): Promise<LedgerSources> {
  const remote = new Remote({ url })
  const head = await remote.get<LedgerHeadDocument>('/v1/ledger/head')
  const checkpoint = await remote.get<CheckpointDocument>('/v1/ledger/checkpoint').catch((error: unknown) => {
    if (error instanceof RemoteError && error.status === 404) return undefined
    throw error
  })
  async function* lines(): AsyncGenerator<LedgerLine> {
    let after = 0
    for await (const line of saved(archive)) {
      yield line
      after = line.seq
    }
    while (after < head.seq) {
      const text = await remote.text(`/v1/ledger?after=${after}&limit=${PAGE}`)
      const page = text.split('\n').filter((line) => line !== '')
      if (page.length === 0) return
      for (const line of page) {
        const parsed = JSON.parse(line) as LedgerLine
        yield parsed
        after = parsed.seq
      }
    }
  }
  return { head, checkpoint, lines: lines() }
}

async function* saved(files: readonly string[]): AsyncGenerator<LedgerLine> {
  for (const file of files) yield* linesOf(file)
}

async function* linesOf(file: string): AsyncGenerator<LedgerLine> {
  let at = 0
  for await (const line of createInterface({ input: createReadStream(file), crlfDelay: Infinity })) {
    at++
    if (line === '') continue
    try {
      yield JSON.parse(line) as LedgerLine
    } catch {
      throw new UsageError(`${file}: line ${at} is no JSON`)
    }
  }
}

async function receiptsOf(given: readonly string[]): Promise<Receipt[]> {
  const receipts: Receipt[] = []
  for (const path of given) {
    const isFolder = (await stat(path)).isDirectory()
    const files = isFolder
      ? (await readdir(path)).filter((f) => f.endsWith('.json')).map((f) => join(path, f))
      : [path]
    for (const file of files)
      try {
        const document = parseDocument(JSON.parse(await readFile(file, 'utf8')))
        if (document.format === RECEIPT_FORMAT) receipts.push(document)
      } catch (error) {
        if (error instanceof DocumentError || error instanceof SyntaxError)
          throw new UsageError(`${file} is no receipt: ${error.message}`)
        throw error
      }
  }
  return receipts
}

function textOf(report: LedgerReport): string {
  const { entries, from, head, balances, accounts, earned, backed, unseen, flaw } = report
  const lines = [`${entries} entries, ${accounts} accounts not at zero, head ${head}`]
  for (const [kind, amount] of Object.entries(balances)) lines.push(`  ${kind.padEnd(10)} ${amount}`)
  lines.push(`${earned} units paid, ${backed} of them backed by the receipts given`)
  if (from > 0)
    lines.push(
      `entries up to ${from} are not here: the balances after them are the coordinator's signed word`,
    )
  if (unseen > 0) lines.push(`${unseen} units of the receipts are not paid in what is here`)
  lines.push(
    flaw
      ? `not valid: ${flaw.entry === null ? '' : `entry ${flaw.entry}: `}${flaw.why}`
      : 'it adds up: chain, sums, balances.',
  )
  return `${lines.join('\n')}\n`
}
