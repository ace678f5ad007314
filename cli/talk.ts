/** Results on stdout; everything said along the way on stderr. */
import type { ResolveProgress } from '../tools/models.ts'

export interface TalkOptions {
  json?: boolean
  quiet?: boolean
  verbose?: boolean
}

const verbs: Record<ResolveProgress['stage'], string> = {
  downloading: 'Downloading', calibrating: 'Calibrating', quantising: 'Quantising', measuring: 'Measuring',
} // prettier-ignore

export class Talk {
  readonly json: boolean
  readonly quiet: boolean
  #line = ''
  #stage = ''

  constructor(options: TalkOptions) {
    this.json = options.json ?? false
    this.quiet = options.quiet ?? false
  }

  /** A result. Waits where the reader is slower than we are. */
  async out(text: string | Uint8Array): Promise<void> {
    this.endLine()
    if (!process.stdout.write(text)) await new Promise((resolve) => process.stdout.once('drain', resolve))
  }

  /** A line for people. */
  say(line: string): void {
    if (this.quiet) return
    this.endLine()
    process.stderr.write(`${line}\n`)
  }

  /** One rewritten line on a terminal; elsewhere a line when a stage begins. */
  progress = (p: ResolveProgress): void => {
    if (this.quiet) return
    const [done, of] = p.stage === 'downloading' ? [p.loaded, p.total] : [p.done, p.of]
    const verb = p.stage === 'downloading' ? `Downloading ${p.file}` : verbs[p.stage]
    const figures = p.stage === 'downloading' ? `${bytes(done)} of ${bytes(of)}` : ''
    this.bar(verb, done, of, figures)
  }

  /** One rewritten line on a terminal; elsewhere a line when `verb` changes. */
  bar(verb: string, done: number, of: number, figures: string): void {
    if (this.quiet) return
    if (!process.stderr.isTTY) {
      if (this.#stage !== verb) process.stderr.write(`${verb} …\n`)
      this.#stage = verb
      return
    }
    const share = of > 0 ? Math.min(1, done / of) : 0
    const bar = '█'.repeat(Math.round(20 * share)).padEnd(20, '░')
    const line = `${verb.padEnd(12)} ▕${bar}▏ ${Math.round(100 * share)} %${figures && `  ${figures}`}`
    if (line === this.#line) return
    process.stderr.write(`\r\u001b[2K${line}`)
    this.#line = line
  }

  /** Takes the progress line away. */
  endLine(): void {
    if (this.#line) process.stderr.write('\r\u001b[2K')
    this.#line = ''
  }
}

export function bytes(n: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB']
  let unit = 0
  while (n >= 1000 && unit < units.length - 1) {
    n /= 1000
    unit++
  }
  return `${unit === 0 || n >= 100 ? Math.round(n) : n.toFixed(1)} ${units[unit]}`
}

/** Rows under their heads, columns as wide as they need. */
export function table(head: string[], rows: string[][]): string {
  const widths = head.map((h, i) => Math.max(h.length, ...rows.map((r) => r[i]!.length)))
  const line = (cells: string[]): string =>
    `${cells
      .map((c, i) => c.padEnd(widths[i]!))
      .join('  ')
      .trimEnd()}\n`
  return [head, ...rows].map(line).join('')
}
