/** What is the same on every page. */
import { html, nothing } from 'lit'
import type { TemplateResult } from 'lit'
import { say } from '../words.ts'

const pages = [
  ['/', 'nav.help'],
  ['/chat', 'nav.chat'],
  ['/dashboard', 'nav.dashboard'],
] as const

export const pageHead = (at: string): TemplateResult => html`
  <header>
    <a class="brand" href="/">
      <svg viewBox="0 0 32 32" aria-hidden="true">
        <rect width="32" height="32" rx="8" fill="var(--green)" />
        <path
          d="M8 20v-6M13 24V9M18 22V12M23 19v-5"
          stroke="var(--green-ink)"
          stroke-width="2.6"
          stroke-linecap="round"
        />
      </svg>
      ${say('name')}
    </a>
    <span class="tagline">${say('tagline')}</span>
    <nav>
      ${pages.map(
        ([path, word]) =>
          html`<a href=${path} aria-current=${path === at ? 'page' : nothing}>${say(word)}</a>`,
      )}
    </nav>
  </header>
`

export const pageFoot = (): TemplateResult =>
  html`<footer><a href="/v1/status">${say('link.status')}</a></footer>`
