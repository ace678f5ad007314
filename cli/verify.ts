/**
 * Checks a receipt or evidence as somebody who believes nobody: every signature and digest, and then everything is computed
 * again here. Integers leave no room for opinion: equal bytes or not.
 */
import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import {
  evidenceInput, EVIDENCE_FORMAT, flawOfEvidence, flawOfReceipt, logprobsOf, unitInput,
} from '../coordinator/books/documents.ts' // prettier-ignore
import type { EvidenceBundle, Receipt, ReceiptUnit } from '../coordinator/books/documents.ts'
import type { Flaw } from '../coordinator/books/seal.ts'
import { worthOf } from '../coordinator/books/worth.ts'
import { macsOf } from '../engine/macs.ts'
import { packFolder } from '../engine/pack/folder.ts'
import { openPack } from '../engine/pack/reader.ts'
import type { Pack, PackSource } from '../engine/pack/reader.ts'
import { UnitRunner } from '../engine/units.ts'
import { ModelError } from '../engine/weights/errors.ts'
import { outputBytes, wordsPerToken } from '../protocol/index.ts'
import type { ModelDigest, Output, UnitInput } from '../protocol/index.ts'
import { openBackend } from '../tools/backends.ts'
import { cachedPacks } from '../tools/cache.ts'
import { embedded, packedFolder } from '../tools/models.ts'
import { redraw } from './lottery.ts'
import type { SecretOf } from './lottery.ts'
import type { ComputeOptions } from './options.ts'

type Comparison = 'equal' | 'unequal' | 'not committed'

export interface UnitReport {
  first: number
  count: number
  volunteer: string
  output: Comparison
  root: Comparison
  /** Of a receipt: what was done, and whether the lottery obliged anybody to; null where that cannot be told yet. */
  check?: ReceiptUnit['check']['kind']
  isDue?: boolean | null
}

export interface Report {
  ok: boolean
  document: 'receipt' | 'evidence'
  id: string
  coordinator: string
  /** Of a receipt: what was done to know that it is right, and the bound that follows. */
  verification?: string
  undetected?: number
  units: UnitReport[]
  /** Of evidence: the accused signed something that is wrong. False where it signed nothing: then it is the coordinator's word. */
  proven?: boolean
  /** Of evidence about tokens: the first of the text, counted from 0, that is not what the model draws; `right` null behind its end. */
  wrong?: { at: number; said: number; right: number | null }
  /** What is not as it should be: the field, and why. */
  flaw: Flaw | null
  notes: string[]
}

/** What a question's answer is, computed here. */
export interface Truth {
  output: string
  root: string
  /** 32 bytes each. */
  leaves: Uint8Array
  text: Extract<Output, { kind: 'generate' }> | null
  /** Standard units. */
  macs: number
}
export type Compute = (model: string, unit: UnitInput) => Promise<Truth>

export interface VerifyOptions {
  compute: Compute
  /** Whose word it should be; without it, it is whoever signed. */
  expected?: string
  /** The lottery's secrets; without them what it drew is not looked at. */
  secretOf?: SecretOf
  onUnit?: (done: number, of: number) => void
}

/** Seconds that two honest clocks may differ by. */
const CLOCKS_S = 600

export function verify(document: Receipt | EvidenceBundle, options: VerifyOptions): Promise<Report> {
  return document.format === EVIDENCE_FORMAT
    ? verifyEvidence(document, options)
    : verifyReceipt(document, options)
}

