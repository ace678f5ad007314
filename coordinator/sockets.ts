/**
 * Volunteers' sockets: frames in and out, and every way a stranger's connection may misbehave. What they say is judged in
 * protocol/parse.ts, what it means in core/.
 */
import { hash, randomBytes } from 'node:crypto'
import type { IncomingMessage, Server } from 'node:http'
import type { Duplex } from 'node:stream'
import { WebSocket, WebSocketServer } from 'ws'
import type { RawData } from 'ws'
import {
  CLOSE, encodeFromCoordinator, FRAME_BYTES_MAX, helloStatement, negotiate, outputBytes, parseFromVolunteer, progressStatement,
  PROTOCOL, ProtocolError, resultStatement,
} from '../protocol/index.ts' // prettier-ignore
import type {
  AssignmentId, Digest, FromCoordinator, FromVolunteer, ModelDigest, PublicKey, VolunteerId,
} from '../protocol/index.ts' // prettier-ignore
import type { Event, Hello } from './core/events.ts'
import { importKey, isSignedBy, networkOf } from './identity.ts'
import type { Log } from './log.ts'
import { Order } from './order.ts'
import { Signatures } from './signatures.ts'
import { Streams } from './streams.ts'

export const VOLUNTEER_PATH = '/v1/volunteer'

export interface SocketLimits {
  /** Open connections, all together and per address. */
  volunteersMax: number
  perAddressMax: number
  helloMs: number
  /** Frames per second and connection, and how many may come at once: 32 streams of 20 frames/s, with as much again. */
  framesPerSecond: number
  framesBurst: number
  /** Unsent bytes at which a volunteer gets nothing new, and at which it is let go. */
  congestedBytes: number
  overloadedBytes: number
  /** Frames that wait for a signature to be checked, per connection: beyond this nothing more is read from it. */
  waitingFrames: number
  waitingBytes: number
  /** Checks that wait, of all connections: beyond this nothing more is read from whoever waits for one. */
  checksMax: number
}

export const SOCKET_LIMITS: SocketLimits = {
  volunteersMax: 20_000,
  perAddressMax: 256,
  helloMs: 5_000,
  framesPerSecond: 1_000,
  framesBurst: 2_000,
  congestedBytes: 1024 * 1024,
  overloadedBytes: 8 * 1024 * 1024,
  waitingFrames: 256,
  waitingBytes: 256 * 1024,
  checksMax: 4_096,
}

/** What one assignment may be answered with besides the steady flow: first tokens, an answer, one to spare. */
const FRAMES_PER_ASSIGNMENT = 3

/** What sockets need to know of the rest. */
export interface SocketHost {
  submit: (event: Event) => void
  onJoin: (volunteer: VolunteerId, hello: Hello) => void
  /** The coordinator's own key: signatures are bound to it. */
  publicKey: PublicKey
  /** Volunteers whose answers are truth, because the operator says so. */
  trustedKeys: ReadonlySet<PublicKey>
  /** What an assignment asks, while the answer of this key's volunteer to it is awaited. */
  askedOf: (assignment: AssignmentId, key: PublicKey) => { model: ModelDigest; input: Digest } | undefined
  /** Addresses come from X-Forwarded-For: there is a proxy in front that adds to it. */
  trustProxy: boolean
}

/** Who checks signatures: signatures.ts. */
export type Checker = Pick<Signatures, 'check' | 'close' | 'backlog'>

type Heard = Exclude<FromVolunteer, Hello>

interface Connection {
  socket: WebSocket
  /** What the socket writes to: frames of one turn leave together. */
  stream: Duplex
  isCorked: boolean
  address: string
  /** Hello has to sign it. */
  nonce: string
  /** Whose signatures its tokens and results bear. */
  key: PublicKey
  streams: Streams
  volunteer: VolunteerId | undefined
  said: Order<Heard>
  /** Why it is gone, while frames that came before still wait. */
  left: string | undefined
  sequence: number
  allowance: number
  allowedAt: number
  isCongested: boolean
  hello: NodeJS.Timeout
}

export class Sockets {
  readonly #host: SocketHost
  readonly #submit: (event: Event) => void
  readonly #limits: SocketLimits
  readonly #log: Log
  readonly #connections = new Map<VolunteerId, Connection>()
  readonly #perAddress = new Map<string, number>()
  readonly #server: WebSocketServer
  readonly #signatures: Checker
  #corked: Connection[] = []
  #open = 0
  #isClosing = false

