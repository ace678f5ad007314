/** Kills, stops, a full disk, no more files: what is done to a coordinator while requesters and volunteers go on. */
import { execFileSync } from 'node:child_process'
import { mkdirSync, rmSync, statfsSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import type { Socket } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Random } from '../harness/random.ts'
import { audit } from './auditor.ts'
import type { Audit } from './auditor.ts'
import { Load } from './load.ts'
import { CoordinatorProcess, freePort, VolunteerProcess } from './processes.ts'

export interface WorldOptions {
  seed: number
  kills: number
  volunteers: number
  /** Requesters at once, and most rows of one's batches. */
  requesters: number
  rows: number
  /** A folder to make and to remove. */
  folder: string
  say: (line: string) => void
  /** Milliseconds between serving again and the next kill, at most. */
  calmMs?: number
  /** Full disks and exhausted files too. */
  withShortages?: boolean
}

export interface Outcome {
  seed: number
  kills: Record<string, number>
  /** From the start of the process to its first answer, milliseconds. */
  servingAgainMs: { p50: number; max: number; n: number }
  batches: number
  rowsRead: number
  refusals: Record<string, number>
  shortages: Record<string, string>
  faults: string[]
  audit: Audit
  ok: boolean
}

export async function chaos(options: WorldOptions): Promise<Outcome> {
  const { seed, folder, volunteers, requesters, say } = options
  const random = new Random(seed, 'chaos')
  const data = join(folder, 'data')
  mkdirSync(data, { recursive: true })
  const port = await freePort()
  const coordinator = new CoordinatorProcess(port, data, ['--models', 'intents-3m', 'tales-3m'])
  // The first start may build pages and packs; those after it are measured.
  await coordinator.start()
  const firstMs = coordinator.starts.shift()!
  say(`serving after ${Math.round(firstMs)} ms`)
  const helpers = Array.from(
    { length: volunteers },
    (_, i) => new VolunteerProcess(coordinator.url, folder, `v${i}`),
  )
  const load = new Load(coordinator.url, options.rows)
  const running = Array.from({ length: requesters }, (_, i) => load.run(new Random(seed, `requester ${i}`)))
  const kills: Record<string, number> = {}
  const shortages: Record<string, string> = {}
  try {
    for (let i = 0; i < options.kills; i++) {
      const how = await strike(coordinator, helpers, random, options.calmMs ?? 2_000)
      kills[how] = (kills[how] ?? 0) + 1
      if (i % 10 === 9) say(`${i + 1} kills, ${load.batches.length} batches, ${load.rowsRead} rows read`)
      if (!options.withShortages) continue
      if (i === Math.floor(options.kills / 3)) shortages['file size'] = await filesTooLarge(coordinator, load)
      if (i === Math.floor(options.kills / 2)) shortages['open files'] = await noMoreFiles(coordinator, load)
    }
    load.stop()
    say('no more kills; waiting for what was accepted')
    await Promise.race([Promise.all(running), sleep(300_000)])
    const unfinished = load.batches.filter(({ isComplete }) => !isComplete)
    for (const { id, status } of unfinished) load.faults.push(`${id} never ended: ${status}`)
  } finally {
    for (const helper of helpers) helper.end()
  }
  const code = await coordinator.end('SIGTERM')
  if (code !== 0) load.faults.push(`asked to end, it ended with ${code}`)
  load.faults.push(...coordinator.deaths)
  if (options.withShortages) shortages['disk'] = await diskFull(options, load.faults)
  const found = audit(data, load.batches)
  const { lost, doubleCredits, ledgerFaults, differing } = found
  const starts = coordinator.starts.map(Math.round).sort((a, b) => a - b)
  return {
    seed,
    kills,
    servingAgainMs: { p50: starts[starts.length >> 1] ?? 0, max: starts.at(-1) ?? 0, n: starts.length },
    batches: load.batches.length,
    rowsRead: load.rowsRead,
    refusals: Object.fromEntries(load.refusals),
    shortages,
    faults: load.faults,
    audit: found,
    ok: [load.faults, lost, doubleCredits, ledgerFaults, differing].every((list) => list.length === 0),
  }
}

/** Lets it run for a while, ends it in one way or another, and has it serving again. Returns the way. */
async function strike(
  coordinator: CoordinatorProcess,
  volunteers: readonly VolunteerProcess[],
  random: Random,
  calmMs: number,
): Promise<string> {
  await sleep(random.int(100, calmMs))
  const chance = random.float()
  let how = 'killed'
  if (chance < 0.15) {
    how = 'stopped, then killed'
    coordinator.signal('SIGSTOP')
    await sleep(random.int(50, 1_500))
  } else if (chance < 0.25) {
    how = 'stopped for a while, then killed'
    coordinator.signal('SIGSTOP')
    await sleep(random.int(50, 3_000))
    coordinator.signal('SIGCONT')
    await sleep(random.int(0, 500))
  } else if (chance < 0.4 && volunteers.length) {
    how = 'killed with a volunteer'
    volunteers[random.int(0, volunteers.length - 1)]!.kill()
  }
  await coordinator.end('SIGKILL')
  if (random.float() < 0.1) {
    how += ', and killed again while it started'
    coordinator.spawn()
    await sleep(random.int(0, 1_500))
    await coordinator.end('SIGKILL')
  }
  await coordinator.start()
  return how
}