async function verifyReceipt(
  receipt: Receipt,
  { compute, expected, secretOf, onUnit }: VerifyOptions,
): Promise<Report> {
  const { id, coordinator, request, verification, bound, issued_at } = receipt
  const report: Report = {
    ok: false,
    document: 'receipt',
    id,
    coordinator,
    verification,
    undetected: bound.undetected,
    units: [],
    flaw: flawOfReceipt(receipt, expected),
    notes: clockNote('issued', issued_at),
  }
  if (report.flaw) return report
  const { isDue, flaw, notes } = await redraw(receipt, secretOf)
  report.flaw = flaw
  report.notes.push(...notes)
  for (const [i, unit] of receipt.units.entries()) {
    onUnit?.(i, receipt.units.length)
    const { first, count, volunteer, output, root, tokens, check } = unit
    const asked = unitInput(request, unit)
    // A text that was stopped ends before its volunteer signed it: its tokens are all there is to compare.
    const isCut = output === null && tokens !== undefined && asked.generate !== undefined
    // Stopped before it began: nothing was said.
    if (isCut && tokens.length === 0) continue
    const truth = await compute(request.model, isCut ? cut(asked, tokens.length) : asked)
    const sameTokens =
      tokens === undefined ||
      (tokens.length === truth.text?.tokens.length && tokens.every((id, at) => id === truth.text!.tokens[at]))
    report.units.push({
      first,
      count,
      volunteer,
      output:
        output === null
          ? isCut
            ? compared(sameTokens)
            : 'not committed'
          : compared(output === truth.output && sameTokens),
      root: root === null ? 'not committed' : compared(root === truth.root),
      check: check.kind,
      isDue: isDue[i]!,
    })
    if (unit.status !== 'corrected' && unit.macs !== truth.macs)
      report.flaw ??= { field: `units.${i}.macs`, why: `its part is worth ${truth.macs}` }
    if (!sameTokens) report.flaw ??= { field: `units.${i}.tokens`, why: 'other tokens are drawn here' }
    if (output !== null && output !== truth.output)
      report.flaw ??= { field: `units.${i}.output`, why: `computed here it is ${truth.output}` }
    if (root !== null && root !== truth.root)
      report.flaw ??= { field: `units.${i}.root`, why: `computed here it is ${truth.root}` }
  }
  report.ok = report.flaw === null
  return report
}

async function verifyEvidence(
  bundle: EvidenceBundle,
  { compute, expected, onUnit }: VerifyOptions,
): Promise<Report> {
  const { id, coordinator, request, accused, referee, leaf, convicted_at } = bundle
  const report: Report = {
    ok: false,
    document: 'evidence',
    id,
    coordinator,
    units: [],
    flaw: flawOfEvidence(bundle, expected),
    notes: clockNote('convicted', convicted_at),
  }
  if (report.flaw) return report
  onUnit?.(0, 1)
  const asked = evidenceInput(request)
  const truth = await compute(
    request.model,
    referee.tokens === undefined ? asked : cut(asked, referee.tokens),
  )
  report.wrong = firstWrong(bundle, truth)
  const unit = { first: 0, count: request.inputs.length }
  for (const { volunteer, output, root } of [accused, referee])
    report.units.push({
      ...unit,
      volunteer,
      output: output === null ? 'not committed' : compared(output === truth.output),
      root: root === null ? 'not committed' : compared(root === truth.root),
    })
  if (accused.streamed) report.units[0]!.output = compared(report.wrong === undefined)
  if (referee.output !== truth.output)
    report.flaw = { field: 'referee.output', why: `computed here it is ${truth.output}` }
  else if (referee.root !== null && referee.root !== truth.root)
    report.flaw = { field: 'referee.root', why: `computed here it is ${truth.root}` }
  else if (accused.streamed) {
    if (!report.wrong)
      report.flaw = { field: 'accused.streamed', why: 'it is right: this evidence convicts nobody' }
  } else if (accused.output === truth.output && (accused.root === null || accused.root === truth.root))
    report.flaw = { field: 'accused.output', why: 'it is right: this evidence convicts nobody' }
  else if (leaf && hexOf(truth.leaves.subarray(32 * leaf.index, 32 * leaf.index + 32)) !== leaf.referee)
    report.flaw = { field: 'leaf.referee', why: `computed here leaf ${leaf.index} is another` }
  if (accused.signature === null)
    report.notes.push(
      'The accused signed nothing: that the answer was its own is the coordinator’s word alone.',
    )
  report.ok = report.flaw === null
  report.proven = report.ok && accused.signature !== null
  return report
}

/** The first token the accused streamed that is another, or has other log-probabilities, than was drawn here. */
function firstWrong({ request, accused: { streamed } }: EvidenceBundle, { text }: Truth): Report['wrong'] {
  if (!streamed || !text) return undefined
  const logprobs = logprobsOf(request.options!, streamed)
  const words = logprobs ? wordsPerToken(logprobs) : 0
  const before = streamed.from - text.position
  for (const [i, said] of streamed.tokens.entries()) {
    const at = before + i
    if (at >= text.tokens.length) return text.finish === 'stop' ? { at, said, right: null } : undefined
    const right = text.tokens[at]!
    const told = logprobs?.values.subarray(i * words, (i + 1) * words)
    const due = text.logprobs?.values.subarray(at * words, (at + 1) * words)
    if (said !== right || told?.some((word, k) => word !== due![k])) return { at, said, right }
  }
  return undefined
}

