/** Models over a bad network onto a bad disk: what is used has the right hash, what was got is not got again, or it says why. */
import { once } from 'node:events'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { folderStore } from '../../client/weights/folder.ts'
import { Shelf } from '../../client/weights/shelf.ts'
import { download, NetworkError, openRemotePack } from '../../client/weights/source.ts'
import type { SourceOptions } from '../../client/weights/source.ts'
import { memoryStore } from '../../client/weights/store.ts'
import type { BlobStore } from '../../client/weights/store.ts'
import { CHUNK_BYTES } from '../../engine/pack/manifest.ts'
import { law } from '../harness/random.ts'
import { largePack } from './large-pack.ts'
import type { LargePack } from './large-pack.ts'

let pack: LargePack
let other: LargePack
/** Faults of the server: what to do to the body of a request. */
interface Faults {
  /** Breaks the connection after this many bytes of bodies, counted over all requests. */
  cutAfter?: number
  /** Flips a bit of this byte of embedding.bin. */
  corruptAt?: number
  /** Answers this many requests with 503. */
  unavailable?: number
  ignoresRange?: boolean
}
let faults: Faults = {}
let sent = 0
let requests: string[] = []

const server = createServer(async (request, response) => {
  const [, , digest, file] = request.url!.split('/')
  requests.push(file!)
  const from = [pack, other].find((p) => p.digest === digest)
  if (faults.unavailable) {
    faults.unavailable--
    return response.writeHead(503).end()
  }
  const bytes = from && (await readFile(join(from.folder, file!)).catch(() => undefined))
  if (!bytes) return response.writeHead(404).end()
  if (file === 'embedding.bin' && faults.corruptAt !== undefined) bytes[faults.corruptAt]! ^= 4
  const start = faults.ignoresRange ? 0 : Number(/bytes=(\d+)-/.exec(request.headers.range ?? '')?.[1] ?? 0)
  const body = bytes.subarray(start)
  const closed = once(response, 'close')
  response.writeHead(start ? 206 : 200, { 'content-length': body.length })
  for (let at = 0; at < body.length; at += 65536) {
    const piece = body.subarray(at, at + 65536)
    if (faults.cutAfter !== undefined && sent + piece.length > faults.cutAfter) {
      response.destroy()
      return undefined
    }
    sent += piece.length
    if (!response.write(piece)) await Promise.race([once(response, 'drain'), closed])
    if (response.destroyed) return undefined
  }
  return response.end()
})
let base = ''

beforeAll(async () => {
  ;[pack, other] = await Promise.all([largePack(1), largePack(2)])
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
  base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
})
afterAll(async () => {
  server.closeAllConnections()
  server.close()
  await Promise.all([pack.remove(), other.remove()])
})

const shelfOf = (store: BlobStore, bytesMax?: number): Shelf => {
  let now = 0
  return new Shelf(store, { bytesMax, now: () => ++now })
}

/** Downloads all of it; returns what came over the network. */
async function get(
  shelf: Shelf,
  options: Partial<SourceOptions> & { of?: LargePack; faults?: Faults } = {},
): Promise<number> {
  faults = options.faults ?? {}
  sent = 0
  requests = []
  const { digest } = options.of ?? pack
  let traffic = 0
  const opened = await openRemotePack(
    { digest, name: 'large', path: `/models/${digest}` },
    { base, shelf, wait: async () => undefined, onTraffic: (bytes) => (traffic += bytes), ...options },
  )
  await download(opened)
  return traffic
}

const manifestBytes = async (): Promise<number> => (await readFile(join(pack.folder, 'manifest.json'))).length

