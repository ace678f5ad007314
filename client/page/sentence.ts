/** From a picture to what the page says: state, actions, tab title. Pure, so that each sentence has a test. */
import type { Picture } from '../picture.ts'
import { clockTime, duration, hasWord, percent, say, size } from '../words.ts'

export type Action =
  | 'start'
  | 'pause'
  | 'finish'
  | 'resume'
  | 'battery'
  | 'save-data'
  | 'hours'
  | 'now'
  | 'move'
  | 'reload'
  | 'again'
// prettier-ignore

export interface Said {
  sentence: string
  /** Changes when the state does, not with every tick: what is announced to those who listen instead of look. */
  key: string
  actions: readonly Action[]
  /** What the big button does. */
  main: Action | undefined
}

/** @param now epoch milliseconds */
export function sentenceOf(p: Picture, now: number): Said {
  const key = `${p.state} ${p.reason ?? ''} ${p.running[0]?.kind ?? ''}`
  const said = (sentence: string, main?: Action, ...more: Action[]): Said => ({ sentence, key, main, actions: [...(main ? [main] : []), ...more] }) // prettier-ignore
  switch (p.state) {
    case 'consent':
      return said(say('state.consent'), 'start')
    case 'checking':
    case 'connecting':
    case 'device-lost':
      return said(say(`state.${p.state}`), 'pause')
    case 'downloading': {
      const { loaded, total, etaMs } = p.download ?? { loaded: 0, total: 0 }
      if (etaMs === undefined) return said(say('state.downloading.start', { total: size(total) }), 'pause')
      return said(
        say('state.downloading', {
          loaded: size(loaded),
          total: size(total),
          eta: duration(Math.max(1000, etaMs)),
        }),
        'pause',
      )
    }
    case 'compiling':
      return said(say(p.engine?.backend === 'webgpu' ? 'state.compiling.webgpu' : 'state.compiling.wasm'), 'pause') // prettier-ignore
    case 'working':
      return said(say(`state.working.${p.running[0]?.kind ?? 'generate'}`), 'pause', 'finish')
    case 'throttled':
      return said(say('state.throttled', { power: percent(p.duty.limit) }), 'pause')
    case 'hidden':
      return said(say('state.hidden'), 'pause')
    case 'frozen':
      return said(say('state.frozen', { time: clockTime(p.since) }), 'resume')
    case 'standby':
      return said(say('state.standby'), 'pause')
    case 'finishing':
      return said(say('state.finishing'), 'pause')
    case 'paused': {
      const word = `state.paused.${p.reason}`
      const remedies: Partial<Record<string, Action>> = { battery: 'battery', 'save-data': 'save-data', hours: 'hours', user: 'resume' } // prettier-ignore
      return said(hasWord(word) ? say(word) : say('state.paused.user'), remedies[p.reason ?? 'user'])
    }
    case 'second-tab':
      return said(say('state.second-tab'), 'move')
    case 'reconnecting': {
      const leftMs = (p.retryAt ?? now) - now
      return leftMs > 0
        ? said(say('state.reconnecting', { eta: duration(Math.max(1000, leftMs)) }), 'pause', 'now')
        : said(say('state.reconnecting.now'), 'pause')
    }
    case 'unsupported': {
      const [reason, detail = ''] = (p.reason ?? '').split(/: (.*)/s)
      const word = `state.unsupported.${reason}`
      return said(hasWord(word) ? say(word, { detail }) : say('state.unsupported'))
    }
    case 'convicted':
      // Nothing to press: no second try changes what was proven, and a new key is not a button's width away.
      return said(say('state.convicted'))
    case 'outdated':
      return said(say('state.outdated'), 'reload')
    case 'refused':
      return said(say('state.refused', { reason: p.reason ?? '' }), 'again')
    case 'failed':
      return said(say('state.failed', { reason: p.reason ?? '' }), 'again')
    case 'stopped':
      return said(say('state.stopped'), 'again')
  }
}

export function titleOf(p: Picture): string {
  switch (p.state) {
    case 'consent':
      return say('title.consent')
    case 'working':
    case 'throttled':
    case 'hidden':
    case 'finishing':
      return say('title.working', { duty: percent(p.duty.actual) })
    case 'standby':
      return say('title.idle')
    case 'paused':
    case 'frozen':
    case 'stopped':
    case 'second-tab':
      return say('title.paused')
    case 'checking':
    case 'connecting':
    case 'downloading':
    case 'compiling':
      return say('title.busy')
    default:
      return say('title.trouble')
  }
}
