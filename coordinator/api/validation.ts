/** A batch's input before any of it is computed: every row is looked at, and what is wrong is named with its line. */
import type { Trust } from '../../protocol/index.ts'
import { BODY_BYTES_MAX } from '../http.ts'
import type { BatchFault, BatchRecord, NewRow, Store } from '../store/store.ts'
import { inspect, isEndpoint } from './asks.ts'
import type { Endpoint } from './asks.ts'
import { unixNow } from './context.ts'
import type { ApiContext } from './context.ts'
import { ApiError } from './errors.ts'
import { linesOf } from './jsonl.ts'
import type { Line } from './jsonl.ts'

/** OpenAI's own bounds. */
export const FILE_BYTES_MAX = 200 * 1024 * 1024
export const ROWS_MAX = 50_000
export const EMBEDDINGS_MAX = 50_000
/** A row's body is as long as a request's, and some words around it. */
export const LINE_BYTES_MAX = BODY_BYTES_MAX + 4096
const CUSTOM_ID_MAX = 512
/** Reading ends with so many faults. */
export const FAULTS_MAX = 100
/** Rows per write. */
const PORTION = 1_000

export interface RowRequest {
  customId: string
  body: unknown
}

class Fault extends Error {
  readonly code: string
  readonly param: string | null
  constructor(code: string, message: string, param: string | null = null) {
    super(message)
    this.code = code
    this.param = param
  }
}

/** Takes a file's lines one after the other and collects what is wrong with them. */
export class Validator {
  readonly faults: BatchFault[] = []
  /** What all rows ask for; null before the first good one. */
  model: string | null = null
  total = 0
  /** There is no use in reading on. */
  isOver = false
  #inputs = 0
  readonly #context: ApiContext
  readonly #endpoint: Endpoint
  readonly #trust: Trust
  readonly #lines = new Map<string, number>()

  constructor(context: ApiContext, endpoint: Endpoint, trust: Trust) {
    this.#context = context
    this.#endpoint = endpoint
    this.#trust = trust
  }

