/** Jobs as the API sees them: submit one, be told what comes of it. */
import { randomUUID } from 'node:crypto'
import type { JobId } from '../protocol/index.ts'
import type { Effect, Event, JobError, JobSpec, JobSummary } from './core/events.ts'

type Of<Type extends Effect['type']> = Omit<Extract<Effect, { type: Type }>, 'type' | 'job'>

export interface JobReport extends JobSummary {
  /** Under which it can be checked: GET /v1/receipts/{receipt}. */
  receipt: string | null
  /** `provisional` while a part of the answer may still be found wrong: the receipt says when it no longer is. */
  status: 'provisional' | 'final'
}

/** At most one of `onRefused`, or `onAccepted` and then one of `onDone` and `onFailed`; nothing after that, or after cancel(). */
export interface JobListener {
  onAccepted?: (expectedWaitMs: number) => void
  onRefused: (error: JobError) => void
  onTokens?: (delivery: Of<'deliver-tokens'>) => void
  /** The beginning of a choice was checked while it is being written. */
  onVerified?: (verified: Of<'verify-tokens'>) => void
  onChoice?: (choice: Of<'finish-choice'>) => void
  onRows?: (delivery: Of<'deliver-rows'>) => void
  /** What was delivered of a choice or of rows was wrong: this takes its place. */
  onCorrected?: (correction: Of<'correct-unit'>) => void
  onDone: (report: JobReport) => void
  onFailed: (error: JobError, summary: JobSummary) => void
}

type WithoutId<Spec> = Spec extends unknown ? Omit<Spec, 'id'> : never
export type JobRequest = WithoutId<JobSpec>

export interface JobHandle {
  cancel(reason: string): void
  /** A stop string was seen: no more tokens of this choice. */
  stopChoice(choice: number): void
}

export class Jobs {
  readonly #listeners = new Map<JobId, JobListener>()
  readonly #submit: (event: Event) => void

  constructor(submit: (event: Event) => void) {
    this.#submit = submit
  }

  /** Jobs that are not over. */
  get size(): number {
    return this.#listeners.size
  }

  submit(request: JobRequest, listener: JobListener): JobHandle {
    const id = randomUUID() as JobId
    this.#listeners.set(id, listener)
    this.#submit({ type: 'job-submitted', job: { ...request, id } })
    return {
      cancel: (reason) => {
        if (this.#listeners.delete(id)) this.#submit({ type: 'job-cancelled', job: id, reason })
      },
      stopChoice: (choice) => {
        if (this.#listeners.has(id)) this.#submit({ type: 'choice-stopped', job: id, choice })
      },
    }
  }

  /** Runs an effect that a job's caller is told of; does nothing for others. @param kept of the job, when it is done */
  perform(effect: Effect, kept: Pick<JobReport, 'receipt' | 'status'> | null): void {
    if (!('job' in effect) || effect.job === undefined) return
    const listener = this.#listeners.get(effect.job)
    if (!listener) return
    switch (effect.type) {
      case 'accept-job':
        listener.onAccepted?.(effect.expectedWaitMs)
        break
      case 'refuse-job':
        this.#listeners.delete(effect.job)
        listener.onRefused(effect.error)
        break
      case 'deliver-tokens':
        listener.onTokens?.(effect)
        break
      case 'verify-tokens':
        listener.onVerified?.(effect)
        break
      case 'finish-choice':
        listener.onChoice?.(effect)
        break
      case 'deliver-rows':
        listener.onRows?.(effect)
        break
      case 'correct-unit':
        listener.onCorrected?.(effect)
        break
      case 'finish-job':
        this.#listeners.delete(effect.job)
        listener.onDone({ ...effect.summary, ...(kept ?? { receipt: null, status: 'provisional' }) })
        break
      case 'fail-job':
        this.#listeners.delete(effect.job)
        listener.onFailed(effect.error, effect.summary)
        break
      default:
    }
  }
}