/** No file may grow beyond a little: writes fail, as on a disk of a quota. Once they may, it must go on without a restart. */
async function filesTooLarge(coordinator: CoordinatorProcess, load: Load): Promise<string> {
  const limit = (bytes: number | 'unlimited'): void =>
    void execFileSync('prlimit', ['--pid', String(coordinator.pid), `--fsize=${bytes}:`], { stdio: 'ignore' })
  const before = count(load)
  try {
    // Far below what the log has reached: nothing can be written any more, neither there nor in the database.
    limit(64 * 1024)
  } catch (error) {
    return `left out: ${(error as Error).message}`
  }
  await sleep(6_000)
  const isAlive = await answers(coordinator)
  limit('unlimited')
  const rows = load.rowsRead
  await sleep(4_000)
  const wentOn = load.rowsRead > rows
  if (!isAlive) load.faults.push('with files that may not grow it no longer answered')
  if (!wentOn) load.faults.push('with files that may grow again it did not go on')
  return `${count(load) - before} refusals; answered ${isAlive}, went on ${wentOn}`
}

/** More connections than it can have files; once they are gone it must serve as before, without a restart. */
async function noMoreFiles(coordinator: CoordinatorProcess, load: Load): Promise<string> {
  await coordinator.end('SIGKILL')
  await coordinator.start({ files: 100 })
  const { hostname, port } = new URL(coordinator.url)
  const sockets: Socket[] = []
  for (let i = 0; i < 200; i++) {
    const socket = connect(Number(port), hostname)
    socket.on('error', () => {})
    sockets.push(socket)
  }
  await sleep(4_000)
  for (const socket of sockets) socket.destroy()
  await sleep(500)
  const isAlive = await answers(coordinator)
  if (!isAlive) load.faults.push('after running out of files it no longer answered')
  await coordinator.end('SIGKILL')
  await coordinator.start()
  return `answered ${isAlive}`
}

/** A disk that really fills, and has room again: nothing accepted is lost, with no restart, and after a kill in that state. */
async function diskFull(options: WorldOptions, faults: string[]): Promise<string> {
  const disk = join(options.folder, 'disk')
  mkdirSync(disk)
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=24m', 'none', disk], { stdio: 'ignore' })
  } catch {
    return 'left out: a small disk may not be mounted here'
  }
  const data = join(disk, 'data')
  const coordinator = new CoordinatorProcess(await freePort(), data, ['--models', 'intents-3m', 'tales-3m'])
  try {
    await coordinator.start()
    const load = new Load(coordinator.url, 100)
    const running = load.run(new Random(options.seed, 'disk'))
    await sleep(2_000)
    const ballast = join(disk, 'ballast')
    const fill = (): void => {
      const { bavail, bsize } = statfsSync(disk)
      try {
        writeFileSync(ballast, new Uint8Array(Math.max(0, bavail * bsize - 64 * 1024)))
      } catch (error) {
        // The coordinator took the rest meanwhile: full is what was wanted.
        if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error
      }
    }
    fill()
    await sleep(4_000)
    const isAlive = await answers(coordinator)
    const rowsThen = load.rowsRead
    rmSync(ballast)
    await sleep(3_000)
    const wentOn = load.rowsRead > rowsThen || load.batches.every(({ isComplete }) => isComplete)
    fill()
    await sleep(1_500)
    await coordinator.end('SIGKILL')
    rmSync(ballast)
    await coordinator.start()
    load.stop()
    await Promise.race([running, sleep(120_000)])
    await coordinator.end('SIGTERM')
    const found = audit(data, load.batches)
    faults.push(
      ...[
        ...load.faults,
        ...found.lost,
        ...found.doubleCredits,
        ...found.ledgerFaults,
        ...found.differing,
      ].map((fault) => `full disk: ${fault}`),
    )
    if (!isAlive) faults.push('full disk: it no longer answered')
    if (!wentOn) faults.push('full disk: with room again it did not go on')
    return `answered ${isAlive}, went on ${wentOn}, ${found.rows} rows, refusals ${JSON.stringify(Object.fromEntries(load.refusals))}`
  } finally {
    await coordinator.end('SIGKILL')
    execFileSync('umount', [disk])
  }
}

const count = (load: Load): number => [...load.refusals.values()].reduce((n, one) => n + one, 0)

async function answers({ url }: CoordinatorProcess): Promise<boolean> {
  for (let i = 0; i < 5; i++) {
    const response = await fetch(`${url}/v1/models`, { signal: AbortSignal.timeout(5_000) }).catch(() => null)
    if (response?.ok) return true
    await sleep(500)
  }
  return false
}
