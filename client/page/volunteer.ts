/**
 * `/`: first what is asked and what it costs; after the click, all of what is going on. Everything heavy (engine, socket,
 * storage) lives in a worker that does not exist before that click.
 */
import { proxy, wrap } from 'comlink'
import type { Remote } from 'comlink'
import { html, LitElement, nothing, svg } from 'lit'
import type { TemplateResult } from 'lit'
import type { Controls, Picture, Rules } from '../picture.ts'
import { clockTime, count, duration, percent, rate, say, sayCount, size } from '../words.ts'
import type { Word } from '../words.ts'
import { pageFoot, pageHead } from './frame.ts'
import { forgetRules, recalledRules, rememberRules } from './rules.ts'
import { sentenceOf, titleOf } from './sentence.ts'
import type { Action } from './sentence.ts'
import { fetchStatus } from './status.ts'
import type { Status } from './status.ts'
import { watchSurroundings } from './surroundings.ts'

const powers = [
  [0.2, 'power.light'],
  [0.6, 'power.medium'],
  [1, 'power.full'],
] as const satisfies readonly (readonly [number, Word])[]
const statusEveryMs = 5_000
/** The worker speaks every second; one that is silent this many of ours hangs. */
const silentTicks = 60
const ended = new Set(['second-tab', 'unsupported', 'outdated', 'refused', 'convicted', 'stopped', 'failed'])
/** Before the network counts this tab. */
const arriving = new Set(['checking', 'connecting', 'downloading', 'compiling', 'reconnecting'])
/** The browser had thrown this tab away to save memory, and now loads it again. */
const { wasDiscarded } = document as { wasDiscarded?: boolean }
/** What the dial does itself; other remedies are buttons beside it, with room for their words. */
const onDial = new Set<Action | undefined>(['pause', 'resume', 'again'])
/** Enough for a worker on another core to read one message and send two. */
const handOverMs = 100

const atRest: Picture = {
  state: 'consent', since: 0, operator: '', models: [], running: [],
  duty: { limit: 0, actual: 0 }, spark: [],
  totals: { units: 0, tokens: 0, rows: 0, computeMs: 0, bytesDown: 0, bytesUp: 0, bytesKept: 0, bytesToday: 0 },
} // prettier-ignore

class VolunteerPage extends LitElement {
  static override properties = {
    picture: { state: true },
    rules: { state: true },
    status: { state: true },
    announced: { state: true },
    isClearing: { state: true },
    tick: { state: true },
  }
  declare picture: Picture
  declare rules: Rules
  declare status: Status | undefined
  declare announced: string
  declare isClearing: boolean
  declare tick: number
  /** Set by a test from outside, before Start: this tab is to lie. */
  adversary: string | undefined
  #worker: Worker | undefined
  #controls: Remote<Controls> | undefined
  #watch: AbortController | undefined
  #announcedKey = ''
  #statusTimer: ReturnType<typeof setInterval> | undefined
  #silence = 0

  constructor() {
    super()
    this.picture = atRest
    this.rules = recalledRules()
    this.announced = ''
    this.isClearing = false
    this.tick = 0
  }

  /** One document: labels find their controls, and one style sheet does. */
  override createRenderRoot(): this {
    return this
  }

