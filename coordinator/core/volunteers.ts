/** Volunteers come, change and go; whatever they held goes back at once. */
import { CLOSE } from '../../protocol/errors.ts'
import { PROTOCOL_VERSION } from '../../protocol/messages.ts'
import type { AssignmentId, ModelOffer, ModelStatus } from '../../protocol/nouns.ts'
import { Estimate } from './estimate.ts'
import type { Event } from './events.ts'
import { drop, hold, takeReady } from './leases.ts'
import { postVesting } from './ledger.ts'
import { LIMITS, SETTINGS } from './limits.ts'
import { readyUnits } from './planner.ts'
import { place, sortModels } from './classes.ts'
import { added } from './lists.ts'
import type { ModelClass, State, Volunteer } from './state.ts'
import { away, reputationOf, tellStanding } from './trust.ts'

const HOUSE = 'house'

export function join(s: State, event: Extract<Event, { type: 'volunteer-joined' }>): void {
  const { volunteer: id, hello } = event
  const isHouse = event.isHouse ?? false
  const identity = hello.publicKey ?? (isHouse && !s.identities.has(HOUSE) ? HOUSE : id)
  if (s.records.get(identity)?.isConvicted) {
    const reason = 'An answer under this key was proven wrong.'
    return s.emit({ type: 'close', volunteer: id, code: CLOSE.convicted, reason })
  }
  // The old connection is dead or dying, even if its socket does not know yet.
  const before = s.identities.get(identity)
  if (before) dismiss(s, before, CLOSE.replaced, 'You connected again.')
  const reputation = reputationOf(s, identity, event.network, isHouse || (event.isTrusted ?? false))
  const { capability } = hello
  const rttMs = new Estimate(100)
  if (event.rttMs !== undefined) rttMs.observe(event.rttMs)
  const v: Volunteer = {
    id,
    identity,
    reputation,
    isHouse,
    client: hello.client,
    backend: capability.backend,
    adapter: capability.adapter,
    joinedAt: s.now,
    slots: hello.slots,
    concurrency: hello.concurrency,
    state: hello.paused ? 'paused' : 'open',
    reason: hello.paused,
    isHidden: hello.isHidden,
    isCongested: false,
    isGone: false,
    models: new Map(),
    ready: [],
    standings: [],
    places: [],
    serviceMs: new Estimate(0),
    rttMs,
    held: [],
    busyUntil: s.now,
    isSuspect: false,
    restUntil: 0,
    rests: 0,
    lastHeardAt: s.now,
    pingNonce: 0,
    pingSentAt: undefined,
    strikes: 0,
    units: 0,
    computeMs: 0,
    busyMs: 0,
    busySince: s.now,
  }
  s.volunteers.set(id, v)
  s.identities.set(identity, v)
  reputation.volunteer = v
  reputation.network = event.network
  reputation.isUntold = true
  setModels(v, capability.models)
  const keep = adopt(s, v, hello.held)
  s.emit({
    type: 'send',
    volunteer: id,
    message: {
      type: 'welcome',
      version: Math.min(PROTOCOL_VERSION, hello.version),
      volunteer: id,
      settings: SETTINGS,
      models: offers(s),
      keep,
      operator: s.operator,
    },
  })
  if (s.drain) s.emit({ type: 'send', volunteer: id, message: { type: 'drain', retryMs: s.drain.retryMs } })
  sortModels(s, v)
  ping(s, v)
  s.timers.push(s.now + SETTINGS.pingMs, { kind: 'volunteer', volunteer: v })
}

/** Takes up what a volunteer that came back still holds, where that is still open and not in two hands already. */
function adopt(s: State, v: Volunteer, held: readonly AssignmentId[]): AssignmentId[] {
  const keep: AssignmentId[] = []
  for (const id of held) {
    const lease = s.leases.get(id)
    if (!lease || lease.identity !== v.identity || lease.state === 'live' || v.held.length >= v.slots)
      continue
    const { unit } = lease
    if (unit.copies.length >= LIMITS.copies || unit.excluded.includes(v.identity)) continue
    if (unit.state === 'ready') takeReady(unit)
    lease.volunteer = v
    lease.state = 'live'
    lease.startedAt = undefined
    lease.isYellow = false
    unit.copies = added(unit.copies, lease)
    hold(s, lease)
    keep.push(id)
  }
  return keep
}