  constructor(host: SocketHost, limits: SocketLimits, log: Log, signatures: Checker = new Signatures(log)) {
    this.#host = host
    this.#submit = host.submit
    this.#limits = limits
    this.#log = log
    this.#signatures = signatures
    this.#server = new WebSocketServer({
      noServer: true,
      clientTracking: false,
      perMessageDeflate: false,
      maxPayload: FRAME_BYTES_MAX,
      // A frame of 1 MiB in pieces of 8 KiB; a peer that sends byte by byte is not one of ours.
      maxFragments: 128,
      maxBufferedChunks: 4096,
      handleProtocols: () => PROTOCOL,
    })
  }

  /** Takes over the server's upgrades. */
  attach(server: Server): void {
    server.on('upgrade', (request, socket: Duplex, head: Buffer) => {
      socket.on('error', () => socket.destroy())
      const refusal = this.#refusal(request)
      if (refusal) return refuse(socket, ...refusal)
      this.#server.handleUpgrade(request, socket, head, (ws) =>
        this.#accept(ws, socket, this.#addressOf(request)),
      )
    })
  }

  send(volunteer: VolunteerId, message: FromCoordinator): void {
    const c = this.#connections.get(volunteer)
    if (c?.socket.readyState !== WebSocket.OPEN) return
    // Answers are earned by assignments: a fast volunteer with small units is no flood.
    if (message.type === 'assign') c.allowance += FRAMES_PER_ASSIGNMENT * message.assignments.length
    this.#cork(c)
    c.socket.send(encodeFromCoordinator(message, c.sequence++), () => this.#measure(c))
    this.#measure(c)
  }

  /** A system call costs more than all else about a frame: those of one turn share it. */
  #cork(c: Connection): void {
    if (c.isCorked) return
    c.isCorked = true
    c.stream.cork()
    if (this.#corked.push(c) > 1) return
    process.nextTick(() => {
      const corked = this.#corked
      this.#corked = []
      for (const one of corked) {
        one.isCorked = false
        one.stream.uncork()
      }
    })
  }

  /** The core's wish; it knows already that this volunteer is gone. */
  close(volunteer: VolunteerId, code: number, reason: string): void {
    const c = this.#connections.get(volunteer)
    if (!c) return
    this.#forget(c)
    hangUp(c.socket, code, reason)
  }

  /** No new connections; `open` ones stay. */
  stopAccepting(): void {
    this.#isClosing = true
  }

  /** Closes whatever is open. */
  closeAll(code: number, reason: string): void {
    this.#isClosing = true
    for (const volunteer of this.#connections.keys()) this.close(volunteer, code, reason)
    this.#signatures.close()
  }

  #addressOf({ headers, socket }: IncomingMessage): string {
    // The last one is what the proxy itself saw; those before it are the caller's word.
    const forwarded =
      this.#host.trustProxy &&
      String(headers['x-forwarded-for'] ?? '')
        .split(',')
        .at(-1)!
        .trim()
    return forwarded || (socket.remoteAddress ?? '')
  }

  #refusal(request: IncomingMessage): [number, string] | null {
    const { url, headers } = request
    if ((url ?? '').split('?')[0] !== VOLUNTEER_PATH) return [404, `volunteers connect to ${VOLUNTEER_PATH}`]
    const offered = (headers['sec-websocket-protocol'] ?? '').split(',').map((name) => name.trim())
    if (!negotiate(offered)) return [426, `offer the subprotocol ${PROTOCOL}`]
    if (this.#isClosing) return [503, 'the coordinator is restarting']
    if (this.#open >= this.#limits.volunteersMax)
      return [503, `all ${this.#limits.volunteersMax} places are taken`]
    const address = this.#addressOf(request)
    if ((this.#perAddress.get(address) ?? 0) >= this.#limits.perAddressMax)
      return [429, `at most ${this.#limits.perAddressMax} connections from one address`]
    return null
  }

  #accept(socket: WebSocket, stream: Duplex, address: string): void {
    const c: Connection = {
      socket,
      stream,
      isCorked: false,
      address,
      nonce: randomBytes(18).toString('base64url'),
      key: '',
      streams: new Streams((assignment) => this.#host.askedOf(assignment, c.key) !== undefined),
      volunteer: undefined,
      said: new Order<Heard>({
        check: (message, onVerdict) => this.#check(c, message, onVerdict),
        hear: (message) => this.#submit({ type: 'message-received', volunteer: c.volunteer!, message }),
        onBad: ({ type }) => {
          const what = type === 'tokens' ? 'all it streamed of this assignment' : 'what the result claims'
          const why = `${type}: signature is not this volunteer's over ${what}`
          this.#letGo(c, new ProtocolError(CLOSE.unauthorized, why))
        },
        onEmpty: () => {
          if (c.left !== undefined) this.#leave(c, c.left)
          else if (c.socket.isPaused) c.socket.resume()
        },
      }),
      left: undefined,
      sequence: 0,
      allowance: this.#limits.framesBurst,
      allowedAt: performance.now(),
      isCongested: false,
      hello: setTimeout(
        () => hangUp(socket, CLOSE.silent, `no hello within ${this.#limits.helloMs} ms`),
        this.#limits.helloMs,
      ),
    }
    this.#open++
    this.#perAddress.set(address, (this.#perAddress.get(address) ?? 0) + 1)
    socket.on('message', (data, isBinary) => this.#receive(c, data, isBinary))
    // ws has closed with the fitting code already: 1009 too large, 1002 and 1007 malformed, 1008 too many fragments.
    socket.on('error', (error) => {
      this.#log.info({ err: error.message, address }, 'a volunteer broke the WebSocket protocol')
      endSoon(socket)
    })
    socket.on('close', (code) => {
      clearTimeout(c.hello)
      this.#open--
      const left = (this.#perAddress.get(address) ?? 1) - 1
      if (left > 0) this.#perAddress.set(address, left)
      else this.#perAddress.delete(address)
      // What it said before it left is heard first.
      c.left = `closed with ${code}`
      if (!c.said.length) this.#leave(c, c.left)
    })
    const { publicKey } = this.#host
    socket.send(
      encodeFromCoordinator({ type: 'challenge', nonce: c.nonce, coordinator: publicKey }, c.sequence++),
    )
  }

  #receive(c: Connection, data: RawData, isBinary: boolean): void {
    if (c.socket.readyState !== WebSocket.OPEN) return
    try {
      this.#spendFrame(c)
      if (!isBinary)
        throw new ProtocolError(CLOSE.malformed, 'text messages mean nothing here: send binary frames')
      const { message } = parseFromVolunteer(wordAligned(data as Buffer))
      if (message.type === 'hello') return this.#join(c, message)
      if (!c.volunteer)
        throw new ProtocolError(CLOSE.malformed, `${message.type}: the first frame must be hello`)
      if (message.type === 'result' && digestOf(outputBytes(message.output)) !== message.digest)
        throw new ProtocolError(CLOSE.malformed, 'result: digest is not that of the payload')
      c.said.push(message, (data as Buffer).length)
      if (this.#isFull(c)) c.socket.pause()
    } catch (error) {
      this.#letGo(c, error)
    }
  }

  /** Throws what is no ProtocolError. */
  #letGo(c: Connection, error: unknown): void {
    if (!(error instanceof ProtocolError)) throw error
    this.#log.info({ code: error.code, reason: error.message, address: c.address }, 'let a volunteer go')
    hangUp(c.socket, error.code, error.message)
    this.#leave(c, error.message)
  }

  /** Throws ProtocolError. */
  #join(c: Connection, hello: Hello): void {
    if (c.volunteer) throw new ProtocolError(CLOSE.malformed, 'hello: it was said already')
    clearTimeout(c.hello)
    c.key = this.#keyOf(c, hello)
    c.volunteer = newVolunteerId()
    this.#connections.set(c.volunteer, c)
    this.#host.onJoin(c.volunteer, hello)
    const standing = {
      network: networkOf(c.address),
      isTrusted: this.#host.trustedKeys.has(c.key),
    }
    this.#submit({ type: 'volunteer-joined', volunteer: c.volunteer, hello, ...standing })
  }

  /** Throws ProtocolError `unauthorized`: nobody joins under a key without having it. */
  #keyOf({ nonce }: Connection, { publicKey = '', signature = '' }: Hello): PublicKey {
    const key = importKey(publicKey)
    if (!key) throw new ProtocolError(CLOSE.unauthorized, 'hello: publicKey is no Ed25519 key')
    if (!isSignedBy(key, helloStatement(this.#host.publicKey, nonce), signature))
      throw new ProtocolError(
        CLOSE.unauthorized,
        'hello: signature is not by publicKey over this challenge and coordinator',
      )
    return publicKey
  }

  /** Whether the volunteer stands by what it answers, if anybody waits for it: nobody else will point to its signature. */
  #check({ key, streams }: Connection, message: Heard, onVerdict: (isGood: boolean) => void): boolean {
    if (message.type !== 'result' && message.type !== 'tokens') return false
    const { assignment, signature = '' } = message
    const asked = this.#host.askedOf(assignment, key)
    if (!asked) return false
    const common = { coordinator: this.#host.publicKey, assignment, model: asked.model }
    let statement: Uint8Array
    if (message.type === 'tokens') {
      const { from = message.position } = message
      const output = streams.digest(message) ?? ''
      statement = progressStatement({ ...common, input: asked.input, from, output })
    } else {
      const { input = '', digest: output, root = '' } = message
      statement = resultStatement({ ...common, input, output, root })
    }
    this.#signatures.check(key, statement, signature, onVerdict)
    return true
  }

  #isFull({ said }: Connection): boolean {
    const { waitingFrames, waitingBytes, checksMax } = this.#limits
    if (!said.length) return false
    return said.length >= waitingFrames || said.bytes >= waitingBytes || this.#signatures.backlog >= checksMax
  }

  #spendFrame(c: Connection): void {
    const { framesPerSecond, framesBurst } = this.#limits
    const now = performance.now()
    c.allowance = Math.min(framesBurst, c.allowance + ((now - c.allowedAt) * framesPerSecond) / 1000) - 1
    c.allowedAt = now
    if (c.allowance < 0)
      throw new ProtocolError(CLOSE.rateLimited, `more than ${framesPerSecond} frames per second`)
  }

  #measure(c: Connection): void {
    if (!c.volunteer) return
    const unsent = c.socket.bufferedAmount
    if (unsent > this.#limits.overloadedBytes) {
      hangUp(c.socket, CLOSE.overloaded, 'too slow to read')
      return this.#leave(c, 'too slow to read')
    }
    // A quarter less before it counts as free again: no flapping around the border.
    const isCongested = unsent > this.#limits.congestedBytes * (c.isCongested ? 0.75 : 1)
    if (isCongested === c.isCongested) return
    c.isCongested = isCongested
    this.#submit({ type: 'volunteer-congested', volunteer: c.volunteer, isCongested })
  }

  #leave(c: Connection, reason: string): void {
    const { volunteer } = c
    if (!volunteer) return
    this.#forget(c)
    this.#submit({ type: 'volunteer-left', volunteer, reason })
  }

  /** Whatever of it still waits is not heard any more. */
  #forget(c: Connection): void {
    if (c.volunteer) this.#connections.delete(c.volunteer)
    c.volunteer = undefined
    c.said.clear()
    // The answer to a close frame must be read.
    c.socket.resume()
  }
}

