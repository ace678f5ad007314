/** Requesters that never stop asking, and remember every word they were given. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Random } from '../harness/random.ts'

/** Few texts, so that the same answer is computed many times, by many, before and after crashes. */
const TEXTS = Array.from({ length: 48 }, (_, i) => `${['please book a table for', 'how much money is left of', 'play song number'][i % 3]} ${i}`) // prettier-ignore
export const ENDPOINTS = ['/v1/embeddings', '/v1/completions'] as const

export const customIdOf = (line: string): string => (JSON.parse(line) as { custom_id: string }).custom_id

export interface Acknowledged {
  id: string
  endpoint: (typeof ENDPOINTS)[number]
  /** What each row asked, by its custom_id. */
  asked: Map<string, string>
  /** Lines of the output that were read, by their custom_id. */
  read: Map<string, string>
  status: string
  isComplete: boolean
}

export class Load {
  /** Batches whose creation was answered with 200. */
  readonly batches: Acknowledged[] = []
  /** Things that must not happen. */
  readonly faults: string[] = []
  /** Answers with an error, by status and code. */
  readonly refusals = new Map<string, number>()
  /** Rows whose lines were read. */
  rowsRead = 0
  readonly #url: string
  readonly #rows: number
  #isStopping = false

  constructor(url: string, rows: number) {
    this.#url = url
    this.#rows = rows
  }

  /** Ends once everything that was accepted is over. */
  async run(random: Random): Promise<void> {
    for (let i = 0; !this.#isStopping; i++) {
      const batch = await this.#create(random, `${random.int(0, 2 ** 31)}-${i}`)
      if (!batch) return
      this.batches.push(batch)
      while (!batch.isComplete) {
        await sleep(random.int(50, 400))
        await this.#look(batch)
      }
    }
  }

  stop(): void {
    this.#isStopping = true
  }

  async #create(random: Random, key: string): Promise<Acknowledged | null> {
    const isText = random.int(0, 5) === 0
    const endpoint = ENDPOINTS[isText ? 1 : 0]
    const n = isText ? 6 : random.int(1, this.#rows)
    const asked = new Map<string, string>()
    const lines: string[] = []
    for (let i = 0; i < n; i++) {
      const text = TEXTS[random.int(0, TEXTS.length - 1)]!
      const body = isText
        ? { model: 'tales-3m', prompt: text, max_tokens: 8, temperature: 0 }
        : { model: 'intents-3m', input: text, encoding_format: 'base64' }
      const custom_id = `${key}-${i}`
      asked.set(custom_id, text)
      lines.push(JSON.stringify({ custom_id, method: 'POST', url: endpoint, body }))
    }
    const file = await this.#until(async () => {
      const form = new FormData()
      form.append('purpose', 'batch')
      form.append('file', new Blob([lines.join('\n')]), 'rows.jsonl')
      return this.#ask<{ id: string }>('/v1/files', { method: 'POST', body: form })
    })
    const made = await this.#until(() =>
      this.#ask<{ id: string; status: string }>('/v1/batches', {
        method: 'POST',
        headers: { 'content-type': 'application/json', 'idempotency-key': key },
        body: JSON.stringify({ input_file_id: file?.id, endpoint, completion_window: '24h' }),
      }),
    )
    if (!file || !made) return null
    return { id: made.id, endpoint, asked, read: new Map(), status: made.status, isComplete: false }
  }

  /** Asks until it is answered; null when the load stops before. */
  async #until<T>(ask: () => Promise<T | null>): Promise<T | null> {
    for (;;) {
      const answer = await ask()
      if (answer) return answer
      if (this.#isStopping) return null
      await sleep(100)
    }
  }

  async #ask<T>(path: string, init: RequestInit = {}): Promise<T | null> {
    const text = await this.#text(path, init)
    return text === null ? null : (JSON.parse(text) as T)
  }

  /** Null where the coordinator was gone, or refused; a refusal that no fault explains is one itself. */
  async #text(path: string, init: RequestInit = {}): Promise<string | null> {
    try {
      const response = await fetch(`${this.#url}${path}`, { ...init, signal: AbortSignal.timeout(30_000) })
      const text = await response.text()
      if (response.ok) return text
      const { code } = (JSON.parse(text) as { error: { code: string } }).error
      const name = `${response.status} ${code}`
      this.refusals.set(name, (this.refusals.get(name) ?? 0) + 1)
      if (
        code === undefined ||
        code === 'internal' ||
        (response.status < 500 && response.status !== 429 && code !== 'idempotency_in_progress')
      )
        this.faults.push(`${init.method ?? 'GET'} ${path}: ${name}: ${text.slice(0, 300)}`)
      return null
    } catch {
      return null
    }
  }

  async #look(batch: Acknowledged): Promise<void> {
    const seen = await this.#ask<{ status: string; output_file_id: string | null }>(`/v1/batches/${batch.id}`)
    if (!seen) return
    batch.status = seen.status
    if (['failed', 'expired', 'cancelled'].includes(seen.status)) {
      this.faults.push(`${batch.id} became ${seen.status}`)
      batch.isComplete = true
      return
    }
    if (seen.output_file_id === null) return
    const text = await this.#text(`/v1/files/${seen.output_file_id}/content`)
    // A connection that broke leaves half a line; the API's length says so, and fetch throws.
    if (text === null) return
    const lines = text.split('\n').filter(Boolean)
    for (const line of lines) this.#remember(batch, line)
    if (batch.read.size < lines.length) this.faults.push(`${batch.id}: a row is there twice`)
    const expected = [...batch.asked.keys()]
    const wrong = lines.findIndex((line, i) => customIdOf(line) !== expected[i])
    if (wrong >= 0) this.faults.push(`${batch.id}: line ${wrong + 1} is not of row ${wrong + 1}`)
    if (seen.status !== 'completed') return
    batch.isComplete = true
    if (batch.read.size !== batch.asked.size)
      this.faults.push(`${batch.id} is completed with ${batch.read.size} of ${batch.asked.size} rows`)
  }

  #remember(batch: Acknowledged, line: string): void {
    const custom_id = customIdOf(line)
    const before = batch.read.get(custom_id)
    if (before === undefined) this.rowsRead++
    if (before !== undefined && before !== line)
      this.faults.push(`${batch.id} ${custom_id}: it reads otherwise than before`)
    if (!batch.asked.has(custom_id)) this.faults.push(`${batch.id} ${custom_id}: nobody asked for it`)
    batch.read.set(custom_id, line)
  }
}
