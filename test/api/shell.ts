/** A coordinator's sockets without a coordinator behind them, and one volunteer that said hello. */
import { generateKeyPairSync, sign } from 'node:crypto'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { WebSocket } from 'ws'
import { openLog } from '../../coordinator/log.ts'
import { SOCKET_LIMITS, Sockets } from '../../coordinator/sockets.ts'
import type { Checker, SocketLimits } from '../../coordinator/sockets.ts'
import { encodeFromVolunteer, helloStatement, PROTOCOL } from '../../protocol/index.ts'
import type { FromVolunteer, ModelDigest } from '../../protocol/index.ts'
import { helloMeta, unframe } from './stranger.ts'

export const MODEL = 'e'.repeat(64) as ModelDigest
export const HASH = '0'.repeat(64)
const { publicKey, privateKey } = generateKeyPairSync('ed25519')
const KEY = publicKey.export({ format: 'jwk' }).x!
export const signed = (bytes: Uint8Array): string => sign(null, bytes, privateKey).toString('base64url')
export const COORDINATOR = KEY.replace(/^./, (c) => (c === 'A' ? 'B' : 'A'))

/** What became of it: the nonces, and the assignments of results, that were heard, in order; the tokens; and the end. */
export interface Stage {
  heard: (number | string)[]
  tokens: Extract<FromVolunteer, { type: 'tokens' }>[]
  left: string | undefined
  /** Whose answers are awaited. */
  awaited: Set<string>
  socket: WebSocket
  say: (message: FromVolunteer) => void
  ended: Promise<{ code: number; reason: string }>
  /** A new connection of the same key. */
  connect: () => Promise<void>
}

const closers: (() => void)[] = []
export const closeAll = (): void => closers.splice(0).forEach((close) => close())

export async function open(limits: Partial<SocketLimits> = {}, checker?: Checker): Promise<Stage> {
  const stage = { heard: [], tokens: [], left: undefined, awaited: new Set() } as Partial<Stage> as Stage
  const sockets = new Sockets(
    {
      submit: (event) => {
        if (event.type === 'volunteer-left') stage.left = event.reason
        if (event.type !== 'message-received') return
        const { message } = event
        if (message.type === 'pong') stage.heard.push(message.nonce)
        if (message.type === 'tokens') stage.tokens.push(message)
        if (message.type === 'result') {
          stage.heard.push(message.assignment)
          // The answer to one is what another is begun by.
          stage.awaited.add(`after-${message.assignment}`)
        }
      },
      onJoin: () => {},
      publicKey: COORDINATOR,
      trustedKeys: new Set(),
      askedOf: (assignment, key) =>
        key === KEY && stage.awaited.has(assignment) ? { model: MODEL, input: HASH } : undefined,
      trustProxy: false,
    },
    { ...SOCKET_LIMITS, framesPerSecond: 1e9, framesBurst: 1e9, ...limits },
    openLog('silent'),
    checker,
  )
  const server = createServer()
  sockets.attach(server)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  closers.push(() => (sockets.closeAll(1001, 'the test is over'), stage.socket.terminate(), server.close()))
  stage.connect = async () => {
    const socket = new WebSocket(`ws://127.0.0.1:${port}/v1/volunteer`, PROTOCOL)
    let sequence = 0
    stage.socket = socket
    stage.say = (message) => socket.send(encodeFromVolunteer(message, sequence++))
    stage.ended = new Promise((resolve) => {
      socket.on('error', () => undefined)
      socket.on('close', (code, reason) => resolve({ code, reason: reason.toString() }))
    })
    const { nonce } = await new Promise<{ nonce: string }>((resolve) =>
      socket.once('message', (data: Buffer) => resolve(unframe(data).meta as { nonce: string })),
    )
    const signature = signed(helloStatement(COORDINATOR, nonce))
    stage.say({ type: 'hello', ...helloMeta(), publicKey: KEY, signature } as FromVolunteer)
  }
  await stage.connect()
  return stage
}