/** Unguessable: who knows an id may come back as that volunteer. */
export const newVolunteerId = (): VolunteerId => randomBytes(18).toString('base64url') as VolunteerId

const digestOf = (bytes: Uint8Array): string => hash('sha256', bytes)

/** ws hands out slices of its read buffer; the payload is viewed as 32-bit words. */
function wordAligned(data: Buffer): Uint8Array {
  return data.byteOffset % 8 === 0 ? data : new Uint8Array(data)
}

function hangUp(socket: WebSocket, code: number, reason: string): void {
  socket.close(code, reason)
  endSoon(socket)
}

/** A peer that does not answer the close frame is gone or hostile. */
function endSoon(socket: WebSocket): void {
  const timer = setTimeout(() => socket.terminate(), 2_000)
  socket.once('close', () => clearTimeout(timer))
}

function refuse(socket: Duplex, status: number, reason: string): void {
  const names: Record<number, string> = {
    404: 'Not Found', 426: 'Upgrade Required', 429: 'Too Many Requests', 503: 'Service Unavailable',
  } // prettier-ignore
  const extra =
    status === 426
      ? `Upgrade: websocket\r\nSec-WebSocket-Protocol: ${PROTOCOL}\r\n`
      : status === 404
        ? ''
        : 'Retry-After: 30\r\n'
  socket.end(
    `HTTP/1.1 ${status} ${names[status]}\r\nConnection: close\r\nContent-Type: text/plain\r\n${extra}` +
      `Content-Length: ${Buffer.byteLength(reason) + 1}\r\n\r\n${reason}\n`,
  )
}
