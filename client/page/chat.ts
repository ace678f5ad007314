/** `/chat`: ask the network for a story and watch it come, with its speed. Any program can do the same through /v1. */
import { html, LitElement, nothing } from 'lit'
import type { TemplateResult } from 'lit'
import { hasWord, rate, say, sayCount } from '../words.ts'
import { eventsOf } from './events.ts'
import { pageFoot, pageHead } from './frame.ts'
import { fetchStatus } from './status.ts'
import type { Status } from './status.ts'

/** What of a stream's events is read. */
interface Chunk {
  error?: { message: string }
  choices?: { text?: string }[]
  volunteer?: { computed_by?: { class: string }[] }
}

/** Kinds of volunteers, each once, in words. */
const byOf = (computedBy: readonly { class: string }[] = []): string =>
  [...new Set(computedBy.map((c) => c.class))]
    .map((kind) => (hasWord(`chat.class.${kind}`) ? say(`chat.class.${kind}` as 'chat.class.wasm') : kind))
    .join(', ')

class ChatPage extends LitElement {
  static override properties = {
    asked: { state: true },
    text: { state: true },
    trouble: { state: true },
    tokens: { state: true },
    perSecond: { state: true },
    by: { state: true },
    isBusy: { state: true },
    needsKey: { state: true },
    models: { state: true },
    status: { state: true },
  }
  declare asked: string
  declare text: string
  declare trouble: string
  declare tokens: number
  declare perSecond: number
  declare by: string
  declare isBusy: boolean
  /** The API is closed to those without one. */
  declare needsKey: boolean
  declare models: string[]
  declare status: Status | undefined
  #abort: AbortController | undefined

  constructor() {
    super()
    this.asked = this.text = this.trouble = this.by = ''
    this.tokens = this.perSecond = 0
    this.isBusy = this.needsKey = false
    this.models = []
  }

  override createRenderRoot(): this {
    return this
  }

  override connectedCallback(): void {
    super.connectedCallback()
    void this.#look()
    setInterval(() => void (document.hidden || this.#look()), 5000)
  }

  async #look(): Promise<void> {
    this.status = await fetchStatus()
    const models =
      (this.status?.raw as { models?: { name: string; task: string }[] } | undefined)?.models ?? []
    this.models = models.filter((m) => m.task === 'generate').map((m) => m.name)
  }

  readonly #ask = async (event: SubmitEvent): Promise<void> => {
    event.preventDefault()
    if (this.isBusy) return this.#abort?.abort()
    const form = new FormData(event.target as HTMLFormElement)
    this.asked = String(form.get('prompt'))
    this.text = this.trouble = this.by = ''
    this.tokens = this.perSecond = 0
    this.isBusy = true
    this.#abort = new AbortController()
    try {
      await this.#stream(String(form.get('model')), String(form.get('key') ?? ''), this.#abort.signal)
    } catch (error) {
      if (!this.#abort.signal.aborted) this.trouble = (error as Error).message
    }
    this.isBusy = false
  }

  async #stream(model: string, key: string, signal: AbortSignal): Promise<void> {
    const body = { model, prompt: this.asked, max_tokens: 200, temperature: 0.8, stream: true, seed: Math.floor(Math.random() * 2 ** 31) } // prettier-ignore
    const answer = await fetch('/v1/completions', {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...(key && { authorization: `Bearer ${key}` }) },
      body: JSON.stringify(body),
      signal,
    })
    if (!answer.ok) {
      if (answer.status === 401) {
        this.needsKey = true
        if (!key) throw new Error(say('chat.key.needed'))
      }
      const problem = (await answer.json().catch(() => ({}))) as { error?: { message?: string } }
      throw new Error(problem.error?.message ?? say('chat.refused', { status: answer.status }))
    }
    const askedAt = performance.now()
    for await (const data of eventsOf(answer.body!)) {
      if (data === '[DONE]') return
      const chunk = JSON.parse(data) as Chunk
      if (chunk.error) throw new Error(chunk.error.message)
      if (chunk.volunteer) this.by = byOf(chunk.volunteer.computed_by)
      const text = chunk.choices?.[0]?.text ?? ''
      this.text += text
      // The stream carries text, not tokens; words and marks are close to what these models draw.
      this.tokens += text.match(/\s*[\p{L}\p{N}']+|[^\p{L}\p{N}\s]/gu)?.length ?? 0
      this.perSecond = (1000 * this.tokens) / (performance.now() - askedAt)
    }
  }

  protected override render(): TemplateResult {
    const { volunteers } = this.status ?? {}
    return html`
      ${pageHead('/chat')}
      <main class="narrow">
        <h1>${say('chat.title')}</h1>
        <form @submit=${this.#ask}>
          <label for="prompt" class="hint">${say('chat.prompt')}</label>
          <textarea id="prompt" name="prompt" rows="2" required maxlength="2000">${say('chat.example')}</textarea>
          ${
            this.needsKey
              ? html`<label class="hint row"
                  >${say('chat.key')} <input type="password" name="key" autocomplete="off" required
                /></label>`
              : nothing
          }
          <div class="row">
            <button class="primary" type="submit">${this.isBusy ? say('chat.stop') : say('chat.ask')}</button>
            <label class="hint"
              >${say('chat.model')}
              <select name="model">
                ${this.models.map((name) => html`<option>${name}</option>`)}
              </select></label
            >
            <span class="hint">${volunteers === undefined ? nothing : sayCount('chat.volunteers', volunteers)}</span>
          </div>
        </form>
        ${
          this.asked
            ? html`<section class="card" aria-label=${say('chat.story')} aria-busy=${this.isBusy}>
                <p class="story"><span class="asked">${this.asked}</span>${this.text}</p>
                ${this.trouble ? html`<p class="trouble" role="alert">${this.trouble}</p>` : nothing}
                <p class="hint" data-figure="speed">
                  ${[
                    this.perSecond ? say('chat.speed', { rate: rate(this.perSecond) }) : '',
                    this.by ? say('chat.by', { who: this.by }) : '',
                  ].filter(Boolean).join(', ')}
                  ${this.perSecond && this.perSecond < 5 && !this.isBusy ? html`<a href="/">${say('chat.help')}</a>` : nothing}
                </p>
              </section>`
            : nothing
        }
      </main>
      ${pageFoot()}
    ` // prettier-ignore
  }
}

customElements.define('chorale-chat', ChatPage)