/** Every unit it held is ready again, or lives on in another copy, before anything else happens. */
export function leave(s: State, v: Volunteer): void {
  if (v.isGone) return
  v.isGone = true
  s.volunteers.delete(v.id)
  s.identities.delete(v.identity)
  // Backwards: the later ones were not begun, and what is in front is not started in their place.
  for (const lease of v.held.toReversed()) {
    lease.unit.job.redispatched++
    s.totals.redispatched++
    drop(s, lease)
  }
  sortModels(s, v)
  // What is final already waits for no more to come together.
  postVesting(s, v.reputation)
  away(s, v.reputation)
  s.totals.connectedMs += s.now - v.joinedAt
  s.totals.busyMs += v.busyMs
}

/** The core ends a connection. */
export function dismiss(s: State, v: Volunteer, code: number, reason: string): void {
  leave(s, v)
  s.emit({ type: 'close', volunteer: v.id, code, reason })
}

/** Something a correct volunteer would not send. A few are forgiven: answers may cross cancels. */
export function strike(s: State, v: Volunteer, code: string, message: string): void {
  if (v.isGone) return
  s.emit({ type: 'send', volunteer: v.id, message: { type: 'error', code, message: message.slice(0, 500) } })
  if (++v.strikes < LIMITS.strikes) return
  s.emit({
    type: 'note',
    level: 'warn',
    volunteer: v.id,
    text: `sent away after ${v.strikes} strikes, the last: ${message}`,
  })
  dismiss(s, v, CLOSE.refused, `Too many unusable answers, the last: ${code}.`)
}

export function setModels(v: Volunteer, models: readonly ModelStatus[]): void {
  for (const status of models) v.models.set(status.digest, status)
  // Only models on offer are of interest; a volunteer can't fill memory with others' names.
  if (v.models.size > 64)
    for (const digest of v.models.keys()) if (v.models.size > 64) v.models.delete(digest)
}

export function heard(s: State, v: Volunteer): void {
  v.lastHeardAt = s.now
}

export function onPong(s: State, v: Volunteer, nonce: number): void {
  if (v.pingSentAt === undefined || nonce !== v.pingNonce) return
  v.rttMs.observe(s.now - v.pingSentAt)
  v.pingSentAt = undefined
  place(s, v)
}

/** After a sleep of our own, silence and lateness are counted from now on. */
export function forgive(s: State, gap: number): void {
  for (const v of s.volunteers.values()) {
    v.lastHeardAt = Math.max(v.lastHeardAt, s.now - SETTINGS.pingMs)
    v.pingSentAt = undefined
    for (const { watch } of v.held)
      if (watch) {
        watch.since += gap
        watch.overdueAt += gap
      }
  }
}

/** Its timer came: all is well, ask, or let go. */
export function checkVolunteer(s: State, v: Volunteer): void {
  if (v.isGone) return
  const quietAt = v.lastHeardAt + SETTINGS.pingMs
  const deadAt = v.lastHeardAt + SETTINGS.silentMs
  if (s.now >= deadAt) return dismiss(s, v, CLOSE.silent, `Nothing heard for ${SETTINGS.silentMs / 1000} s.`)
  tellStanding(s, v)
  const isQuiet = s.now >= quietAt
  if (isQuiet) ping(s, v)
  const next = isQuiet ? Math.min(s.now + SETTINGS.pingMs, deadAt) : quietAt
  s.timers.push(next, { kind: 'volunteer', volunteer: v })
}

function ping(s: State, v: Volunteer): void {
  v.pingNonce = (v.pingNonce + 1) >>> 0
  v.pingSentAt = s.now
  s.emit({ type: 'send', volunteer: v.id, message: { type: 'ping', nonce: v.pingNonce } })
}

export const offers = (s: State): ModelOffer[] => [...s.classes.values()].map(offerOf)

function offerOf(c: ModelClass): ModelOffer {
  const { digest, name, task, path, bytes, context } = c.model
  // Everything served is wanted; what has a queue that its volunteers can't empty, more.
  const demand = Math.min(1000, 1 + Math.round(readyUnits(c) / (1 + c.capable.size)))
  return { digest, name, task, path, bytes, context, demand }
}
