/**
 * Who a volunteer is: an Ed25519 key, made at the first consent and kept in the browser, whose private half not even this page
 * can read. No account, no name; without the key nobody can speak for it, and with it cleared it is gone.
 */
import { sha256 as sha256Now } from '@noble/hashes/sha2.js'
import { bytesToHex } from '@noble/hashes/utils.js'
import { get, set } from 'idb-keyval'
import { sha256 } from '../engine/pack/reader.ts'
import type { UnitProgress, UnitResult } from '../engine/units.ts'
import {
  helloStatement, inputBytes, progressBytes, progressStatement, resultStatement,
} from '../protocol/index.ts' // prettier-ignore
import type { Assignment, Progress, PublicKey, Signature } from '../protocol/index.ts'
import type { Computed } from './volunteer.ts'

export interface Identity {
  readonly publicKey: PublicKey
  /** Ed25519 over these very bytes. */
  sign(statement: Uint8Array<ArrayBuffer>): Promise<Signature>
}

/** This browser has no Ed25519: nobody could tell its answers from another's. */
export class NoSignatures extends Error {
  override name = 'NoSignatures'
}

const kept = 'chorale.identity'

/**
 * The key of this browser, made if there is none. Where nothing can be kept (a private window), one that lasts as long as the
 * tab. Throws NoSignatures.
 */
export async function browserIdentity(): Promise<Identity> {
  const pair = await get<CryptoKeyPair>(kept).catch(() => undefined)
  if (pair) return identityOf(pair)
  const made = await newPair()
  await set(kept, made).catch(() => undefined)
  return identityOf(made)
}

/** One that is kept nowhere. Throws NoSignatures. */
export const passingIdentity = async (): Promise<Identity> => identityOf(await newPair())

async function newPair(): Promise<CryptoKeyPair> {
  try {
    return await crypto.subtle.generateKey('Ed25519', false, ['sign', 'verify'])
  } catch (cause) {
    throw new NoSignatures('no Ed25519 in the WebCrypto of this browser', { cause })
  }
}

async function identityOf({ publicKey, privateKey }: CryptoKeyPair): Promise<Identity> {
  return {
    publicKey: base64url(new Uint8Array(await crypto.subtle.exportKey('raw', publicKey))),
    sign: async (statement) => base64url(new Uint8Array(await crypto.subtle.sign('Ed25519', privateKey, statement))),
  } // prettier-ignore
}

export const signHello = (who: Identity, coordinator: PublicKey, nonce: string): Promise<Signature> =>
  who.sign(helloStatement(coordinator, nonce))

/** What was computed, named by its digests and signed for one coordinator. */
export async function signAnswer(
  who: Identity,
  coordinator: PublicKey,
  assignment: Assignment,
  { output, digest, computeMs, root, leaves }: UnitResult,
): Promise<Computed> {
  const { id, model } = assignment
  const input = await sha256(inputBytes(assignment))
  const claim = { coordinator, assignment: id, model, input, output: digest, root }
  const signature = await who.sign(resultStatement(claim))
  return { assignment: id, output, digest, computeMs, input, root, leaves, signature }
}

/** Signs a text as it is drawn, for one coordinator: each signature stands for all of it that was streamed so far. */
export class SignedStream {
  readonly #who: Identity
  readonly #coordinator: PublicKey
  readonly #assignment: Assignment
  readonly #said = sha256Now.create()
  #from: number | undefined
  #input: Promise<string> | undefined

  constructor(who: Identity, coordinator: PublicKey, assignment: Assignment) {
    this.#who = who
    this.#coordinator = coordinator
    this.#assignment = assignment
  }

  /** What was drawn next. In the order of the calls, whichever resolves first. */
  async sign({
    position,
    tokens,
    logprobs,
  }: UnitProgress): Promise<Required<Omit<Progress, 'logprobs'>> & UnitProgress> {
    const from = (this.#from ??= position)
    const output = bytesToHex(this.#said.update(progressBytes(tokens, logprobs)).clone().digest())
    const { id, model } = this.#assignment
    const input = await (this.#input ??= sha256(inputBytes(this.#assignment)))
    const claim = { coordinator: this.#coordinator, assignment: id, model, input, from, output }
    const signature = await this.#who.sign(progressStatement(claim))
    return { assignment: id, position, tokens, logprobs, from, signature }
  }
}

/** Where a coordinator keeps what it convicted a key with. */
export const evidencePath = async (key: PublicKey): Promise<string> =>
  `/v1/evidence/ev_${(await sha256(new TextEncoder().encode(key))).slice(0, 32)}`

export const base64url = (bytes: Uint8Array): string =>
  btoa(String.fromCharCode(...bytes))
    .replaceAll('+', '-')
    .replaceAll('/', '_')
    .replaceAll('=', '')