  override connectedCallback(): void {
    super.connectedCallback()
    void this.#ask()
    document.addEventListener('keydown', this.#key)
    document.addEventListener('freeze', () => {
      void this.#controls?.freeze()
      // The worker is frozen with us, as soon as this returns: let it give its work back first.
      const until = performance.now() + handOverMs
      while (this.#controls && performance.now() < until);
    })
    document.addEventListener('resume', () => void this.#controls?.wake())
    addEventListener('pagehide', () => void this.#controls?.freeze())
    addEventListener('pageshow', (event) => {
      if (event.persisted) void this.#controls?.wake()
    })
    document.addEventListener('visibilitychange', () => void (document.hidden || this.#ask()))
  }

  readonly #key = (event: KeyboardEvent): void => {
    const target = event.target as HTMLElement
    if (event.key !== ' ' || event.repeat || /^(INPUT|SELECT|TEXTAREA|BUTTON|SUMMARY|A)$/.test(target.tagName)) return // prettier-ignore
    const { main } = sentenceOf(this.picture, Date.now())
    if (!main) return
    event.preventDefault()
    void this.#act(main)
  }

  async #ask(): Promise<void> {
    if (document.hidden) return
    this.status = await fetchStatus()
  }

  async #act(action: Action): Promise<void> {
    switch (action) {
      case 'start':
      case 'again':
        return this.#start()
      case 'pause':
        return this.#controls?.pause(false)
      case 'finish':
        return this.#controls?.pause(true)
      case 'resume':
        return this.#controls?.resume()
      case 'battery':
        return this.#setRules({ onBattery: 'allow' })
      case 'save-data':
        return this.#setRules({ onSaveData: 'allow' })
      case 'hours':
        return this.#setRules({ hours: null })
      case 'now':
        return this.#controls?.retryNow()
      case 'move':
        return this.#controls?.moveHere()
      case 'reload':
        return location.reload()
    }
  }

  /** Consent. Only here a worker is made, and with it everything that costs something. */
  async #start(): Promise<void> {
    rememberRules(this.rules)
    const isAgain = this.#worker !== undefined
    this.#end()
    const worker = new Worker(new URL('../engine.worker.ts', import.meta.url), {
      type: 'module',
      name: 'engine',
    })
    this.#worker = worker
    worker.onerror = (event) => this.#show({ ...atRest, state: 'failed', reason: event.message || 'the engine did not load' }) // prettier-ignore
    const controls = wrap<Controls>(worker)
    this.#controls = controls
    this.#show({ ...atRest, state: 'checking', since: Date.now() })
    this.#watch = new AbortController()
    let isStarted = false
    watchSurroundings((surroundings) => {
      if (isStarted) void controls.setSurroundings(surroundings)
      else {
        isStarted = true
        void controls.start(this.rules, surroundings, isAgain, proxy((picture: Picture) => this.#show(picture)), this.adversary)
      }
    }, this.#watch.signal) // prettier-ignore
    clearInterval(this.#statusTimer)
    this.#statusTimer = setInterval(() => {
      this.tick++
      // A hidden page's seconds are not the worker's, and one that ended has nothing to say.
      if (document.hidden || ended.has(this.picture.state)) this.#silence = 0
      else if (++this.#silence >= silentTicks)
        this.#show({ ...this.picture, state: 'failed', reason: say('failed.silent') })
      if (this.tick % (statusEveryMs / 1000) === 0) void this.#ask()
    }, 1000)
  }

  #show(picture: Picture): void {
    this.#silence = 0
    if (arriving.has(this.picture.state) && !arriving.has(picture.state)) void this.#ask()
    this.picture = picture
    document.title = titleOf(picture)
    const { key, sentence } = sentenceOf(picture, Date.now())
    if (key !== this.#announcedKey) this.announced = sentence
    this.#announcedKey = key
  }

  async #setRules(change: Partial<Rules>): Promise<void> {
    this.rules = { ...this.rules, ...change }
    if (!this.#controls) return
    rememberRules(this.rules)
    await this.#controls.setRules(this.rules)
  }

  #end(): void {
    this.#watch?.abort()
    this.#worker?.terminate()
    this.#worker = this.#controls = undefined
    clearInterval(this.#statusTimer)
  }

  async #stop(): Promise<void> {
    await this.#controls?.stop()
    this.#end()
    this.#show({ ...this.picture, state: 'stopped', running: [] })
  }

  async #clear(): Promise<void> {
    if (!this.isClearing) {
      this.isClearing = true
      return
    }
    await this.#controls?.clear()
    this.#end()
    forgetRules()
    // idb-keyval's; its connection went with the worker.
    indexedDB.deleteDatabase('keyval-store')
    this.isClearing = false
    this.rules = recalledRules()
    this.#show(atRest)
  }

  protected override render(): TemplateResult {
    return html`
      ${pageHead('/')} ${this.picture.state === 'consent' ? this.#consent() : this.#panel()}
      <p role="status" class="hidden">${this.announced}</p>
      ${pageFoot()}
    `
  }

  #consent(): TemplateResult {
    const { rules, status } = this
    const download = status?.downloadBytes
    return html`
      <main class="narrow">
        <h1>${say('consent.title')}</h1>
        ${wasDiscarded ? html`<p class="trouble">${say('consent.discarded')}</p>` : nothing}
        <p class="lead">${say('consent.text', { operator: status?.operator || say('consent.operator') })}</p>
        <ul class="facts">
          <li>
            ${say('consent.power', { power: percent(rules.power) })},
            ${say(`consent.battery.${rules.onBattery}`)}
          </li>
          <li>
            ${download ? say('consent.download', { size: size(download) }) : say('consent.download.unknown')}
          </li>
          <li>${say('consent.traffic')}</li>
        </ul>
        <div class="row">
          <button class="primary big" data-action="start" @click=${() => this.#act('start')}>
            ${say('start')}
          </button>
          <span class="hint">${say('state.consent')} ${say('consent.key')}.</span>
        </div>
        <details>
          <summary>${say('limits.choose')}</summary>
          <div class="card">${this.#power()} ${this.#limits()}</div>
        </details>
        <details>
          <summary>${say('what.title')}</summary>
          <p>${say('what.text')}</p>
        </details>
        <details>
          <summary>${say('privacy.title')}</summary>
          <p>${say('privacy.text')}</p>
        </details>
      </main>
    `
  }

  #panel(): TemplateResult {
    const p = this.picture
    const said = sentenceOf(p, Date.now())
    return html`
      <main class="panel" data-state=${p.state === 'paused' ? `${p.state}:${p.reason}` : p.state}>
        <h1 class="hidden">${say('panel.title')}</h1>
        <section class="card hero" aria-label=${say('now.title')}>
          ${this.#dial(said.main)}
          <div>
            <p class="sentence">${said.sentence}</p>
            ${
              p.state === 'downloading' && p.download
                ? html`<progress
                    max=${p.download.total}
                    value=${p.download.loaded}
                    aria-label=${said.sentence}
                  ></progress>`
                : nothing
            }
            <p class="hint">${this.#now()}</p>
            ${p.state === 'convicted' ? this.#convicted() : nothing}
            ${
              p.sleptAt === undefined || p.state === 'frozen'
                ? nothing
                : html`<p class="hint">
                    ${say('state.frozen', { time: clockTime(p.sleptAt) })}
                    <button class="quiet" data-action="seen" @click=${() => this.#controls?.seen()}>
                      ${say('action.seen')}
                    </button>
                  </p>`
            }
            <div class="row">
              ${said.actions
                .filter((action) => !onDial.has(action))
                .map(
                  (action) =>
                    html`<button data-action=${action} @click=${() => this.#act(action)}>
                      ${say(`action.${action}`)}
                    </button>`,
                )}
            </div>
          </div>
        </section>
        <section class="card">
          ${this.#power()}
          <div
            class="meter"
            role="meter"
            aria-label=${say('power.title')}
            aria-valuemin="0"
            aria-valuemax="100"
            aria-valuenow=${Math.round(100 * p.duty.actual)}
          >
            <i style="inline-size:${100 * p.duty.actual}%"></i
            ><b style="inset-inline-start:calc(${100 * p.duty.limit}% - 2px)"></b>
          </div>
          <p class="hint">
            ${say('power.meter', { duty: percent(p.duty.actual), limit: percent(p.duty.limit) })}
          </p>
        </section>
        <section class="card wide">${this.#session()}</section>
        <section class="card">${this.#network()}</section>
        <section class="card wide">${this.#device()}</section>
        <section class="card full">${this.#standing()}</section>
        <section class="card full">
          <details>
            <summary>${say('limits.title')}</summary>
            ${this.#limits()}
          </details>
          <div class="row">
            <button data-action="stop" @click=${() => this.#stop()}>${say('action.stop')}</button>
            <button data-action="clear" @click=${() => this.#clear()}>
              ${this.isClearing ? say('action.clear.sure', { size: size(p.totals.bytesKept) }) : say('action.clear')}
            </button>
          </div>
          ${
            this.isClearing && p.standing
              ? html`<p class="hint">
                  ${say('clear.key', { pending: count(p.standing.pending), vested: count(p.standing.vested) })}
                </p>`
              : nothing
          }
        </section>
      </main>
    `
  }

  /** What happened, where to look it up, and what may help: no button that would only do it again. */
  #convicted(): TemplateResult {
    const { reason = '', evidence } = this.picture
    return html`<div class="told">
      <p>${say('convicted.what', { reason })}</p>
      ${evidence ? html`<p><a href=${evidence}>${say('convicted.evidence')}</a></p>` : nothing}
      <p>${say('convicted.cause')}</p>
      <p>${say('convicted.next')}</p>
    </div>`
  }

  /** Start and pause, within a ring of how much the engine works and may work. */
  #dial(main: Action | undefined): TemplateResult {
    const { duty, state } = this.picture
    const round = 2 * Math.PI * 46
    const arc = (kind: string, share: number): TemplateResult | typeof nothing =>
      share > 0.005 && !ended.has(state)
        ? svg`<circle class=${kind} cx="50" cy="50" r="46" stroke-dasharray="${Math.min(1, share) * round} ${round}" />`
        : nothing
    const canPress = onDial.has(main)
    const glyph = canPress ? (main === 'pause' ? '‖' : '▶') : ended.has(state) ? '–' : '‖'
    const face = html`
      <svg viewBox="0 0 100 100" aria-hidden="true">
        <circle class="track" cx="50" cy="50" r="46" />
        ${arc('limit', duty.limit)} ${arc('actual', duty.actual)}
      </svg>
      <span class="glyph" aria-hidden="true">${glyph}</span>
    `
    // Where there is nothing to press there is no button.
    if (!canPress) return html`<div class="dial">${face}</div>`
    return html`
      <button class="dial" data-action=${main} @click=${() => this.#act(main!)}>
        ${face}
        <span class="verb">${say(`action.${main!}`)}</span>
      </button>
    `
  }

  #now(): string {
    const { running, state } = this.picture
    const first = running[0]
    if (!first) return state === 'standby' ? say('now.none') : ''
    const { kind, model, tokens, rows } = first
    const said =
      kind === 'generate'
        ? sayCount('now.generate', tokens, { model })
        : sayCount(`now.rows.${kind}`, rows, { model })
    return running.length > 1 ? `${said} ${say('now.more', { count: running.length - 1 })}` : said
  }

