/** State → what /v1/status and the dashboard show. A copy: nothing in it changes afterwards. */
import { expectedWaitMs } from './jobs.ts'
import { readyUnits } from './planner.ts'
import { hasCapacity } from './classes.ts'
import type { State } from './state.ts'
import { checkRate, isOnProbation } from './trust.ts'

/** Volunteers listed one by one at most; the counts are of all. */
const LISTED = 200

export type View = ReturnType<typeof view>

/** @param now for how long things have lasted; default the time of the last event */
export function view(s: State, now = s.now) {
  const volunteers = [...s.volunteers.values()]
  let { connectedMs, busyMs } = s.totals
  for (const v of volunteers) {
    connectedMs += now - v.joinedAt
    busyMs += v.busyMs + (v.held.length ? now - v.busySince : 0)
  }
  return {
    trust: {
      /** Checks made, answers found wrong, keys closed for it. */
      checks: s.totals.checks,
      /** Of texts that were still being written. */
      chunks: s.totals.chunks,
      wrong: s.totals.wrong,
      convicted: s.totals.convicted,
      /** Compute spent on checking ÷ on answers, both in standard units; of a text, checking is the part that reading it takes of writing it. */
      extraCompute: s.totals.macs ? s.totals.checkMacs / s.totals.macs : 0,
      /** Of those connected: whose word is the truth, and whose every answer is still checked. */
      trusted: volunteers.filter((v) => v.reputation.isTrusted).length,
      newcomers: volunteers.filter((v) => isOnProbation(s, v.reputation)).length,
      /** Answers that may still be found wrong. */
      provisional: s.openClaims,
      policy: s.policy,
    },
    isDraining: s.drain !== undefined,
    volunteers: {
      connected: volunteers.length,
      open: volunteers.filter((v) => v.state === 'open' && !v.isHouse).length,
      busy: volunteers.filter((v) => v.held.length > 0).length,
      hidden: volunteers.filter((v) => v.isHidden).length,
      /** Seconds with work in hand ÷ seconds connected, of everybody who ever was. */
      busyShare: connectedMs ? busyMs / connectedMs : 0,
      list: volunteers.slice(0, LISTED).map((v) => ({
        id: publicId(v.id),
        isHouse: v.isHouse,
        client: v.client,
        backend: v.backend,
        adapter: v.adapter,
        state: v.state,
        reason: v.reason ?? null,
        isHidden: v.isHidden,
        isSuspect: v.isSuspect,
        slots: v.slots,
        held: v.held.length,
        units: v.units,
        isTrusted: v.reputation.isTrusted,
        accepted: v.reputation.accepted,
        checked: v.reputation.checked,
        checkRate: checkRate(s, v.reputation),
        computeMs: Math.round(v.computeMs),
        rttMs: Math.round(v.rttMs.mean),
        connectedMs: now - v.joinedAt,
        models: v.ready.map((c) => c.model.name),
      })),
    },
    models: modelsView(s),
    jobs: { open: s.jobs.size, requesters: s.jobsOf.size, tokensQueued: s.tokensQueued },
    totals: { ...s.totals, connectedMs, busyMs },
  }
}

/** For GET /v1/models too: costs nothing per volunteer that is not loading. */
export function modelsView(s: State) {
  return [...s.classes.values()].map((c) => {
    const etas = [...c.loading].map((v) => v.models.get(c.model.digest)?.etaMs ?? Infinity)
    const eta = Math.min(...etas)
    return {
      digest: c.model.digest,
      name: c.model.name,
      task: c.model.task,
      bytes: c.model.bytes,
      state: hasCapacity(c) ? ('ready' as const) : c.loading.size ? ('loading' as const) : ('down' as const),
      volunteers: c.capable.size,
      houses: c.houses.size,
      loading: c.loading.size,
      idle: c.idle.size,
      etaMs: eta === Infinity ? null : eta,
      jobs: c.openJobs,
      readyUnits: Math.ceil(readyUnits(c)),
      expectedWaitMs: Math.round(expectedWaitMs(c)),
      /** Milliseconds per token read, over everybody. */
      serviceMs: c.service.mean,
    }
  })
}

/** A volunteer's whole id proves being it, so only its beginning is shown. */
export const publicId = (id: string): string => id.slice(0, 8)
