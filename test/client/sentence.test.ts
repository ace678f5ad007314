/** Each state has one sentence, from the file of sentences, and something to do about it where something can be done. */
import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { sentenceOf, titleOf } from '../../client/page/sentence.ts'
import type { Picture } from '../../client/picture.ts'
import type { ViewState } from '../../client/volunteer.ts'
import { say, sayCount, size } from '../../client/words.ts'

const states: ViewState[] = [
  'consent', 'checking', 'connecting', 'downloading', 'compiling', 'working', 'standby', 'paused', 'finishing', 'throttled',
  'hidden', 'frozen', 'second-tab', 'reconnecting', 'device-lost', 'unsupported', 'outdated', 'refused', 'convicted', 'stopped', 'failed',
] // prettier-ignore
const reasons = [
  'user',
  'battery',
  'pressure',
  'in-use',
  'hours',
  'data-cap',
  'save-data',
  'metered',
  'hidden',
]

const picture = (more: Partial<Picture>): Picture => ({
  state: 'standby', since: 0, operator: 'us', models: [], running: [], duty: { limit: 0.6, actual: 0.42 }, spark: [],
  totals: { units: 0, tokens: 0, rows: 0, computeMs: 0, bytesDown: 0, bytesUp: 0, bytesKept: 0, bytesToday: 0 },
  download: { loaded: 34e6, total: 91e6, etaMs: 20_000 }, retryAt: 9000, reason: 'because', ...more,
}) // prettier-ignore
const all = [...states.filter((s) => s !== 'paused').map((state) => picture({ state })), ...reasons.map((reason) => picture({ state: 'paused', reason }))] // prettier-ignore

test('every state says something of its own, with no hole left open', () => {
  const said = all.map((p) => sentenceOf(p, 1000).sentence)
  expect(said.filter((sentence) => !sentence || /[{}]|undefined|NaN/.test(sentence))).toEqual([])
  expect(new Set(said).size).toBe(said.length)
  expect(
    all.map((p) => titleOf(p)).filter((title) => !title.includes('Chorale') || /[{}]/.test(title)),
  ).toEqual([])
})

test('the sentences are those agreed on, numbers with their units', () => {
  const of = (more: Partial<Picture>): string => sentenceOf(picture(more), 1000).sentence
  expect(of({ state: 'downloading' })).toBe(
    'Getting the model: 34 MB of 91 MB, about 20 sec. Closing the tab keeps what you have.',
  )
  expect(of({ state: 'reconnecting' })).toBe(
    'Lost the connection. Trying again in 8 sec. Work in hand is safe.',
  )
  expect(of({ state: 'paused', reason: 'battery' })).toBe('Paused: running on battery.')
  expect(of({ state: 'throttled' })).toContain('60 %')
  expect(of({ state: 'second-tab' })).toBe('Another tab of yours is already helping.')
  expect(titleOf(picture({ state: 'working' }))).toBe('● 42 % Chorale')
})

test('what stops can be started: every state but those that pass has an action', () => {
  const stuck = all
    .filter((p) => sentenceOf(p, 1000).actions.length === 0)
    .map((p) => `${p.state} ${p.reason}`)
  // Nothing here can change the browser, the day's data or what was proven, or bring the person back.
  expect(stuck).toEqual(['unsupported because', 'convicted because', 'paused pressure', 'paused in-use', 'paused data-cap', 'paused metered', 'paused hidden']) // prettier-ignore
})

test('what is announced changes with the state, not with the ticks', () => {
  const key = (loaded: number): string => sentenceOf(picture({ state: 'downloading', download: { loaded, total: 91e6 } }), 0).key // prettier-ignore
  expect(key(1e6)).toBe(key(2e6))
  expect(sentenceOf(picture({ state: 'paused', reason: 'user' }), 0).key).not.toBe(sentenceOf(picture({ state: 'paused', reason: 'battery' }), 0).key) // prettier-ignore
})

test('one is one and two are two; sizes are read, not counted', () => {
  expect(sayCount('chat.volunteers', 1)).toBe('1 volunteer here')
  expect(sayCount('chat.volunteers', 2)).toBe('2 volunteers here')
  expect([0, 999, 5_900_000, 91e6, 2e9].map(size)).toEqual(['0 B', '999 B', '5.9 MB', '91 MB', '2 GB'])
  expect(say('consent.power', { power: '60 %' })).toContain('60 %')
})

test('no sentence lies unused in the file, and the pages say nothing that is not in it', () => {
  const read = (path: string): string =>
    readFileSync(new URL(`../../client/${path}`, import.meta.url), 'utf8')
  const words = Object.keys(JSON.parse(read('en.json')) as object)
  const code =
    ['volunteer', 'chat', 'dashboard', 'frame', 'sentence']
      .map((page) => read(`page/${page}.ts`))
      .join('\n') + read('words.ts')
  const prefixes = [...code.matchAll(/[`']([\w.-]+\.)\$\{/g)].map(([, prefix]) => prefix!)
  const unused = words.filter((word) => {
    const stem = word.replace(/\.(one|other)$/, '')
    return (
      !code.includes(`'${stem}'`) &&
      !code.includes(`\`${stem}\``) &&
      !prefixes.some((prefix) => word.startsWith(prefix))
    )
  })
  expect(unused).toEqual([])
})
