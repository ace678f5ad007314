/** The same volunteer without a window: Node's own WebSocket, WASM or Dawn, models kept in a folder. */
import { join } from 'node:path'
import { dawn } from '../engine/backends/webgpu/dawn.ts'
import { Driver } from './driver.ts'
import type { DataMeter, DriverOptions } from './driver.ts'
import type { EngineChoice } from './engine.ts'
import { fileIdentity } from './keyfile.ts'
import type { Picture, Rules } from './picture.ts'
import { folderStore } from './weights/folder.ts'
import { Shelf } from './weights/shelf.ts'

export interface NodeVolunteerOptions {
  /** Folder for downloaded models. */
  folder: string
  /** Its key file; default `identity.pem` beside the models. */
  key?: string
  /** Share of the time the engine may work, default 1. */
  power?: number
  engine?: EngineChoice
  threads?: number
  /** Lies, to try a coordinator with: one of adversary.ts's strategies. */
  adversary?: string
  onPicture?: (picture: Picture) => void
  /** It ended by itself: refused, outdated, unsupported. */
  onEnd?: (picture: Picture) => void
}

export interface NodeVolunteer {
  picture(): Picture
  /** Gives everything back and lets go. */
  stop(): Promise<void>
}

const version = 'chorale node'

/** Throws KeyFileError, and RangeError for an adversary that there is not. @param url of the coordinator, http or https */
export async function startNodeVolunteer(url: string, options: NodeVolunteerOptions): Promise<NodeVolunteer> {
  const { engine = 'auto' } = options
  const rules: Rules = {
    power: options.power ?? 1,
    onBattery: 'allow',
    whileInUse: 'allow',
    onSaveData: 'allow',
    hours: null,
    diskBytesMax: Infinity,
    dataBytesPerDay: Infinity,
    engine,
  }
  const identity = await fileIdentity(options.key ?? join(options.folder, 'identity.pem'))
  const shelf = new Shelf(await folderStore(options.folder), { now: () => Date.now() })
  const adversary = options.adversary === undefined ? undefined : await adversaryOf(options.adversary)
  const driver = new Driver({
    adversary,
    base: new URL(url).origin,
    client: `${version}; ${process.platform} ${process.arch}; Node ${process.versions.node}`,
    identity: async () => identity,
    shelf,
    meter: uncounted(),
    rules,
    surroundings: { isHidden: false, isMobile: false },
    onPicture: (picture) => options.onPicture?.(picture),
    onEnd: () => options.onEnd?.(driver.picture()),
    engine: { threads: options.threads, memoryBytes: memoryBytes(), adapter: () => adapter(engine) },
  })
  driver.start()
  return { picture: () => driver.picture(), stop: () => driver.stop() }
}

/** Throws RangeError for a strategy that there is not. */
async function adversaryOf(name: string): Promise<DriverOptions['adversary']> {
  const { Adversary, planOf } = await import('./adversary.ts')
  const plan = planOf(name)
  return (leave) => new Adversary(plan, crypto.getRandomValues(new Uint32Array(1))[0]!, leave)
}

/** A real GPU, or the emulated one when a GPU was asked for; none where Dawn is not installed. */
async function adapter(choice: EngineChoice): Promise<GPUAdapter | undefined> {
  try {
    const found = await dawn()
    return found.software && choice !== 'webgpu' ? undefined : found.adapter
  } catch (error) {
    if (choice === 'webgpu') throw error
    return undefined
  }
}

const memoryBytes = (): number => Math.floor(process.getBuiltinModule('node:os').totalmem() / 4)

function uncounted(): DataMeter {
  let bytes = 0
  return { today: () => bytes, add: (more) => void (bytes += more) }
}
