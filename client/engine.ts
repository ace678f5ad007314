/**
 * The engine as a volunteer's machine gives it: what it can do (asked only after consent), models got and opened, units
 * computed, a lost device replaced. The same in a tab's worker and in Node; only where bytes are kept differs.
 */
import { openBackend } from '../engine/index.ts'
import type { Backend, BackendName, Remember } from '../engine/index.ts'
import type { Pack } from '../engine/index.ts'
import type { KitFailed } from '../engine/kit/open.ts'
import { failureOf, UnitRunner } from '../engine/units.ts'
import type { Measured, RunOptions, Unit, UnitResult } from '../engine/units.ts'
import type { ModelOffer } from '../protocol/index.ts'
import { download, openRemotePack } from './weights/source.ts'
import type { Shelf } from './weights/shelf.ts'

export type EngineChoice = 'auto' | 'webgpu' | 'wasm'

/** What computes here: shown to the volunteer, and the greater part of the capability sent. */
export interface EngineInfo {
  backend: BackendName
  /** Adapter and driver, or WebAssembly and its threads. */
  adapter: string
  /** True for a GPU emulated on the CPU. */
  software: boolean
  threads: number
  /** What models may take, as far as the machine lets on. */
  memoryBytes: number
  /** Generate units side by side. */
  concurrency: number
  /** Why not the GPU, when there was one to consider. */
  why?: 'no-adapter' | 'gpu-is-emulated' | 'gpu-is-slower' | 'gpu-is-wrong' | 'gpu-was-lost' | 'chosen'
  /** Of `gpu-is-wrong`: what it computed wrongly. */
  wrong?: string
}

export interface EngineOptions {
  choice: EngineChoice
  shelf: Shelf
  /** Where models come from: the coordinator's origin. */
  base: string
  /** Threads of WASM. Default half of the cores, so that the machine stays its owner's. */
  threads?: number
  memoryBytes?: number
  /** Opens the GPU; default navigator.gpu. Node gives Dawn's adapter. */
  adapter?: () => Promise<GPUAdapter | undefined>
  /** Keeps what was found fastest for this GPU. */
  remember?: Remember
  /** For adversary.ts alone: what is read in place of a model that was downloaded. */
  tamper?: (pack: Pack) => Pack
  /** Awaited after each burst of work: the power limit. */
  pace?: (busyMs: number) => Promise<void> | void
  onTraffic?: (bytes: number) => void
  /** The device in use has gone, between two units or in one: all that ran on it is void until open() is called again. */
  onLost?: (error: Error) => void
}

export interface LoadOptions {
  signal?: AbortSignal
  /** Awaited before each request for bytes: a paused volunteer downloads nothing. */
  gate?: () => Promise<void> | undefined
  onProgress?: (progress: { stage: 'downloading' | 'compiling'; loaded: number; total: number }) => void
}

/** A loaded model's place and speed here. */
export interface Loaded extends Measured {
  context: number
  bytes: number
}

const GiB = 2 ** 30
const contextMax = 4096
/** Beyond this a GPU is not raced against the CPU: bandwidth decides, and loading twice is rude. */
const racedBytesMax = 300e6

/** Neither a GPU nor WebAssembly with SIMD, or one that computes wrongly: then the message begins with `wasm-is-wrong: `. */
export class Unsupported extends Error {
  override name = 'Unsupported'
}

/** A GPU that is there and not used. */
class Passed extends Error {
  readonly why: EngineInfo['why']
  constructor(why: EngineInfo['why'], detail = '') {
    super(detail)
    this.why = why
  }
}

/** What a device computed wrongly, if that is what the error is about. */
function wronglyOf(error: unknown): string | undefined {
  const { name, message } = error as Error
  if (name === 'KitFailed') return (error as KitFailed).failure.name
  return name === 'DeviceFault' ? message : undefined
}

export class Engine {
  readonly #options: EngineOptions
  #backend: Backend | undefined
  #runner: UnitRunner | undefined
  #info: EngineInfo | undefined
  readonly #packs = new Map<string, Pack>()
  readonly #contexts = new Map<string, number>()
  #raced = false
  #isClosed = false

