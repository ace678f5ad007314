/**
 * Bytes ↔ a frame: a 16-byte header, JSON meta, raw payload. Little-endian.
 *
 *   0  u16 magic 0x4843 ("CH")    2  u8 version    3  u8 type
 *   4  u32 meta bytes             8  u32 payload bytes            12  u32 sequence, counted by the sender from 0
 *  16  meta, UTF-8 JSON, then zeros to the next multiple of 8, then the payload
 *
 * Token lists and results ride in the payload: JSON numbers cost 300 times as much to read and write.
 */
import { CLOSE, ProtocolError } from './errors.ts'
import { META_BYTES_MAX, PAYLOAD_BYTES_MAX } from './limits.ts'

export const FRAME_MAGIC = 0x4843
export const FRAME_VERSION = 1
export const HEADER_BYTES = 16
/** What a socket must accept as one message, and no more. */
export const FRAME_BYTES_MAX = HEADER_BYTES + META_BYTES_MAX + PAYLOAD_BYTES_MAX

export interface Frame {
  type: number
  sequence: number
  meta: unknown
  /** Aligned to 4 bytes, so that it can be viewed as u32 or i32 without a copy. */
  payload: Uint8Array
}

const encoder = new TextEncoder()
const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
const aligned = (n: number): number => (n + 7) & ~7

/** @param payload parts laid one after another. Throws ProtocolError `tooLarge`: the sender's own mistake. */
export function encodeFrame(
  type: number,
  sequence: number,
  meta: unknown,
  payload: readonly Uint8Array[] = [],
): Uint8Array<ArrayBuffer> {
  const json = encoder.encode(JSON.stringify(meta))
  const payloadBytes = payload.reduce((n, part) => n + part.length, 0)
  checkSizes(json.length, payloadBytes)
  const start = aligned(HEADER_BYTES + json.length)
  const bytes = new Uint8Array(start + payloadBytes)
  const view = new DataView(bytes.buffer)
  view.setUint16(0, FRAME_MAGIC, true)
  view.setUint8(2, FRAME_VERSION)
  view.setUint8(3, type)
  view.setUint32(4, json.length, true)
  view.setUint32(8, payloadBytes, true)
  view.setUint32(12, sequence >>> 0, true)
  bytes.set(json, HEADER_BYTES)
  let at = start
  for (const part of payload) {
    bytes.set(part, at)
    at += part.length
  }
  return bytes
}

/** Throws ProtocolError `malformed`, `version` or `tooLarge`, naming what is wrong; never anything else. */
export function decodeFrame(bytes: Uint8Array): Frame {
  const bad = (what: string): never => {
    throw new ProtocolError(CLOSE.malformed, `frame: ${what}`)
  }
  if (bytes.length < HEADER_BYTES) return bad(`${bytes.length} bytes, a header has ${HEADER_BYTES}`)
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  if (view.getUint16(0, true) !== FRAME_MAGIC) return bad('it does not begin with the magic number')
  const version = view.getUint8(2)
  if (version !== FRAME_VERSION)
    throw new ProtocolError(CLOSE.version, `frame: version ${version}, this side speaks ${FRAME_VERSION}`)
  const metaBytes = view.getUint32(4, true)
  const payloadBytes = view.getUint32(8, true)
  checkSizes(metaBytes, payloadBytes)
  const start = aligned(HEADER_BYTES + metaBytes)
  if (bytes.length !== start + payloadBytes)
    return bad(`${bytes.length} bytes where its header says ${start + payloadBytes}`)
  for (let i = HEADER_BYTES + metaBytes; i < start; i++)
    if (bytes[i] !== 0) return bad('its padding is not zero')
  let meta: unknown
  try {
    meta = JSON.parse(decoder.decode(bytes.subarray(HEADER_BYTES, HEADER_BYTES + metaBytes)))
  } catch {
    return bad('its meta is not JSON in UTF-8')
  }
  const view8 = bytes.subarray(start)
  return {
    type: view.getUint8(3),
    sequence: view.getUint32(12, true),
    meta,
    payload: view8.byteOffset % 4 === 0 ? view8 : view8.slice(),
  }
}

function checkSizes(metaBytes: number, payloadBytes: number): void {
  if (metaBytes > META_BYTES_MAX)
    throw new ProtocolError(CLOSE.tooLarge, `frame: ${metaBytes} bytes of meta, at most ${META_BYTES_MAX}`)
  if (payloadBytes > PAYLOAD_BYTES_MAX)
    throw new ProtocolError(
      CLOSE.tooLarge,
      `frame: ${payloadBytes} bytes of payload, at most ${PAYLOAD_BYTES_MAX}`,
    )
}
