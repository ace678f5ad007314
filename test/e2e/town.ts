/** A coordinator with its house, honest volunteers and liars from networks of their own, and requesters who keep what they were told. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { localCompute, verify } from '../../cli/verify.ts'
import type { Compute, Report } from '../../cli/verify.ts'
import { startNodeVolunteer } from '../../client/node.ts'
import type { NodeVolunteer } from '../../client/node.ts'
import type { Picture } from '../../client/picture.ts'
import { parseDocument } from '../../coordinator/books/documents.ts'
import type { CoordinatorOptions } from '../../coordinator/main.ts'
import { openWire, openWorld } from './world.ts'
import type { Wire, World } from './world.ts'

export interface Citizen {
  name: string
  key: () => string
  picture: () => Picture
}

const sentences = [
  'what is the weather like', 'book a flight to rome', 'play some jazz', 'set an alarm for six', 'how tall is the tower',
  'turn off the light', 'call my sister', 'what time is it in tokyo', 'add milk to the list', 'tell me a joke',
] // prettier-ignore
const beginnings = ['Once upon a time', 'The cat', 'A small boat', 'Deep in the wood', 'One morning', 'The old king'] // prettier-ignore

export class Town {
  readonly world: World
  readonly #folder: string
  readonly #wires: Wire[] = []
  readonly #volunteers: NodeVolunteer[] = []
  readonly #compute: Compute
  readonly #close: () => Promise<void>
  #settled = 0
  readonly citizens: Citizen[] = []
  /** Of every answer: its receipt's id. */
  readonly receipts: string[] = []
  failures: string[] = []

  private constructor(world: World, folder: string, local: { compute: Compute; close: () => Promise<void> }) {
    this.world = world
    this.#folder = folder
    const known = new Map<string, ReturnType<Compute>>()
    // The same few questions come again and again.
    this.#compute = (model, unit) => {
      const { inputs, ...rest } = unit
      const key = JSON.stringify([model, rest, inputs.map((row) => Array.from(row))])
      if (!known.has(key)) known.set(key, local.compute(model, unit))
      return known.get(key)!
    }
    this.#close = local.close
  }

  static async open(options: Partial<CoordinatorOptions>): Promise<Town> {
    const world = await openWorld({ house: true, trustProxy: true, ...options })
    const local = await localCompute({ backend: 'wasm', threads: 1 })
    return new Town(world, await mkdtemp(join(tmpdir(), 'chorale-town-')), local)
  }

  /** An address in a network of its own. */
  async wire(): Promise<string> {
    const wire = await openWire(Number(new URL(this.world.direct).port), `10.${this.#settled++}.0.1`)
    this.#wires.push(wire)
    return wire.url
  }

  /** In this process; honest without a strategy. */
  async settle(name: string, adversary?: string): Promise<Citizen> {
    const node = await startNodeVolunteer(await this.wire(), {
      folder: join(this.#folder, name.replace(/\W/g, '-')), engine: 'wasm', threads: 1, adversary,
    }) // prettier-ignore
    this.#volunteers.push(node)
    return this.add({ name, key: () => node.picture().publicKey!, picture: () => node.picture() })
  }

  add(citizen: Citizen): Citizen {
    this.citizens.push(citizen)
    return citizen
  }

  async convicted(): Promise<Map<string, string>> {
    const answer = await fetch(`${this.world.direct}/v1/evidence`)
    const { data } = (await answer.json()) as { data: { id: string; volunteer: string }[] }
    return new Map(data.map(({ id, volunteer }) => [volunteer, id]))
  }

  /** Something small, of one of the kinds, as its turn comes. */
  async ask(turn: number, trust: 'fast' | 'checked' | 'exact' = 'checked'): Promise<void> {
    const pick = <T>(from: readonly T[], n: number): T => from[n % from.length]!
    const volunteer = { trust }
    const [path, body] =
      turn % 3 === 0
        ? ['completions', { model: 'tales-3m', prompt: pick(beginnings, turn / 3), max_tokens: 12, temperature: 0.8, seed: turn % 5, volunteer }]
        : turn % 3 === 1
          ? ['classify', { model: 'intents-3m', input: [pick(sentences, turn), pick(sentences, turn + 3)], volunteer }]
          : ['embeddings', { model: 'intents-3m', input: [pick(sentences, turn + 1)], volunteer }] // prettier-ignore
    const answer = await fetch(`${this.world.direct}/v1/${path}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
    })
    const said = (await answer.json()) as { volunteer?: { receipt: string }; error?: { message: string } }
    if (said.volunteer) this.receipts.push(said.volunteer.receipt)
    else this.failures.push(`${path}: ${said.error?.message}`)
  }

  async document(path: string): Promise<ReturnType<typeof parseDocument>> {
    return parseDocument(await (await fetch(`${this.world.direct}${path}`)).json())
  }

  /** As `chorale verify` does: everything computed again. */
  async verify(path: string): Promise<Report> {
    return verify(await this.document(path), { compute: this.#compute })
  }

  async close(): Promise<void> {
    await Promise.all(this.#volunteers.map((node) => node.stop()))
    await Promise.all(this.#wires.map((wire) => wire.close()))
    await this.#close()
    await this.world.close()
    await rm(this.#folder, { recursive: true, force: true })
  }
}
