/** A Node volunteer's key: a PEM file that only its owner may read, the same that `openssl genpkey -algorithm ed25519` writes. */
import { createPrivateKey, createPublicKey, generateKeyPairSync, randomUUID, sign } from 'node:crypto'
import type { KeyObject } from 'node:crypto'
import { link, mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import type { Identity } from './identity.ts'

/** The file is no key this volunteer can use; the message says what it is and what to do. */
export class KeyFileError extends Error {
  override name = 'KeyFileError'
}

/** Reads the key in `path`, or makes one there (mode 0600) if there is no such file. Throws KeyFileError. */
export async function fileIdentity(path: string): Promise<Identity> {
  const pem = (await read(path)) ?? (await make(path))
  let key: KeyObject
  try {
    key = createPrivateKey(pem)
  } catch {
    throw new KeyFileError(`${path} holds no private key; give an Ed25519 key in PEM, or a path where none is yet`) // prettier-ignore
  }
  if (key.asymmetricKeyType !== 'ed25519')
    throw new KeyFileError(
      `${path} holds a key of type ${key.asymmetricKeyType}; volunteers sign with Ed25519: give such a key, or a path where none is yet`,
    )
  const { x } = createPublicKey(key).export({ format: 'jwk' })
  return {
    publicKey: x!,
    sign: async (statement) => sign(null, statement, key).toString('base64url'),
  }
}

async function read(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8')
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT') return undefined
    throw new KeyFileError(`${path} can't be read (${code}): give --key a file of yours`)
  }
}

/** Written whole before it has its name, so that of two volunteers that start at once both end up with the one key. */
async function make(path: string): Promise<string> {
  const { privateKey } = generateKeyPairSync('ed25519')
  const pem = privateKey.export({ type: 'pkcs8', format: 'pem' }) as string
  const draft = `${path}.${process.pid}-${randomUUID()}`
  try {
    await mkdir(dirname(path), { recursive: true })
    await writeFile(draft, pem, { flag: 'wx', mode: 0o600 })
    await link(draft, path)
    return pem
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    const found = code === 'EEXIST' ? await read(path) : undefined
    if (found !== undefined) return found
    throw new KeyFileError(`no key can be written to ${path} (${code}): give --key a place of yours`)
  } finally {
    await rm(draft, { force: true })
  }
}
