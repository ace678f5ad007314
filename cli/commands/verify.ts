/** `chorale verify`: is this answer right? Needs nobody's word. */
import { readFile } from 'node:fs/promises'
import type { Command } from 'commander'
import { DocumentError, parseDocument } from '../../coordinator/books/documents.ts'
import type { EvidenceBundle, Receipt } from '../../coordinator/books/documents.ts'
import { EXIT, UsageError } from '../errors.ts'
import { readStdin } from '../inputs.ts'
import { secretsAt, secretsIn } from '../lottery.ts'
import { compute } from '../options.ts'
import type { ComputeOptions } from '../options.ts'
import { Remote } from '../remote.ts'
import { table, Talk } from '../talk.ts'
import { localCompute, verify } from '../verify.ts'
import type { Report } from '../verify.ts'

interface VerifyCommandOptions extends ComputeOptions {
  url?: string
  coordinator?: string
  model?: string
  lottery?: string
}

export function addVerify(program: Command): void {
  compute(
    program
      .command('verify <file|url>')
      .summary('check a receipt or evidence: signatures, digests, and everything computed again')
      .description(
        'Believes nobody: checks every signature and digest of a receipt or of evidence against a volunteer, and computes everything again on this machine. Exit 0: all bytes are equal (a receipt), or the accused was wrong (evidence). Exit 1: they are not, or a field was altered; it is named.',
      ),
  )
    .option('--url <url>', 'coordinator that should have signed it; models that are not here come from it')
    .option('--coordinator <key>', 'public key that should have signed it')
    .option('--model <name>', 'the model: a folder, or an id of the Hub (default: found by its digest)')
    .option(
      '--lottery <file>',
      'secrets of the lottery, as GET /v1/lottery gave them (default: asked of the coordinator)',
    )
    .addHelpText(
      'after',
      `
Examples:
  chorale verify receipt.json
  chorale verify http://127.0.0.1:8080/v1/receipts/rcpt_…
  curl -s http://127.0.0.1:8080/v1/evidence/ev_… | chorale verify - --json`,
    )
    .action(run)
}

async function run(target: string, options: VerifyCommandOptions): Promise<void> {
  const talk = new Talk(options)
  const { json, url } = await read(target, options.url)
  let document: Receipt | EvidenceBundle
  try {
    document = parseDocument(json)
  } catch (error) {
    if (!(error instanceof DocumentError)) throw error
    process.exitCode = EXIT.failure
    const { field, message } = error
    return talk.out(
      talk.json
        ? `${JSON.stringify({ ok: false, flaw: { field, why: message } })}\n`
        : `not valid: ${message}\n`,
    )
  }
  const expected =
    options.coordinator ?? (options.url === undefined ? undefined : await coordinatorOf(options.url))
  const given = options.lottery
  const published = url === undefined ? undefined : secretsAt(url)
  const secretOf = given === undefined ? published : secretsIn(await jsonOf(given), given)
  const { compute, close } = await localCompute({ ...options, url })
  try {
    const onUnit = (done: number, of: number): void => talk.progress({ stage: 'measuring', done, of })
    const report = await verify(document, { compute, expected, secretOf, onUnit })
    talk.endLine()
    if (!report.ok) process.exitCode = EXIT.failure
    if (secretOf === undefined && report.units.some(({ isDue }) => isDue === null))
      report.notes.push('What the lottery drew was not looked at: name the coordinator (--url), or what it published (--lottery).') // prettier-ignore
    for (const note of report.notes) talk.say(`Note: ${note}`)
    await talk.out(talk.json ? `${JSON.stringify(report)}\n` : textOf(report))
  } finally {
    await close()
  }
}

/** Of a document at a URL, the coordinator is the URL's. */
async function read(
  target: string,
  given: string | undefined,
): Promise<{ json: unknown; url: string | undefined }> {
  const base = given?.replace(/\/+$/, '').replace(/\/v1$/, '')
  if (/^https?:/.test(target)) {
    const { origin, pathname } = new URL(target)
    return { json: await new Remote({ url: origin }).get(pathname), url: base ?? origin }
  }
  return { json: await jsonOf(target), url: base }
}

async function jsonOf(target: string): Promise<unknown> {
  const text = target === '-' ? await readStdin(true, 'The receipt') : await readFile(target, 'utf8')
  try {
    return JSON.parse(text) as unknown
  } catch {
    throw new UsageError(`${target} is no JSON: give it as the API sent it`)
  }
}

export async function coordinatorOf(url: string): Promise<string> {
  return (await new Remote({ url }).get<{ coordinator: string }>('/v1/ledger/head')).coordinator
}

function textOf({
  document,
  proven,
  id,
  coordinator,
  verification,
  undetected,
  units,
  flaw,
  wrong,
}: Report): string {
  const lines = [`${document} ${id}, signed by coordinator ${coordinator}`]
  if (verification !== undefined)
    lines.push(`verification: ${verification}; at most ${undetected} of answers like it wrong and unnoticed`)
  const rows = units.map((unit) => [
    unit.count === 1 ? String(unit.first) : `${unit.first}–${unit.first + unit.count - 1}`,
    unit.volunteer,
    unit.output,
    unit.root,
    ...(unit.check ? [checkOf(unit.check, unit.isDue!)] : []),
  ])
  const heads = ['part', 'volunteer', 'output', 'trace', ...(document === 'receipt' ? ['check'] : [])]
  if (rows.length) lines.push(table(heads, rows).trimEnd())
  if (flaw) lines.push(`not valid: ${flaw.field}: ${flaw.why}`)
  else if (document === 'receipt') lines.push('equal: every byte was computed again here.')
  else if (wrong) lines.push(`proven: the accused signed ${wordOf(wrong)}`)
  else if (proven) lines.push('proven: the accused signed an answer that is not what the model computes.')
  else lines.push('consistent: what the referee says is what the model computes.')
  return `${lines.join('\n')}\n`
}

function wordOf({ at, said, right }: NonNullable<Report['wrong']>): string {
  const what = `token ${said} as number ${at + 1} of its text`
  if (right === null) return `${what}, which is over before that.`
  if (right === said) return `${what} with log-probabilities that are not what the model computes.`
  return `${what}, where the model draws ${right}.`
}

/** `trusted`, `none, not drawn` … */
function checkOf(kind: string, isDue: boolean | null): string {
  if (kind !== 'none') return kind
  return isDue === null ? 'none; the draw is not known yet' : isDue ? 'none, and drawn' : 'none, not drawn'
}