  /** The row of a line; null if there is something wrong with it. */
  take(line: Line): NewRow | null {
    if (this.isOver) return null
    try {
      if (++this.total > ROWS_MAX) {
        this.isOver = true
        throw new Fault('too_many_rows', `the file has more than ${ROWS_MAX} rows. Split it`)
      }
      const { customId, body } = rowOf(line, this.#endpoint)
      const before = this.#lines.get(customId)
      if (before !== undefined)
        throw new Fault('duplicate_custom_id', `${quoted(customId)} is also on line ${before}`, 'custom_id')
      this.#lines.set(customId, line.line)
      this.#checkBody(body)
      return { index: line.line - 1, customId, offset: line.offset, bytes: line.bytes }
    } catch (error) {
      const { code, message, param } = faultOf(error)
      const text = `Line ${line.line}: ${message.replace(/\.$/, '')}.`
      this.faults.push({ code, message: text, param, line: line.line })
      if (this.faults.length >= FAULTS_MAX) {
        const last = `The file was not read beyond line ${line.line}: it has ${FAULTS_MAX} faults already.`
        this.faults.push({ code: 'too_many_errors', message: last, param: null, line: null })
        this.isOver = true
      }
      return null
    }
  }

  end(): void {
    if (this.total === 0)
      this.faults.push({ code: 'empty_file', message: 'The file has no rows.', param: null, line: null })
  }

  #checkBody(body: unknown): void {
    const { model, inputs, trust, isStreamed } = inspect(this.#context, this.#endpoint, body)
    if (isStreamed)
      throw new Fault('unsupported_parameter', 'rows of a batch are not streamed', 'body.stream')
    if (trust != null && trust !== this.#trust)
      throw new Fault(
        'mismatched_trust',
        `it asks for "${trust}", its batch for "${this.#trust}". A batch is created with "volunteer": {"trust": …}`,
        'body.volunteer.trust',
      )
    this.model ??= model.id
    if (model.id !== this.model)
      throw new Fault(
        'mismatched_model',
        `it asks for ${model.id}, rows before for ${this.model}`,
        'body.model',
      )
    this.#inputs += inputs
    if (this.#endpoint !== '/v1/embeddings' || this.#inputs <= EMBEDDINGS_MAX) return
    this.isOver = true
    throw new Fault(
      'too_many_inputs',
      `the file has more than ${EMBEDDINGS_MAX} inputs. Split it`,
      'body.input',
    )
  }
}

/** Throws Fault for a line that is no row of this endpoint. */
function rowOf({ text, fault }: Line, endpoint: Endpoint): RowRequest {
  if (fault === 'too_long') throw new Fault('line_too_long', `it has more than ${LINE_BYTES_MAX} bytes`)
  if (text === null) throw new Fault('invalid_utf8', 'it is not UTF-8')
  let row: unknown
  try {
    row = JSON.parse(text)
  } catch (error) {
    throw new Fault('invalid_json_line', `it is not JSON: ${placeOf(error as SyntaxError)}`)
  }
  if (typeof row !== 'object' || row === null || Array.isArray(row))
    throw new Fault('invalid_json_line', 'it is not a JSON object')
  const { custom_id, method, url, body, ...rest } = row as Record<string, unknown>
  const other = Object.keys(rest)[0]
  if (other !== undefined)
    throw new Fault(
      'unsupported_parameter',
      `${quoted(other)} is not supported in a row`,
      other.slice(0, 100),
    )
  if (custom_id === undefined) throw new Fault('missing_custom_id', `'custom_id' is missing`, 'custom_id')
  if (typeof custom_id !== 'string' || custom_id === '' || custom_id.length > CUSTOM_ID_MAX)
    throw new Fault(
      'invalid_custom_id',
      `'custom_id' must be a text of 1 to ${CUSTOM_ID_MAX} characters`,
      'custom_id',
    )
  if (method !== 'POST') throw new Fault('invalid_method', `'method' must be "POST"`, 'method')
  if (url !== endpoint)
    throw new Fault('invalid_url', `'url' is ${quoted(url)}; this batch is for "${endpoint}"`, 'url')
  if (body === undefined) throw new Fault('missing_body', `'body' is missing`, 'body')
  return { customId: custom_id, body }
}

/** The body of a row that was accepted. `text`: its line. */
export const bodyOf = (text: string): unknown => (JSON.parse(text) as { body: unknown }).body

function faultOf(error: unknown): Fault {
  if (error instanceof Fault) return error
  if (error instanceof ApiError)
    return new Fault(error.code, error.message, error.param === null ? 'body' : `body.${error.param}`)
  throw error
}

/** V8 quotes the text around the place, which is a prompt: only the place is told. */
function placeOf({ message }: SyntaxError): string {
  const at = /at position (\d+)/.exec(message)?.[1]
  if (at !== undefined) return `it goes wrong at character ${Number(at) + 1}`
  return /^Unexpected end|^Unterminated/.test(message) ? 'it ends too early' : 'a character is out of place'
}

const quoted = (value: unknown): string =>
  JSON.stringify(typeof value === 'string' && value.length > 100 ? `${value.slice(0, 100)}…` : value) ??
  'missing'

/**
 * Takes a batch that is `validating` to `in_progress` with all its rows, or to `failed` with what is wrong. Begun again after
 * a crash, it begins from the file's first line. Rejects with StoreError.
 */
export async function validate(
  context: ApiContext,
  store: Store,
  batch: BatchRecord,
): Promise<BatchRecord | null> {
  const { id, endpoint } = batch
  if (!isEndpoint(endpoint)) throw new TypeError(`${id} is for ${endpoint}, which is no endpoint`)
  await store.clearRows(id)
  const validator = new Validator(context, endpoint, batch.trust)
  let rows: NewRow[] = []
  const input = store.blobs.read(batch.input)
  read: for await (const lines of linesOf(input, LINE_BYTES_MAX))
    for (const line of lines) {
      const row = validator.take(line)
      if (row) rows.push(row)
      if (validator.isOver) break read
      // With a fault no row will be run, so none needs to be kept.
      if (rows.length < PORTION || validator.faults.length) continue
      await store.addRows(id, rows)
      rows = []
    }
  validator.end()
  const { faults: errors, model, total } = validator
  if (errors.length) {
    // None of them will run.
    await store.clearRows(id)
    return store.changeBatch(id, { model, errors, status: 'failed', at: { failed: unixNow() } }, [
      'validating',
    ])
  }
  await store.addRows(id, rows)
  const at = { in_progress: unixNow() }
  return store.changeBatch(id, { model, total, status: 'in_progress', at }, ['validating'])
}
