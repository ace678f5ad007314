/** A coordinator with the built pages, and a wire between it and its volunteers that a test can throttle and cut. */
import { cp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { createServer, connect } from 'node:net'
import type { AddressInfo, Socket } from 'node:net'
import { join } from 'node:path'
import { build } from 'vite'
import { startCoordinator } from '../../coordinator/main.ts'
import type { CoordinatorOptions, RunningCoordinator } from '../../coordinator/main.ts'
import { packedFolder } from '../../tools/models.ts'
import clientConfig from '../../vite.client.config.ts'

export interface World {
  /** The coordinator itself. */
  readonly direct: string
  /** The same through the wire; what volunteers are given. */
  readonly url: string
  readonly wire: Wire
  status(): ReturnType<RunningCoordinator['status']>
  /** Ends the coordinator and starts another in its place. */
  restart(downMs?: number): Promise<void>
  close(): Promise<void>
}

let pages: Promise<string> | undefined
let worlds = 0

/** Once per test file: half a second. */
function builtPages(): Promise<string> {
  const folder = join(import.meta.dirname, `../../.cache/test-client-${process.pid}`)
  return (pages ??= build({
    ...clientConfig,
    configFile: false,
    logLevel: 'error',
    build: { ...clientConfig.build, outDir: folder },
  }).then(() => folder))
}

/** The same pages, but their engine's worker runs `script` first: a browser that lacks something. */
async function changedPages(script: string): Promise<string> {
  const folder = `${await builtPages()}-changed`
  await cp(await builtPages(), folder, { recursive: true })
  const assets = join(folder, 'assets')
  const worker = (await readdir(assets)).find((name) => /^engine\.worker.*\.js$/.test(name))!
  await writeFile(join(assets, worker), script + (await readFile(join(assets, worker), 'utf8')))
  return folder
}

export interface WorldOptions extends Partial<CoordinatorOptions> {
  /** JavaScript that the engine's worker of these pages runs before its own. */
  workerPrelude?: string
}

export async function openWorld({ workerPrelude, ...options }: WorldOptions = {}): Promise<World> {
  worlds++
  const built = await builtPages()
  const folder = workerPrelude === undefined ? built : await changedPages(workerPrelude)
  const models = options.models ?? (await Promise.all(['tales-3m', 'intents-3m'].map((m) => packedFolder(m))))
  const start = (port: number): Promise<RunningCoordinator> =>
    startCoordinator({
      house: false,
      logLevel: 'silent',
      operator: 'the test',
      ...options,
      models,
      port,
      pages: { folder },
    })
  let coordinator = await start(0)
  const port = Number(new URL(coordinator.url).port)
  const wire = await openWire(port)
  return {
    direct: coordinator.url,
    url: wire.url,
    wire,
    status: () => coordinator.status(),
    async restart(downMs = 0) {
      await coordinator.close(0)
      wire.cut()
      await new Promise((done) => setTimeout(done, downMs))
      coordinator = await start(port)
    },
    async close() {
      await wire.close()
      await coordinator.close(0)
      if (folder !== built) await rm(folder, { recursive: true, force: true })
      if (--worlds) return
      await rm(built, { recursive: true, force: true })
      pages = undefined
    },
  }
}

export interface Wire {
  readonly url: string
  /** Towards the volunteer; Infinity is as fast as it goes. */
  bytesPerSecond: number
  /** Bytes that went to volunteers so far. */
  readonly bytes: number
  /** Breaks every connection there is. */
  cut(): void
  /** While false, new connections break at once. */
  isUp: boolean
  close(): Promise<void>
}

/**
 * A TCP proxy.
 * @param address what the coordinator is told of where its callers are, if it believes proxies
 */
export async function openWire(port: number, address?: string): Promise<Wire> {
  const sockets = new Set<Socket>()
  let bytes = 0
  const server = createServer((near) => {
    if (!wire.isUp) return void near.destroy()
    const far = connect(port, '127.0.0.1')
    for (const socket of [near, far]) {
      sockets.add(socket)
      socket.setNoDelay(true)
      socket.on('error', () => undefined)
      socket.on('close', () => {
        sockets.delete(socket)
        near.destroy()
        far.destroy()
      })
    }
    if (address === undefined) near.pipe(far)
    else
      near.once('data', (chunk: Buffer) => {
        // Of a connection's requests only the first can be the one that becomes a socket.
        far.write(chunk.toString('latin1').replace('\r\n', `\r\nX-Forwarded-For: ${address}\r\n`), 'latin1')
        near.pipe(far)
      })
    far.on('data', (chunk: Buffer) => {
      bytes += chunk.length
      near.write(chunk)
      if (wire.bytesPerSecond === Infinity) return
      far.pause()
      setTimeout(() => far.resume(), (1000 * chunk.length) / wire.bytesPerSecond)
    })
  })
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
  const wire: Wire = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    bytesPerSecond: Infinity,
    get bytes() {
      return bytes
    },
    isUp: true,
    cut() {
      for (const socket of sockets) socket.destroy()
    },
    close: () =>
      new Promise((done) => {
        wire.cut()
        server.close(() => done())
      }),
  }
  return wire
}

export interface Story {
  text: string
  /** `volunteer` of the answer. */
  volunteer: { computed_by: { class: string; units: number }[]; redispatched: number }
}

/** A completion through the API, as a requester asks for it. */
export async function story(url: string, prompt: string, more: Record<string, unknown> = {}): Promise<Story> {
  // prettier-ignore
  const answer = await fetch(`${url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    // Most worlds have no house, so there is nobody to check newcomers.
    body: JSON.stringify({ model: 'tales-3m', prompt, max_tokens: 60, temperature: 0, volunteer: { trust: 'fast' }, ...more }),
  })
  const body = (await answer.json()) as { choices?: { text: string }[]; volunteer: Story['volunteer']; error?: { message: string } } // prettier-ignore
  if (!answer.ok) throw new Error(`the coordinator answers ${answer.status}: ${body.error?.message}`)
  return { text: body.choices![0]!.text, volunteer: body.volunteer }
}

/** Waits until something holds, looking 20 times a second; the message says what did not come about. */
export async function until(
  holds: () => boolean | Promise<boolean>,
  what: string,
  ms = 30_000,
): Promise<void> {
  const end = performance.now() + ms
  while (!(await holds())) {
    if (performance.now() > end) throw new Error(`${what}: not within ${ms} ms`)
    await new Promise((done) => setTimeout(done, 50))
  }
}
