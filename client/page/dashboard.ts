/** `/dashboard`: who is here, what waits, how fast. The same figures as /v1/status gives to programs. */
import { html, LitElement } from 'lit'
import type { TemplateResult } from 'lit'
import { count, duration, percent, rate, say, sayCount } from '../words.ts'
import type { Word } from '../words.ts'
import { pageFoot, pageHead } from './frame.ts'
import { fetchStatus } from './status.ts'
import type { Status } from './status.ts'

/** As much of the coordinator's view as is shown. */
interface View {
  trust: { checks: number; convicted: number; extraCompute: number }
  isDraining: boolean
  volunteers: {
    busyShare: number
    list: {
      id: string
      isHouse: boolean
      backend: string
      adapter: string
      state: 'open' | 'paused' | 'draining'
      reason: string | null
      isHidden: boolean
      held: number
      units: number
      computeMs: number
      rttMs: number
      models: string[]
    }[]
  }
  models: {
    name: string
    task: string
    volunteers: number
    houses: number
    loading: number
    readyUnits: number
    etaMs: number | null
  }[]
  totals: Record<string, number>
}

const everyMs = 1000

class DashboardPage extends LitElement {
  static override properties = {
    view: { state: true },
    status: { state: true },
    unitsPerSecond: { state: true },
  }
  declare view: View | undefined
  declare status: Status | undefined
  declare unitsPerSecond: number
  #last: { at: number; units: number } | undefined

  constructor() {
    super()
    this.unitsPerSecond = 0
  }

  override createRenderRoot(): this {
    return this
  }

  override connectedCallback(): void {
    super.connectedCallback()
    void this.#look()
    setInterval(() => void (document.hidden || this.#look()), everyMs)
  }

  async #look(): Promise<void> {
    this.status = await fetchStatus()
    const raw = this.status?.raw as View | undefined
    const at = performance.now()
    if (raw?.volunteers?.list) {
      const units = raw.volunteers.list.reduce((n, v) => n + v.units, 0)
      if (this.#last && at > this.#last.at) {
        const now = Math.max(0, units - this.#last.units) / ((at - this.#last.at) / 1000)
        this.unitsPerSecond += (now - this.unitsPerSecond) / 5
      }
      this.#last = { at, units }
    }
    this.view = raw?.volunteers?.list ? raw : undefined
  }

  protected override render(): TemplateResult {
    return html`${pageHead('/dashboard')} ${this.view ? this.#body(this.view) : this.#nothing()} ${pageFoot()}`
  }

  #nothing(): TemplateResult {
    return html`<main class="narrow">
      <h1>${say('nav.dashboard')}</h1>
      <p role="status">${say('network.unknown')}</p>
    </main>`
  }

  #body({ volunteers, models, trust, isDraining }: View): TemplateResult {
    const { volunteers: here = 0, running = 0, queued = 0 } = this.status ?? {}
    const figures: [string, string][] = [
      [count(here), sayCount('network.volunteers', here)],
      [count(running), say('network.running')],
      [count(queued), sayCount('network.queue', queued)],
      [rate(this.unitsPerSecond), say('dashboard.rate')],
      [percent(volunteers.busyShare), say('dashboard.busy')],
      [count(trust.checks), say('dashboard.checks')],
      [percent(trust.extraCompute), say('dashboard.extra')],
      [count(trust.convicted), say('dashboard.convicted')],
    ]
    const cells = (values: (string | number)[]): TemplateResult[] =>
      values.map((value) => html`<td>${value}</td>`)
    const heads = (words: Word[]): TemplateResult[] =>
      words.map((word) => html`<th scope="col">${say(word)}</th>`)
    return html`
      <main class="panel">
        <section class="card full">
          <h1>${say('nav.dashboard')}</h1>
          ${isDraining ? html`<p class="trouble" role="status">${say('dashboard.draining')}</p>` : ''}
          <dl class="figures many">
            ${figures.map(([value, word]) => html`<div><dt>${word}</dt><dd>${value}</dd></div>`)}
          </dl>
          <p class="hint">${say('dashboard.checked')}</p>
        </section>
        <section class="card full">
          <h2>${say('dashboard.models')}</h2>
          <div class="scroll" tabindex="0" role="region" aria-label=${say('dashboard.models')}><table>
            <thead><tr>${heads(['dashboard.model', 'dashboard.can', 'dashboard.state', 'dashboard.capable', 'dashboard.loading', 'dashboard.queue'])}</tr></thead>
            <tbody>
              ${models.map((m) => html`<tr>${cells([
                m.name,
                say(`dashboard.task.${m.task as 'generate'}`),
                m.volunteers ? `● ${say('dashboard.ready')}` : m.loading ? `◐ ${say('dashboard.coming')}` : m.houses ? `◐ ${say('dashboard.onlyHouse')}` : `○ ${say('dashboard.down')}`,
                count(m.volunteers), count(m.loading), count(m.readyUnits),
              ])}</tr>`)}
            </tbody>
          </table></div>
        </section>
        <section class="card full">
          <h2>${say('dashboard.volunteers')}</h2>
          <div class="scroll" tabindex="0" role="region" aria-label=${say('dashboard.volunteers')}><table>
            <thead><tr>${heads(['dashboard.volunteer', 'dashboard.computes', 'dashboard.state', 'dashboard.units', 'session.compute', 'dashboard.rtt'])}</tr></thead>
            <tbody>
              ${volunteers.list.map((v) => html`<tr>${cells([
                v.isHouse ? say('dashboard.house') : v.id,
                `${v.backend}: ${v.adapter}`,
                stateOf(v),
                count(v.units), duration(v.computeMs), `${count(v.rttMs)} ms`,
              ])}</tr>`)}
            </tbody>
          </table></div>
          ${here ? '' : html`<p class="hint">${say('dashboard.none')} <a href="/">${location.origin}/</a></p>`}
        </section>
      </main>
    ` // prettier-ignore
  }
}

/** `ready`, `paused (battery)`, `working, in the background` */
function stateOf({ state, reason, isHidden, held }: View['volunteers']['list'][number]): string {
  const word = say(`dashboard.volunteer.${state === 'open' && held ? 'working' : state}`)
  return `${word}${reason ? ` (${reason})` : ''}${isHidden ? `, ${say('dashboard.volunteer.hidden')}` : ''}`
}

customElements.define('chorale-dashboard', DashboardPage)