  #power(): TemplateResult {
    return html`
      <fieldset>
        <legend>${say('power.title')}</legend>
        <div class="choices even">
          ${powers.map(
            ([share, word]) =>
              html`<label>
                <input
                  type="radio"
                  name="power"
                  value=${share}
                  .checked=${this.rules.power === share}
                  @change=${() => this.#setRules({ power: share })}
                /><span>${say(word)} <small>${percent(share)}</small></span>
              </label>`,
          )}
        </div>
        <p class="hint">${say('power.help')}</p>
      </fieldset>
    `
  }

  #session(): TemplateResult {
    const { totals: t, spark } = this.picture
    const most = Math.max(1, ...spark)
    const recent = spark.reduce((a, b) => a + b, 0)
    const figures: [string, string, string][] = [
      [count(t.units), sayCount('session.units', t.units), 'units'],
      [count(t.tokens), sayCount('session.tokens', t.tokens), 'tokens'],
      [count(t.rows), sayCount('session.rows', t.rows), 'rows'],
      [duration(t.computeMs), say('session.compute'), 'compute'],
      [size(t.bytesDown), say('session.down'), 'down'],
      [size(t.bytesUp), say('session.up'), 'up'],
      [size(t.bytesKept), say('session.kept'), 'kept'],
    ]
    return html`
      <h2>${say('session.title')}</h2>
      <dl class="figures">
        ${figures.map(([value, word, name]) => html`<div><dt>${word}</dt><dd data-figure=${name}>${value}</dd></div>`)}
      </dl>
      <svg class="spark" viewBox="0 0 240 40" preserveAspectRatio="none" role="img" aria-label=${say('spark.label', { count: recent })}>
        <line x1="0" x2="240" y1="39.5" y2="39.5" />
        ${spark.map((n, i) => n > 0 ? svg`<rect x=${4 * i + 0.5} width="3" rx="1" y=${39 - (36 * n) / most} height=${(36 * n) / most} />` : nothing)}
      </svg>
      <p class="hint">${sayCount('spark.caption', recent)}.</p>
    ` // prettier-ignore
  }

  /** Of the key, not of the session: what it has earned, and how closely it is watched. */
  #standing(): TemplateResult {
    const { standing, publicKey } = this.picture
    const figures: [number, string, string][] = standing
      ? [
          [standing.accepted, sayCount('standing.accepted', standing.accepted), 'accepted'],
          [standing.checked, sayCount('standing.checked', standing.checked), 'checked'],
          [standing.pending, say('standing.pending'), 'pending'],
          [standing.vested, say('standing.vested'), 'vested'],
        ]
      : []
    return html`
      <h2>${say('standing.title')}</h2>
      ${standing ? html`<dl class="figures">${figures.map(([value, word, name]) => html`<div><dt>${word}</dt><dd data-figure=${name}>${count(value)}</dd></div>`)}</dl>` : nothing}
      <p class="hint">
        ${!standing ? say('standing.none') : standing.checkRate >= 1 ? say('standing.rate.all') : say('standing.rate.some', { rate: percent(standing.checkRate) })}
        ${say('standing.credit')}
      </p>
      ${publicKey ? html`<p class="hint">${say('standing.key', { key: `${publicKey.slice(0, 8)}…` })}</p>` : nothing}
    ` // prettier-ignore
  }

  #device(): TemplateResult {
    const { engine, models } = this.picture
    const speed = (m: Picture['models'][number]): string =>
      m.drawMs
        ? say('device.speed.generate', { rate: rate(1000 / m.drawMs) })
        : say('device.speed.rows', { rate: rate(1000 / (m.readMs || 1)) })
    return html`
      <h2>${say('device.title')}</h2>
      <p>
        ${
          engine
            ? say(engine.backend === 'webgpu' ? 'device.webgpu' : 'device.wasm', { adapter: engine.adapter })
            : say('state.checking')
        }
      </p>
      ${engine?.why ? html`<p class="hint">${say(`device.why.${engine.why}`, { wrong: engine.wrong ?? '' })}</p>` : nothing}
      <ul class="models">
        ${models.map(
          (m) =>
            html`<li>
              <span>${m.name} <small>${size(m.bytes)}</small></span
              ><span>${say(`device.model.${m.state}`, { speed: speed(m) })}</span>
            </li>`,
        )}
      </ul>
    `
  }

  #network(): TemplateResult {
    const { status } = this
    if (!status)
      return html`<h2>${say('network.title')}</h2>
        <p class="hint">${say('network.unknown')}</p>`
    const { volunteers: here, queued, running } = status
    const figures: [number | undefined, string][] = [
      [here, sayCount('network.volunteers', here ?? 0)],
      [running, say('network.running')],
      [queued, sayCount('network.queue', queued ?? 0)],
    ]
    return html`
      <h2>${say('network.title')}</h2>
      <dl class="figures">
        ${figures.map(([value, word]) =>
          value === undefined
            ? nothing
            : html`<div>
                <dt>${word}</dt>
                <dd>${count(value)}</dd>
              </div>`,
        )}
      </dl>
    `
  }

  #limits(): TemplateResult {
    const { rules } = this
    const used = this.picture.totals
    const choice = <K extends 'onBattery' | 'whileInUse' | 'engine'>(
      name: K, title: Word, help: Word, options: readonly (readonly [Rules[K], Word])[],
    ): TemplateResult => html`
      <fieldset>
        <legend>${say(title)}</legend>
        <div class="choices">
          ${options.map(
            ([value, word]) =>
              html`<label
                ><input
                  type="radio"
                  name=${name}
                  value=${value}
                  .checked=${rules[name] === value}
                  @change=${() => this.#setRules({ [name]: value })}
                /><span>${say(word)}</span></label
              >`,
          )}
        </div>
        <p class="hint">${say(help)}</p>
      </fieldset>
    ` // prettier-ignore
    const [from, to] = rules.hours ?? [0, 0]
    const hour = (
      value: number,
      word: Word,
      change: (hour: number) => [number, number],
    ): TemplateResult => html`
      <label
        >${say(word)}
        <select
          @change=${(event: Event) => {
            const [a, b] = change(Number((event.target as HTMLSelectElement).value))
            void this.#setRules({ hours: a === b ? null : [a, b] })
          }}
        >
          ${Array.from({ length: 24 }, (_, h) => html`<option value=${h} ?selected=${h === value}>${h}:00</option>`)}
        </select></label
      >
    `
    const bytes = (name: 'diskBytesMax' | 'dataBytesPerDay', title: Word, help: string): TemplateResult => html`
      <label>
        <h2>${say(title)}</h2>
        <select @change=${(event: Event) => this.#setRules({ [name]: Number((event.target as HTMLSelectElement).value) })}>
          ${[0.1, 0.5, 1, 2, 5, 20].map((gb) => html`<option value=${gb * 1e9} ?selected=${gb * 1e9 === rules[name]}>${size(gb * 1e9)}</option>`)}
        </select>
      </label>
      <p class="hint">${help}</p>
    ` // prettier-ignore
    return html`
      <div class="limits">
        ${choice('onBattery', 'limits.battery', 'limits.battery.help', [['pause', 'limits.battery.pause'], ['allow', 'limits.battery.allow']])}
        ${choice('whileInUse', 'limits.inuse', 'limits.inuse.help', [['allow', 'limits.inuse.allow'], ['light', 'limits.inuse.light'], ['pause', 'limits.inuse.pause']])}
        <fieldset>
          <legend>${say('limits.hours')}</legend>
          <div class="row">
            ${hour(from, 'limits.hours.from', (h) => [h, to])} ${hour(to, 'limits.hours.to', (h) => [from, h])}
          </div>
          <p class="hint">${say('limits.hours.help')}</p>
        </fieldset>
        <div>${bytes('diskBytesMax', 'limits.disk', say('limits.disk.help', { used: size(used.bytesKept) }))}</div>
        <div>${bytes('dataBytesPerDay', 'limits.data', say('limits.data.help', { used: size(used.bytesToday) }))}</div>
        ${choice('engine', 'limits.engine', 'limits.engine.help', [['auto', 'limits.engine.auto'], ['webgpu', 'limits.engine.webgpu'], ['wasm', 'limits.engine.wasm']])}
      </div>
    ` // prettier-ignore
  }
}

customElements.define('chorale-volunteer', VolunteerPage)
