/**
 * Who signs what. The coordinator's own Ed25519 key lives in a file of its data folder; volunteers' keys come as 32 bytes in
 * base64url. Ed25519 as in RFC 8032, through node:crypto; a signature here takes about 30 µs, a check about 70.
 */
import { createPrivateKey, createPublicKey, generateKeyPairSync, sign, verify } from 'node:crypto'
import type { KeyObject } from 'node:crypto'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { isIPv4, isIPv6 } from 'node:net'
import { join } from 'node:path'
import type { PublicKey, Signature } from '../protocol/index.ts'

export const KEY_FILE = 'coordinator.key'

/** A file of the data folder that can't be used: which one, why, what to do. */
export class DataError extends Error {
  override name = 'DataError'
}

export class CoordinatorKey {
  readonly publicKey: PublicKey
  readonly #key: KeyObject

  /** @param key an Ed25519 private key */
  constructor(key: KeyObject) {
    this.#key = key
    this.publicKey = createPublicKey(key).export({ format: 'jwk' }).x!
  }

  sign(bytes: Uint8Array): Signature {
    return sign(null, bytes, this.#key).toString('base64url')
  }
}

/**
 * The key kept in a folder, made at the first start; without a folder, one for this run only.
 * Throws DataError for a file that is no Ed25519 key, and the system's error where it can't be read or written.
 */
export function openKey(folder: string | undefined): CoordinatorKey {
  const { privateKey } = generateKeyPairSync('ed25519')
  if (folder === undefined) return new CoordinatorKey(privateKey)
  mkdirSync(folder, { recursive: true, mode: 0o700 })
  const path = join(folder, KEY_FILE)
  try {
    // Never over an existing one: receipts signed with it would lose their signer.
    writeFileSync(path, privateKey.export({ type: 'pkcs8', format: 'pem' }), { flag: 'wx', mode: 0o600 })
    return new CoordinatorKey(privateKey)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
  }
  try {
    const key = createPrivateKey(readFileSync(path))
    if (key.asymmetricKeyType === 'ed25519') return new CoordinatorKey(key)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EACCES') throw error
  }
  throw new DataError(
    `${path}: it is no Ed25519 private key. Restore it from a backup; without one move it away: a new key is made, and receipts of the old one still verify under the old public key.`,
  )
}

/**
 * y coordinates (little-endian, without the sign bit) of the points whose order divides 8, in every encoding: under such a
 * key one signature fits any statement, so it would be nobody's word.
 */
const SMALL_ORDER = new Set([
  '0000000000000000000000000000000000000000000000000000000000000000',
  '0100000000000000000000000000000000000000000000000000000000000000',
  '26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05',
  'c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a',
  'ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
  'edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
  'eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
])

/** To check signatures with; null for 32 bytes that are no key, and for anything that is not 32 bytes in base64url. */
export function importKey(publicKey: PublicKey): KeyObject | null {
  const raw = bytesOf(publicKey, 32)
  if (!raw) return null
  const y = Uint8Array.from(raw)
  y[31]! &= 0x7f
  if (SMALL_ORDER.has(Buffer.from(y).toString('hex'))) return null
  try {
    return createPublicKey({ key: { kty: 'OKP', crv: 'Ed25519', x: publicKey }, format: 'jwk' })
  } catch {
    return null
  }
}

/** Whether this key made this signature of these bytes. */
export function isSignedBy(key: KeyObject, bytes: Uint8Array, signature: Signature): boolean {
  const raw = bytesOf(signature, 64)
  return raw !== null && verify(null, bytes, key, raw)
}

/** A string in base64url without padding, of exactly `length` bytes and in its only spelling; null otherwise. */
export function bytesOf(text: string, length: number): Buffer | null {
  const bytes = Buffer.from(text, 'base64url')
  return bytes.length === length && bytes.toString('base64url') === text ? bytes : null
}

/**
 * What counts as one place on the internet, where one person may hold every address: an IPv4 /24, an IPv6 /48, this machine.
 * Whoever sits behind the same network never checks the other.
 */
export function networkOf(address: string): string {
  const plain = address.split('%')[0]!.toLowerCase()
  const v4 = /^(?:::ffff:)?(\d+\.\d+\.\d+\.\d+)$/.exec(plain)?.[1]
  if (v4 !== undefined && isIPv4(v4))
    return v4.startsWith('127.') ? 'this machine' : `${v4.slice(0, v4.lastIndexOf('.'))}.0/24`
  if (!isIPv6(plain)) return 'unknown'
  if (plain === '::1') return 'this machine'
  const [head = '', tail] = plain.split('::')
  const groups = head === '' ? [] : head.split(':')
  if (tail !== undefined) {
    const after = tail === '' ? [] : tail.split(':')
    while (groups.length + after.length < 8) groups.push('0')
    groups.push(...after)
  }
  const first = groups.slice(0, 3).map((group) => Number.parseInt(group, 16).toString(16))
  return `${first.join(':')}::/48`
}
