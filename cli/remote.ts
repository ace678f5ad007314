/** A coordinator's API from the command line: JSON in and out, streams of events, and errors with their exit codes. */

export interface RemoteOptions {
  /** With or without /v1 at the end. */
  url: string
  apiKey?: string
}

/** What the API refused, or that it could not be reached (`unreachable`). */
export class RemoteError extends Error {
  override name = 'RemoteError'
  readonly code: string
  readonly status: number

  constructor(message: string, code: string, status: number, cause?: unknown) {
    super(message, { cause })
    this.code = code
    this.status = status
  }
}

export class Remote {
  readonly url: string
  readonly #headers: Record<string, string>

  constructor({ url, apiKey }: RemoteOptions) {
    this.url = url.replace(/\/+$/, '').replace(/\/v1$/, '')
    this.#headers = apiKey ? { authorization: `Bearer ${apiKey}` } : {}
  }

  /** Throws RemoteError. */
  async get<T>(path: string): Promise<T> {
    return (await (await this.#fetch(path, {})).json()) as T
  }

  /** As it came. Throws RemoteError. */
  async text(path: string): Promise<string> {
    return (await this.#fetch(path, {})).text()
  }

  /** Throws RemoteError. */
  async post<T>(path: string, body: object): Promise<T> {
    return (await (await this.#post(path, body)).json()) as T
  }

  /** Throws RemoteError. */
  async delete<T>(path: string): Promise<T> {
    return (await (await this.#fetch(path, { method: 'DELETE' })).json()) as T
  }

  /** A file to be a batch's input, read from disk as it is sent. Throws RemoteError. */
  async upload(file: Blob, name: string): Promise<{ id: string }> {
    const form = new FormData()
    form.append('purpose', 'batch')
    form.append('file', file, name)
    return (await (await this.#fetch('/v1/files', { method: 'POST', body: form })).json()) as { id: string }
  }

  /** Bytes of a file from one on; none when there are no more yet. Throws RemoteError. */
  async *bytes(path: string, from = 0): AsyncGenerator<Uint8Array, void, void> {
    try {
      const answer = await this.#fetch(path, { headers: from ? { range: `bytes=${from}-` } : {} })
      yield* answer.body!
    } catch (error) {
      if (!(error instanceof RemoteError) || error.code !== 'range_not_satisfiable') throw error
    }
  }

  /** The chunks of a streamed answer. Throws RemoteError, also in the middle. */
  async *stream<T>(path: string, body: object): AsyncGenerator<T, void, void> {
    yield* this.#events<T>(await this.#post(path, { ...body, stream: true }))
  }

  /** What is told until it ends. Throws RemoteError, also in the middle. */
  async *events<T>(path: string): AsyncGenerator<T, void, void> {
    yield* this.#events<T>(await this.#fetch(path, {}))
  }

  async *#events<T>(answer: Response): AsyncGenerator<T, void, void> {
    let rest = ''
    for await (const piece of answer.body!.pipeThrough(new TextDecoderStream())) {
      const events = (rest + piece).split('\n\n')
      rest = events.pop()!
      for (const event of events) {
        const data = /^data: (.*)$/s.exec(event)?.[1]
        if (data === undefined) continue
        if (data === '[DONE]') return
        const chunk = JSON.parse(data) as { error?: ApiFailure }
        if (chunk.error) throw failure(chunk.error, 200)
        yield chunk as T
      }
    }
    throw new RemoteError('the answer broke off', 'unreachable', 0)
  }

  #post(path: string, body: object): Promise<Response> {
    const headers = { 'content-type': 'application/json' }
    return this.#fetch(path, { method: 'POST', headers, body: JSON.stringify(body) })
  }

  async #fetch(path: string, init: RequestInit): Promise<Response> {
    const answer = await fetch(`${this.url}${path}`, {
      ...init,
      headers: { ...this.#headers, ...init.headers },
    }).catch((cause: unknown) => {
      const why = cause instanceof Error && cause.cause instanceof Error ? cause.cause.message : String(cause)
      throw new RemoteError(
        `${this.url} cannot be reached (${why}). Is \`chorale serve\` running there?`,
        'unreachable',
        0,
        cause,
      )
    })
    if (answer.ok) return answer
    const { error } = (await answer.json().catch(() => ({}))) as { error?: ApiFailure }
    throw failure(
      error ?? { message: `${this.url}${path} answered ${answer.status}`, code: 'unknown' },
      answer.status,
    )
  }
}

interface ApiFailure {
  message: string
  code: string
}

const failure = ({ message, code }: ApiFailure, status: number): RemoteError =>
  new RemoteError(message, code, status)

/** As conventions give them: 3 what was asked is wrong, 5 who asked, 7 unreachable, 8 deadline, 1 anything else. */
export function remoteExitCode({ code, status }: RemoteError): number {
  if (code === 'unreachable') return 7
  if (code === 'deadline_exceeded') return 8
  if (status === 401 || status === 403) return 5
  return status >= 400 && status < 429 ? 3 : 1
}

/** The `volunteer` object of an answer. */
export interface Report {
  /** What was done to know that it is right; see docs/trust.md. */
  verification: string
  receipt?: string
  volunteers: number
  computed_by: { class: string; units: number; compute_s: number }[]
  timings: { total_s: number; queue_s: number; compute_s: number }
}

/** `webgpu, then wasm; 0.80 s of compute, 0.91 s in all, audited` */
export function computedBy({ computed_by, timings, verification }: Report): string {
  const who = computed_by.map((one) => one.class).join(', then ')
  return `${who}; ${timings.compute_s.toFixed(2)} s of compute, ${timings.total_s.toFixed(2)} s in all, ${verification}`
}