  constructor(options: EngineOptions) {
    this.#options = options
  }

  get info(): EngineInfo {
    if (!this.#info) throw new Error('the engine is not open')
    return this.#info
  }

  /** Looks at the machine and opens what will compute. Throws Unsupported. @param avoidGpu after it was lost twice */
  async open(avoidGpu = false): Promise<EngineInfo> {
    await this.#shut()
    let why: EngineInfo['why'] = avoidGpu ? 'gpu-was-lost' : 'chosen'
    let wrong: string | undefined
    if (this.#options.choice !== 'wasm' && !avoidGpu) {
      const gpu = await this.#openGpu()
      if (!(gpu instanceof Passed)) return this.#use(gpu)
      why = gpu.why
      wrong = gpu.message || undefined
    }
    try {
      return this.#use(await this.#openWasm(), why, wrong)
    } catch (cause) {
      const wrongly = wronglyOf(cause)
      const what = wrongly ? `wasm-is-wrong: ${wrongly}` : `neither WebGPU nor WebAssembly SIMD here: ${(cause as Error).message}` // prettier-ignore
      throw new Unsupported(what, { cause })
    }
  }

  /**
   * Gets a model, opens and times it. Throws what the network, the pack or the device throws; with the first model a GPU is
   * raced against the CPU, and `info` says which computes from then on.
   */
  async load(offer: ModelOffer, options: LoadOptions = {}): Promise<Loaded> {
    const { onProgress } = options
    const pack = await this.#getPack(offer, options)
    const files = Object.values(pack.manifest.files)
    const bytes = files.reduce((n, file) => n + file.bytes, 0)
    const { shelf } = this.#options
    // What can't be kept is streamed while it is opened, once; what is all here needs no second look.
    const isHere = await shelf.has(new Map(files.map((file) => [file.sha256, file.bytes])))
    if (!isHere && bytes <= shelf.bytesMax) await download(pack)
    onProgress?.({ stage: 'compiling', loaded: bytes, total: bytes })
    let measured = await this.#openAndMeasure(offer.digest)
    const { info } = this
    if (
      info.backend === 'webgpu' &&
      this.#options.choice === 'auto' &&
      !this.#raced &&
      bytes < racedBytesMax
    ) {
      this.#raced = true
      measured = await this.#race(offer.digest, measured)
    }
    return { ...measured, context: this.#contexts.get(offer.digest)!, bytes }
  }

  unload(digest: string): void {
    this.#runner?.unload(digest)
    this.#packs.delete(digest)
  }

  /** Rejects as UnitRunner.run does; see failureOf. */
  run(unit: Unit, options: RunOptions): Promise<UnitResult> {
    return this.#running().run(unit, options)
  }

  async close(): Promise<void> {
    this.#isClosed = true
    await this.#shut()
  }

  #running(): UnitRunner {
    if (!this.#runner) throw new Error('the engine is not open')
    return this.#runner
  }

  async #shut(): Promise<void> {
    const [runner, backend] = [this.#runner, this.#backend]
    this.#runner = this.#backend = undefined
    // A lost device may refuse even this.
    await runner?.close().catch(() => undefined)
    await backend?.close().catch(() => undefined)
  }

  #use(backend: Backend, why?: EngineInfo['why'], wrong?: string): EngineInfo {
    if (this.#isClosed) throw new Error('the engine was closed')
    const { name, description, software, threads } = backend.info
    const concurrency = name === 'webgpu' ? 4 : 2
    this.#backend = backend
    void backend.lost.then((error) => {
      if (this.#backend === backend) this.#options.onLost?.(error)
    })
    this.#runner = new UnitRunner(backend, (digest) => this.#pack(digest), {
      concurrency,
      contextOf: (pack) => this.#contextOf(pack),
      pace: this.#options.pace,
    })
    this.#info = { backend: name, adapter: description, software, threads, memoryBytes: this.#memory(), concurrency, why, wrong } // prettier-ignore
    return this.#info
  }

  async #openGpu(): Promise<Backend | Passed> {
    const { choice, remember } = this.#options
    try {
      return await this.#admitted(async (avoid) => {
        const adapter = await this.#options.adapter?.()
        if (this.#options.adapter && !adapter) throw new Passed('no-adapter')
        const gpu = await openBackend('webgpu', { adapter, remember, avoid })
        if (!gpu.info.software || choice === 'webgpu') return gpu
        await gpu.close()
        // Slower than the CPU that emulates it, on every model measured.
        throw new Passed('gpu-is-emulated')
      })
    } catch (error) {
      if (error instanceof Passed) return error
      const wrongly = wronglyOf(error)
      if (wrongly) return new Passed('gpu-is-wrong', wrongly)
      return new Passed((error as Error).name === 'DeviceLost' ? 'gpu-was-lost' : 'no-adapter')
    }
  }

  #openWasm(): Promise<Backend> {
    const cores = globalThis.navigator?.hardwareConcurrency ?? 2
    const threads = this.#options.threads ?? Math.max(1, Math.min(16, cores >> 1))
    return this.#admitted((avoid) => openBackend('wasm', { threads, avoid }))
  }

  /** A backend that computes rightly: it gave all known answers, or did so before and nothing has changed since. */
  async #admitted(open: (avoid: readonly string[]) => Promise<Backend>): Promise<Backend> {
    const { openAdmitted } = await import('../engine/kit/open.ts')
    const where = globalThis.navigator?.userAgent
    return (await openAdmitted(open, { remember: this.#options.remember, where })).backend
  }

  /** A quarter of what the browser says there is: it rounds down and stops at 8 GiB, to tell less about its owner. */
  #memory(): number {
    const { deviceMemory } = (globalThis.navigator ?? {}) as { deviceMemory?: number }
    return this.#options.memoryBytes ?? Math.round(((deviceMemory ?? 4) * GiB) / 4)
  }

  async #getPack(offer: ModelOffer, { signal, gate, onProgress }: LoadOptions): Promise<Pack> {
    const { base, shelf, onTraffic } = this.#options
    const pack = await openRemotePack(offer, {
      base,
      shelf,
      signal,
      gate,
      onTraffic,
      onProgress: (p) => onProgress?.({ stage: 'downloading', ...p }),
    })
    this.#packs.set(offer.digest, this.#options.tamper?.(pack) ?? pack)
    return pack
  }

  #pack(digest: string): Promise<Pack> {
    const pack = this.#packs.get(digest)
    return pack ? Promise.resolve(pack) : Promise.reject(new Error(`model ${digest} was not asked for`))
  }

  #contextOf(pack: Pack): number {
    const { digest, manifest } = pack
    const context = this.#contexts.get(digest) ?? Math.min(manifest.spec.context, contextMax)
    this.#contexts.set(digest, context)
    return context
  }

  /** Memory by trial: where a model does not fit, with half the context, down to 256 tokens. */
  async #openAndMeasure(digest: string): Promise<Measured> {
    for (;;) {
      try {
        const runner = this.#running()
        const model = await runner.load(digest)
        this.#contexts.set(digest, model.context)
        return await runner.measure(digest)
      } catch (error) {
        const context = this.#contexts.get(digest) ?? 0
        const isDecoder = this.#packs.get(digest)?.manifest.spec.task === 'generate'
        if (failureOf(error).reason !== 'out-of-memory' || !isDecoder || context <= 256) throw error
        this.#contexts.set(digest, context >> 1)
      }
    }
  }

  /** The same model on the CPU; whichever reads 64 tokens and draws 64 sooner stays. */
  async #race(digest: string, gpu: Measured): Promise<Measured> {
    const cost = ({ readMs, drawMs = 0 }: Measured): number => readMs + drawMs
    const rival = await this.#openWasm().catch(() => undefined)
    if (!rival) return gpu
    const runner = new UnitRunner(rival, (wanted) => this.#pack(wanted), {
      contextOf: (p) => this.#contextOf(p),
    })
    try {
      const cpu = await runner.measure(digest)
      if (cost(gpu) <= cost(cpu)) return gpu
    } catch {
      return gpu
    } finally {
      await runner.close()
      await rival.close()
    }
    await this.#shut()
    this.#use(await this.#openWasm(), 'gpu-is-slower')
    return this.#openAndMeasure(digest)
  }
}
