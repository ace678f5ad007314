/** What is hashed and signed: the same bytes for everybody, and for nothing else. */
import { createHash } from 'node:crypto'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import {
  helloStatement,
  inputBytes,
  merklePath,
  merkleRoot,
  resultStatement,
  rootFromPath,
} from '../../protocol/index.ts'
import type { ModelDigest, UnitInput } from '../../protocol/index.ts'

const sha256 = (bytes: Uint8Array): Uint8Array => createHash('sha256').update(bytes).digest()
const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')
const leaf = fc.uint8Array({ minLength: 32, maxLength: 32 })

test('the roots of RFC 6962 are found: its test vectors for 1, 2, 3 and 8 leaves', () => {
  const data = [
    '',
    '00',
    '10',
    '2021',
    '3031',
    '40414243',
    '5051525354555657',
    '606162636465666768696a6b6c6d6e6f',
  ]
  const roots: Record<number, string> = {
    1: '6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d',
    2: 'fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125',
    3: 'aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77',
    8: '5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328',
  }
  const leaves = data.map((text) => Buffer.from(text, 'hex'))
  for (const [n, root] of Object.entries(roots))
    expect(hex(merkleRoot(leaves.slice(0, Number(n)), sha256))).toBe(root)
})

test('a leaf is proven by its path, and no other leaf, place or path is', () => {
  fc.assert(
    fc.property(
      fc.array(leaf, { minLength: 1, maxLength: 40 }),
      fc.nat(),
      fc.nat(),
      (leaves, which, other) => {
        const index = which % leaves.length
        const root = hex(merkleRoot(leaves, sha256))
        const path = merklePath(leaves, index, sha256)
        const found = (l: Uint8Array, i: number, p: Uint8Array[]): string | null => {
          const at = rootFromPath(l, i, leaves.length, p, sha256)
          return at && hex(at)
        }
        expect(found(leaves[index]!, index, path)).toBe(root)
        const changed = Uint8Array.from(leaves[index]!)
        changed[other % 32]! ^= 1
        expect(found(changed, index, path)).not.toBe(root)
        expect(found(leaves[index]!, index + leaves.length, path)).toBeNull()
        expect(found(leaves[index]!, index, [...path, changed])).toBeNull()
        if (path.length) expect(found(leaves[index]!, index, [changed, ...path.slice(1)])).not.toBe(root)
      },
    ),
  )
})

const unit = (change: Partial<NonNullable<UnitInput['generate']>> = {}, ids = [1, 2, 3]): UnitInput => ({
  kind: 'generate',
  inputs: [Uint32Array.from(ids)],
  generate: {
    maxTokens: 9,
    sampling: { temperature: 0.7, topK: 40, topP: 0.9, seed: '18446744073709551615', stream: 2 },
    ...change,
  },
})

test('a unit that was taken over or is checked has the input it always had', () => {
  expect(inputBytes(unit({ replay: 2 }, [1, 2, 3, 7, 8]))).toEqual(inputBytes(unit()))
})

test('every other difference in what was asked is one in the input', () => {
  const { sampling } = unit().generate!
  const all = [
    unit(),
    unit({ maxTokens: 10 }),
    unit({ logprobs: 0 }),
    unit({ logprobs: 1 }),
    unit({ sampling: { ...sampling, temperature: 0.8 } }),
    unit({ sampling: { ...sampling, topK: 41 } }),
    unit({ sampling: { ...sampling, topP: 0.8 } }),
    unit({ sampling: { ...sampling, seed: '0' } }),
    unit({ sampling: { ...sampling, stream: 0 } }),
    unit({}, [1, 2]),
    { kind: 'embed', inputs: [Uint32Array.of(1, 2, 3)] },
    { kind: 'classify', inputs: [Uint32Array.of(1, 2, 3)] },
    { kind: 'embed', inputs: [Uint32Array.of(1), Uint32Array.of(2, 3)] },
    { kind: 'embed', inputs: [Uint32Array.of(1, 2), Uint32Array.of(3)] },
  ] as const satisfies UnitInput[]
  expect(new Set(all.map((one) => hex(inputBytes(one)))).size).toBe(all.length)
})

test('the bytes of an input, as docs/protocol.md has them', () => {
  expect(hex(inputBytes({ kind: 'classify', inputs: [Uint32Array.of(5, 258)] }))).toBe(
    ['63686f72616c652e696e7075742e3100', '03000000', '01000000', '02000000', '05000000', '02010000'].join(''),
  )
})

test('statements are lines of text', () => {
  const text = (bytes: Uint8Array): string => new TextDecoder().decode(bytes)
  expect(text(helloStatement('KEY', 'NONCE'))).toBe('chorale hello 1\ncoordinator KEY\nnonce NONCE\n')
  const claim = {
    coordinator: 'KEY',
    assignment: 'a1',
    model: 'm' as ModelDigest,
    input: 'i',
    output: 'o',
    root: 'r',
  }
  expect(text(resultStatement(claim))).toBe(
    'chorale result 1\ncoordinator KEY\nassignment a1\nnumerics xn1\nmodel m\ninput i\noutput o\nroot r\n',
  )
})
