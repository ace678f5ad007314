/** What the worker tells the page, several times a second: all a volunteer may want to know, and nothing the page must guess. */
import type { Standing } from '../protocol/index.ts'
import type { EngineChoice, EngineInfo } from './engine.ts'
import type { Rules as MachineRules, Surroundings as MachineSurroundings, ViewState } from './volunteer.ts'

/** What the person allows; `power` is Light 0.2, Medium 0.6 or Full 1. */
export interface Rules extends Omit<MachineRules, 'onMetered' | 'onSaveData'> {
  /** Local hours [from, to) in which it may work; null is always. */
  hours: readonly [number, number] | null
  diskBytesMax: number
  dataBytesPerDay: number
  /** Downloads although the browser saves data: the person said so. */
  onSaveData: 'pause' | 'allow'
  engine: EngineChoice
}

/** What the page alone can see of the world. Undefined: the browser does not say. */
export interface Surroundings extends Pick<
  MachineSurroundings,
  'isHidden' | 'isMobile' | 'onBattery' | 'saveData' | 'inUse' | 'pressure'
> {
  /** 0 … 1 */
  batteryLevel?: number
}

export interface ModelPicture {
  digest: string
  name: string
  task: 'generate' | 'embed' | 'classify'
  state: 'absent' | 'downloading' | 'compiling' | 'ready' | 'failed'
  bytes: number
  readMs?: number
  drawMs?: number
}

export interface UnitPicture {
  kind: 'generate' | 'embed' | 'classify'
  model: string
  /** Drawn so far. */
  tokens: number
  rows: number
}

export interface Picture {
  state: ViewState
  /** Of `paused` why; of `refused`, `convicted`, `failed` and `unsupported` a sentence, or a word for one. */
  reason?: string
  /** When the state began, epoch milliseconds. */
  since: number
  /** Of `reconnecting`, epoch milliseconds. */
  retryAt?: number
  /** Set when the browser had put the tab to sleep since the person last looked: when, epoch milliseconds. */
  sleptAt?: number
  operator: string
  /** Who it is to coordinators, once its key was opened. */
  publicKey?: string
  /** Of `convicted`: where the evidence is, from the coordinator's origin. */
  evidence?: string
  standing?: Standing
  engine?: EngineInfo
  download?: { loaded: number; total: number; etaMs?: number }
  models: readonly ModelPicture[]
  running: readonly UnitPicture[]
  duty: { limit: number; actual: number }
  /** Units answered in each of the last 60 seconds, oldest first. */
  spark: readonly number[]
  totals: {
    units: number
    tokens: number
    rows: number
    computeMs: number
    bytesDown: number
    bytesUp: number
    bytesKept: number
    bytesToday: number
  }
}

/** What the page may ask of the worker. */
export interface Controls {
  /**
   * @param isAgain a worker of this page was ended just before
   * @param adversary lies, to try a coordinator with: see adversary.ts
   */
  start(
    rules: Rules,
    surroundings: Surroundings,
    isAgain: boolean,
    listener: (picture: Picture) => void,
    adversary?: string,
  ): Promise<void>
  setRules(rules: Rules): Promise<void>
  setSurroundings(surroundings: Surroundings): Promise<void>
  /** @param finish what it holds, before pausing */
  pause(finish: boolean): Promise<void>
  resume(): Promise<void>
  retryNow(): Promise<void>
  /** Takes over from the tab that is helping. */
  moveHere(): Promise<void>
  /** The browser is about to freeze the tab: everything is given back. */
  freeze(): Promise<void>
  wake(): Promise<void>
  /** The person has read that the tab slept. */
  seen(): Promise<void>
  /** Gives everything back and ends the connection. */
  stop(): Promise<void>
  /** Also removes every file kept. */
  clear(): Promise<void>
}
