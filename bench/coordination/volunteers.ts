/** Volunteers that answer at once: real sockets, real frames, real signatures, and no computing. */
import { createHash, generateKeyPairSync, sign } from 'node:crypto'
import type { KeyObject } from 'node:crypto'
import { WebSocket } from 'ws'
import {
  encodeFromVolunteer, helloStatement, inputBytes, outputBytes, parseFromCoordinator, PROTOCOL, resultStatement,
} from '../../protocol/index.ts' // prettier-ignore
import type { Assignment, FromVolunteer, ModelDigest, Output } from '../../protocol/index.ts'

/** What a model's answers look like. */
export interface Shape {
  width: number
  bits: number
}

const ROOT = '0'.repeat(64)
const sha = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex')

export class InstantVolunteer {
  readonly publicKey: string
  readonly #key: KeyObject
  #socket: WebSocket | undefined
  #coordinator = ''
  #sequence = 0
  units = 0
  readonly #shapes: ReadonlyMap<ModelDigest, Shape>

  constructor(shapes: ReadonlyMap<ModelDigest, Shape>) {
    const { publicKey, privateKey } = generateKeyPairSync('ed25519')
    this.publicKey = publicKey.export({ format: 'jwk' }).x!
    this.#key = privateKey
    this.#shapes = shapes
  }

  /** Resolves when it was welcomed and has said what it can. */
  join(url: string): Promise<void> {
    const socket = new WebSocket(`${url.replace(/^http/, 'ws')}/v1/volunteer`, PROTOCOL, {
      perMessageDeflate: false,
    })
    this.#socket = socket
    return new Promise((resolve, reject) => {
      socket.on('error', reject)
      socket.on('close', (code, reason) => reject(new Error(`closed with ${code} ${reason.toString()}`)))
      socket.on('message', (data: Buffer) => {
        const { message } = parseFromCoordinator(new Uint8Array(data))
        switch (message.type) {
          case 'challenge':
            this.#coordinator = message.coordinator
            return this.#hello(message.nonce)
          case 'welcome': {
            const speeds = { state: 'ready', readMs: 0.001, drawMs: 0.001 } as const
            this.#send({
              type: 'models',
              models: message.models.map(({ digest }) => ({ digest, ...speeds })),
            })
            return resolve()
          }
          case 'assign':
            for (const assignment of message.assignments) this.#answer(assignment)
            return
          case 'ping':
            return this.#send({ type: 'pong', nonce: message.nonce })
        }
      })
    })
  }

  leave(): void {
    this.#socket?.terminate()
  }

  #hello(nonce: string): void {
    this.#send({
      type: 'hello',
      version: 1,
      client: 'bench',
      capability: { backend: 'js', adapter: 'none', numerics: 'xn1', memoryBytes: 1e9, models: [] },
      slots: 8,
      concurrency: 8,
      isHidden: false,
      held: [],
      publicKey: this.publicKey,
      signature: this.#sign(helloStatement(this.#coordinator, nonce)),
    })
  }

  #answer(assignment: Assignment): void {
    const output = this.#outputOf(assignment)
    const digest = sha(outputBytes(output))
    const input = sha(inputBytes(assignment))
    const { id, model } = assignment
    const claim = { coordinator: this.#coordinator, assignment: id, model, input, output: digest, root: ROOT }
    const signature = this.#sign(resultStatement(claim))
    this.#send({
      type: 'result',
      assignment: id,
      output,
      digest,
      computeMs: 0.1,
      input,
      root: ROOT,
      signature,
    })
    this.units++
  }

  #outputOf({ kind, model, inputs, generate }: Assignment): Output {
    if (kind === 'generate')
      return {
        kind,
        position: inputs[0]!.length - (generate!.replay ?? 0),
        tokens: Uint32Array.of(5),
        finish: 'length',
      }
    const { width, bits } = this.#shapes.get(model)!
    return { kind, rows: inputs.length, width, bits, values: new Int32Array(inputs.length * width) }
  }

  #sign(bytes: Uint8Array): string {
    return sign(null, bytes, this.#key).toString('base64url')
  }

  #send(message: FromVolunteer): void {
    this.#socket!.send(encodeFromVolunteer(message, this.#sequence++))
  }
}
