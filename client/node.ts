/** The same volunteer without a window: Node's own WebSocket, WASM or Dawn, models kept in a folder. */
import { join } from 'node:path'
import { dawn } from '../engine/backends/webgpu/dawn.ts'
import { Driver } from './driver.ts'
import type { DataMeter } from './driver.ts'
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

/** Throws KeyFileError. @param url of the coordinator, http or https */
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
  const driver = new Driver({
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
