/** Damaged frames: to the parser, where only ProtocolError may come out, and over real sockets, where only its codes may. */
import { WebSocket } from 'ws'
import { CLOSE, parseFromCoordinator, parseFromVolunteer, ProtocolError } from '../../protocol/index.ts'
import { encodeFromCoordinator, encodeFromVolunteer } from '../../protocol/index.ts'
import { frame, helloMeta, Key, unframe } from '../api/stranger.ts'
import { fromCoordinator, fromVolunteer } from '../golden/frames/messages.ts'
import { Random } from '../harness/random.ts'
import { damageBytes, damageJson } from './mutate.ts'

/** What went wrong, with what repeats it. */
export interface Finding {
  what: string
  seed: number
  index: number
  input: string
}

const volunteers = Object.values(fromVolunteer).map((message) => Buffer.from(encodeFromVolunteer(message, 7)))
const coordinators = Object.values(fromCoordinator).map((message) =>
  Buffer.from(encodeFromCoordinator(message, 7)),
)

/** The `index`th damaged frame of a seed. Half keep a good header, so that what is inside is reached. */
export function frameOf(seed: number, index: number, corpus: readonly Buffer[] = volunteers): Buffer {
  const random = new Random(seed, `frame ${index}`)
  const good = random.pick(corpus)
  if (random.float() < 0.5) return damageBytes(random, good)
  const { type, meta, payload } = unframe(good)
  const damaged = damageJson(random, meta) as { [key: string]: unknown }
  const bytes = random.float() < 0.3 ? damageBytes(random, payload) : payload
  return frame(random.float() < 0.05 ? random.int(0, 255) : type, random.u32(), damaged, bytes)
}

/** Parses frames [from, from + count) as each side would. */
export function parseFrames(seed: number, from: number, count: number): { refused: number; findings: Finding[] } {
  const findings: Finding[] = []
  let refused = 0
  for (let index = from; index < from + count; index++) {
    const isMine = index % 4 !== 0
    const bytes = frameOf(seed, index, isMine ? volunteers : coordinators)
    try {
      // As sockets hand them over: aligned, in memory of their own.
      ;(isMine ? parseFromVolunteer : parseFromCoordinator)(new Uint8Array(bytes))
    } catch (error) {
      if (error instanceof ProtocolError) refused++
      else findings.push({ what: String((error as Error).stack), seed, index, input: bytes.toString('hex').slice(0, 2_000) })
    }
  }
  return { refused, findings }
} // prettier-ignore

/** Ends that are an answer: this protocol's codes, and WebSocket's own for frames that are none. */
const CODES = new Set<number>([...Object.values(CLOSE), 1000, 1002, 1007, 1008, 1009])

/**
 * One damaged frame over a socket of its own, for every third of them before any hello. Afterwards a good frame, to which
 * somebody still listening answers nothing, and goodbye.
 */
export function sendFrame(url: string, seed: number, index: number): Promise<Finding | null> {
  const bytes = frameOf(seed, index)
  const isFirst = index % 3 === 0
  const key = new Key()
  return new Promise((resolve) => {
    const socket = new WebSocket(`${url.replace('http', 'ws')}/v1/volunteer`, 'chorale.v1')
    const finding = (what: string): void =>
      resolve({ what, seed, index, input: bytes.toString('hex').slice(0, 2_000) })
    const timer = setTimeout(() => {
      finding('neither an answer nor an end within 30 s')
      socket.terminate()
    }, 30_000)
    let isSent = false
    socket.on('message', (data: Buffer) => {
      if (isSent) return
      const { type, meta } = unframe(data)
      // 71 is the challenge, 64 the welcome.
      if (isFirst || type === 64) {
        isSent = true
        socket.send(bytes)
        socket.close(1000)
      } else if (type === 71) socket.send(frame(1, 0, helloMeta(key.hello(meta))))
    })
    socket.on('error', (error) => {
      clearTimeout(timer)
      finding(`the connection failed: ${error.message}`)
    })
    socket.on('close', (code) => {
      clearTimeout(timer)
      if (CODES.has(code)) resolve(null)
      else finding(`closed with ${code}`)
    })
  })
}