const compared = (isEqual: boolean): Comparison => (isEqual ? 'equal' : 'unequal')

const cut = (unit: UnitInput, tokens: number): UnitInput => ({
  ...unit,
  generate: { ...unit.generate!, maxTokens: Math.max(1, tokens) },
})

function clockNote(what: string, at: number): string[] {
  const ahead = at - Date.now() / 1000
  if (ahead < CLOCKS_S) return []
  return [
    `By this computer's clock it was ${what} ${Math.round(ahead / 60)} minutes from now: one of the two clocks is wrong.`,
  ]
}

/** Computes on this machine; models come from the cache, from `model`, or from the coordinator at `url`. */
export async function localCompute(
  options: Pick<ComputeOptions, 'backend' | 'threads'> & { url?: string; model?: string },
): Promise<{ compute: Compute; close: () => Promise<void> }> {
  const backend = await openBackend({ name: options.backend, threads: options.threads })
  const macs = new Map<string, ReturnType<typeof macsOf>>()
  const runner = new UnitRunner(backend, async (digest) => {
    const pack = await findPack(digest, options)
    macs.set(digest, macsOf(pack.manifest.spec))
    return pack
  })
  const loaded = new Map<string, Promise<unknown>>()
  return {
    compute: async (model, unit) => {
      if (!loaded.has(model)) loaded.set(model, runner.load(model))
      await loaded.get(model)
      const { output, root, leaves } = await runner.run({ ...unit, model: model as ModelDigest })
      const bytes = outputBytes(output as Output)
      const text = output.kind === 'generate' ? output : null
      const digest = createHash('sha256').update(bytes).digest('hex')
      return {
        output: digest,
        root,
        leaves,
        text,
        macs: worthOf(macs.get(model)!, unit, text?.tokens.length ?? 0),
      }
    },
    close: () => Promise.resolve(backend.close()),
  }
}

/** Throws ModelError `file-missing` where there is no model of this digest. */
async function findPack(digest: string, { url, model }: { url?: string; model?: string }): Promise<Pack> {
  if (model !== undefined) return openPack(packFolder(await packedFolder(model)), digest)
  for (const { path } of await cachedPacks())
    if ((await digestOf(path)) === digest) return openPack(packFolder(path), digest)
  if (url !== undefined) {
    const pack = await openPack(remoteSource(url, digest), digest).catch((error: unknown) => {
      if (error instanceof ModelError && error.code === 'file-missing') return null
      throw error
    })
    if (pack) return pack
  }
  // Packing these takes seconds, and no network.
  for (const name of embedded) {
    const path = await packedFolder(name)
    if ((await digestOf(path)) === digest) return openPack(packFolder(path), digest)
  }
  throw new ModelError('file-missing', {
    what: `model ${digest.slice(0, 16)}… is not in the cache${url === undefined ? '' : `, nor served at ${url}`}`,
    todo: 'Name the coordinator (--url), or the model (--model owner/name or a folder)',
  })
}

async function digestOf(folder: string): Promise<string> {
  const manifest = await readFile(join(folder, 'manifest.json')).catch(() => null)
  return manifest ? createHash('sha256').update(manifest).digest('hex') : ''
}

/** Read as it is needed and not kept; every chunk is checked against the manifest, and that against the digest. */
function remoteSource(url: string, digest: string): PackSource {
  const base = `${url}/models/${digest}`
  const get = async (file: string, range?: string): Promise<Uint8Array> => {
    const answer = await fetch(`${base}/${file}`, { headers: range ? { range } : {} })
    if (!answer.ok)
      throw new ModelError('file-missing', {
        file: `${base}/${file}`,
        what: `the coordinator answered ${answer.status}`,
        todo: 'Name the model (--model owner/name or a folder)',
      })
    return new Uint8Array(await answer.arrayBuffer())
  }
  return {
    name: base,
    manifest: () => get('manifest.json'),
    read: (file, offset, length) => get(file, `bytes=${offset}-${offset + length - 1}`),
  }
}

const hexOf = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')
