/**
 * Documents the coordinator puts its name to: receipts and evidence. Each ends in two fields. `seal` has 8 hex digits per other
 * field, so that whoever finds a changed document can say which field was changed; `signature` is the coordinator's, over
 * everything else. The seal proves nothing by itself, the signature everything.
 */
import { createHash } from 'node:crypto'
import type { PublicKey, Signature } from '../../protocol/index.ts'
import { canonicalJson, fieldsOf } from './canonical.ts'
import type { Json } from './canonical.ts'
import { importKey, isSignedBy } from '../identity.ts'
import type { CoordinatorKey } from '../identity.ts'

export interface Sealed {
  /** Name and version; no signature under one means anything under another. */
  format: string
  /** Whose word it is. */
  coordinator: PublicKey
  seal: string
  signature: Signature
}

/** @param body anything in JSON */
export function sealed<Body extends { format: string }>(body: Body, key: CoordinatorKey): Body & Sealed {
  const named = { ...body, coordinator: key.publicKey }
  const document = { ...named, seal: sealOf(named as unknown as Json) }
  return { ...document, signature: key.sign(statement(document as unknown as Json)) }
}

/** What is wrong with a sealed document: the field's path, and a sentence. */
export interface Flaw {
  field: string
  why: string
}

/** The first field that is not as the coordinator wrote it; null when all are. */
export function flawOfSeal(document: Sealed): Flaw | null {
  const { signature, ...signed } = document
  const { seal, ...body } = signed
  const key = importKey(document.coordinator)
  if (!key) return { field: 'coordinator', why: 'it is no Ed25519 public key' }
  if (isSignedBy(key, statement(signed as unknown as Json), signature)) return null
  const wanted = sealOf(body as unknown as Json)
  if (wanted === seal)
    return { field: 'signature', why: 'it is not the signature of this coordinator over this document' }
  if (isSignedBy(key, statement({ ...body, seal: wanted } as unknown as Json), signature))
    return { field: 'seal', why: 'it was changed; the other fields are as they were signed' }
  const fields = fieldsOf(body as unknown as Json)
  const at = fields.findIndex((_, i) => wanted.slice(8 * i, 8 * i + 8) !== seal.slice(8 * i, 8 * i + 8))
  // With fewer fields than were sealed, the last one's successor is what is missing.
  const [field] = fields[at < 0 ? fields.length - 1 : at] ?? ['seal']
  return {
    field,
    why:
      wanted.length === seal.length
        ? 'it was changed after it was signed'
        : 'here a field was added or removed',
  }
}

const statement = (document: Json): Uint8Array =>
  Buffer.from(`${(document as { format: string }).format}\n${canonicalJson(document)}\n`)

const sealOf = (body: Json): string =>
  fieldsOf(body)
    .map(([path, value]) =>
      createHash('sha256')
        .update(`${path}=${canonicalJson(value)}`)
        .digest('hex')
        .slice(0, 8),
    )
    .join('')