describe('a download', () => {
  test('comes whole, once, with its total known before the first byte and never going backwards', async () => {
    const shelf = shelfOf(memoryStore())
    const seen: { loaded: number; total: number }[] = []
    expect(await get(shelf, { onProgress: (p) => seen.push(p) })).toBe(pack.bytes + (await manifestBytes()))
    expect(seen[0]!.loaded).toBe(0)
    expect(new Set(seen.map((p) => p.total))).toEqual(new Set([pack.bytes]))
    expect(seen.every((p, i) => i === 0 || p.loaded >= seen[i - 1]!.loaded)).toBe(true)
    expect(seen.at(-1)!.loaded).toBe(pack.bytes)
    // One request a file: chunks are cut off one stream.
    expect(requests.length).toBe(new Set(requests).size)
    expect(await get(shelf)).toBe(0)
    expect(requests).toEqual([])
  })

  law('that breaks off anywhere goes on where it stopped, to the chunk', async (random) => {
    const cutAfter = random.int(0, pack.bytes)
    const shelf = shelfOf(memoryStore())
    const first = await get(shelf, { faults: { cutAfter } }).catch((error: unknown) => error)
    if (typeof first === 'number') return
    expect(first).toBeInstanceOf(NetworkError)
    const kept = await shelf.bytes()
    expect(kept).toBeGreaterThanOrEqual(cutAfter - 6 * CHUNK_BYTES)
    const second = await get(shelf)
    expect(second).toBe(pack.bytes + (await manifestBytes()) - kept)
  })

  test('goes on in a new process where the files lie on disk', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'chorale-store-'))
    try {
      await get(shelfOf(await folderStore(folder)), { faults: { cutAfter: 9e6 } }).catch(() => undefined)
      const shelf = shelfOf(await folderStore(folder))
      const kept = await shelf.bytes()
      expect(kept).toBeGreaterThanOrEqual(4e6)
      expect(await get(shelf)).toBe(pack.bytes + (await manifestBytes()) - kept)
    } finally {
      await rm(folder, { recursive: true })
    }
  })

  test('waits out a server that is not available, and gives up on one that never is', async () => {
    await get(shelfOf(memoryStore()), { faults: { unavailable: 3 } })
    const given = await get(shelfOf(memoryStore()), { faults: { unavailable: 99 } }).catch(
      (error: unknown) => error,
    )
    expect(given).toBeInstanceOf(NetworkError)
    expect((given as Error).message).toContain('503')
    expect(requests.length).toBeLessThan(10)
  })

  test('of something the server does not have is refused at once', async () => {
    const missing = { ...pack, digest: 'f'.repeat(64) }
    await expect(get(shelfOf(memoryStore()), { of: missing })).rejects.toMatchObject({ code: 'file-missing' })
    expect(requests.length).toBe(1)
  })

  test('from a server that ignores ranges is refused rather than put together wrongly', async () => {
    const shelf = shelfOf(memoryStore())
    await get(shelf, { faults: { cutAfter: 9e6 } }).catch(() => undefined)
    await expect(get(shelf, { faults: { ignoresRange: true } })).rejects.toThrow(/answers 200 instead of 206/)
    expect(await get(shelf)).toBeGreaterThan(0)
  })

  test('can be stopped', async () => {
    const abort = new AbortController()
    const why = new Error('enough')
    const going = get(shelfOf(memoryStore()), {
      signal: abort.signal,
      onProgress: ({ loaded }) => loaded > 0 && abort.abort(why),
    })
    await expect(going).rejects.toThrow()
  })
})

law('a flipped bit is never used and never kept, wherever it is', async (random) => {
  const corruptAt = random.int(0, 9e6)
  const shelf = shelfOf(memoryStore())
  await expect(get(shelf, { faults: { corruptAt } })).rejects.toMatchObject({ code: 'chunk-mismatch' })
  // What was kept is right: the rest comes and all hashes hold.
  await get(shelf)
  expect(await shelf.bytes()).toBe(pack.bytes + (await manifestBytes()))
})

law('a disk that forgets or damages what it kept costs a download, nothing else', async (random) => {
  const store = memoryStore()
  const shelf = shelfOf(store)
  await get(shelf)
  const names = await store.list()
  const victim = names[random.int(0, names.length - 1)]!
  const size = await store.size(victim)
  const bytes = (await store.read(victim, 0, size)).slice()
  bytes[random.int(0, size - 1)]! ^= 1
  await store.remove(victim)
  await store.append(victim, 0, bytes.subarray(0, random.int(1, size)))
  await get(shelf)
  expect(await get(shelf)).toBe(0)
})

describe('room', () => {
  test('is made by letting go of the model unused for longest', async () => {
    const store = memoryStore()
    const shelf = shelfOf(store, pack.bytes * 1.5)
    await get(shelf)
    await get(shelf, { of: other })
    expect(await get(shelf, { of: other })).toBe(0)
    expect(await shelf.bytes()).toBeLessThanOrEqual(pack.bytes * 1.5)
    expect(await get(shelf)).toBeGreaterThan(pack.bytes / 2)
  })

  test('that the browser refuses is made too; where there is none the model still loads, unkept', async () => {
    const tight = shelfOf(memoryStore(pack.bytes * 1.5))
    await get(tight)
    await get(tight, { of: other })
    expect(await get(tight, { of: other })).toBe(0)
    const none = shelfOf(memoryStore(1e6))
    expect(await get(none)).toBe(pack.bytes + (await manifestBytes()))
    expect(await none.bytes()).toBeLessThanOrEqual(1e6)
  })

  test('is empty after clear()', async () => {
    const shelf = shelfOf(memoryStore())
    await get(shelf)
    await shelf.clear()
    expect(await shelf.bytes()).toBe(0)
    expect(await shelf.store.note()).toBeNull()
  })
})
